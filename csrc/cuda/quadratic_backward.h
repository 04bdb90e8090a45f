// Equations (13) to (15) and (17) to (20) of docs/derivation.md, block by block of rows. A grid is (blocks,
// tiles of columns); P slots are rows in blocks, padded. Padding has zero cotangents, and is left out of
// every sum over rows.
#pragma once

#include <cstdint>

#include "cuda/quadratic_forward.h"
#include "cuda/slots.h"
#include "ffrl/potential_math.h"

namespace ffrl::cuda {

// Sums over the rows of a block, side by side, so that one sum over blocks serves them all.
struct BlockSums {
    int hidden1, hidden2;
    bool laplacian;

    FFRL_INLINE int bias2() const { return hidden1; }  // that of bias1 is at 0
    FFRL_INLINE int weight3() const { return hidden1 + hidden2; }
    FFRL_INLINE int bias3() const { return hidden1 + 2 * hidden2; }
    FFRL_INLINE int diagonal() const { return bias3() + 1; }  // Σ λ m of (14)
    FFRL_INLINE int width() const { return diagonal() + (laplacian ? hidden1 : 0); }
};

template <class T>
struct BackwardParams {
    PotentialInputs<T> in;
    PotentialCotangents<T> v;
    CallSizes size;
    const int64_t* slot_row;
    const int* block_k;
    const int* first_block;
    const T* kept;      // (P, width)
    T* scalars;         // (4, P): cotangents of o, ∂o/∂t, ∂²o/∂t² and ℓ
    T* v_v;             // (P, D)
    T* v_ell_c;         // (H2, P), λ c
    T* d1;              // (P, H1), null where the cubic part does not need it
    const T* v_d1;      // (P, H1), of the cubic part in the Jacobian form; null: 2 λ e
    const T* diagonal;  // G_ii, as in the forward
    int64_t diagonal_of_k;
    int diagonal_step;
    T *v_r, *v_q;                  // (P, H1)
    T *v_a2, *v_omega, *v_omega2;  // (P, H2); v_omega: of W2 ∂τ/∂t, v_omega2: of W2 ∂²τ/∂t²
    T* v_a1;                       // (P, H1)
    T* block_sums;                 // (blocks, block_sum.width())
    BlockSums block_sum;
    T *v_tau, *v_dtau_dt, *v_d2tau_dt2;  // (N, H1), of each row; null: not wanted
    T* v_z;                              // (N, D) or null
    bool has_v;                          // v has a cotangent
    bool laplacian, time, second;        // so have ℓ, ∂o/∂t, ∂²o/∂t²
};

// A cotangent of each row, zero where none was given.
template <class T>
FFRL_INLINE T cotangent_of(const T* v, int64_t row) {
    return v != nullptr && row >= 0 ? v[row] : T(0);
}

// (13), and λ c of (14) for the sums over rows. Grid (blocks).
template <class T>
struct RowsBackward {
    static constexpr int kThreads = kRowThreads, kMinBlocks = 1;
    using Params = BackwardParams<T>;
    struct Shared {
        LaneSums<T> squared, along;
        OutputRowVjp<T> vjp[kRows];
        T tile[kLanes][kRows + 1];
        BlockRows rows;
    };

