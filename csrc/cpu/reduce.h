// Second stage of the backward: sums of tasks, in their order, become gradients; time features get theirs.
// Included inside a namespace of one instruction set.

template <class S, class T = typename S::Scalar>
struct Reduction {
    using V = typename S::Vec;
    const BackwardPass<S>& pass;
    const PotentialShape& s;
    const PotentialInputs<T>& in;
    const PotentialGradients<T>& out;
    const BackwardWorkspace<T>& w;
    const Prepared<T>& p;

    const TaskSums<T> sums_of(int64_t task) const { return {w.task_sums + task * TaskSums<T>::size(s), s}; }

    // to (M, width) = sums over rows (N, width) by their feature row, columns begin .. end - 1. One after the
    // other and so in float64: a feature row may have every row of the batch.
    void by_feature(T* to, const T* from, int64_t width, int64_t begin, int64_t end, int64_t slot) const {
        double* sums = w.feature_totals + slot * s.features * kFeatureColumns;
        for (int64_t i = 0; i < s.features * kFeatureColumns; ++i) sums[i] = 0;
        for (int64_t row = 0; row < s.rows; ++row) {
            double* target = sums + feature_of(s, in, row) * kFeatureColumns;
            for (int64_t i = begin; i < end; ++i)
                target[i - begin] += static_cast<double>(from[row * width + i]);
        }
        for (int64_t m = 0; m < s.features; ++m)
            for (int64_t i = begin; i < end; ++i)
                to[m * width + i] = static_cast<T>(sums[m * kFeatureColumns + i - begin]);
    }

    // Cotangents of τ and of W2 times its derivatives, (M, ..), from rows or from tasks.
    void features(const Threads& threads) const {
        struct Array {
            T* to;
            const T* rows;
            T* TaskSums<T>::* sums;
            int64_t width;
        };
        const Array arrays[] = {
            {out.v_tau, w.v_tau_rows, &TaskSums<T>::tau, s.hidden1},
            {pass.has_time() ? w.v_omega : nullptr, w.v_omega_rows, &TaskSums<T>::omega, s.hidden2},
            {pass.has_second_time() ? w.v_omega2 : nullptr, w.v_omega2_rows, &TaskSums<T>::omega2,
             s.hidden2}};
        if (w.distinct_features && !w.shared_feature) return;
        for (const Array& array : arrays) {
            if (array.to == nullptr) continue;
            if (w.shared_feature) {
                for (int64_t i = 0; i < array.width; ++i) {
                    T sum = 0;
                    for (int64_t task = 0; task < p.rows.tasks; ++task) sum += (sums_of(task).*array.sums)[i];
                    array.to[i] = sum;
                }
            } else {
                const int64_t panels = (array.width + kFeatureColumns - 1) / kFeatureColumns;
                parallel(threads, panels, [&](int64_t panel, int64_t slot) {
                    const int64_t begin = panel * kFeatureColumns, end = begin + kFeatureColumns;
                    by_feature(array.to, array.rows, array.width, begin,
                               end < array.width ? end : array.width, slot);
                });
            }
        }
    }

    // W2ᵀ of those cotangents, and their products with the features themselves for W2bar. (17)
    void feature_task(int64_t task, int64_t slot) const {
        T* scratch = w.scratch + slot * w.scratch_size;
        const int64_t orders = pass.has_second_time() ? 2 : 1, columns = panels_of(s.hidden1) * kBlock;
        T* sums = w.feature_sums + (pass.needs.weights ? task * columns * s.hidden2 : 0);
        if (pass.needs.weights)
            for (int64_t i = 0; i < columns * s.hidden2; ++i) sums[i] = 0;
        for (int64_t block = p.features.task_block[task]; block < p.features.task_block[task + 1]; ++block) {
            const int64_t k = p.features.block_k[block];
            const auto row_of = [&](int lane) { return p.features.slot_row[block * kBlock + lane]; };
            for (int64_t order = 0; order < orders; ++order) {
                T* v_omega = scratch + (order ? w.v_omega2_block : w.v_omega_block);
                gather(v_omega, order ? w.v_omega2 : w.v_omega, s.hidden2, row_of);
                T* to = order ? out.v_d2tau_dt2 : out.v_dtau_dt;
                if (to != nullptr) {
                    T* block_out = scratch + w.v_s;
                    product<S>(p.weight2_t + k * p.weight2_t_size, s.hidden1, s.hidden2, v_omega,
                               [&](ptrdiff_t i, int lane, V y)
                                   FFRL_LAMBDA { store<S>(block_out + i * kBlock + lane, y); });
                    scatter(to, block_out, s.hidden1, row_of);
                }
                if (pass.needs.weights) {
                    T* features = scratch + w.sum;
                    gather(features, order ? in.d2tau_dt2 : in.dtau_dt, s.hidden1, row_of);
                    transpose_block<S>(scratch + w.outer_panels + order * kBlock * kBlock,
                                       orders * kBlock * kBlock, features, s.hidden1);
                }
            }
            if (pass.needs.weights)
                accumulate_outer<S>(sums, s.hidden2, s.hidden1, orders, scratch + w.v_omega_block,
                                    w.v_omega2_block - w.v_omega_block, scratch + w.outer_panels);
        }
    }

