// Equation (16) in the Jacobian form: the cubic part of the gradients of W1, W2 and d1, some latent
// dimensions at a time.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/arithmetic.h"
#include "cuda/block.h"
#include "cuda/cubic.h"
#include "cuda/cubic_forward.h"
#include "cuda/mma.h"
#include "cuda/stage.h"
#include "ffrl/host_device.h"

namespace ffrl::cuda {

// J̄ = 2 λ c ∘ J, the Jacobian formed again, of as many latent dimensions from `first` as a tile has units:
// out (units, P, H2), zero beyond the last. Grid: blocks of rows, tiles of units of the second layer.
template <class M, class Tile>
struct JacobianCotangent {
    using T = typename M::T;
    using Params = JacobianParams<T>;
    using Shared = typename Tile::Shared;
    static constexpr int kThreads = Tile::kThreads, kMinBlocks = with_sums_of_steps<M>(Tile::kMinBlocks);

    static FFRL_INLINE void run(const Block<kThreads>& block, const Params& p, Shared& shared) {
        const CubicOperands<T>& op = p.op;
        Private<Sums<M, Tile::kUnits, Tile::kFragments>, kThreads> jacobian;
        jacobian_product<M, Tile>(block, op, shared, p.first, true, jacobian);
        block.region_without_barrier([&](int thread) {
            const int lane = thread % kWarp;
            const int64_t slots = op.slots();
            FFRL_UNROLL
            for (int i = 0; i < Tile::kFragments * 4; ++i) {
                const int64_t slot = static_cast<int64_t>(block.index().x) * kRows + Tile::row_of(thread) +
                                     fragment_row(lane, i / 2 % 2);
                const int j = block.index().y * Tile::kColumns + Tile::column_of(thread, i / 4) +
                              M::sum_column(lane, i % 2);
                if (j >= op.hidden2) continue;
                const T factor = 2 * op.c[j * slots + slot];
                FFRL_UNROLL
                for (int u = 0; u < Tile::kUnits; ++u)
                    p.out[(u * slots + slot) * op.hidden2 + j] =
                        factor * jacobian(thread).of[u][i / 4].at[i / 2 % 2][i % 2];
            }
        });
    }
};

// Tiles of a product for four latent dimensions at once, contracted kDepth at a time.
template <class Scalar>
struct JacobianBackwardTile {
    using T = Scalar;
    static constexpr int kUnits = 4, kRowWarps = 4, kColumnWarps = 2;
    static constexpr int kFragments = sizeof(T) == sizeof(float) ? 4 : 2;
    static constexpr int kTileRows = kRowWarps * kFragmentRows;
    static constexpr int kColumns = kColumnWarps * kFragments * kFragmentColumns;
    static constexpr int kThreads = kWarp * kRowWarps * kColumnWarps,
                         kMinBlocks = sizeof(T) == sizeof(float) ? 2 : 1;
    static constexpr int kDepth = 16;
    static_assert(kTileRows == kRows);

    FFRL_INLINE static int row_of(int thread) { return thread / kWarp % kRowWarps * kFragmentRows; }
    FFRL_INLINE static int column_of(int thread, int f) {
        return (thread / kWarp / kRowWarps * kFragments + f) * kFragmentColumns;
    }
};

// B_d = J̄_d W2: v_d1 (P, H1) += Σ_d B_d ∘ W1[:, d], or = where `first` is 0, and, where given, weight1_parts
// (blocks, H1, D): Σ_n B_d ∘ d1. Grid: blocks of rows, tiles of H1.
template <class M>
struct JacobianBackward {
    using T = typename M::T;
    using Tile = JacobianBackwardTile<T>;
    static constexpr int kThreads = Tile::kThreads, kMinBlocks = with_sums_of_steps<M>(Tile::kMinBlocks);
    static constexpr int kUnits = Tile::kUnits, kFragments = Tile::kFragments, kDepth = Tile::kDepth;
    // In plain multiply-adds lanes share what they read along the depth; double is always so.
    static constexpr bool kFloat = sizeof(T) == sizeof(float);
    static constexpr int kLeftStride = kDepth + (kFloat ? 8 : 2), kRightStride = Tile::kColumns + 4;
    static_assert(!kFloat || reads_along_from_all_banks(kLeftStride));
    static_assert(reads_across_from_all_banks(kRightStride));
    static_assert(rows_take_16_bytes<T>(kLeftStride) && rows_take_16_bytes<T>(kRightStride));

