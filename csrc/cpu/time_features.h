// Included inside a namespace of one instruction set.

// Vectors at any address, for rows of user arrays.
template <class S>
struct Anywhere {
    typedef typename S::Vec Memory __attribute__((may_alias, aligned(sizeof(typename S::Scalar))));
};

template <class S, class T = typename S::Scalar>
FFRL_INLINE T dot(const T* a, const T* b, int64_t count) {
    using Memory = typename Anywhere<S>::Memory;
    typename S::Vec sum{};
    int64_t i = 0;
    for (; i + S::width <= count; i += S::width)
        sum = fma<typename S::Vec>(*reinterpret_cast<const Memory*>(a + i),
                                   *reinterpret_cast<const Memory*>(b + i), sum);
    T rest = 0;
    for (; i < count; ++i) rest += a[i] * b[i];
    return horizontal_sum<T, S::width>(sum) + rest;
}

// to += factor * from
template <class S, class T = typename S::Scalar>
FFRL_INLINE void add_scaled(T* to, T factor, const T* from, int64_t count) {
    using Memory = typename Anywhere<S>::Memory;
    int64_t i = 0;
    for (; i + S::width <= count; i += S::width)
        *reinterpret_cast<Memory*>(to + i) = fma<typename S::Vec>(
            factor, *reinterpret_cast<const Memory*>(from + i), *reinterpret_cast<Memory*>(to + i));
    for (; i < count; ++i) to[i] += factor * from[i];
}

constexpr int64_t kTimeChunk = 64;      // embedding entries that a task has at hand at once
constexpr int64_t kTimesTogether = 32;  // in the first stage of a sum over times

// The o-th derivative in t of entry i of e(t): sin, cos and so on turn into each other.
template <class T>
FFRL_INLINE T embedding(T t, const T* frequencies, int64_t count, int64_t i, int64_t order) {
    const bool is_sine = i < count;
    const T frequency = frequencies[is_sine ? i : i - count], angle = t * frequency;
    const int64_t quarter = (order + (is_sine ? 0 : 1)) % 4;
    const T value = quarter % 2 == 0 ? std::sin(angle) : std::cos(angle);
    T scale = quarter < 2 ? 1 : -1;
    for (int64_t o = 0; o < order; ++o) scale *= frequency;
    return scale * value;
}

template <class S, class T = typename S::Scalar>
struct TimePass {
    const TimeShape& s;
    const TimeInputs<T>& in;

    int64_t orders() const { return s.order + 1; }
    int64_t width() const { return 2 * s.frequencies; }
    int64_t potential_of(int64_t row) const { return s.k < 0 ? row / s.times : s.k; }

    TimeUnit<T> unit(const T* pre, int64_t i) const {
        return time_unit(pre[i], pre[s.features + i], s.order > 1 ? pre[2 * s.features + i] : T(0));
    }

    // pre[o] = A e^(o) (+ α), then features[o] = B h^(o) (+ β)
    void forward_row(int64_t row, T* const* features, T* kept) const {
        const int64_t k = potential_of(row), h = s.features, e = width();
        const T t = in.time[row % s.times];
        T* pre = kept + row * orders() * h;
        for (int64_t o = 0; o < orders(); ++o)
            for (int64_t i = 0; i < h; ++i) pre[o * h + i] = o == 0 ? in.bias1[k * h + i] : T(0);
        T rows[3][kTimeChunk];
        for (int64_t first = 0; first < e; first += kTimeChunk) {
            const int64_t count = e - first < kTimeChunk ? e - first : kTimeChunk;
            for (int64_t o = 0; o < orders(); ++o)
                for (int64_t c = 0; c < count; ++c)
                    rows[o][c] = embedding(t, in.frequencies, s.frequencies, first + c, o);
            for (int64_t i = 0; i < h; ++i)
                for (int64_t o = 0; o < orders(); ++o)
                    pre[o * h + i] += dot<S>(in.weight1 + (k * h + i) * e + first, rows[o], count);
        }
        for (int64_t o = 0; o < orders(); ++o)
            for (int64_t i = 0; i < h; ++i) features[o][row * h + i] = o == 0 ? in.bias2[k * h + i] : T(0);
        T post[3][kTimeChunk];
        for (int64_t first = 0; first < h; first += kTimeChunk) {
            const int64_t count = h - first < kTimeChunk ? h - first : kTimeChunk;
            for (int64_t c = 0; c < count; ++c) {
                const TimeUnit<T> value = unit(pre, first + c);
                post[0][c] = value.h, post[1][c] = value.h_dot, post[2][c] = value.h_ddot;
            }
            for (int64_t i = 0; i < h; ++i)
                for (int64_t o = 0; o < orders(); ++o)
                    features[o][row * h + i] += dot<S>(in.weight2 + (k * h + i) * h + first, post[o], count);
        }
    }

