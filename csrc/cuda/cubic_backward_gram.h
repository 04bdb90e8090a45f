// Equation (16) in the Gram form: the cubic part of the gradients of W1 and W2. T_j is not written down: a
// warp has it for a few units j and a tile of its lower half, summed over the rows, and takes W̄2 and Ḡ from
// it.
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

// What a block works on.
struct GramBackwardPlace {
    int64_t k;
    int left, right;  // tiles
    int row_chunk, first_unit, last_unit;
    Range blocks;
};

// Tiles (kTile, kTile) of T_j for kGroup units at once; a warp has 16 rows of a tile and kUnits units.
template <class Scalar, int kTile_, int kUnitWarps_, int kBlocks>
struct GramBackwardTile {
    using T = Scalar;
    static constexpr int kTile = kTile_, kUnitWarps = kUnitWarps_, kUnits = 4, kMinBlocks = kBlocks;
    static constexpr int kRowWarps = kTile / kFragmentRows, kFragments = kTile / kFragmentColumns;
    static constexpr int kGroup = kUnitWarps * kUnits, kThreads = kWarp * kRowWarps * kUnitWarps;
    static constexpr int kStride = kTile + 4, kDepth = 32;  // rows of d1 that are fetched at once
    static_assert(kTile % kFragmentRows == 0 && kRows % kDepth == 0);
    static_assert(reads_across_from_all_banks(kStride) && rows_take_16_bytes<T>(kStride));
    static_assert(rows_take_16_bytes<T>(kTile) && rows_take_16_bytes<T>(kDepth));

    struct Shared {
        alignas(16) T left[2][kDepth][kStride];  // columns of d1 that are rows of the tile
        alignas(16) T right[2][kDepth][kStride];
        alignas(16) T factor[2][kGroup][kDepth];   // λ c
        alignas(16) T left_weight[kGroup][kTile];  // W2[j]
        alignas(16) T right_weight[kGroup][kTile];
        GramBackwardPlace place;                    // here it takes no registers
        T gram[kFragments * 4][kRowWarps * kWarp];  // G, as the threads of one group of units have it
        T v_gram[kFragments * 4][kThreads];         // Ḡ, each thread its own
        T column_sums[kRowWarps][kGroup][kTile];
    };
    static_assert(sizeof(Shared) <= kSharedMemory && fits_into_shared_memory(sizeof(Shared), kMinBlocks));

    // Where a thread's warp stands.
    FFRL_INLINE static int row_of(int thread) { return thread / kWarp % kRowWarps * kFragmentRows; }
    FFRL_INLINE static int unit_of(int thread) { return thread / kWarp / kRowWarps * kUnits; }
};

template <class T>
struct GramBackwardTiles {
    static constexpr int kNarrow = 64;
    using Wide = GramBackwardTile<float, 48, 2, 2>;
    using Narrow = GramBackwardTile<float, 32, 2, 3>;
};
template <>
struct GramBackwardTiles<double> {
    static constexpr int kNarrow = 0;
    using Wide = GramBackwardTile<double, 32, 2, 1>;
    using Narrow = Wide;
};

template <class T, class F>
void with_gram_backward_tile(int hidden1, F f) {
    using Tiles = GramBackwardTiles<T>;
    if constexpr (Tiles::kNarrow > 0) {
        if (hidden1 <= Tiles::kNarrow) return f(typename Tiles::Narrow{});
    }
    f(typename Tiles::Wide{});
}

// How the Gram form's backward is cut into blocks and parts: by sizes alone.
struct GramBackwardCut {
    int tile, tiles, pairs;        // of columns of d1; pairs of tiles, the left one not before the right one
    int unit_chunks, chunk_units;  // chunk_units is a multiple of the units of a group
    int row_chunks;
    static constexpr int kBlocks = 2048, kFewBlocks = 512;  // for units; below so many rows are cut, too

    int64_t gram_parts() const { return static_cast<int64_t>(unit_chunks) * row_chunks; }
    int64_t weight2_parts() const { return static_cast<int64_t>(tiles) * row_chunks; }
};