    FFRL_INLINE static void run(const Block<kThreads>& block, const Params& p, Shared& shared) {
        static_assert(sizeof(Shared) <= kSmallSharedMemory);
        const CallSizes& s = p.size;
        const int index = block.index().x;
        const int64_t k = p.block_k[index], first_slot = static_cast<int64_t>(index) * kRows;
        const T* kept = of_block(p.kept, index, s.width);
        load_rows(block, shared.rows, p.slot_row);

        // |v|² and v_du_dz · v
        for_rows(block, [&](int row, int lane) {
            const int64_t n = shared.rows.row[row];
            const T* v = kept + static_cast<int64_t>(row) * s.width + s.v();
            T squared = 0, along = 0;
            for (int d = lane; n >= 0 && d < s.latent; d += kLanes) {
                if (p.laplacian) squared = multiply_add(v[d], v[d], squared);
                if (p.v.v_du_dz != nullptr) along = multiply_add(p.v.v_du_dz[n * s.latent + d], v[d], along);
            }
            shared.squared.at[row][lane] = squared;
            shared.along.at[row][lane] = along;
        });
        // What has no cotangent is taken as zero: its product with one must be zero whatever it is.
        block.region([&](int thread) {
            if (thread >= kRows) return;
            const int64_t n = shared.rows.row[thread], slot = first_slot + thread;
            const T* scalars = kept + static_cast<int64_t>(thread) * s.width + s.scalars();
            const T zero = 0;
            const OutputRowVjp<T> row = output_row_vjp(
                n >= 0 ? scalars[0] : zero, n >= 0 && p.time ? scalars[1] : zero,
                n >= 0 && p.second ? scalars[2] : zero, n >= 0 && p.laplacian ? scalars[3] : zero,
                shared.squared.of_row(thread), s.tanh_output, cotangent_of(p.v.v_u, n),
                shared.along.of_row(thread), p.time ? cotangent_of(p.v.v_du_dt, n) : zero,
                p.second ? cotangent_of(p.v.v_d2u_dt2, n) : zero,
                p.laplacian ? cotangent_of(p.v.v_lap_u, n) : zero);
            shared.vjp[thread] = row;
            p.scalars[slot] = row.v_o;
            p.scalars[s.slots + slot] = row.v_o_dot;
            p.scalars[2 * s.slots + slot] = row.v_o_ddot;
            p.scalars[3 * s.slots + slot] = row.v_ell;
        });
        for_rows(block, [&](int row, int lane) {
            const int64_t n = shared.rows.row[row], slot = first_slot + row;
            const T* of_slot = kept + static_cast<int64_t>(row) * s.width;
            const OutputRowVjp<T>& vjp = shared.vjp[row];
            for (int d = lane; d < s.latent; d += kLanes) {
                T v_v = 0;
                if (n >= 0 && p.laplacian) v_v += vjp.v_v_along_v * of_slot[s.v() + d];
                if (n >= 0 && p.v.v_du_dz != nullptr)
                    v_v += vjp.v_v_along_du_dz * p.v.v_du_dz[n * s.latent + d];
                p.v_v[slot * s.latent + d] = v_v;
            }
            if (p.d1 != nullptr)
                for (int h = lane; h < s.hidden1; h += kLanes)
                    p.d1[slot * s.hidden1 + h] = n >= 0 ? slope(of_slot[h]) : T(0);
        });
        block.region([&](int thread) {
            if (thread != 0) return;
            T sum = 0;
            for (int row = 0; row < kRows; ++row)
                if (shared.rows.row[row] >= 0) sum += shared.vjp[row].v_o;
            p.block_sums[static_cast<int64_t>(index) * p.block_sum.width() + p.block_sum.bias3()] = sum;
        });
        const T* weight3 = p.in.weight3 + k * s.hidden2;
        for (int first = 0; p.laplacian && first < s.hidden2; first += kLanes) {
            for_rows(block, [&](int row, int lane) {
                const int j = first + lane;
                if (j >= s.hidden2) return;
                const T h2 = kept[static_cast<int64_t>(row) * s.width + s.h2() + j];
                shared.tile[lane][row] =
                    shared.rows.row[row] >= 0 ? shared.vjp[row].v_ell * unit2(h2, weight3[j]).c : T(0);
            });
            block.region([&](int thread) {
                for (int unit = thread / kRows; unit < kLanes && first + unit < s.hidden2;
                     unit += kThreads / kRows)
                    p.v_ell_c[static_cast<int64_t>(first + unit) * s.slots + first_slot + thread % kRows] =
                        shared.tile[unit][thread % kRows];
            });
        }
    }
};

// sums[column] = Σ of a tile over its rows, which are zero in padding, for the columns that there are.
template <class T>
FFRL_INLINE void add_rows_of_tile(const Block<kProductThreads>& block, const ResultTile<T>& tile,
                                  T (&shares)[kProductThreads], int columns, T* sums) {
    constexpr int kRowsOfThread = kTileRows * kTileColumns / kProductThreads;
    block.region([&](int thread) {
        const int first = thread / kTileColumns * kRowsOfThread;
        T sum = 0;
        FFRL_UNROLL_BY(8)
        for (int row = first; row < first + kRowsOfThread; ++row) sum += tile.at[row][thread % kTileColumns];
        shares[thread] = sum;
    });
    block.region([&](int thread) {
        if (thread >= kTileColumns || thread >= columns) return;
        T sum = 0;
        for (int i = thread; i < kProductThreads; i += kTileColumns) sum += shares[i];
        sums[thread] = sum;
    });
}

// (15): v_r and v_q. Of the Laplacian, Σ λ m over the rows of the block.
template <class Product>
struct Hidden1Backward {
    using T = typename Product::T;
    static constexpr int kThreads = kProductThreads, kMinBlocks = Product::kMinBlocks;
    using Params = BackwardParams<T>;
    struct Shared {
        ProductSteps<Product> steps;
        ResultTile<T> v_r;  // then λ m
        T shares[kThreads];
        BlockRows rows;
    };

