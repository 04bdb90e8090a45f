// Equations (13) to (20), block by block, with sums over rows in a fixed number of tasks.
// Included inside a namespace of one instruction set.

template <class S, class T = typename S::Scalar>
struct BackwardPass {
    using V = typename S::Vec;
    const PotentialShape& s;
    const PotentialInputs<T>& in;
    T* kept_blocks;
    const PotentialCotangents<T>& cot;
    const BackwardNeeds& needs;
    const PotentialGradients<T>& out;
    const BackwardWorkspace<T>& w;
    const Prepared<T>& p;
    FeatureGather<S> features{s, in, p.rows};

    bool has_laplacian() const { return cot.v_lap_u != nullptr && s.form != LaplacianForm::none; }
    bool has_velocity() const { return cot.v_du_dz != nullptr || (has_laplacian() && s.tanh_output); }
    bool has_second_time() const { return cot.v_d2u_dt2 != nullptr && s.d2u_dt2; }
    bool has_time() const { return cot.v_du_dt != nullptr || has_second_time(); }
    bool needs_features() const { return needs.features || needs.weights; }

    // The cotangents of a block's rows, after (13).
    struct RowCotangents {
        alignas(64) T v_o[kBlock], v_o_dot[kBlock], v_o_ddot[kBlock], v_ell[kBlock];
    };

    void rows_of_task(int64_t task, int64_t slot) const {
        TaskSums<T> sums(w.task_sums + task * TaskSums<T>::size(s), s);
        if (needs_features())
            for (int64_t i = 0; i < TaskSums<T>::size(s); ++i) sums.weight1[i] = 0;
        for (int64_t block = p.rows.task_block[task]; block < p.rows.task_block[task + 1]; ++block)
            rows_of_block(block, w.scratch + slot * w.scratch_size, sums);
    }

    void rows_of_block(int64_t block, T* scratch, const TaskSums<T>& sums) const {
        const KeptBlock<T> kept(kept_blocks, s, block);
        const int64_t k = p.rows.block_k[block], h1 = s.hidden1;
        const auto row_of = [&](int lane) { return p.rows.slot_row[block * kBlock + lane]; };
        RowCotangents rows;
        T* v_v = scratch + w.v_v;
        output_vjp(kept, row_of, v_v, rows);

        T *d1 = scratch + w.d1_block, *v_r = scratch + w.v_r, *v_q = scratch + w.v_q,
          *v_d1 = scratch + w.v_d1;
        const T* gram_diagonal = p.gram_diagonal + (has_laplacian() ? k * h1 : 0);
        if (has_velocity()) {
            product<S>(p.weight1 + k * p.weight1_size, h1, s.latent, v_v,
                       [&](ptrdiff_t i, int lane, V y) FFRL_LAMBDA { store<S>(v_r + i * kBlock + lane, y); });
        } else {
            for (int64_t at = 0; at < h1 * kBlock; at += S::width) store<S>(v_r + at, V{});
        }
        for (int64_t i = 0; i < h1; ++i)
            for (int lane = 0; lane < kBlock; lane += S::width) {
                const ptrdiff_t at = i * kBlock + lane;
                const V h = load<S>(kept.h1 + at);
                const V v_ell = load<S>(rows.v_ell + lane);
                const V v_m = has_laplacian() ? v_ell * gram_diagonal[i] : V{};
                store<S>(d1 + at, slope(h));
                store<S>(v_q + at, unit1_vjp_q(h, load<S>(v_r + at), v_m));
                const bool from_gram = has_laplacian() && s.form == LaplacianForm::gram;
                store<S>(v_d1 + at, from_gram ? 2 * v_ell * load<S>(kept.e + at) : V{});
            }
        if (has_laplacian() && needs.weights)
            for (int64_t i = 0; i < h1; ++i) {
                V sum{};
                for (int lane = 0; lane < kBlock; lane += S::width) {
                    const ptrdiff_t at = i * kBlock + lane;
                    sum +=
                        load<S>(rows.v_ell + lane) * unit1<V>(load<S>(kept.h1 + at), load<S>(kept.q + at)).m;
                }
                sums.gram_diagonal[i] += horizontal_sum<T, S::width>(sum);
            }

        units2(block, k, kept, rows, v_q, scratch, sums);

        if (has_laplacian()) {
            T* v_ell_c = scratch + w.v_ell_c_block;
            if (s.form == LaplacianForm::jacobian)
                jacobian_vjp(k, kept, d1, v_ell_c, v_d1, scratch, sums);
            else if (needs.weights)
                keep_for_gram(block, d1, v_ell_c);
        }
        inputs(block, k, kept, row_of, v_r, v_q, v_d1, rows, scratch, sums);
    }