    // 2 Gbar of potential k, whole, from the lower halves; rows begin .. end - 1
    void gram_rows(int64_t k, int64_t begin, int64_t end) const {
        const int64_t h1 = s.hidden1;
        T* total = w.gram_total + k * w.gram_sums_size;
        const auto at = [&](int64_t i, int64_t l) { return (l / kBlock * h1 + i) * kBlock + l % kBlock; };
        for (int64_t i = begin; i < end; ++i)
            for (int64_t l = 0; l <= i; ++l) {
                T sum = 0;
                for (int64_t task = 0; task < w.gram_tasks; ++task)
                    sum += w.gram_sums[task * w.gram_sums_size + at(i, l)];
                total[at(i, l)] = total[at(l, i)] = 2 * sum;
            }
        // columns behind the last one
        for (int64_t i = begin; i < end; ++i)
            for (int64_t l = h1; l < panels_of(h1) * kBlock; ++l) total[at(i, l)] = 0;
    }

    // Gradients of potential k's weights, hidden units of one panel of 32.
    void weights(int64_t k, int64_t panel, T* column) const {
        const int64_t h1 = s.hidden1, h2 = s.hidden2, begin = panel * kBlock;
        const int64_t end = begin + kBlock < h1 ? begin + kBlock : h1;
        const bool laplacian = pass.has_laplacian(), gram = laplacian && s.form == LaplacianForm::gram;
        T* v_weight1 = out.v_weight1 + k * h1 * s.latent;
        T* v_weight2 = out.v_weight2 + k * h2 * h1;
        if (gram)
            product<S>(p.weight1_t + k * p.weight1_t_size, s.latent, h1,
                       w.gram_total + k * w.gram_sums_size + panel * h1 * kBlock,
                       [&](ptrdiff_t d, int lane, V y)
                           FFRL_LAMBDA { store<S>(column + d * kBlock + lane, y); });
        T diagonal[kBlock] = {};
        for (int64_t task = p.rows.first_task[k]; laplacian && task < p.rows.first_task[k + 1]; ++task)
            for (int64_t i = begin; i < end; ++i) diagonal[i - begin] += 2 * sums_of(task).gram_diagonal[i];
        for (int64_t d = 0; d < s.latent; ++d) {
            T sum[kBlock] = {};
            for (int64_t task = p.rows.first_task[k]; task < p.rows.first_task[k + 1]; ++task)
                for (int i = 0; i < kBlock; ++i)
                    sum[i] += sums_of(task).weight1[(panel * s.latent + d) * kBlock + i];
            for (int64_t i = begin; i < end; ++i) {
                T value = sum[i - begin] + (gram ? column[d * kBlock + i - begin] : 0);
                if (laplacian) value += diagonal[i - begin] * in.weight1[(k * h1 + i) * s.latent + d];
                v_weight1[i * s.latent + d] = value;
            }
        }
        const int64_t columns = panels_of(h1) * kBlock;
        for (int64_t j = 0; j < h2; ++j) {
            T sum[kBlock] = {};
            for (int64_t task = p.rows.first_task[k]; task < p.rows.first_task[k + 1]; ++task)
                for (int i = 0; i < kBlock; ++i)
                    sum[i] += sums_of(task).weight2[(panel * h2 + j) * kBlock + i];
            if (pass.has_time())
                for (int64_t task = p.features.first_task[k]; task < p.features.first_task[k + 1]; ++task)
                    for (int i = 0; i < kBlock; ++i)
                        sum[i] += w.feature_sums[task * columns * h2 + (panel * h2 + j) * kBlock + i];
            for (int64_t i = begin; i < end; ++i)
                v_weight2[j * h1 + i] = (gram ? v_weight2[j * h1 + i] : 0) + sum[i - begin];
        }
        const auto total = [&](T* to, T* TaskSums<T>::* from, int64_t first, int64_t last) {
            for (int64_t i = first; i < last; ++i) {
                T sum = 0;
                for (int64_t task = p.rows.first_task[k]; task < p.rows.first_task[k + 1]; ++task)
                    sum += (sums_of(task).*from)[i];
                to[i] = sum;
            }
        };
        total(out.v_bias1 + k * h1, &TaskSums<T>::bias1, begin, end);
        if (panel != 0) return;
        total(out.v_bias2 + k * h2, &TaskSums<T>::bias2, 0, h2);
        total(out.v_weight3 + k * h2, &TaskSums<T>::weight3, 0, h2);
        total(out.v_bias3 + k, &TaskSums<T>::bias3, 0, 1);
    }
};