template <class T>
GramBackwardCut gram_backward_cut(int blocks, int potentials, int hidden1, int hidden2) {
    GramBackwardCut cut{};
    int group = 1;
    with_gram_backward_tile<T>(hidden1, [&](auto tile) {
        cut.tile = decltype(tile)::kTile;
        group = decltype(tile)::kGroup;
    });
    const auto at_most = [](int64_t n, int64_t most) { return n < most ? n : most; };
    cut.tiles = static_cast<int>(divide_up(hidden1, cut.tile));
    cut.pairs = cut.tiles * (cut.tiles + 1) / 2;
    const int64_t groups = divide_up(hidden2, group);
    const int64_t wanted = divide_up(GramBackwardCut::kBlocks, static_cast<int64_t>(cut.pairs) * potentials);
    cut.chunk_units = static_cast<int>(divide_up(groups, at_most(wanted, groups)) * group);
    cut.unit_chunks = static_cast<int>(divide_up(hidden2, cut.chunk_units));
    // Not below four blocks of rows each: every chunk has its epilogues.
    const int64_t rest = divide_up(GramBackwardCut::kFewBlocks,
                                   static_cast<int64_t>(cut.pairs) * potentials * cut.unit_chunks);
    cut.row_chunks = static_cast<int>(at_most(at_most(rest, 16), divide_up(blocks, 4)));
    if (cut.row_chunks < 1) cut.row_chunks = 1;
    return cut;
}

// A tile of T_j = Σ_n (λ c_j) d1 d1ᵀ in the lower half, for the units j and the rows of one chunk. Grid
// (pairs of tiles · chunks of units · chunks of rows · K). gram_parts (chunks, K, H1, H1): Σ_j T_j ∘ W2[j]
// W2[j]ᵀ, lower tiles only. weight2_parts (row chunks, tiles, K, H2, H1): 2 (T_j ∘ G) W2[j] from this tile's
// columns, and from its rows for the upper half.
template <class M, class Tile>
struct GramBackward {
    using T = typename M::T;
    using Shared = typename Tile::Shared;
    static constexpr int kThreads = Tile::kThreads, kMinBlocks = with_sums_of_steps<M>(Tile::kMinBlocks);
    static constexpr int kUnits = Tile::kUnits, kFragments = Tile::kFragments, kTile = Tile::kTile;

    struct Params {
        CubicOperands<T> op;
        T* gram_parts;
        T* weight2_parts;
        int tiles, chunk_units, unit_chunks, row_chunks;
    };

    using Place = GramBackwardPlace;
    using ThreadSums = Sums<M, kUnits, kFragments>;
    using RowSums = Values<T, kUnits * 2>;
    using ColumnSums = Values<T, kFragments * 2>;

    static FFRL_INLINE Place place_of(const Params& p, int index) {
        Place at;
        const int pairs = p.tiles * (p.tiles + 1) / 2;
        // The pairs in the order (0, 0), (1, 0), (1, 1), (2, 0) ...
        at.left = 0, at.right = index % pairs;
        while (at.right > at.left) at.right -= ++at.left;
        index /= pairs;
        const int unit_chunk = index % p.unit_chunks;
        index /= p.unit_chunks;
        at.row_chunk = index % p.row_chunks;
        at.k = index / p.row_chunks;
        at.first_unit = unit_chunk * p.chunk_units;
        at.last_unit =
            p.op.hidden2 - at.first_unit < p.chunk_units ? p.op.hidden2 : at.first_unit + p.chunk_units;
        at.blocks = chunk_of_potential(p.op.first_block, at.k, at.row_chunk, p.row_chunks);
        return at;
    }