    bool is_used(int64_t row, const T* const* v_features) const {
        for (int64_t o = 0; o < orders(); ++o)
            for (int64_t i = 0; v_features[o] != nullptr && i < s.features; ++i)
                if (v_features[o][row * s.features + i] != 0) return true;
        return false;
    }

    // post and v_pre of a row, (order + 1, H) each. A row without a cotangent has no part in any sum: of a
    // table of all potentials some rows belong to nobody, and what they hold may be no number.
    void backward_row(int64_t row, const T* kept, const T* const* v_features,
                      const TimeWorkspace<T>& w) const {
        w.used[row] = is_used(row, v_features);
        if (!w.used[row]) return;
        const int64_t k = potential_of(row), h = s.features;
        const T* pre = kept + row * orders() * h;
        T *post = w.post + row * orders() * h, *v_pre = w.v_pre + row * orders() * h;
        for (int64_t i = 0; i < orders() * h; ++i) v_pre[i] = 0;
        for (int64_t o = 0; o < orders(); ++o)
            if (v_features[o] != nullptr)
                for (int64_t i = 0; i < h; ++i)
                    add_scaled<S>(v_pre + o * h, v_features[o][row * h + i], in.weight2 + (k * h + i) * h, h);
        for (int64_t i = 0; i < h; ++i) {
            const TimeUnit<T> value = unit(pre, i);
            const bool second = s.order > 1;
            const TimeUnitVjp<T> vjp =
                time_unit_vjp(pre[i], pre[h + i], second ? pre[2 * h + i] : T(0), v_pre[i], v_pre[h + i],
                              second ? v_pre[2 * h + i] : T(0));
            post[i] = value.h, post[h + i] = value.h_dot;
            v_pre[i] = vjp.v_a, v_pre[h + i] = vjp.v_a_dot;
            if (second) post[2 * h + i] = value.h_ddot, v_pre[2 * h + i] = vjp.v_a_ddot;
        }
    }

    // to (width) = Σ over the used times and orders of scale(m, o) · row(m, o), in two stages: a sum over
    // many times in one go would lose digits.
    template <class Scale, class Row>
    void sum_over_times(int64_t times, const int64_t* used, T* to, int64_t width, Scale scale,
                        Row row) const {
        for (int64_t c = 0; c < width; ++c) to[c] = 0;
        for (int64_t begin = 0; begin < times; begin += kTimesTogether) {
            const int64_t end = begin + kTimesTogether < times ? begin + kTimesTogether : times;
            for (int64_t first = 0; first < width; first += kTimeChunk) {
                const int64_t count = width - first < kTimeChunk ? width - first : kTimeChunk;
                T part[kTimeChunk] = {};
                for (int64_t m = begin; m < end; ++m)
                    for (int64_t o = 0; used[m] && o < orders(); ++o)
                        add_scaled<S>(part, scale(m, o), row(m, o) + first, count);
                for (int64_t c = 0; c < count; ++c) to[first + c] += part[c];
            }
        }
    }