template <class S, class T = typename S::Scalar>
Status run_backward(const PotentialShape& s, const PotentialInputs<T>& in, const T* kept,
                    const PotentialCotangents<T>& cotangents, const BackwardNeeds& needs,
                    const PotentialGradients<T>& out, void* memory, const Threads& threads) {
    Arena arena(memory);
    const bool distinct = in.feature_row == nullptr && s.features == s.rows;
    BackwardWorkspace<T> w(arena, s, in.k != nullptr, distinct, needs, threads.count);
    const Prepared<T>& p = w.prepared;
    const Status status = plan(w.prepared, s, in);
    if (status != Status::ok) return status;
    const BackwardPass<S> pass{s, in, const_cast<T*>(kept), cotangents, needs, out, w, p};
    pack_weights<S>(p, s, in, threads);
    if (pass.has_laplacian()) pack_gram<S>(p, s, in, threads);
    if (pass.has_time()) time_products<S>(p, s, in, w.scratch, w.scratch_size, threads);
    parallel(threads, p.rows.tasks, [&](int64_t task, int64_t slot) { pass.rows_of_task(task, slot); });

    const Reduction<S> reduction{pass, s, in, out, w, p};
    if (pass.needs_features()) {
        reduction.features(threads);
        if (pass.has_time())
            parallel(threads, p.features.tasks,
                     [&](int64_t task, int64_t slot) { reduction.feature_task(task, slot); });
    }
    // What no row has is in no task, and without a cotangent there are none.
    const auto clear_features = [&](T* to, bool all) {
        for (int64_t m = 0; to != nullptr && m < s.features; ++m)
            if (all || p.feature_k[m] == kNoPotential)
                for (int64_t i = 0; i < s.hidden1; ++i) to[m * s.hidden1 + i] = 0;
    };
    clear_features(out.v_dtau_dt, !pass.has_time());
    clear_features(out.v_d2tau_dt2, !pass.has_second_time());
    if (!needs.weights) return status;

    const int64_t panels = panels_of(s.hidden1);
    const bool gram = pass.has_laplacian() && s.form == LaplacianForm::gram;
    for (int64_t k = 0; gram && k < s.potentials; ++k) {
        if (!is_present(p.rows, k)) continue;
        const GramVjp<S> cubic{s, in, w, out.v_weight2};
        parallel(threads, w.gram_tasks, [&](int64_t task, int64_t slot) { cubic.units(k, task, slot); });
        parallel(threads, panels, [&](int64_t panel, int64_t) {
            const int64_t end = (panel + 1) * kBlock < s.hidden1 ? (panel + 1) * kBlock : s.hidden1;
            reduction.gram_rows(k, panel * kBlock, end);
        });
    }
    parallel(threads, s.potentials * panels, [&](int64_t task, int64_t slot) {
        const int64_t k = task / panels;
        if (is_present(p.rows, k)) {
            reduction.weights(k, task % panels, w.scratch + slot * w.scratch_size + w.z);
        } else if (task % panels == 0) {
            const auto clear = [](T* to, int64_t count) {
                for (int64_t i = 0; i < count; ++i) to[i] = 0;
            };
            clear(out.v_weight1 + k * s.hidden1 * s.latent, s.hidden1 * s.latent);
            clear(out.v_bias1 + k * s.hidden1, s.hidden1);
            clear(out.v_weight2 + k * s.hidden2 * s.hidden1, s.hidden2 * s.hidden1);
            clear(out.v_bias2 + k * s.hidden2, s.hidden2);
            clear(out.v_weight3 + k * s.hidden2, s.hidden2);
            out.v_bias3[k] = 0;
        }
    });
    return status;
}