    // (13)
    template <class RowOf>
    void output_vjp(const KeptBlock<T>& kept, RowOf row_of, T* v_v, RowCotangents& rows) const {
        alignas(64) T v_u[kBlock], v_du_dt[kBlock], v_d2u_dt2[kBlock], v_lap_u[kBlock];
        const auto lanes = [&](T* to, const T* from) {
            for (int lane = 0; lane < kBlock; ++lane)
                to[lane] = from == nullptr || row_of(lane) < 0 ? 0 : from[row_of(lane)];
        };
        lanes(v_u, cot.v_u);
        lanes(v_du_dt, cot.v_du_dt);
        lanes(v_d2u_dt2, has_second_time() ? cot.v_d2u_dt2 : nullptr);
        lanes(v_lap_u, has_laplacian() ? cot.v_lap_u : nullptr);
        if (cot.v_du_dz != nullptr) gather(v_v, cot.v_du_dz, s.latent, row_of);
        for (int lane = 0; lane < kBlock; lane += S::width) {
            V v_phi{}, v_squared{};
            for (int64_t d = 0; d < s.latent; ++d) {
                const ptrdiff_t at = d * kBlock + lane;
                if (cot.v_du_dz != nullptr) v_phi += load<S>(v_v + at) * load<S>(kept.v + at);
                if (has_laplacian()) v_squared += load<S>(kept.v + at) * load<S>(kept.v + at);
            }
            const V ell = has_laplacian() ? load<S>(kept.ell + lane) : V{};
            const OutputRowVjp<V> row =
                output_row_vjp<V>(load<S>(kept.u + lane), load<S>(kept.o_dot + lane),
                                  has_second_time() ? load<S>(kept.o_ddot + lane) : V{}, ell, v_squared,
                                  s.tanh_output, load<S>(v_u + lane), v_phi, load<S>(v_du_dt + lane),
                                  load<S>(v_d2u_dt2 + lane), load<S>(v_lap_u + lane));
            store<S>(rows.v_o + lane, row.v_o);
            store<S>(rows.v_o_dot + lane, row.v_o_dot);
            store<S>(rows.v_o_ddot + lane, row.v_o_ddot);
            store<S>(rows.v_ell + lane, row.v_ell);
            if (has_velocity())
                for (int64_t d = 0; d < s.latent; ++d) {
                    const ptrdiff_t at = d * kBlock + lane;
                    V value = cot.v_du_dz != nullptr ? load<S>(v_v + at) * row.v_v_along_du_dz : V{};
                    if (has_laplacian()) value += load<S>(kept.v + at) * row.v_v_along_v;
                    store<S>(v_v + at, value);
                }
        }
    }

    // (14), (17), (18) and v_a2 of (19)
    void units2(int64_t block, int64_t k, const KeptBlock<T>& kept, const RowCotangents& rows, const T* v_q,
                T* scratch, const TaskSums<T>& sums) const {
        const int64_t h2 = s.hidden2;
        T *p_units = scratch + w.p, *v_a2 = scratch + w.v_a2, *v_p = scratch + w.v_p;
        T *omega = scratch + w.omega, *omega2 = scratch + w.omega2, *v_ell_c = scratch + w.v_ell_c_block;
        T *v_omega = scratch + w.v_omega_block, *v_omega2 = scratch + w.v_omega2_block;
        if (has_time()) {
            features(block, omega, p.omega, h2);
            if (s.d2u_dt2) features(block, omega2, p.omega2, h2);
        }
        if (has_velocity() || has_laplacian()) {
            product<S>(p.weight2 + k * p.weight2_size, h2, s.hidden1, v_q,
                       [&](ptrdiff_t j, int lane, V y) FFRL_LAMBDA { store<S>(v_p + j * kBlock + lane, y); });
        } else {
            for (int64_t at = 0; at < h2 * kBlock; at += S::width) store<S>(v_p + at, V{});
        }
        for (int64_t j = 0; j < h2; ++j) {
            const T weight3 = in.weight3[k * h2 + j];
            V v_weight3{}, v_bias2{};
            for (int lane = 0; lane < kBlock; lane += S::width) {
                const ptrdiff_t at = j * kBlock + lane;
                const V h = load<S>(kept.h2 + at);
                const Unit2<V> unit = unit2(h, weight3);
                V v_c{}, v_p_all = load<S>(v_p + at);
                if (has_laplacian()) {
                    const V v_ell = load<S>(rows.v_ell + lane);
                    v_c = v_ell * load<S>(kept.s + at);
                    store<S>(v_ell_c + at, v_ell * unit.c);
                }
                if (has_time()) {
                    const TimeTermsVjp<V> terms = time_terms_vjp<V>(
                        unit.p, unit.c, load<S>(omega + at), s.d2u_dt2 ? load<S>(omega2 + at) : V{},
                        load<S>(rows.v_o_dot + lane), load<S>(rows.v_o_ddot + lane));
                    v_p_all += terms.v_p;
                    v_c += terms.v_c;
                    store<S>(v_omega + at, terms.v_omega);
                    store<S>(v_omega2 + at, terms.v_omega2);
                }
                const Unit2Vjp<V> vjp = unit2_vjp<V>(h, weight3, load<S>(rows.v_o + lane), v_p_all, v_c);
                store<S>(p_units + at, unit.p);
                store<S>(v_a2 + at, vjp.v_a2);
                v_weight3 += vjp.v_weight3;
                v_bias2 += vjp.v_a2;
            }
            if (needs.weights) {
                sums.weight3[j] += horizontal_sum<T, S::width>(v_weight3);
                sums.bias2[j] += horizontal_sum<T, S::width>(v_bias2);
            }
        }
        if (needs.weights)
            for (int lane = 0; lane < kBlock; ++lane) sums.bias3[0] += rows.v_o[lane];
        if (needs_features() && has_time()) {
            time_rows(block, v_omega, sums.omega, w.v_omega, w.v_omega_rows);
            if (has_second_time()) time_rows(block, v_omega2, sums.omega2, w.v_omega2, w.v_omega2_rows);
        }
    }