    static FFRL_INLINE void run(const Block<kThreads>& block, const Params& p, Shared& shared) {
        const CubicOperands<T>& op = p.op;
        const Place& at = shared.place;
        block.region([&](int thread) {
            if (thread == 0) shared.place = place_of(p, block.index().x);
        });
        Private<ThreadSums, kThreads> sums;
        Private<RowSums, kThreads> row_sums;
        Private<ColumnSums, kThreads> column_sums;
        block.region_without_barrier([&](int thread) {
            const int lane = thread % kWarp, h1 = op.hidden1;
            FFRL_UNROLL_BY(1)
            for (int i = 0; i < kFragments * 4; ++i) {
                shared.v_gram[i][thread] = 0;
                if (Tile::unit_of(thread) != 0) continue;
                const int row = at.left * kTile + Tile::row_of(thread) + fragment_row(lane, i / 2 % 2);
                const int column = at.right * kTile + i / 4 * kFragmentColumns + M::sum_column(lane, i % 2);
                shared.gram[i][thread] =
                    row < h1 && column < h1 ? op.gram[(at.k * h1 + row) * h1 + column] : T(0);
            }
        });
        for (int unit = at.first_unit; unit < at.last_unit; unit += Tile::kGroup) {
            clear_sums(block, sums);
            block.region([](int) {});  // nobody reads the weights of the last group any more
            block.region_without_barrier([&](int thread) { fetch_weights(op, at, thread, unit, shared); });
            sum_over_blocks(block, op, shared, at, unit, sums);
            block.region([](int) { wait_for_batches<0>(); });
            block.region_without_barrier(
                [&](int thread) { consume(thread, shared, sums(thread), row_sums(thread)); });
            sum_over_columns(block, row_sums);
            block.region_without_barrier(
                [&](int thread) { store_row_sums(p, at, thread, unit, row_sums(thread)); });
            if (at.left == at.right) continue;  // the whole tile was seen
            FFRL_UNROLL
            for (int u = 0; u < kUnits; ++u) {
                block.region_without_barrier([&](int thread) {
                    sum_columns(thread, u, shared, sums(thread).of[u], column_sums(thread));
                });
                sum_over_rows(block, column_sums);
                block.region_without_barrier([&](int thread) {
                    thread = computed_here(thread);
                    const int lane = thread % kWarp;
                    if (lane >= 4) return;
                    T* out =
                        shared.column_sums[Tile::row_of(thread) / kFragmentRows][Tile::unit_of(thread) + u];
                    FFRL_UNROLL
                    for (int i = 0; i < kFragments * 2; ++i)
                        out[i / 2 * kFragmentColumns + M::sum_column(lane, i % 2)] =
                            column_sums(thread).at[i];
                });
            }
            block.region([](int) {});
            block.region_without_barrier([&](int thread) {
                FFRL_UNROLL_BY(1)
                for (int i = computed_here(thread); i < Tile::kGroup * kTile; i += kThreads) {
                    const int j = unit + i / kTile, column = at.right * kTile + i % kTile;
                    T sum = shared.column_sums[0][i / kTile][i % kTile];
                    FFRL_UNROLL
                    for (int warp = 1; warp < Tile::kRowWarps; ++warp)
                        sum += shared.column_sums[warp][i / kTile][i % kTile];
                    if (j < at.last_unit && column < op.hidden1)
                        weight2_part(p, at, at.left, j)[column] = 2 * sum;
                }
            });
        }
        block.region([](int) {});
        block.region_without_barrier([&](int thread) { store_gram(p, at, thread, shared); });
    }

    static FFRL_INLINE void fetch_weights(const CubicOperands<T>& op, const Place& at, int thread, int unit,
                                          Shared& shared) {
        thread = computed_here(thread);
        const int h1 = op.hidden1;
        const auto fetch = [&](T* to, int tile) {
            const T* from = op.weight2 + (at.k * op.hidden2 + unit) * h1 + tile * kTile;
            stage<kThreads, 16>(thread, to, kTile, Tile::kGroup, kTile,
                                matrix(from, h1, at.last_unit - unit, h1 - tile * kTile));
        };
        fetch(&shared.left_weight[0][0], at.left);
        fetch(&shared.right_weight[0][0], at.right);
        end_batch();
    }

