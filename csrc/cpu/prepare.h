// Steps before and around the rows: the plan, packed weights, G, W2 times the time features.
// Included inside a namespace of one instruction set.

// body(i, slot) for i in 0 .. count - 1, split evenly over at most threads.count slots.
template <class Body>
void parallel(const Threads& threads, int64_t count, const Body& body) {
    struct State {
        const Body* body;
        int64_t count, slots;
    };
    const int64_t slots = count < threads.count ? count : threads.count;
    const auto run_slot = [](void* opaque, int64_t slot) {
        const State& state = *static_cast<State*>(opaque);
        const int64_t end = state.count * (slot + 1) / state.slots;
        for (int64_t i = state.count * slot / state.slots; i < end; ++i) (*state.body)(i, slot);
    };
    State state{&body, count, slots};
    if (slots == 1) {
        run_slot(&state, 0);
    } else if (slots > 1) {
        threads.run(slots, &state, run_slot);
    }
}

inline bool is_present(const RowPlan& plan, int64_t k) {
    return plan.first_block[k + 1] > plan.first_block[k];
}

template <class T>
int64_t feature_of(const PotentialShape& s, const PotentialInputs<T>& in, int64_t row) {
    return in.feature_row != nullptr ? in.feature_row[row] : s.features == 1 ? 0 : row;
}

// The plan of the feature rows leaves out those that no row has: nothing of them may reach a sum.
template <class T>
Status plan(Prepared<T>& prepared, const PotentialShape& s, const PotentialInputs<T>& in) {
    if (!plan_rows(prepared.rows, s.rows, s.potentials, in.k, in.k_all)) return Status::k_out_of_range;
    for (int64_t m = 0; m < s.features; ++m) prepared.feature_k[m] = kNoPotential;
    for (int64_t row = 0; row < s.rows; ++row) {
        const int64_t m = feature_of(s, in, row), k = in.k == nullptr ? in.k_all : in.k[row];
        if (m < 0 || m >= s.features) return Status::feature_row_out_of_range;
        if (prepared.feature_k[m] != kNoPotential && prepared.feature_k[m] != k)
            return Status::feature_row_of_two_potentials;
        prepared.feature_k[m] = k;
    }
    plan_rows(prepared.features, s.features, s.potentials, prepared.feature_k, 0, true);
    return Status::ok;
}

template <class T>
void pack_weight1_panels(T* panels, const T* weight1, int64_t hidden1, int64_t latent) {
    for (int64_t first = 0; first < hidden1; first += kBlock, panels += latent * kBlock)
        for (int64_t d = 0; d < latent; ++d)
            for (int64_t i = 0; i < kBlock; ++i)
                panels[d * kBlock + i] = first + i < hidden1 ? weight1[(first + i) * latent + d] : 0;
}

template <class S, class T = typename S::Scalar>
void pack_weights(const Prepared<T>& p, const PotentialShape& s, const PotentialInputs<T>& in,
                  const Threads& threads) {
    parallel(threads, s.potentials * 5, [&](int64_t task, int64_t) {
        const int64_t k = task / 5, h1 = s.hidden1, h2 = s.hidden2, d = s.latent;
        if (!is_present(p.rows, k) && !is_present(p.features, k)) return;
        const T* weight1 = in.weight1 + k * h1 * d;
        const T* weight2 = in.weight2 + k * h2 * h1;
        switch (task % 5) {
            case 0:
                pack_panels<S>(p.weight2 + k * p.weight2_size, weight2, h2, h1, h1, 1);
                break;
            case 1:
                pack_panels<S>(p.weight2_t + k * p.weight2_t_size, weight2, h1, h2, 1, h1);
                break;
            case 2:
                pack_panels<S>(p.weight1 + k * p.weight1_size, weight1, h1, d, d, 1);
                break;
            case 3:
                pack_panels<S>(p.weight1_t + k * p.weight1_t_size, weight1, d, h1, 1, d);
                break;
            case 4:
                pack_weight1_panels(p.weight1_panels + k * p.weight1_panels_size, weight1, h1, d);
                break;
        }
    });
}

// G = W1 W1ᵀ: packed for the forward, its lower half in panels for the backward; its diagonal for both. (8)
template <class S, class T = typename S::Scalar>
void pack_gram(const Prepared<T>& p, const PotentialShape& s, const PotentialInputs<T>& in,
               const Threads& threads) {
    if (s.form == LaplacianForm::none) return;
    const int64_t h1 = s.hidden1, d = s.latent;
    if (s.form == LaplacianForm::jacobian) {
        for (int64_t i = 0; i < s.potentials * h1; ++i) {
            T sum = 0;
            for (int64_t j = 0; j < d; ++j) sum += in.weight1[i * d + j] * in.weight1[i * d + j];
            p.gram_diagonal[i] = sum;
        }
        return;
    }
    const int64_t panels = panels_of(h1);
    parallel(threads, s.potentials * panels, [&](int64_t task, int64_t) {
        const int64_t k = task / panels, first_column = task % panels * kBlock;
        if (!is_present(p.rows, k)) return;
        T* packed = p.gram == nullptr ? nullptr : p.gram + k * p.gram_size;
        T* lower =
            p.gram_lower == nullptr ? nullptr : p.gram_lower + k * p.gram_lower_size + first_column * h1;
        T* diagonal = p.gram_diagonal + k * h1;
        const int64_t last_panel = (h1 - 1) / S::height * S::height;
        const int64_t last_height = round_up(h1 - last_panel, 2);
        product<S>(
            p.weight1 + k * p.weight1_size, h1, d,
            p.weight1_panels + k * p.weight1_panels_size + first_column * d,
            [&](ptrdiff_t i, int column, typename S::Vec y) FFRL_LAMBDA {
                for (int v = 0; v < S::width; ++v) {
                    const int64_t l = first_column + column + v;
                    if (l == i) diagonal[i] = y[v];
                    if (packed != nullptr && l < h1) {
                        const int64_t panel = i / S::height * S::height;
                        packed[panel * h1 + l * (panel == last_panel ? last_height : S::height) + i - panel] =
                            y[v];
                    }
                    if (lower != nullptr)
                        lower[i * kBlock + column + v] = l < i ? y[v] : l == i ? y[v] / 2 : 0;
                }
            });
        if (packed != nullptr && h1 % 2 == 1)  // the row that pads the last panel
            for (int64_t l = first_column; l < first_column + kBlock && l < h1; ++l)
                packed[last_panel * h1 + l * last_height + last_height - 1] = 0;
    });
}