    struct Params {
        CubicOperands<T> op;
        const T* v_jacobian;
        T* v_d1;
        T* weight1_parts;
        int first;
    };
    struct Shared {
        alignas(16) T left[2][kUnits][Tile::kTileRows][kLeftStride];
        alignas(16) T right[2][kDepth][kRightStride];
        T column_sums[Tile::kRowWarps][kUnits][Tile::kColumns];
    };
    static_assert(sizeof(Shared) <= kSharedMemory && fits_into_shared_memory(sizeof(Shared), kMinBlocks));

    static FFRL_INLINE void run(const Block<kThreads>& block, const Params& p, Shared& shared) {
        const CubicOperands<T>& op = p.op;
        const int h1 = op.hidden1, h2 = op.hidden2, first_column = block.index().y * Tile::kColumns;
        const int64_t first_slot = static_cast<int64_t>(block.index().x) * kRows,
                      k = potential_of(op, block.index().x);
        Private<Sums<M, kUnits, kFragments>, kThreads> sums;
        Private<Values<T, kFragments * 2>, kThreads> column_sums;
        clear_sums(block, sums);
        pipeline(
            block, has_rows(op, block.index().x) ? static_cast<int>(divide_up(h2, kDepth)) : 0,
            [&](int thread, int step, int half) {
                const int depth = step * kDepth;
                FFRL_UNROLL_BY(1)
                for (int u = 0; u < kUnits; ++u)
                    stage<kThreads, 4>(thread, &shared.left[half][u][0][0], kLeftStride, kRows, kDepth,
                                       matrix(p.v_jacobian + (u * op.slots() + first_slot) * h2 + depth, h2,
                                              kRows, h2 - depth));
                stage<kThreads, 16>(thread, &shared.right[half][0][0], kRightStride, kDepth, Tile::kColumns,
                                    matrix(op.weight2 + (k * h2 + depth) * h1 + first_column, h1, h2 - depth,
                                           h1 - first_column));
            },
            [&](int, int half) {
                FFRL_UNROLL_BY(8 / M::kDepth)
                for (int depth = 0; depth < kDepth; depth += M::kDepth)
                    multiply_step<M>(
                        block, sums,
                        [&](int thread, int u) {
                            return left_fragment<M>(&shared.left[half][u][Tile::row_of(thread)][depth],
                                                    kLeftStride, thread % kWarp);
                        },
                        [&](int thread, int f) {
                            return right_fragment_across<M>(
                                &shared.right[half][depth][Tile::column_of(thread, f)], kRightStride,
                                thread % kWarp);
                        });
            });
        block.region_without_barrier(
            [&](int thread) { store_v_d1(p, thread, first_slot, first_column, k, sums(thread)); });
        if (p.weight1_parts == nullptr) return;
        FFRL_UNROLL
        for (int u = 0; u < kUnits; ++u) {
            block.region_without_barrier([&](int thread) {
                const int lane = thread % kWarp;
                FFRL_UNROLL
                for (int i = 0; i < kFragments * 2; ++i) {
                    const int column =
                        first_column + Tile::column_of(thread, i / 2) + M::sum_column(lane, i % 2);
                    T sum = 0;
                    FFRL_UNROLL
                    for (int half = 0; half < 2; ++half) {
                        const int64_t slot = first_slot + Tile::row_of(thread) + fragment_row(lane, half);
                        const T slope = column < h1 ? op.d1[slot * h1 + column] : T(0);
                        sum = multiply_add(sums(thread).of[u][i / 2].at[half][i % 2], slope, sum);
                    }
                    column_sums(thread).at[i] = sum;
                }
            });
            sum_over_rows(block, column_sums);
            block.region_without_barrier([&](int thread) {
                const int lane = thread % kWarp;
                if (lane >= 4) return;
                T* out = shared.column_sums[Tile::row_of(thread) / kFragmentRows][u];
                FFRL_UNROLL
                for (int i = 0; i < kFragments * 2; ++i)
                    out[Tile::column_of(thread, i / 2) + M::sum_column(lane, i % 2)] =
                        column_sums(thread).at[i];
            });
        }
        block.region([](int) {});
        block.region_without_barrier([&](int thread) {
            for (int i = thread; i < kUnits * Tile::kColumns; i += kThreads) {
                const int d = p.first + i % kUnits, column = first_column + i / kUnits;
                T sum = 0;
                FFRL_UNROLL
                for (int warp = 0; warp < Tile::kRowWarps; ++warp)
                    sum += shared.column_sums[warp][i % kUnits][i / kUnits];
                if (d < op.latent && column < h1)
                    p.weight1_parts[(static_cast<int64_t>(block.index().x) * h1 + column) * op.latent + d] =
                        sum;
            }
        });
    }