    // The cotangent of W2 times a time feature: into the sum of all rows, or row by row.
    void time_rows(int64_t block, const T* values, T* sums, T* by_feature, T* by_row) const {
        if (w.shared_feature) {
            add_lanes(sums, values, s.hidden2);
        } else {
            scatter(w.distinct_features ? by_feature : by_row, values, s.hidden2,
                    [&](int lane) { return p.rows.slot_row[block * kBlock + lane]; });
        }
    }

    static void add_lanes(T* sums, const T* values, int64_t count) {
        for (int64_t i = 0; i < count; ++i) {
            V sum{};
            for (int lane = 0; lane < kBlock; lane += S::width) sum += load<S>(values + i * kBlock + lane);
            sums[i] += horizontal_sum<T, S::width>(sum);
        }
    }

    // Jacobian form of (16): v_d1, and the parts of W1bar and W2bar, one latent dimension at a time. Where
    // the Jacobian was not kept it is formed again.
    void jacobian_vjp(int64_t k, const KeptBlock<T>& kept, const T* d1, const T* v_ell_c, T* v_d1, T* scratch,
                      const TaskSums<T>& sums) const {
        const int64_t h1 = s.hidden1, h2 = s.hidden2, group = jacobian_group<T>(s), panels = panels_of(h1);
        const T* weight1_panels = p.weight1_panels + k * p.weight1_panels_size;
        T *x = scratch + w.h1_work, *v_jacobian = scratch + w.v_jacobian, *x_panels = scratch + w.x_panels;
        T* d1_transposed = scratch + w.d1_transposed;
        if (needs.weights) transpose_block<S>(d1_transposed, kBlock * kBlock, d1, h1);
        const int64_t jacobian_stride = (h2 + 1) * kBlock;
        for (int64_t begin = 0; begin < s.latent; begin += group) {
            const int64_t count = s.latent - begin < group ? s.latent - begin : group;
            for (int64_t d = begin; d < begin + count; ++d) {
                T* v_j = v_jacobian + (d - begin) * jacobian_stride;
                if (kept.jacobian != nullptr) {
                    for (int64_t at = 0; at < h2 * kBlock; at += S::width)
                        store<S>(v_j + at,
                                 2 * load<S>(v_ell_c + at) * load<S>(kept.jacobian + d * h2 * kBlock + at));
                } else {
                    scale_by_weight1<S>(x, d1, weight1_panels, h1, s.latent, d);
                    product<S>(p.weight2 + k * p.weight2_size, h2, h1, x,
                               [&](ptrdiff_t j, int lane, V y) FFRL_LAMBDA {
                                   const ptrdiff_t at = j * kBlock + lane;
                                   store<S>(v_j + at, 2 * load<S>(v_ell_c + at) * y);
                               });
                }
                product<S>(p.weight2_t + k * p.weight2_t_size, h1, h2, v_j,
                           [&](ptrdiff_t i, int lane, V y) FFRL_LAMBDA {
                               const ptrdiff_t at = i * kBlock + lane;
                               const T weight1 =
                                   weight1_panels[(i / kBlock * s.latent + d) * kBlock + i % kBlock];
                               store<S>(v_d1 + at, fma<V>(weight1, y, load<S>(v_d1 + at)));
                               store<S>(x + at, y * load<S>(d1 + at));
                           });
                if (!needs.weights) continue;
                for (int64_t panel = 0; panel < panels; ++panel) {
                    T* v_weight1 = sums.weight1 + (panel * s.latent + d) * kBlock;
                    const T* from = x + panel * kBlock * kBlock;
                    const int64_t rows = h1 - panel * kBlock < kBlock ? h1 - panel * kBlock : kBlock;
                    add_lanes(v_weight1, from, rows);
                    const T* weights = weight1_panels + (panel * s.latent + d) * kBlock;
                    T* right = x_panels + (panel * count + d - begin) * kBlock * kBlock;
                    for (int n = 0; n < kBlock; ++n)
#pragma GCC unroll 8
                        for (int v = 0; v < kBlock; v += S::width)
                            store<S>(right + n * kBlock + v,
                                     load<S>(d1_transposed + (panel * kBlock + n) * kBlock + v) *
                                         load<S>(weights + v));
                }
            }
            if (needs.weights)
                accumulate_outer<S>(sums.weight2, h2, h1, count, v_jacobian, jacobian_stride, x_panels);
        }
    }