    // T_j of a group of units: the contraction over the rows.
    static FFRL_INLINE void sum_over_blocks(const Block<kThreads>& block, const CubicOperands<T>& op,
                                            Shared& shared, const Place& at, int unit,
                                            Private<ThreadSums, kThreads>& sums) {
        const int h1 = op.hidden1;
        pipeline(
            block, (at.blocks.last - at.blocks.first) * (kRows / Tile::kDepth),
            [&](int thread, int step, int half) {
                thread = computed_here(thread);
                const int64_t slot =
                    static_cast<int64_t>(at.blocks.first) * kRows + static_cast<int64_t>(step) * Tile::kDepth;
                const int64_t slots = op.slots();
                const auto fetch = [&](T* to, int tile) {
                    stage<kThreads, 16>(
                        thread, to, Tile::kStride, Tile::kDepth, kTile,
                        matrix(op.d1 + slot * h1 + tile * kTile, h1, Tile::kDepth, h1 - tile * kTile));
                };
                fetch(&shared.left[half][0][0], at.left);
                fetch(&shared.right[half][0][0], at.right);
                stage<kThreads, 16>(
                    thread, &shared.factor[half][0][0], Tile::kDepth, Tile::kGroup, Tile::kDepth,
                    matrix(op.c + unit * slots + slot, slots, at.last_unit - unit, Tile::kDepth));
            },
            [&](int, int half) {
                FFRL_UNROLL_BY(1)
                for (int depth = 0; depth < Tile::kDepth; depth += M::kDepth)
                    multiply_step<M>(
                        block, sums,
                        [&](int thread, int u) {
                            const int lane = thread % kWarp;
                            auto left = left_fragment_across<M>(
                                &shared.left[half][depth][Tile::row_of(thread)], Tile::kStride, lane);
                            const auto factor = load_pair(
                                &shared.factor[half][Tile::unit_of(thread) + u][depth + M::depth(lane)]);
                            FFRL_UNROLL
                            for (int i = 0; i < 2; ++i)
                                left.row[i] = {left.row[i].x * factor.x, left.row[i].y * factor.y};
                            return left;
                        },
                        [&](int thread, int f) {
                            return right_fragment_across<M>(&shared.right[half][depth][f * kFragmentColumns],
                                                            Tile::kStride, thread % kWarp);
                        });
            });
    }

    static FFRL_INLINE T* weight2_part(const Params& p, const Place& at, int tile, int unit) {
        const CubicOperands<T>& op = p.op;
        const int64_t part = (static_cast<int64_t>(at.row_chunk) * p.tiles + tile) * op.potentials + at.k;
        return p.weight2_parts + (part * op.hidden2 + unit) * op.hidden1;
    }

    // Ḡ += T_j ∘ W2[j] W2[j]ᵀ; T_j becomes T_j ∘ G, whose rows times W2[j] are summed.
    static FFRL_INLINE void consume(int thread, Shared& shared, ThreadSums& sums, RowSums& row_sums) {
        thread = computed_here(thread);
        const int lane = thread % kWarp, unit = Tile::unit_of(thread);
        T left[kUnits * 2];
        FFRL_UNROLL
        for (int i = 0; i < kUnits * 2; ++i) {
            left[i] = shared.left_weight[unit + i / 2][Tile::row_of(thread) + fragment_row(lane, i % 2)];
            row_sums.at[i] = 0;
        }
        FFRL_UNROLL
        for (int f = 0; f < kFragments; ++f) {
            FFRL_UNROLL
            for (int i = 0; i < 2; ++i) {
                T v_gram[2] = {0, 0};
                FFRL_UNROLL
                for (int u = 0; u < kUnits; ++u) {
                    const T right =
                        shared.right_weight[unit + u][f * kFragmentColumns + M::sum_column(lane, i)];
                    FFRL_UNROLL
                    for (int half = 0; half < 2; ++half) {
                        T& t = sums.of[u][f].at[half][i];
                        v_gram[half] = multiply_add(t, left[u * 2 + half] * right, v_gram[half]);
                        t *= shared.gram[f * 4 + half * 2 + i][thread % (Tile::kRowWarps * kWarp)];
                        row_sums.at[u * 2 + half] = multiply_add(t, right, row_sums.at[u * 2 + half]);
                    }
                }
                FFRL_UNROLL
                for (int half = 0; half < 2; ++half)
                    shared.v_gram[f * 4 + half * 2 + i][thread] += v_gram[half];
            }
        }
    }