    static FFRL_INLINE void store_v_d1(const Params& p, int thread, int64_t first_slot, int first_column,
                                       int64_t k, const Sums<M, kUnits, kFragments>& sums) {
        const int lane = thread % kWarp, h1 = p.op.hidden1, latent = p.op.latent;
        FFRL_UNROLL
        for (int i = 0; i < kFragments * 2; ++i) {
            const int column = first_column + Tile::column_of(thread, i / 2) + M::sum_column(lane, i % 2);
            if (column >= h1) continue;
            T weight[kUnits];
            FFRL_UNROLL
            for (int u = 0; u < kUnits; ++u)
                weight[u] =
                    p.first + u < latent ? p.op.weight1[(k * h1 + column) * latent + p.first + u] : T(0);
            FFRL_UNROLL
            for (int half = 0; half < 2; ++half) {
                T& out = p.v_d1[(first_slot + Tile::row_of(thread) + fragment_row(lane, half)) * h1 + column];
                T sum = p.first == 0 ? T(0) : out;
                FFRL_UNROLL
                for (int u = 0; u < kUnits; ++u)
                    sum = multiply_add(sums.of[u][i / 2].at[half][i % 2], weight[u], sum);
                out = sum;
            }
        }
    }
};

// What a block of JacobianWeight2 works on.
struct JacobianWeight2Place {
    int64_t k;
    int chunk, first_row, first_column;
    Range blocks;
};

// parts (chunks, K, H2, H1) of W̄2: += Σ_d Σ_n J̄_d (d1 ∘ W1[:, d])ᵀ, or = where `first` is 0. Grid (tiles of
// H1 · tiles of H2 · chunks · K).
template <class M>
struct JacobianWeight2 {
    using T = typename M::T;
    using Tile = JacobianBackwardTile<T>;
    static constexpr int kThreads = Tile::kThreads, kMinBlocks = with_sums_of_steps<M>(Tile::kMinBlocks);
    static constexpr int kUnits = Tile::kUnits, kFragments = Tile::kFragments, kDepth = Tile::kDepth;
    static constexpr int kLeftStride = Tile::kTileRows + 4, kRightStride = Tile::kColumns + 4;
    static_assert(reads_across_from_all_banks(kLeftStride) && reads_across_from_all_banks(kRightStride));
    static_assert(rows_take_16_bytes<T>(kLeftStride) && rows_take_16_bytes<T>(kRightStride));
    static_assert(kRows % kDepth == 0);

    struct Params {
        CubicOperands<T> op;
        const T* v_jacobian;
        T* parts;
        int first, chunks;
    };
    struct Shared {
        alignas(16) T left[2][kUnits][kDepth][kLeftStride];
        alignas(16) T right[2][kDepth][kRightStride];
        JacobianWeight2Place place;  // here it takes no registers
    };
    static_assert(sizeof(Shared) <= kSharedMemory && fits_into_shared_memory(sizeof(Shared), kMinBlocks));

    static FFRL_INLINE JacobianWeight2Place place_of(const Params& p, int index) {
        JacobianWeight2Place at;
        const int column_tiles = static_cast<int>(divide_up(p.op.hidden1, Tile::kColumns)),
                  row_tiles = static_cast<int>(divide_up(p.op.hidden2, Tile::kTileRows));
        at.first_column = index % column_tiles * Tile::kColumns;
        index /= column_tiles;
        at.first_row = index % row_tiles * Tile::kTileRows;
        index /= row_tiles;
        at.chunk = index % p.chunks;
        at.k = index / p.chunks;
        at.blocks = chunk_of_potential(p.op.first_block, at.k, at.chunk, p.chunks);
        return at;
    }