    FFRL_INLINE static void run(const Block<kThreads>& block, const Params& p, Shared& shared) {
        static_assert(sizeof(Shared) <= kSmallSharedMemory);
        const CallSizes& s = p.size;
        const int index = block.index().x, first = block.index().y * kTileColumns;
        if (!has_rows(p.slot_row, index)) return;
        const int64_t k = p.block_k[index], first_slot = static_cast<int64_t>(index) * kRows;
        const T* weight1 = p.in.weight1 + k * s.hidden1 * s.latent;
        const T* kept = of_block(p.kept, index, s.width);
        const T* v_v = of_block(p.v_v, index, s.latent);
        load_rows(block, shared.rows, p.slot_row);
        multiply<Product>(
            block, shared.steps, shared.v_r, p.has_v ? s.latent : 0,
            along_terms([&](int row, int64_t d) { return v_v[row * static_cast<int64_t>(s.latent) + d]; }),
            along_terms([&](int column, int64_t d) {
                const int64_t h = first + column;
                return h < s.hidden1 ? weight1[h * s.latent + d] : T(0);
            }));
        for_tile(block, [&](int row, int column) {
            const int h = first + column;
            if (h >= s.hidden1) return;
            const bool is_row = shared.rows.row[row] >= 0;
            const T* slot = kept + static_cast<int64_t>(row) * s.width;
            const T h1 = is_row ? slot[h] : T(0), q = is_row ? slot[s.q() + h] : T(0);
            const T v_r = shared.v_r.at[row][column];
            T v_m = 0;
            if (p.laplacian) {
                const T v_ell = p.scalars[3 * s.slots + first_slot + row];
                v_m = v_ell * p.diagonal[k * p.diagonal_of_k + static_cast<int64_t>(h) * p.diagonal_step];
                shared.v_r.at[row][column] = v_ell * unit1(h1, q).m;
            }
            const int64_t at = (first_slot + row) * s.hidden1 + h;
            p.v_r[at] = v_r;
            p.v_q[at] = unit1_vjp_q(h1, v_r, v_m);
        });
        if (p.laplacian)
            add_rows_of_tile(block, shared.v_r, shared.shares, s.hidden1 - first,
                             p.block_sums + static_cast<int64_t>(index) * p.block_sum.width() +
                                 p.block_sum.diagonal() + first);
    }
};

// (14), (17), (18) and v_a2 of (19). W2 times the time features is formed again: it is cheaper than to keep
// it.
template <class Product>
struct Hidden2Backward {
    using T = typename Product::T;
    static constexpr int kThreads = kProductThreads, kMinBlocks = Product::kMinBlocks;
    using Params = BackwardParams<T>;
    struct Shared {
        ProductSteps<Product> steps;
        ResultTile<T> result[3];  // W2 v_q, then v_a2; ω, then v_weight3; W2 ∂²τ/∂t²
        T shares[kThreads];
        BlockRows rows;
    };

