// Equations (1) to (11), block by block. Included inside a namespace of one instruction set.

template <class S, class T = typename S::Scalar>
struct ForwardPass {
    using V = typename S::Vec;
    const PotentialShape& s;
    const PotentialInputs<T>& in;
    const PotentialOutputs<T>& out;
    const ForwardWorkspace<T>& w;
    const Prepared<T>& p;

    // (1) to (7), and S where the form is Jacobian
    void rows_of_block(int64_t block, int64_t slot) const {
        const KeptBlock<T> kept(w.kept, s, block);
        const int64_t k = p.rows.block_k[block], h1 = s.hidden1, h2 = s.hidden2;
        const FeatureGather<S> features{s, in, p.rows};
        T *first = w.slot(slot, 0), *second = w.slot(slot, 1), *third = w.slot(slot, 2),
          *fourth = w.slot(slot, 3);

        T *z = first, *sum = second;
        gather(z, in.z, s.latent, [&](int lane) { return row_in_lane(p.rows, block, lane); });
        const T* bias1 = in.bias1 + k * h1;
        features(block, sum, in.tau, h1);
        product<S>(p.weight1 + k * p.weight1_size, h1, s.latent, z,
                   [&](ptrdiff_t i, int lane, V y) FFRL_LAMBDA {
                       const ptrdiff_t at = i * kBlock + lane;
                       const V h = tanh<S>(y + bias1[i]);
                       store<S>(kept.h1 + at, h);
                       store<S>(sum + at, load<S>(sum + at) + h);
                   });

        T *p_units = first, *c_units = third;
        const T* bias2 = in.bias2 + k * h2;
        const T* weight3 = in.weight3 + k * h2;
        product<S>(p.weight2 + k * p.weight2_size, h2, h1, sum, [&](ptrdiff_t j, int lane, V y) FFRL_LAMBDA {
            const ptrdiff_t at = j * kBlock + lane;
            const V h = tanh<S>(y + bias2[j]);
            const Unit2<V> unit = unit2(h, weight3[j]);
            store<S>(kept.h2 + at, h);
            store<S>(p_units + at, unit.p);
            store<S>(c_units + at, unit.c);
        });

        T *omega = second, *omega2 = fourth;  // (H2, 32)
        features(block, omega, p.omega, h2);
        if (s.d2u_dt2) features(block, omega2, p.omega2, h2);
        for (int lane = 0; lane < kBlock; lane += S::width) {
            V o = V{} + in.bias3[k], o_dot{}, o_ddot{};
            for (int64_t j = 0; j < h2; ++j) {
                const ptrdiff_t at = j * kBlock + lane;
                o += load<S>(kept.h2 + at) * weight3[j];
                const TimeTerms<V> terms =
                    time_terms<V>(load<S>(p_units + at), load<S>(c_units + at), load<S>(omega + at),
                                  s.d2u_dt2 ? load<S>(omega2 + at) : V{});
                o_dot += terms.o_dot;
                if (s.d2u_dt2) o_ddot += terms.o_ddot;
            }
            store<S>(kept.u + lane, s.tanh_output ? tanh<S>(o) : o);
            store<S>(kept.o_dot + lane, o_dot);
            store<S>(kept.o_ddot + lane, o_ddot);
        }

        T* r = second;
        product<S>(p.weight2_t + k * p.weight2_t_size, h1, h2, p_units,
                   [&](ptrdiff_t i, int lane, V y) FFRL_LAMBDA {
                       const ptrdiff_t at = i * kBlock + lane;
                       store<S>(kept.q + at, y);
                       store<S>(r + at, unit1<V>(load<S>(kept.h1 + at), y).r);
                   });
        product<S>(p.weight1_t + k * p.weight1_t_size, s.latent, h1, r,
                   [&](ptrdiff_t d, int lane, V y) FFRL_LAMBDA { store<S>(kept.v + d * kBlock + lane, y); });

        if (s.form == LaplacianForm::jacobian) squares_by_jacobian(kept, k, first, second);
        if (s.form != LaplacianForm::gram) finish_block(block);
    }