    // Of the four lanes that have these sums each stores those of one unit.
    static FFRL_INLINE void store_row_sums(const Params& p, const Place& at, int thread, int unit,
                                           const RowSums& row_sums) {
        thread = computed_here(thread);
        const int lane = thread % kWarp, first_row = at.left * kTile + Tile::row_of(thread);
        unit += Tile::unit_of(thread) + lane % 4;
        FFRL_UNROLL
        for (int half = 0; half < 2; ++half) {
            T sum = row_sums.at[half];
            FFRL_UNROLL
            for (int u = 1; u < kUnits; ++u) sum = lane % 4 == u ? row_sums.at[u * 2 + half] : sum;
            const int row = first_row + fragment_row(lane, half);
            if (unit < at.last_unit && row < p.op.hidden1) weight2_part(p, at, at.right, unit)[row] = 2 * sum;
        }
    }

    // W2[j]ᵀ (T_j ∘ G) of a thread's two rows.
    static FFRL_INLINE void sum_columns(int thread, int u, const Shared& shared,
                                        const Sum<T> (&sums)[kFragments], ColumnSums& column_sums) {
        const int lane = thread % kWarp, unit = Tile::unit_of(thread) + u;
        T weight[2];
        FFRL_UNROLL
        for (int half = 0; half < 2; ++half)
            weight[half] = shared.left_weight[unit][Tile::row_of(thread) + fragment_row(lane, half)];
        FFRL_UNROLL
        for (int i = 0; i < kFragments * 2; ++i)
            column_sums.at[i] =
                multiply_add(weight[1], sums[i / 2].at[1][i % 2], weight[0] * sums[i / 2].at[0][i % 2]);
    }

    // The warps that have different units add up in their order.
    static FFRL_INLINE void store_gram(const Params& p, const Place& at, int thread, const Shared& shared) {
        thread = computed_here(thread);
        if (Tile::unit_of(thread) != 0) return;
        const int lane = thread % kWarp, h1 = p.op.hidden1;
        const int64_t part =
            static_cast<int64_t>(at.row_chunk) * p.unit_chunks + at.first_unit / p.chunk_units;
        T* out = p.gram_parts + (part * p.op.potentials + at.k) * h1 * h1;
        FFRL_UNROLL
        for (int i = 0; i < kFragments * 4; ++i) {
            T sum = shared.v_gram[i][thread];
            FFRL_UNROLL
            for (int warp = 1; warp < Tile::kUnitWarps; ++warp)
                sum += shared.v_gram[i][thread + warp * Tile::kRowWarps * kWarp];
            const int row = at.left * kTile + Tile::row_of(thread) + fragment_row(lane, i / 2 % 2);
            const int column = at.right * kTile + i / 4 * kFragmentColumns + M::sum_column(lane, i % 2);
            if (row < h1 && column < h1) out[static_cast<int64_t>(row) * h1 + column] = sum;
        }
    }
};

// v_gram (K, H1, H1) = scale Σ of parts (parts, K, H1, H1) in their order, of which only lower tiles are
// there.
template <class T>
struct AddSymmetricParts {
    int64_t count;
    int parts, hidden1, tile;
    T scale;
    const T* from;
    T* v_gram;

    FFRL_INLINE void operator()(int64_t at) const {
        const int64_t h1 = hidden1, column = at % h1, row = at / h1 % h1;
        const int64_t source = row / tile >= column / tile ? at : at / h1 / h1 * h1 * h1 + column * h1 + row;
        T sum = 0;
        for (int p = 0; p < parts; ++p) sum += from[p * count + source];
        v_gram[at] = scale * sum;
    }
};

}  // namespace ffrl::cuda