    FFRL_INLINE static void run(const Block<kThreads>& block, const Params& p, Shared& shared) {
        static_assert(sizeof(Shared) <= kSmallSharedMemory);
        const CallSizes& s = p.size;
        const int index = block.index().x, first = block.index().y * kTileColumns;
        if (!has_rows(p.slot_row, index)) return;
        const int64_t k = p.block_k[index], first_slot = static_cast<int64_t>(index) * kRows;
        const T* weight2 = p.in.weight2 + k * s.hidden2 * s.hidden1;
        const T* weight3 = p.in.weight3 + k * s.hidden2;
        const T* kept = of_block(p.kept, index, s.width);
        const T* v_q = of_block(p.v_q, index, s.hidden1);
        load_rows(block, shared.rows, p.in, s, p.slot_row);
        if (p.has_v || p.laplacian)
            multiply_weight2<Product>(
                block, shared.steps, shared.result[0], s, weight2, first, s.hidden1,
                [&](int row, int64_t h) { return v_q[static_cast<int64_t>(row) * s.hidden1 + h]; });
        else
            clear(block, shared.result[0]);
        if (p.time)
            multiply_weight2<Product>(block, shared.steps, shared.result[1], s, weight2, first, s.hidden1,
                                      [&](int row, int64_t h) {
                                          return feature_number(p.in.dtau_dt, shared.rows, row, h, s.hidden1);
                                      });
        if (p.second)
            multiply_weight2<Product>(
                block, shared.steps, shared.result[2], s, weight2, first, s.hidden1, [&](int row, int64_t h) {
                    return feature_number(p.in.d2tau_dt2, shared.rows, row, h, s.hidden1);
                });
        for_tile(block, [&](int row, int column) {
            const int j = first + column;
            if (j >= s.hidden2) return;
            const bool is_row = shared.rows.row[row] >= 0;
            const T* of_slot = kept + static_cast<int64_t>(row) * s.width;
            const int64_t slot = first_slot + row, at = slot * s.hidden2 + j;
            const T h2 = is_row ? of_slot[s.h2() + j] : T(0);
            T v_p = shared.result[0].at[row][column], v_c = 0;
            if (p.laplacian && is_row) v_c = p.scalars[3 * s.slots + slot] * of_slot[s.squares() + j];
            if (p.time) {
                const Unit2<T> unit = unit2(h2, weight3[j]);
                const TimeTermsVjp<T> vjp = time_terms_vjp(unit.p, unit.c, shared.result[1].at[row][column],
                                                           p.second ? shared.result[2].at[row][column] : T(0),
                                                           p.scalars[s.slots + slot],
                                                           p.second ? p.scalars[2 * s.slots + slot] : T(0));
                v_p += vjp.v_p;
                v_c += vjp.v_c;
                p.v_omega[at] = vjp.v_omega;
                if (p.second) p.v_omega2[at] = vjp.v_omega2;
            }
            const Unit2Vjp<T> vjp = unit2_vjp(h2, weight3[j], p.scalars[slot], v_p, v_c);
            p.v_a2[at] = vjp.v_a2;
            shared.result[0].at[row][column] = is_row ? vjp.v_a2 : T(0);
            shared.result[1].at[row][column] = is_row ? vjp.v_weight3 : T(0);
        });
        T* sums = p.block_sums + static_cast<int64_t>(index) * p.block_sum.width() + first;
        add_rows_of_tile(block, shared.result[0], shared.shares, s.hidden2 - first,
                         sums + p.block_sum.bias2());
        add_rows_of_tile(block, shared.result[1], shared.shares, s.hidden2 - first,
                         sums + p.block_sum.weight3());
    }
};

// (17), (19), (20): v_a1, and the cotangents of the time features of each row.
template <class Product>
struct SumsBackward {
    using T = typename Product::T;
    static constexpr int kThreads = kProductThreads, kMinBlocks = Product::kMinBlocks;
    using Params = BackwardParams<T>;
    struct Shared {
        ProductSteps<Product> steps;
        ResultTile<T> result;
        T shares[kThreads];
        BlockRows rows;
    };

    // result = W2ᵀ v for the units from `first` on, v (P, H2).
    FFRL_INLINE static void multiply_back(const Block<kThreads>& block, const Params& p, Shared& shared,
                                          const T* v) {
        const CallSizes& s = p.size;
        const int first = block.index().y * kTileColumns;
        const T* weight2 =
            p.in.weight2 + static_cast<int64_t>(p.block_k[block.index().x]) * s.hidden2 * s.hidden1;
        const T* rows = of_block(v, block.index().x, s.hidden2);
        multiply<Product>(block, shared.steps, shared.result, s.hidden2, along_terms([&](int row, int64_t j) {
                              return rows[static_cast<int64_t>(row) * s.hidden2 + j];
                          }),
                          across_terms([&](int column, int64_t j) {
                              const int h = first + column;
                              return h < s.hidden1 ? weight2[j * s.hidden1 + h] : T(0);
                          }));
    }

    FFRL_INLINE static void store_rows(const Block<kThreads>& block, const Params& p, const Shared& shared,
                                       T* out) {
        const int first = block.index().y * kTileColumns, hidden1 = p.size.hidden1;
        for_tile(block, [&](int row, int column) {
            const int64_t n = shared.rows.row[row];
            if (n >= 0 && first + column < hidden1)
                out[n * hidden1 + first + column] = shared.result.at[row][column];
        });
    }

