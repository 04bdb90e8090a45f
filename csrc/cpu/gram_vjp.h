// Equation (16): the contraction over rows. T_j = Σ_n (λ c_j) d1 d1ᵀ is symmetric, so only tiles that touch
// its lower half are formed, and each is consumed in registers. Included inside a namespace of one
// instruction set.

template <class S, class T = typename S::Scalar>
struct GramVjp {
    using V = typename S::Vec;
    const PotentialShape& s;
    const PotentialInputs<T>& in;
    const BackwardWorkspace<T>& w;
    T* v_weight2;  // (K, H2, H1)

    struct Work {
        T *row_sums, *column_sums, *weight2_row, *scaled;
    };

    // One task's units of potential k: their rows of W2bar whole, their share of Gbar.
    void units(int64_t k, int64_t task, int64_t slot) const {
        T* scratch = w.scratch + slot * w.scratch_size;
        const Work work{scratch + w.gram_rows, scratch + w.gram_columns, scratch + w.weight2_row,
                        scratch + w.scaled};
        T* gram_sums = w.gram_sums + task * w.gram_sums_size;
        const int64_t h1 = s.hidden1, columns = panels_of(h1) * kBlock;
        for (int64_t i = 0; i < w.gram_sums_size; ++i) gram_sums[i] = 0;
        for (int64_t j = s.hidden2 * task / w.gram_tasks; j < s.hidden2 * (task + 1) / w.gram_tasks; ++j) {
            const T* weight2 = in.weight2 + (k * s.hidden2 + j) * h1;
            for (int64_t i = 0; i < columns; ++i) {
                work.weight2_row[i] = i < h1 ? weight2[i] : 0;
                work.column_sums[i] = 0;
            }
            for (int64_t i = 0; i < h1 * S::width; ++i) work.row_sums[i] = 0;
            const RowPlan& rows = w.prepared.rows;
            for (int64_t begin = rows.first_block[k]; begin < rows.first_block[k + 1]; begin += kPassBlocks) {
                int64_t end = begin + kPassBlocks;
                if (end > rows.first_block[k + 1]) end = rows.first_block[k + 1];
                for (int64_t panel = 0; panel * kBlock < h1; ++panel) {
                    scale_panel(j, panel, begin, end, work.scaled);
                    panel_of_unit(k, panel, begin, end, work, gram_sums + panel * h1 * kBlock);
                }
            }
            T* out = v_weight2 + (k * s.hidden2 + j) * h1;
            for (int64_t i = 0; i < h1; ++i)
                out[i] = 2 * (horizontal_sum<T, S::width>(load<S>(work.row_sums + i * S::width)) +
                              work.column_sums[i]);
        }
    }

    // (λ c_j) d1ᵀ of 32 columns
    void scale_panel(int64_t j, int64_t panel, int64_t begin, int64_t end, T* scaled) const {
        const int64_t all_rows = w.prepared.rows.blocks * kBlock;
        for (int64_t block = begin; block < end; ++block) {
            const T* factor = w.v_ell_c + (block * s.hidden2 + j) * kBlock;
            const T* d1 = w.d1_panels + (panel * all_rows + block * kBlock) * kBlock;
            for (int n = 0; n < kBlock; ++n, d1 += kBlock, scaled += kBlock)
#pragma GCC unroll 8
                for (int v = 0; v < kBlock; v += S::width) store<S>(scaled + v, load<S>(d1 + v) * factor[n]);
        }
    }

    void panel_of_unit(int64_t k, int64_t panel, int64_t begin, int64_t end, const Work& work,
                       T* gram_sums) const {
        const T* gram_lower =
            w.prepared.gram_lower + k * w.prepared.gram_lower_size + panel * s.hidden1 * kBlock;
        symmetric_panel<S>(
            s.hidden1, panel, end - begin, w.d1 + begin * s.hidden1 * kBlock, s.hidden1 * kBlock, work.scaled,
            [&](const auto& tile, ptrdiff_t i, ptrdiff_t left, int column)
                FFRL_LAMBDA { consume(tile, i, left, column, gram_lower, work, gram_sums); },
            rows_in_block(w.prepared.rows, end - 1));
    }

    // T_j's tile, rows from i and columns from left: W2bar[j] takes (T∘G) W2[j] from both halves, Gbar takes
    // T∘(W2[j] W2[j]ᵀ).
    template <int kHeight, int kVectors>
    FFRL_INLINE void consume(const Tile<S, kHeight, kVectors>& tile, int64_t i, int64_t left, int column,
                             const T* gram_lower, const Work& work, T* gram_sums) const {
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) {
            T* column_sums = work.column_sums + left + v * S::width;
            V sum = load<S>(column_sums);
            const V weight_l = load<S>(work.weight2_row + left + v * S::width);
#pragma GCC unroll 16
            for (int r = 0; r < kHeight; ++r) {
                if (i + r >= s.hidden1) continue;
                const ptrdiff_t at = (i + r) * kBlock + column + v * S::width;
                const V weighted = tile.y[r][v] * load<S>(gram_lower + at);
                const T weight_i = work.weight2_row[i + r];
                T* row_sum = work.row_sums + (i + r) * S::width;
                store<S>(row_sum, fma<V>(weighted, weight_l, load<S>(row_sum)));
                sum = fma<V>(weight_i, weighted, sum);
                store<S>(gram_sums + at, fma<V>(tile.y[r][v], weight_l * weight_i, load<S>(gram_sums + at)));
            }
            store<S>(column_sums, sum);
        }
    }
};