    void keep_for_gram(int64_t block, const T* d1, const T* v_ell_c) const {
        const int64_t all_rows = p.rows.blocks * kBlock;
        for (int64_t i = 0; i < s.hidden1 * kBlock; ++i) w.d1[block * s.hidden1 * kBlock + i] = d1[i];
        for (int64_t i = 0; i < s.hidden2 * kBlock; ++i)
            w.v_ell_c[block * s.hidden2 * kBlock + i] = v_ell_c[i];
        transpose_block<S>(w.d1_panels + block * kBlock * kBlock, all_rows * kBlock, d1, s.hidden1);
    }

    // The rest of (15) and (19), (20); products over rows for W1bar and W2bar
    template <class RowOf>
    void inputs(int64_t block, int64_t k, const KeptBlock<T>& kept, RowOf row_of, const T* v_r, const T* v_q,
                const T* v_d1, const RowCotangents& rows, T* scratch, const TaskSums<T>& sums) const {
        const int64_t h1 = s.hidden1, h2 = s.hidden2;
        const T* gram_diagonal = p.gram_diagonal + (has_laplacian() ? k * h1 : 0);
        T *v_s = scratch + w.v_s, *v_a1 = scratch + w.h1_work, *r = scratch + w.d1_block;
        product<S>(p.weight2_t + k * p.weight2_t_size, h1, h2, scratch + w.v_a2,
                   [&](ptrdiff_t i, int lane, V y) FFRL_LAMBDA {
                       const ptrdiff_t at = i * kBlock + lane;
                       const V v_m = has_laplacian() ? load<S>(rows.v_ell + lane) * gram_diagonal[i] : V{};
                       const V h = load<S>(kept.h1 + at), q = load<S>(kept.q + at);
                       store<S>(v_s + at, y);
                       store<S>(v_a1 + at,
                                unit1_vjp_a1<V>(h, q, load<S>(v_r + at), v_m, load<S>(v_d1 + at), y));
                       store<S>(r + at, unit1<V>(h, q).r);
                   });
        if (needs_features()) {
            if (w.shared_feature) {
                add_lanes(sums.tau, v_s, h1);
            } else if (out.v_tau != nullptr) {
                scatter(w.distinct_features ? out.v_tau : w.v_tau_rows, v_s, h1, row_of);
            }
        }
        if (needs.weights) {
            T *panels = scratch + w.outer_panels, *sum = scratch + w.sum;
            const int64_t stride = 2 * kBlock * kBlock;
            features(block, sum, in.tau, h1);
            for (int64_t at = 0; at < h1 * kBlock; at += S::width)
                store<S>(sum + at, load<S>(sum + at) + load<S>(kept.h1 + at));
            transpose_block<S>(panels, stride, v_q, h1);
            transpose_block<S>(panels + kBlock * kBlock, stride, sum, h1);
            accumulate_outer<S>(sums.weight2, h2, h1, 2, scratch + w.p, w.v_a2 - w.p, panels);
            add_lanes(sums.bias1, v_a1, h1);
            if (!has_velocity())
                for (int64_t at = 0; at < s.latent * kBlock; ++at) scratch[w.v_v + at] = 0;
            gather(scratch + w.z, in.z, s.latent, row_of);
            transpose_block<S>(panels, stride, r, h1);
            transpose_block<S>(panels + kBlock * kBlock, stride, v_a1, h1);
            accumulate_outer<S>(sums.weight1, s.latent, h1, 2, scratch + w.v_v, w.z - w.v_v, panels);
        }
        if (out.v_z != nullptr) {
            T* v_z = scratch + w.z;
            product<S>(p.weight1_t + k * p.weight1_t_size, s.latent, h1, v_a1,
                       [&](ptrdiff_t d, int lane, V y) FFRL_LAMBDA { store<S>(v_z + d * kBlock + lane, y); });
            scatter(out.v_z, v_z, s.latent, row_of);
        }
    }
};