    FFRL_INLINE static void run(const Block<kThreads>& block, const Params& p, Shared& shared) {
        static_assert(sizeof(Shared) <= kSmallSharedMemory);
        const CallSizes& s = p.size;
        const int index = block.index().x, first = block.index().y * kTileColumns;
        if (!has_rows(p.slot_row, index)) return;
        const int64_t k = p.block_k[index], first_slot = static_cast<int64_t>(index) * kRows;
        const T* kept = of_block(p.kept, index, s.width);
        load_rows(block, shared.rows, p.slot_row);
        if (p.time && p.v_dtau_dt != nullptr) {
            multiply_back(block, p, shared, p.v_omega);
            store_rows(block, p, shared, p.v_dtau_dt);
        }
        if (p.second && p.v_d2tau_dt2 != nullptr) {
            multiply_back(block, p, shared, p.v_omega2);
            store_rows(block, p, shared, p.v_d2tau_dt2);
        }
        multiply_back(block, p, shared, p.v_a2);
        if (p.v_tau != nullptr) store_rows(block, p, shared, p.v_tau);
        for_tile(block, [&](int row, int column) {
            const int h = first + column;
            if (h >= s.hidden1) return;
            T v_a1 = 0;
            const int64_t slot = first_slot + row, at = slot * s.hidden1 + h;
            if (shared.rows.row[row] >= 0) {
                const T* of_slot = kept + static_cast<int64_t>(row) * s.width;
                T v_m = 0, v_d1 = 0;
                if (p.laplacian) {
                    const T v_ell = p.scalars[3 * s.slots + slot];
                    v_m = v_ell * p.diagonal[k * p.diagonal_of_k + static_cast<int64_t>(h) * p.diagonal_step];
                    v_d1 = p.v_d1 != nullptr ? p.v_d1[at] : 2 * v_ell * of_slot[s.column_sums() + h];
                }
                v_a1 = unit1_vjp_a1(of_slot[h], of_slot[s.q() + h], p.v_r[at], v_m, v_d1,
                                    shared.result.at[row][column]);
            }
            p.v_a1[at] = v_a1;
            shared.result.at[row][column] = v_a1;
        });
        add_rows_of_tile(block, shared.result, shared.shares, s.hidden1 - first,
                         p.block_sums + static_cast<int64_t>(index) * p.block_sum.width() + first);
    }
};

// (20): v_z = W1ᵀ v_a1.
template <class Product>
struct ZBackward {
    using T = typename Product::T;
    static constexpr int kThreads = kProductThreads, kMinBlocks = Product::kMinBlocks;
    using Params = BackwardParams<T>;
    struct Shared {
        ProductSteps<Product> steps;
        ResultTile<T> v_z;
        BlockRows rows;
    };

    FFRL_INLINE static void run(const Block<kThreads>& block, const Params& p, Shared& shared) {
        static_assert(sizeof(Shared) <= kSmallSharedMemory);
        const CallSizes& s = p.size;
        const int index = block.index().x, first = block.index().y * kTileColumns;
        if (!has_rows(p.slot_row, index)) return;
        const T* weight1 = p.in.weight1 + static_cast<int64_t>(p.block_k[index]) * s.hidden1 * s.latent;
        const T* v_a1 = of_block(p.v_a1, index, s.hidden1);
        load_rows(block, shared.rows, p.slot_row);
        multiply<Product>(block, shared.steps, shared.v_z, s.hidden1, along_terms([&](int row, int64_t h) {
                              return v_a1[static_cast<int64_t>(row) * s.hidden1 + h];
                          }),
                          across_terms([&](int column, int64_t h) {
                              const int d = first + column;
                              return d < s.latent ? weight1[h * s.latent + d] : T(0);
                          }));
        for_tile(block, [&](int row, int column) {
            const int64_t n = shared.rows.row[row];
            if (n >= 0 && first + column < s.latent)
                p.v_z[n * s.latent + first + column] = shared.v_z.at[row][column];
        });
    }
};

template <class T, class Launcher>
void launch_rows_backward(Launcher& launch, const BackwardParams<T>& params, int blocks) {
    launch.template operator()<RowsBackward<T>>({blocks, 1, 1}, params);
}

// The launches behind the cubic part.
template <class T, class Launcher>
void launch_layers_backward(Launcher& launch, const BackwardParams<T>& params, int blocks,
                            Precision precision) {
    const CallSizes& s = params.size;
    const auto grid = [&](int64_t columns) {
        return Index3{blocks, static_cast<int>(divide_up(columns, kTileColumns)), 1};
    };
    with_product<T>(precision, [&](auto product) {
        using Product = decltype(product);
        launch.template operator()<Hidden1Backward<Product>>(grid(s.hidden1), params);
        launch.template operator()<Hidden2Backward<Product>>(grid(s.hidden2), params);
        launch.template operator()<SumsBackward<Product>>(grid(s.hidden1), params);
        if (params.v_z != nullptr) launch.template operator()<ZBackward<Product>>(grid(s.latent), params);
    });
}

}  // namespace ffrl::cuda