// Rows `row_of(lane)` of (.., columns), transposed to (columns, kBlock); padding lanes become zero.
template <class T, class RowOf>
FFRL_INLINE void gather(T* block, const T* from, int64_t columns, RowOf row_of) {
    for (int lane = 0; lane < kBlock; ++lane) {
        const int64_t row = row_of(lane);
        const T* source = from + row * columns;
        if (row < 0)
            for (int64_t i = 0; i < columns; ++i) block[i * kBlock + lane] = 0;
        else
            for (int64_t i = 0; i < columns; ++i) block[i * kBlock + lane] = source[i];
    }
}

// The row whose values a lane computes. A lane behind the last row repeats the block's first one: it counts
// for nothing, but its cotangents of zero are multiplied by what it holds, and that must be finite where rows
// are.
inline int64_t row_in_lane(const RowPlan& rows, int64_t block, int lane) {
    const int64_t* slots = rows.slot_row + block * kBlock;
    return slots[lane] < 0 ? slots[0] : slots[lane];
}

// Time features of a block's rows, or of its products with W2.
template <class S, class T = typename S::Scalar>
struct FeatureGather {
    const PotentialShape& s;
    const PotentialInputs<T>& in;
    const RowPlan& rows;

    void operator()(int64_t block, T* to, const T* from, int64_t columns) const {
        if (s.features == 1) {
            for (int64_t i = 0; i < columns; ++i)
                for (int lane = 0; lane < kBlock; lane += S::width)
                    store<S>(to + i * kBlock + lane, typename S::Vec{} + from[i]);
            return;
        }
        gather(to, from, columns,
               [&](int lane) { return feature_of(s, in, row_in_lane(rows, block, lane)); });
    }
};

template <class T, class RowOf>
FFRL_INLINE void scatter(T* to, const T* block, int64_t columns, RowOf row_of) {
    for (int lane = 0; lane < kBlock; ++lane) {
        const int64_t row = row_of(lane);
        if (row < 0) continue;
        T* target = to + row * columns;
        for (int64_t i = 0; i < columns; ++i) target[i] = block[i * kBlock + lane];
    }
}

// omega = W2 ∂τ/∂t and omega2 = W2 ∂²τ/∂t² of every feature row. (6), (7)
template <class S, class T = typename S::Scalar>
void time_products(const Prepared<T>& p, const PotentialShape& s, const PotentialInputs<T>& in, T* scratch,
                   int64_t scratch_size, const Threads& threads) {
    const int64_t orders = s.d2u_dt2 ? 2 : 1;
    parallel(threads, p.features.blocks * orders, [&](int64_t task, int64_t slot) {
        const int64_t block = task / orders, k = p.features.block_k[block];
        const T* from = task % orders ? in.d2tau_dt2 : in.dtau_dt;
        T* to = task % orders ? p.omega2 : p.omega;
        T* features = scratch + slot * scratch_size;
        T* products = features + s.hidden1 * kBlock;
        const auto row_of = [&](int lane) { return p.features.slot_row[block * kBlock + lane]; };
        gather(features, from, s.hidden1, row_of);
        product<S>(p.weight2 + k * p.weight2_size, s.hidden2, s.hidden1, features,
                   [&](ptrdiff_t j, int column, typename S::Vec y)
                       FFRL_LAMBDA { store<S>(products + j * kBlock + column, y); });
        scatter(to, products, s.hidden2, row_of);
    });
}

// The arrays of one block in `kept`.
template <class T>
struct KeptBlock {
    T *h1, *q, *h2, *v, *u, *o_dot, *o_ddot, *ell, *s, *e, *jacobian;  // (D, H2) of them, or null

    KeptBlock(T* kept, const PotentialShape& shape, int64_t block) {
        h1 = kept + block * kept_rows(shape) * kBlock;
        q = h1 + shape.hidden1 * kBlock;
        h2 = q + shape.hidden1 * kBlock;
        v = h2 + shape.hidden2 * kBlock;
        u = v + shape.latent * kBlock;
        o_dot = u + kBlock;
        o_ddot = o_dot + kBlock;
        ell = o_ddot + kBlock;
        s = ell + kBlock;
        e = s + shape.hidden2 * kBlock;
        jacobian = keeps_jacobian(shape) ? e : nullptr;
    }
};