    // S_j = |J_j|², one latent dimension after the other
    void squares_by_jacobian(const KeptBlock<T>& kept, int64_t k, T* d1, T* x) const {
        const int64_t h1 = s.hidden1, h2 = s.hidden2;
        for (int64_t at = 0; at < h1 * kBlock; at += S::width)
            store<S>(d1 + at, slope(load<S>(kept.h1 + at)));
        for (int64_t at = 0; at < h2 * kBlock; at += S::width) store<S>(kept.s + at, V{});
        for (int64_t d = 0; d < s.latent; ++d) {
            scale_by_weight1<S>(x, d1, p.weight1_panels + k * p.weight1_panels_size, h1, s.latent, d);
            product<S>(p.weight2 + k * p.weight2_size, h2, h1, x,
                       [&](ptrdiff_t j, int lane, V y) FFRL_LAMBDA {
                           T* at = kept.s + j * kBlock + lane;
                           store<S>(at, fma<V>(y, y, load<S>(at)));
                           if (kept.jacobian != nullptr)
                               store<S>(kept.jacobian + (d * h2 + j) * kBlock + lane, y);
                       });
        }
    }

    // (9), (10) for the units of one chunk: S_j whole, e in part. The product is consumed tile by tile.
    void squares_by_gram(int64_t block, int64_t chunk, int64_t slot) const {
        const KeptBlock<T> kept(w.kept, s, block);
        const int64_t k = p.rows.block_k[block], h1 = s.hidden1, chunks = chunks_of(s);
        const int rows = rows_in_block(p.rows, block);
        const T* gram = p.gram + k * p.gram_size;
        T *d1 = w.slot(slot, 0), *x = w.slot(slot, 1);
        T* e = w.e_parts + (block * chunks + chunk) * h1 * kBlock;
        for (int64_t at = 0; at < h1 * kBlock; at += S::width) {
            store<S>(d1 + at, slope(load<S>(kept.h1 + at)));
            store<S>(e + at, V{});
        }
        for (int64_t j = s.hidden2 * chunk / chunks; j < s.hidden2 * (chunk + 1) / chunks; ++j) {
            const T* weight2 = in.weight2 + (k * s.hidden2 + j) * h1;
            const T weight3 = in.weight3[k * s.hidden2 + j];
            for (int64_t i = 0; i < h1; ++i)
#pragma GCC unroll 8
                for (int lane = 0; lane < kBlock; lane += S::width)
                    store<S>(x + i * kBlock + lane, load<S>(d1 + i * kBlock + lane) * weight2[i]);
            int lane = 0;
            for (; lane + S::width < rows; lane += 2 * S::width)
                unit_of_chunk<2>(kept, lane, j, weight2, weight3, gram, x, e);
            for (; lane < rows; lane += S::width)
                unit_of_chunk<1>(kept, lane, j, weight2, weight3, gram, x, e);
            for (; lane < kBlock; lane += S::width) store<S>(kept.s + j * kBlock + lane, V{});
        }
    }

