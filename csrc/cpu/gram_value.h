// The Gram form where no backward follows: ℓ alone. Σ_j c_j S_j = Σ_pq G_pq d1_p d1_q M_pq with M = W2ᵀ
// diag(c) W2, a symmetric product over the units of one row, so only its lower half is formed: half the work
// of S and e. Included inside a namespace of one instruction set.

template <class S, class T = typename S::Scalar>
struct GramValue {
    using V = typename S::Vec;
    const PotentialShape& s;
    const PotentialInputs<T>& in;
    const ForwardWorkspace<T>& w;

    static constexpr int kLanes = 8;  // rows that a task takes
    static constexpr int kTasksOfBlock = kBlock / kLanes;

    // W2 as both operands; units behind the last one are zero.
    void pack(int64_t k) const {
        const int64_t h1 = s.hidden1, h2 = s.hidden2, unit_blocks = panels_of(h2);
        const T* weight2 = in.weight2 + k * h2 * h1;
        T* blocks = w.weight2_blocks + k * w.weight2_blocks_size;
        T* panels = w.weight2_panels + k * w.weight2_panels_size;
        for (int64_t j = 0; j < unit_blocks * kBlock; ++j)
            for (int64_t i = 0; i < panels_of(h1) * kBlock; ++i) {
                const T value = j < h2 && i < h1 ? weight2[j * h1 + i] : T(0);
                if (i < h1) blocks[(j / kBlock * h1 + i) * kBlock + j % kBlock] = value;
                panels[(i / kBlock * unit_blocks * kBlock + j) * kBlock + i % kBlock] = value;
            }
    }

    // Σ_j c_j S_j of a block's rows with lanes first .. first + kLanes - 1, into kept.ell
    void rows(int64_t block, int64_t first, int64_t slot) const {
        const KeptBlock<T> kept(w.kept, s, block);
        const int64_t k = w.prepared.rows.block_k[block], h1 = s.hidden1, h2 = s.hidden2;
        T* d1 = w.scratch + slot * w.scratch_size;         // (H1, 32)
        T* d1_rows = d1 + h1 * kBlock;                     // panels of 32 columns
        T* c = d1_rows + panels_of(h1) * kBlock * kBlock;  // (H2, 32)
        T* scaled = c + h2 * kBlock;
        for (int64_t at = 0; at < h1 * kBlock; at += S::width)
            store<S>(d1 + at, slope(load<S>(kept.h1 + at)));
        transpose_block<S>(d1_rows, kBlock * kBlock, d1, h1);
        for (int64_t j = 0; j < h2; ++j)
            for (int lane = 0; lane < kBlock; lane += S::width)
                store<S>(c + j * kBlock + lane,
                         unit2(load<S>(kept.h2 + j * kBlock + lane), in.weight3[k * h2 + j]).c);
        for (int64_t lane = first; lane < first + kLanes; ++lane)
            kept.ell[lane] =
                w.prepared.rows.slot_row[block * kBlock + lane] < 0 ? T(0) : row(k, lane, d1_rows, c, scaled);
    }

    T row(int64_t k, int64_t lane, const T* d1_rows, const T* c, T* scaled) const {
        const int64_t h1 = s.hidden1, h2 = s.hidden2, unit_blocks = panels_of(h2);
        const T* weight2_blocks = w.weight2_blocks + k * w.weight2_blocks_size;
        const auto d1_at = [&](int64_t i) {
            return d1_rows + (i / kBlock * kBlock + lane) * kBlock + i % kBlock;
        };
        V total{};
        for (int64_t begin = 0; begin < unit_blocks; begin += kPassBlocks) {
            const int64_t blocks = unit_blocks - begin < kPassBlocks ? unit_blocks - begin : kPassBlocks;
            for (int64_t panel = 0; panel * kBlock < h1; ++panel) {
                const T* weight2 = w.weight2_panels + k * w.weight2_panels_size +
                                   (panel * unit_blocks + begin) * kBlock * kBlock;
                for (int64_t unit = 0; unit < blocks * kBlock; ++unit) {
                    const int64_t j = begin * kBlock + unit;
                    const T factor = j < h2 ? c[j * kBlock + lane] : T(0);
#pragma GCC unroll 8
                    for (int v = 0; v < kBlock; v += S::width)
                        store<S>(scaled + unit * kBlock + v, load<S>(weight2 + unit * kBlock + v) * factor);
                }
                const T* gram_lower =
                    w.prepared.gram_lower + k * w.prepared.gram_lower_size + panel * h1 * kBlock;
                symmetric_panel<S>(
                    h1, panel, blocks, weight2_blocks + begin * h1 * kBlock, h1 * kBlock, scaled,
                    [&](const auto& tile, ptrdiff_t i, ptrdiff_t left, int column) FFRL_LAMBDA {
                        constexpr int kHeight = sizeof(tile.y) / sizeof(tile.y[0]);
                        constexpr int kVectors = sizeof(tile.y[0]) / sizeof(V);
#pragma GCC unroll 2
                        for (int v = 0; v < kVectors; ++v) {
                            V sum{};
#pragma GCC unroll 16
                            for (int r = 0; r < kHeight; ++r)
                                if (i + r < h1)
                                    sum = fma<V>(
                                        tile.y[r][v],
                                        load<S>(gram_lower + (i + r) * kBlock + column + v * S::width) *
                                            *d1_at(i + r),
                                        sum);
                            total = fma<V>(sum, load<S>(d1_at(left + v * S::width)), total);
                        }
                    });
            }
        }
        return 2 * horizontal_sum<T, S::width>(total);
    }
};