    // Gradients of unit i of potential k: sums over the times of its rows, in their order.
    void backward_unit(int64_t k, int64_t i, const TimeWorkspace<T>& w, const T* const* v_features,
                       const TimeGradients<T>& out) const {
        const int64_t h = s.features, e = width(), at = k * h + i, times = s.k < 0 || s.k == k ? s.times : 0;
        const int64_t first_row = s.k < 0 ? k * s.times : 0;
        const int64_t* used = w.used + first_row;
        const T one = 1;
        const auto v_a = [&](int64_t m, int64_t o) {
            return w.v_pre[((first_row + m) * orders() + o) * h + i];
        };
        const auto v_feature = [&](int64_t m, int64_t o) {
            return v_features[o] == nullptr ? T(0) : v_features[o][(first_row + m) * h + i];
        };
        const auto of_value = [](auto v) {
            return [v](int64_t m, int64_t o) { return o == 0 ? v(m, 0) : T(0); };
        };
        const auto ones = [&](int64_t, int64_t) { return &one; };
        sum_over_times(times, used, out.v_weight1 + at * e, e, v_a,
                       [&](int64_t m, int64_t o) { return w.rows + (m * orders() + o) * e; });
        sum_over_times(times, used, out.v_weight2 + at * h, h, v_feature,
                       [&](int64_t m, int64_t o) { return w.post + ((first_row + m) * orders() + o) * h; });
        sum_over_times(times, used, out.v_bias1 + at, 1, of_value(v_a), ones);
        sum_over_times(times, used, out.v_bias2 + at, 1, of_value(v_feature), ones);
    }

    // Σ over potentials and orders of (v_pre A) · e^(o + 1)
    void backward_time(int64_t m, const TimeWorkspace<T>& w, T* v_time) const {
        const int64_t h = s.features, e = width();
        double sum = 0;  // of terms that cancel: the rates of all orders have both signs
        T v_rows[kTimeChunk];
        for (int64_t p = 0; p < s.wanted(); ++p) {
            const int64_t row = p * s.times + m, k = potential_of(row);
            if (!w.used[row]) continue;
            for (int64_t o = 0; o < orders(); ++o)
                for (int64_t first = 0; first < e; first += kTimeChunk) {
                    const int64_t count = e - first < kTimeChunk ? e - first : kTimeChunk;
                    for (int64_t c = 0; c < count; ++c) v_rows[c] = 0;
                    for (int64_t i = 0; i < h; ++i)
                        add_scaled<S>(v_rows, w.v_pre[(row * orders() + o) * h + i],
                                      in.weight1 + (k * h + i) * e + first, count);
                    for (int64_t c = 0; c < count; ++c)
                        sum += static_cast<double>(v_rows[c]) *
                               embedding(in.time[m], in.frequencies, s.frequencies, first + c, o + 1);
                }
        }
        v_time[m] = static_cast<T>(sum);
    }
};

template <class S, class T = typename S::Scalar>
void run_time_features(const TimeShape& s, const TimeInputs<T>& in, T* const* features, T* kept,
                       const Threads& threads) {
    const TimePass<S> pass{s, in};
    parallel(threads, s.rows(), [&](int64_t row, int64_t) { pass.forward_row(row, features, kept); });
}

template <class S, class T = typename S::Scalar>
void run_time_features_vjp(const TimeShape& s, const TimeInputs<T>& in, const T* kept,
                           const T* const* v_features, const TimeGradients<T>& out, void* memory,
                           const Threads& threads) {
    Arena arena(memory);
    const TimeWorkspace<T> w(arena, s);
    const TimePass<S> pass{s, in};
    const int64_t e = pass.width();
    parallel(threads, s.rows(), [&](int64_t row, int64_t) {
        pass.backward_row(row, kept, v_features, w);
        if (row < s.times)
            for (int64_t o = 0; o < pass.orders(); ++o)
                for (int64_t c = 0; c < e; ++c)
                    w.rows[(row * pass.orders() + o) * e + c] =
                        embedding(in.time[row], in.frequencies, s.frequencies, c, o);
    });
    if (out.v_weight1 != nullptr)
        parallel(threads, s.potentials * s.features, [&](int64_t unit, int64_t) {
            pass.backward_unit(unit / s.features, unit % s.features, w, v_features, out);
        });
    if (out.v_time != nullptr)
        parallel(threads, s.times, [&](int64_t m, int64_t) { pass.backward_time(m, w, out.v_time); });
}