    // S_j of the rows in kVectors vectors of lanes, and what unit j adds to their e
    template <int kVectors>
    FFRL_INLINE void unit_of_chunk(const KeptBlock<T>& kept, int lane, int64_t j, const T* weight2, T weight3,
                                   const T* gram, const T* x, T* e) const {
        const int64_t h1 = s.hidden1;
        V c[kVectors], squares[kVectors];
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) {
            c[v] = unit2(load<S>(kept.h2 + j * kBlock + lane + v * S::width), weight3).c;
            squares[v] = V{};
        }
        for_panels<S>(h1, [&](auto height, ptrdiff_t first) FFRL_LAMBDA {
            constexpr int kHeight = decltype(height)::value;
            Tile<S, kHeight, kVectors> y;
            y.add_packed(h1, gram + first * h1, x + lane);
#pragma GCC unroll 16
            for (int r = 0; r < kHeight; ++r)
                if (first + r < h1)
#pragma GCC unroll 2
                    for (int v = 0; v < kVectors; ++v) {
                        const ptrdiff_t at = (first + r) * kBlock + lane + v * S::width;
                        squares[v] = fma<V>(load<S>(x + at), y.y[r][v], squares[v]);
                        store<S>(e + at, fma<V>(c[v] * weight2[first + r], y.y[r][v], load<S>(e + at)));
                    }
        });
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) store<S>(kept.s + j * kBlock + lane + v * S::width, squares[v]);
    }

    // (11), and what the caller gets of the block's rows
    void finish_block(int64_t block) const {
        const KeptBlock<T> kept(w.kept, s, block);
        const int64_t k = p.rows.block_k[block], h1 = s.hidden1, h2 = s.hidden2;
        if (s.form == LaplacianForm::gram && !w.value_only)
            for (int64_t at = 0; at < h1 * kBlock; at += S::width) {
                V sum{};
                for (int64_t chunk = 0; chunk < chunks_of(s); ++chunk)
                    sum += load<S>(w.e_parts + (block * chunks_of(s) + chunk) * h1 * kBlock + at);
                store<S>(kept.e + at, sum);
            }
        alignas(64) T phi[kBlock], du_dt[kBlock], d2u_dt2[kBlock], lap_u[kBlock];
        for (int lane = 0; lane < kBlock; lane += S::width) {
            V ell{}, v_squared{};
            if (w.value_only) ell = load<S>(kept.ell + lane);
            if (s.form != LaplacianForm::none) {
                for (int64_t j = 0; j < h2 && !w.value_only; ++j) {
                    const ptrdiff_t at = j * kBlock + lane;
                    ell += unit2(load<S>(kept.h2 + at), in.weight3[k * h2 + j]).c * load<S>(kept.s + at);
                }
                for (int64_t i = 0; i < h1; ++i) {
                    const ptrdiff_t at = i * kBlock + lane;
                    ell +=
                        unit1<V>(load<S>(kept.h1 + at), load<S>(kept.q + at)).m * p.gram_diagonal[k * h1 + i];
                }
                for (int64_t d = 0; d < s.latent; ++d) {
                    const V v = load<S>(kept.v + d * kBlock + lane);
                    v_squared += v * v;
                }
            }
            store<S>(kept.ell + lane, ell);
            const OutputRow<V> row =
                output_row<V>(load<S>(kept.u + lane), load<S>(kept.o_dot + lane), load<S>(kept.o_ddot + lane),
                              ell, v_squared, s.tanh_output);
            store<S>(phi + lane, row.phi);
            store<S>(du_dt + lane, row.du_dt);
            store<S>(d2u_dt2 + lane, row.d2u_dt2);
            store<S>(lap_u + lane, row.lap_u);
        }
        for (int lane = 0; lane < kBlock; ++lane) {
            const int64_t n = p.rows.slot_row[block * kBlock + lane];
            if (n < 0) continue;
            out.u[n] = kept.u[lane];
            out.du_dt[n] = du_dt[lane];
            if (out.d2u_dt2 != nullptr) out.d2u_dt2[n] = d2u_dt2[lane];
            if (out.lap_u != nullptr) out.lap_u[n] = lap_u[lane];
            for (int64_t d = 0; d < s.latent; ++d)
                out.du_dz[n * s.latent + d] = phi[lane] * kept.v[d * kBlock + lane];
        }
    }
};

template <class S, class T = typename S::Scalar>
Status run_forward(const PotentialShape& s, const PotentialInputs<T>& in, const PotentialOutputs<T>& out,
                   T* kept, void* memory, const Threads& threads) {
    Arena arena(memory);
    ForwardWorkspace<T> w(arena, s, in.k != nullptr, kept, threads.count);
    const Status status = plan(w.prepared, s, in);
    if (status != Status::ok) return status;
    pack_weights<S>(w.prepared, s, in, threads);
    pack_gram<S>(w.prepared, s, in, threads);
    time_products<S>(w.prepared, s, in, w.scratch, w.scratch_size, threads);
    const ForwardPass<S> pass{s, in, out, w, w.prepared};
    const int64_t blocks = w.prepared.rows.blocks, block_size = kept_rows(s) * kBlock;
    for (int64_t i = blocks * block_size; i < max_blocks(s.rows, s.potentials, in.k != nullptr) * block_size;
         ++i)
        w.kept[i] = 0;  // blocks that mixed k could have needed
    parallel(threads, blocks, [&](int64_t block, int64_t slot) { pass.rows_of_block(block, slot); });
    if (w.value_only) {
        const GramValue<S> value{s, in, w};
        parallel(threads, s.potentials, [&](int64_t k, int64_t) {
            if (is_present(w.prepared.rows, k)) value.pack(k);
        });
        constexpr int64_t tasks = GramValue<S>::kTasksOfBlock;
        parallel(threads, blocks * tasks, [&](int64_t task, int64_t slot) {
            value.rows(task / tasks, task % tasks * GramValue<S>::kLanes, slot);
        });
    } else if (s.form == LaplacianForm::gram) {
        const int64_t chunks = chunks_of(s);
        parallel(threads, blocks * chunks, [&](int64_t task, int64_t slot) {
            pass.squares_by_gram(task / chunks, task % chunks, slot);
        });
    }
    if (s.form == LaplacianForm::gram)
        parallel(threads, blocks, [&](int64_t block, int64_t) { pass.finish_block(block); });
    return status;
}