    static FFRL_INLINE void run(const Block<kThreads>& block, const Params& p, Shared& shared) {
        const CubicOperands<T>& op = p.op;
        const int h1 = op.hidden1, h2 = op.hidden2, latent = op.latent;
        const JacobianWeight2Place& at = shared.place;
        block.region([&](int thread) {
            if (thread == 0) shared.place = place_of(p, block.index().x);
        });
        Private<Sums<M, kUnits, kFragments>, kThreads> sums;
        clear_sums(block, sums);
        pipeline(
            block, (at.blocks.last - at.blocks.first) * (kRows / kDepth),
            [&](int thread, int step, int half) {
                const int64_t slot =
                    static_cast<int64_t>(at.blocks.first) * kRows + static_cast<int64_t>(step) * kDepth;
                FFRL_UNROLL_BY(1)
                for (int u = 0; u < kUnits; ++u)
                    stage<kThreads, 16>(thread, &shared.left[half][u][0][0], kLeftStride, kDepth,
                                        Tile::kTileRows,
                                        matrix(p.v_jacobian + (u * op.slots() + slot) * h2 + at.first_row, h2,
                                               kDepth, h2 - at.first_row));
                stage<kThreads, 16>(
                    thread, &shared.right[half][0][0], kRightStride, kDepth, Tile::kColumns,
                    matrix(op.d1 + slot * h1 + at.first_column, h1, kDepth, h1 - at.first_column));
            },
            [&](int, int half) {
                FFRL_UNROLL_BY(8 / M::kDepth)
                for (int depth = 0; depth < kDepth; depth += M::kDepth)
                    multiply_step<M>(
                        block, sums,
                        [&](int thread, int u) {
                            return left_fragment_across<M>(&shared.left[half][u][depth][Tile::row_of(thread)],
                                                           kLeftStride, thread % kWarp);
                        },
                        [&](int thread, int f) {
                            return right_fragment_across<M>(
                                &shared.right[half][depth][Tile::column_of(thread, f)], kRightStride,
                                thread % kWarp);
                        });
            });
        block.region_without_barrier([&](int thread) {
            const int lane = thread % kWarp;
            FFRL_UNROLL
            for (int i = 0; i < kFragments * 2; ++i) {
                const int column =
                    at.first_column + Tile::column_of(thread, i / 2) + M::sum_column(lane, i % 2);
                if (column >= h1) continue;
                T weight[kUnits];
                FFRL_UNROLL
                for (int u = 0; u < kUnits; ++u)
                    weight[u] =
                        p.first + u < latent ? op.weight1[(at.k * h1 + column) * latent + p.first + u] : T(0);
                FFRL_UNROLL
                for (int half = 0; half < 2; ++half) {
                    const int row = at.first_row + Tile::row_of(thread) + fragment_row(lane, half);
                    if (row >= h2) continue;
                    T& out =
                        p.parts[((static_cast<int64_t>(at.chunk) * op.potentials + at.k) * h2 + row) * h1 +
                                column];
                    T sum = p.first == 0 ? T(0) : out;
                    FFRL_UNROLL
                    for (int u = 0; u < kUnits; ++u)
                        sum = multiply_add(sums(thread).of[u][i / 2].at[half][i % 2], weight[u], sum);
                    out = sum;
                }
            }
        });
    }
};

// out (chunks, K, width): sums over the blocks of each chunk of a potential of from (blocks, width).
template <class T>
struct AddBlocks {
    int64_t count, width;
    int potentials, chunks;
    const int* first_block;
    const T* from;
    T* out;

    FFRL_INLINE void operator()(int64_t at) const {
        const int64_t i = at % width, part = at / width;
        const Range blocks =
            chunk_of_potential(first_block, part % potentials, static_cast<int>(part / potentials), chunks);
        T sum = 0;
        for (int64_t block = blocks.first; block < blocks.last; ++block) sum += from[block * width + i];
        out[at] = sum;
    }
};

// How the sums over rows of the Jacobian form are cut: by sizes alone.
struct JacobianBackwardCut {
    int row_tiles, column_tiles;  // of W̄2
    int weight2_chunks;           // of the blocks of a potential
    int weight1_chunks;
};

template <class T>
JacobianBackwardCut jacobian_backward_cut(int blocks, int potentials, int hidden1, int hidden2) {
    using Tile = JacobianBackwardTile<T>;
    const auto clamped = [](int64_t n, int64_t most) {
        return static_cast<int>(n > most ? most < 1 ? 1 : most : n < 1 ? 1 : n);
    };
    JacobianBackwardCut cut;
    cut.row_tiles = static_cast<int>(divide_up(hidden2, Tile::kTileRows));
    cut.column_tiles = static_cast<int>(divide_up(hidden1, Tile::kColumns));
    const int64_t tiles = static_cast<int64_t>(cut.row_tiles) * cut.column_tiles * potentials;
    const int64_t of_one = divide_up(blocks, potentials);
    cut.weight2_chunks = clamped(divide_up(512, tiles), of_one < 32 ? of_one : 32);
    cut.weight1_chunks = clamped(divide_up(of_one, 32), 64);
    return cut;
}

}  // namespace ffrl::cuda
