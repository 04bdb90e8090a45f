// Equations (8) to (10): the Gram matrix, S and e. Of the product of G with all x_j = d1 ∘ W2[j] no number is
// written: a warp makes x_j of 16 rows and a few units j in registers, multiplies it with a tile of columns
// of G, and takes S_j and its share of e from the result.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "cuda/arithmetic.h"
#include "cuda/block.h"
#include "cuda/cubic.h"
#include "cuda/for_each.h"
#include "cuda/launch.h"
#include "cuda/mma.h"
#include "cuda/stage.h"
#include "ffrl/host_device.h"

namespace ffrl::cuda {

// Bytes of shared memory that a block may have on every chip that has tensor cores for TF32, and on those of
// compute capability 8.0, 9.0 and 10.0.
constexpr size_t kSharedMemory = 101376, kLargeSharedMemory = 166912;

// So many blocks on a multiprocessor of compute capability 8.0, of which each takes 1 KiB more than it asks
// for.
constexpr bool fits_into_shared_memory(size_t bytes, int blocks) {
    return (bytes + 1024) * static_cast<size_t>(blocks) <= kLargeSharedMemory + 1024;
}

// What a block may have where a launcher launches.
template <class Launcher, class = void>
struct SharedMemoryOf {
    static size_t bytes(const Launcher&) {
#if defined(__CUDACC__)
        int device = 0, found = 0;
        if (cudaGetDevice(&device) == cudaSuccess &&
            cudaDeviceGetAttribute(&found, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) == cudaSuccess)
            return static_cast<size_t>(found);
        cudaGetLastError();  // it is not to be found by the launch
        return kSharedMemory;
#else
        return kLargeSharedMemory;
#endif
    }
};
template <class Launcher>
struct SharedMemoryOf<Launcher, std::void_t<decltype(std::declval<const Launcher&>().shared_memory())>> {
    static size_t bytes(const Launcher& launch) { return launch.shared_memory(); }
};

// -- Products of matrices --

template <class T>
struct MatrixProductParams {
    const T* a;
    int64_t a_k, a_row, a_depth;  // strides
    const T* b;
    int64_t b_k, b_depth, b_column;
    T* out;
    int rows, columns, depth;
};

// out (K, I, J) = a (K, I, L) b (K, L, J), the operands with any strides. Grid (tiles of J · tiles of I · K):
// K has no limit but in x.
template <class M>
struct MatrixProduct {
    using T = typename M::T;
    static constexpr int kRowWarps = 4, kColumnWarps = 2, kFragments = 4, kDepth = 32;
    static constexpr int kTileRows = kRowWarps * kFragmentRows;
    static constexpr int kTileColumns = kColumnWarps * kFragments * kFragmentColumns;
    static constexpr int kLeftStride = kDepth + 8, kRightStride = kTileColumns + 4;
    static constexpr int kThreads = kWarp * kRowWarps * kColumnWarps, kMinBlocks = 1;
    static_assert(reads_along_from_all_banks(kLeftStride) && reads_across_from_all_banks(kRightStride));
    static_assert(rows_take_16_bytes<T>(kLeftStride) && rows_take_16_bytes<T>(kRightStride));

    using Params = MatrixProductParams<T>;
    struct Shared {
        alignas(16) T left[2][kTileRows][kLeftStride];
        alignas(16) T right[2][kDepth][kRightStride];
    };
    static_assert(sizeof(Shared) <= kSharedMemory && fits_into_shared_memory(sizeof(Shared), kMinBlocks));

    static FFRL_INLINE void run(const Block<kThreads>& block, const Params& p, Shared& shared) {
        const int column_tiles = tiles_of(p.columns, kTileColumns), row_tiles = tiles_of(p.rows, kTileRows);
        const int tile = block.index().x % (column_tiles * row_tiles);
        const int first_row = tile / column_tiles * kTileRows,
                  first_column = tile % column_tiles * kTileColumns;
        const int64_t k = block.index().x / (column_tiles * row_tiles);
        Private<Sums<M, 1, kFragments>, kThreads> sums;
        clear_sums(block, sums);
        pipeline(
            block, static_cast<int>(divide_up(p.depth, kDepth)),
            [&](int thread, int step, int half) {
                const int depth = step * kDepth;
                stage<kThreads, 8>(thread, &shared.left[half][0][0], kLeftStride, kTileRows, kDepth,
                                   Matrix<T>{p.a + k * p.a_k + first_row * p.a_row + depth * p.a_depth,
                                             p.a_row, p.a_depth, p.rows - first_row, p.depth - depth});
                stage<kThreads, 16>(
                    thread, &shared.right[half][0][0], kRightStride, kDepth, kTileColumns,
                    Matrix<T>{p.b + k * p.b_k + depth * p.b_depth + first_column * p.b_column, p.b_depth,
                              p.b_column, p.depth - depth, p.columns - first_column});
            },
            [&](int, int half) {
                FFRL_UNROLL_BY(8 / M::kDepth)
                for (int depth = 0; depth < kDepth; depth += M::kDepth)
                    multiply_step<M>(
                        block, sums,
                        [&](int thread, int) {
                            return left_fragment<M>(&shared.left[half][row_of(thread)][depth], kLeftStride,
                                                    thread % kWarp);
                        },
                        [&](int thread, int f) {
                            return right_fragment_across<M>(&shared.right[half][depth][column_of(thread, f)],
                                                            kRightStride, thread % kWarp);
                        });
            });
        block.region_without_barrier([&](int thread) {
            const int lane = thread % kWarp;
            FFRL_UNROLL
            for (int half = 0; half < 2; ++half) {
                const int row = first_row + row_of(thread) + fragment_row(lane, half);
                FFRL_UNROLL
                for (int f = 0; f < kFragments; ++f) {
                    FFRL_UNROLL
                    for (int i = 0; i < 2; ++i) {
                        const int column = first_column + column_of(thread, f) + M::sum_column(lane, i);
                        if (row < p.rows && column < p.columns)
                            p.out[(k * p.rows + row) * p.columns + column] =
                                sums(thread).of[0][f].at[half][i];
                    }
                }
            }
        });
    }

    FFRL_INLINE static int tiles_of(int n, int tile) { return static_cast<int>(divide_up(n, tile)); }
    static Index3 grid(const Params& p, int batches) {
        return {tiles_of(p.columns, kTileColumns) * tiles_of(p.rows, kTileRows) * batches, 1, 1};
    }

    FFRL_INLINE static int row_of(int thread) { return thread / kWarp % kRowWarps * kFragmentRows; }
    FFRL_INLINE static int column_of(int thread, int f) {
        return (thread / kWarp / kRowWarps * kFragments + f) * kFragmentColumns;
    }
};

// In tf32x3, or in ieee with it: what is not cubic is never in tf32.
template <class T, class Launcher>
void launch_matrix_product(Launcher& launch, int batches, Precision precision,
                           const MatrixProductParams<T>& p) {
    const auto launch_with = [&](auto arithmetic) {
        using K = MatrixProduct<decltype(arithmetic)>;
        launch.template operator()<K>(K::grid(p, batches), p);
    };
    if constexpr (std::is_same_v<T, float>) {
        if (precision != Precision::ieee) return launch_with(Arithmetic<T, Precision::tf32x3>{});
    }
    launch_with(Arithmetic<T, Precision::ieee>{});
}

// (8)
template <class T, class Launcher>
void launch_gram_matrix(Launcher& launch, const T* weight1, int potentials, int latent, int hidden1,
                        Precision precision, T* gram) {
    const int64_t size = static_cast<int64_t>(hidden1) * latent;
    launch_matrix_product<T>(
        launch, potentials, precision,
        {weight1, size, latent, 1, weight1, size, 1, latent, gram, hidden1, hidden1, latent});
}

// -- Khatri-Rao products --

// Tiles of Σ_i (d1[row, i] u_unit[i]) b[column, i]: a block has kRows rows, kColumns columns and kGroup units
// at once, a warp 16 rows, kFragments · 8 columns and kUnits units. All three operands stand in shared memory
// with up to kDepth of the contraction; where it is longer, one slice after the other.
template <class Scalar, int kUnitWarps_, int kColumnWarps_, int kUnits_, int kFragments_, int kDepth_,
          int kBlocks>
struct KhatriRaoTile {
    using T = Scalar;
    static constexpr int kRowWarps = kRows / kFragmentRows;
    static constexpr int kUnitWarps = kUnitWarps_, kColumnWarps = kColumnWarps_;
    static constexpr int kUnits = kUnits_, kFragments = kFragments_, kDepth = kDepth_;
    static constexpr int kGroup = kUnitWarps * kUnits;
    static constexpr int kColumns = kColumnWarps * kFragments * kFragmentColumns;
    static constexpr int kThreads = kWarp * kRowWarps * kUnitWarps * kColumnWarps, kMinBlocks = kBlocks;
    static_assert(kRows % kFragmentRows == 0);
    static_assert(kUnits == 4, "a lane writes S of one unit, and four lanes share a row");
    static_assert(reads_along_from_all_banks(kDepth) && rows_take_16_bytes<T>(kDepth));

    struct Shared {
        alignas(16) T rows[kRows][kDepth];
        alignas(16) T columns[kColumns][kDepth];
        alignas(16) T units[kGroup][kDepth];
    };
    static_assert(fits_into_shared_memory(sizeof(Shared), kMinBlocks));

    // Where a thread's warp stands in the tile.
    FFRL_INLINE static int row_of(int thread) { return thread / kWarp % kRowWarps * kFragmentRows; }
    FFRL_INLINE static int unit_of(int thread) { return thread / kWarp / kRowWarps % kUnitWarps * kUnits; }
    FFRL_INLINE static int column_of(int thread, int f) {
        return (thread / kWarp / kRowWarps / kUnitWarps * kFragments + f) * kFragmentColumns;
    }
};

// sums = the products of a group of units. rows (kRows, H1), columns (columns, H1), units (units, H1). Rows
// and columns are fetched where `first` or where they do not stand whole in shared memory.
template <class M, class Tile>
FFRL_INLINE void khatri_rao_product(const Block<Tile::kThreads>& block, typename Tile::Shared& shared,
                                    Private<Sums<M, Tile::kUnits, Tile::kFragments>, Tile::kThreads>& sums,
                                    bool first, int hidden1, const Matrix<typename M::T>& rows,
                                    const Matrix<typename M::T>& columns,
                                    const Matrix<typename M::T>& units) {
    constexpr int kDepth = Tile::kDepth,
                  kStep = 8;  // of zeros behind the end: what a step of any arithmetic needs
    static_assert(kDepth % kStep == 0 && kStep % M::kDepth == 0);
    clear_sums(block, sums);
    for (int start = 0; start < hidden1; start += kDepth) {
        const int there = hidden1 - start < kDepth ? hidden1 - start : kDepth;
        const int width = (there + kStep - 1) / kStep * kStep;
        block.region([](int) {});  // nobody reads any more what stands there
        block.region([&](int thread) {
            const auto fetch = [&](typename M::T* to, int count, Matrix<typename M::T> from) {
                from.at += start * from.column_stride;
                from.columns = there;
                stage<Tile::kThreads, kWarp>(thread, to, kDepth, count, width, from);
            };
            fetch(&shared.units[0][0], Tile::kGroup, units);
            if (first || hidden1 > kDepth) {
                fetch(&shared.rows[0][0], kRows, rows);
                fetch(&shared.columns[0][0], Tile::kColumns, columns);
            }
            end_batch();
            wait_for_batches<0>();
        });
        FFRL_UNROLL_BY(1)
        for (int depth = 0; depth < width; depth += M::kDepth)
            multiply_step<M>(
                block, sums,
                [&](int thread, int unit) {
                    const int lane = thread % kWarp;
                    auto left = left_fragment<M>(&shared.rows[Tile::row_of(thread)][depth], kDepth, lane);
                    const auto weight =
                        load_pair(&shared.units[Tile::unit_of(thread) + unit][depth + M::depth(lane)]);
                    FFRL_UNROLL
                    for (int half = 0; half < 2; ++half)
                        left.row[half] = {left.row[half].x * weight.x, left.row[half].y * weight.y};
                    return left;
                },
                [&](int thread, int f) {
                    return right_fragment<M>(&shared.columns[Tile::column_of(thread, f)][depth], kDepth,
                                             thread % kWarp);
                });
    }
}

// -- Gram form --

// Wide: the paper's 324 units, whole in shared memory. Where there is less of it, in slices, with the same
// sums in the same order. Narrow: several blocks on a multiprocessor.
template <class T>
struct GramForwardTiles {
    static constexpr int kNarrow = 72;
    using Wide = KhatriRaoTile<float, 2, 1, 4, 6, 328, 1>;
    using Sliced = KhatriRaoTile<float, 2, 1, 4, 6, 200, 1>;
    using Narrow = KhatriRaoTile<float, 1, 1, 4, 4, kNarrow, 3>;
};
template <>
struct GramForwardTiles<double> {
    static constexpr int kNarrow = 0;
    using Wide = KhatriRaoTile<double, 2, 1, 4, 4, 104, 1>;
    using Sliced = Wide;
    using Narrow = Wide;
};

// f(tile) of the tile for a width: by the weights and the chip alone, so that the bits of a row do not follow
// the batch.
template <class T, class F>
void with_gram_forward_tile(int hidden1, size_t shared_memory, F f) {
    using Tiles = GramForwardTiles<T>;
    using Wide = typename Tiles::Wide;
    using Sliced = typename Tiles::Sliced;
    static_assert(sizeof(typename Sliced::Shared) <= kSharedMemory);
    static_assert(Sliced::kColumns == Wide::kColumns && Sliced::kGroup == Wide::kGroup);
    if constexpr (Tiles::kNarrow > 0) {
        static_assert(sizeof(typename Tiles::Narrow::Shared) <= kSharedMemory);
        if (hidden1 <= Tiles::kNarrow) return f(typename Tiles::Narrow{});
    }
    if constexpr (!std::is_same_v<Sliced, Wide>) {
        if (shared_memory < sizeof(typename Wide::Shared)) return f(Sliced{});
    }
    f(Wide{});
}

// Whether a block is of a potential: the last ones may be of none, and what is summed there is zero.
template <class T>
FFRL_INLINE bool has_rows(const CubicOperands<T>& op, int block) {
    return block < op.first_block[op.potentials];
}

template <class T>
FFRL_INLINE int64_t potential_of(const CubicOperands<T>& op, int block) {
    return has_rows(op, block) ? op.block_k[block] : 0;
}

// (9), (10): for the units j of one chunk y_j in a tile of columns. Grid: blocks of rows, tiles, chunks.
// squares (tiles, H2, P): Σ of x_j y_j over the tile. column_sums (chunks, P, H1), if given: Σ of c_j W2[j]
// y_j over the chunk.
template <class M, class Tile>
struct GramForward {
    using T = typename M::T;
    using Shared = typename Tile::Shared;
    static constexpr int kThreads = Tile::kThreads, kMinBlocks = with_sums_of_steps<M>(Tile::kMinBlocks);
    static constexpr int kUnits = Tile::kUnits, kFragments = Tile::kFragments;

    struct Params {
        CubicOperands<T> op;
        T* squares;
        T* column_sums;
        int chunk_units;  // a multiple of Tile::kGroup
    };

    // e of a thread, and its parts of S.
    using ColumnSums = Values<Sum<T>, kFragments>;
    using RowSums = Values<T, kUnits * 2>;

    static FFRL_INLINE void run(const Block<kThreads>& block, const Params& p, Shared& shared) {
        const CubicOperands<T>& op = p.op;
        const Index3 index = block.index();
        const int h1 = op.hidden1, first_column = index.y * Tile::kColumns;
        const int64_t first_slot = static_cast<int64_t>(index.x) * kRows, k = potential_of(op, index.x);
        const T* weight2 = op.weight2 + k * op.hidden2 * h1;
        const T* d1 = op.d1 + first_slot * h1;
        const T* gram = op.gram + (k * h1 + first_column) * h1;
        const bool used = has_rows(op, index.x);
        const int first_unit = index.z * p.chunk_units;
        const int last_unit =
            op.hidden2 - first_unit < p.chunk_units ? op.hidden2 : first_unit + p.chunk_units;

        Private<Sums<M, kUnits, kFragments>, kThreads> sums;
        Private<ColumnSums, kThreads> column_sums;
        Private<RowSums, kThreads> row_sums;
        block.region_without_barrier([&](int thread) {
            FFRL_UNROLL
            for (int f = 0; f < kFragments; ++f) column_sums(thread).at[f] = Sum<T>{{{0, 0}, {0, 0}}};
        });
        for (int unit = first_unit; unit < last_unit; unit += Tile::kGroup) {
            // G is symmetric: its rows are its columns, and contiguous along the contraction.
            khatri_rao_product<M, Tile>(
                block, shared, sums, unit == first_unit, used ? h1 : 0, matrix(d1, h1, kRows, h1),
                matrix(gram, h1, h1 - first_column, h1),
                matrix(weight2 + static_cast<int64_t>(unit) * h1, h1, last_unit - unit, h1));
            // The factors of a tile, from shared memory where they stand there.
            const bool whole = used && h1 <= Tile::kDepth;
            const int stride = whole ? Tile::kDepth : h1;
            const T* slopes = whole ? &shared.rows[0][0] : d1;
            const T* weights = whole ? &shared.units[0][0] : weight2 + static_cast<int64_t>(unit) * h1;
            block.region_without_barrier([&](int thread) {
                consume(p, thread, first_slot, first_column, unit, last_unit, slopes, weights, stride,
                        sums(thread), column_sums(thread), row_sums(thread));
            });
            sum_over_columns(block, row_sums);
            block.region_without_barrier([&](int thread) {
                // Of the four lanes that have these sums each stores those of one unit.
                const int lane = thread % kWarp, own_unit = unit + Tile::unit_of(thread) + lane % 4;
                T* out = p.squares + (static_cast<int64_t>(index.y) * op.hidden2 + own_unit) * op.slots() +
                         first_slot + Tile::row_of(thread);
                FFRL_UNROLL
                for (int half = 0; half < 2; ++half) {
                    T sum = row_sums(thread).at[half];
                    FFRL_UNROLL
                    for (int u = 1; u < kUnits; ++u)
                        sum = lane % 4 == u ? row_sums(thread).at[u * 2 + half] : sum;
                    if (own_unit < last_unit) out[fragment_row(lane, half)] = sum;
                }
            });
        }
        if (p.column_sums != nullptr)
            store_column_sums(block, p, first_slot, first_column, &shared.columns[0][0], column_sums);
    }

    // The products of a thread: S_j in part, e in part.
    static FFRL_INLINE void consume(const Params& p, int thread, int64_t first_slot, int first_column,
                                    int first_unit, int last_unit, const T* slopes, const T* weights,
                                    int64_t stride, const Sums<M, kUnits, kFragments>& y,
                                    ColumnSums& column_sums, RowSums& row_sums) {
        thread = computed_here(thread);
        const int lane = thread % kWarp, h1 = p.op.hidden1, unit = first_unit + Tile::unit_of(thread);
        const bool keep = p.column_sums != nullptr;
        slopes += (Tile::row_of(thread) + fragment_row(lane, 0)) * stride;
        weights += Tile::unit_of(thread) * stride;
        T c[kUnits * 2];
        FFRL_UNROLL
        for (int u = 0; u < kUnits; ++u) {
            FFRL_UNROLL
            for (int half = 0; half < 2; ++half) {
                row_sums.at[u * 2 + half] = 0;
                c[u * 2 + half] = keep && unit + u < last_unit
                                      ? p.op.c[(unit + u) * p.op.slots() + first_slot + Tile::row_of(thread) +
                                               fragment_row(lane, half)]
                                      : T(0);
            }
        }
        FFRL_UNROLL
        for (int f = 0; f < kFragments; ++f) {
            FFRL_UNROLL
            for (int i = 0; i < 2; ++i) {
                const int column = first_column + Tile::column_of(thread, f) + M::sum_column(lane, i);
                const bool inside = column < h1;
                T slope[2];
                FFRL_UNROLL
                for (int half = 0; half < 2; ++half)
                    slope[half] = inside ? slopes[fragment_row(0, half) * stride + column] : T(0);
                FFRL_UNROLL
                for (int u = 0; u < kUnits; ++u) {
                    const T weight = inside && unit + u < last_unit ? weights[u * stride + column] : T(0);
                    FFRL_UNROLL
                    for (int half = 0; half < 2; ++half) {
                        const T weighted = weight * y.of[u][f].at[half][i];
                        T &row_sum = row_sums.at[u * 2 + half], &column_sum = column_sums.at[f].at[half][i];
                        row_sum = multiply_add(slope[half], weighted, row_sum);
                        column_sum = multiply_add(c[u * 2 + half], weighted, column_sum);
                    }
                }
            }
        }
    }

    // The warps of one tile that have different units add up in their order, in what was memory of the tile.
    static FFRL_INLINE void store_column_sums(const Block<kThreads>& block, const Params& p,
                                              int64_t first_slot, int first_column, T* memory,
                                              Private<ColumnSums, kThreads>& column_sums) {
        constexpr int kTile = kRows * Tile::kColumns, kNumbers = kFragments * 4;
        static_assert((Tile::kUnitWarps - 1) * kTile <= Tile::kColumns * Tile::kDepth);
        // Number i of a thread that has the same place in its tile as `thread` in the first.
        const auto at = [&](int thread, int unit_warp, int i) -> T& {
            const int place = thread / kWarp % Tile::kRowWarps +
                              thread / kWarp / Tile::kRowWarps / Tile::kUnitWarps * Tile::kRowWarps;
            return memory[((unit_warp - 1) * kNumbers + i) * (kTile / kNumbers) + place * kWarp +
                          thread % kWarp];
        };
        block.region([](int) {});  // nobody reads any more what stands there
        block.region([&](int thread) {
            const int unit_warp = Tile::unit_of(thread) / kUnits;
            if (unit_warp == 0) return;
            FFRL_UNROLL
            for (int i = 0; i < kNumbers; ++i)
                at(thread, unit_warp, i) = column_sums(thread).at[i / 4].at[i / 2 % 2][i % 2];
        });
        block.region_without_barrier([&](int thread) {
            if (Tile::unit_of(thread) != 0) return;
            const int lane = thread % kWarp, h1 = p.op.hidden1;
            T* out = p.column_sums + (block.index().z * p.op.slots() + first_slot) * h1;
            FFRL_UNROLL
            for (int i = 0; i < kNumbers; ++i) {
                T sum = column_sums(thread).at[i / 4].at[i / 2 % 2][i % 2];
                FFRL_UNROLL
                for (int unit_warp = 1; unit_warp < Tile::kUnitWarps; ++unit_warp)
                    sum += at(thread, unit_warp, i);
                const int row = Tile::row_of(thread) + fragment_row(lane, i / 2 % 2);
                const int column = first_column + Tile::column_of(thread, i / 4) + M::sum_column(lane, i % 2);
                if (column < h1) out[static_cast<int64_t>(row) * h1 + column] = sum;
            }
        });
    }
};

// -- Jacobian form --

template <class T>
struct JacobianTiles {
    using Tile = KhatriRaoTile<float, 1, 1, 4, 4, 136, 3>;
};
template <>
struct JacobianTiles<double> {
    using Tile = KhatriRaoTile<double, 1, 2, 4, 2, 104, 1>;
};

static_assert(sizeof(JacobianTiles<float>::Tile::Shared) <= kSharedMemory);
static_assert(sizeof(JacobianTiles<double>::Tile::Shared) <= kSharedMemory);

template <class T>
struct JacobianParams {
    CubicOperands<T> op;
    T* out;
    int first;  // of the latent dimensions that are wanted
};

// J_d = W2 (d1 ∘ W1[:, d]) of the latent dimensions d from `first`, as many as a tile has units, for a block
// of rows and a tile of the units of the second layer.
template <class M, class Tile>
FFRL_INLINE void jacobian_product(const Block<Tile::kThreads>& block, const CubicOperands<typename M::T>& op,
                                  typename Tile::Shared& shared, int first, bool fetch,
                                  Private<Sums<M, Tile::kUnits, Tile::kFragments>, Tile::kThreads>& sums) {
    const Index3 index = block.index();
    const int h1 = op.hidden1, first_unit = index.y * Tile::kColumns;
    const int64_t k = potential_of(op, index.x);
    khatri_rao_product<M, Tile>(
        block, shared, sums, fetch, has_rows(op, index.x) ? h1 : 0,
        matrix(op.d1 + static_cast<int64_t>(index.x) * kRows * h1, h1, kRows, h1),
        matrix(op.weight2 + (k * op.hidden2 + first_unit) * h1, h1, op.hidden2 - first_unit, h1),
        Matrix<typename M::T>{op.weight1 + k * h1 * op.latent + first, 1, op.latent, op.latent - first, h1});
}

// (10): S_j = Σ_d J_jd², out (H2, P). Grid: blocks of rows, tiles of units.
template <class M, class Tile>
struct JacobianForward {
    using T = typename M::T;
    using Params = JacobianParams<T>;
    using Shared = typename Tile::Shared;
    static constexpr int kThreads = Tile::kThreads, kMinBlocks = with_sums_of_steps<M>(Tile::kMinBlocks);
    static constexpr int kUnits = Tile::kUnits, kFragments = Tile::kFragments;

    static FFRL_INLINE void run(const Block<kThreads>& block, const Params& p, Shared& shared) {
        const CubicOperands<T>& op = p.op;
        Private<Sums<M, kUnits, kFragments>, kThreads> jacobian;
        Private<Values<Sum<T>, kFragments>, kThreads> squares;
        block.region_without_barrier([&](int thread) {
            FFRL_UNROLL
            for (int f = 0; f < kFragments; ++f) squares(thread).at[f] = Sum<T>{{{0, 0}, {0, 0}}};
        });
        for (int first = 0; first < op.latent; first += kUnits) {
            jacobian_product<M, Tile>(block, op, shared, first, first == 0, jacobian);
            block.region_without_barrier([&](int thread) {
                FFRL_UNROLL
                for (int u = 0; u < kUnits; ++u) {
                    FFRL_UNROLL
                    for (int i = 0; i < kFragments * 4; ++i) {
                        const T value = jacobian(thread).of[u][i / 4].at[i / 2 % 2][i % 2];
                        T& sum = squares(thread).at[i / 4].at[i / 2 % 2][i % 2];
                        sum = multiply_add(value, value, sum);
                    }
                }
            });
        }
        block.region_without_barrier([&](int thread) {
            const int lane = thread % kWarp;
            T* out = p.out + static_cast<int64_t>(block.index().x) * kRows + Tile::row_of(thread);
            FFRL_UNROLL
            for (int i = 0; i < kFragments * 4; ++i) {
                const int j = block.index().y * Tile::kColumns + Tile::column_of(thread, i / 4) +
                              M::sum_column(lane, i % 2);
                if (j < op.hidden2)
                    out[j * op.slots() + fragment_row(lane, i / 2 % 2)] =
                        squares(thread).at[i / 4].at[i / 2 % 2][i % 2];
            }
        });
    }
};

// -- Launches --

// How the Gram form is cut: by the weights alone.
struct GramForwardCut {
    int tiles;        // of columns, parts of S
    int chunks;       // of units, parts of e: memory for at most kMostChunks
    int chunk_units;  // a multiple of the units of a group
    static constexpr int kMostChunks = 8;
};

template <class T>
GramForwardCut gram_forward_cut(int hidden1, int hidden2) {
    GramForwardCut cut{};
    with_gram_forward_tile<T>(hidden1, kLargeSharedMemory, [&](auto tile) {
        using Tile = decltype(tile);
        const int64_t groups = divide_up(hidden2, Tile::kGroup);
        cut.tiles = static_cast<int>(divide_up(hidden1, Tile::kColumns));
        cut.chunk_units = static_cast<int>(divide_up(groups, GramForwardCut::kMostChunks) * Tile::kGroup);
        cut.chunks = static_cast<int>(divide_up(hidden2, cut.chunk_units));
    });
    return cut;
}

// Numbers of workspace for launch_squares.
template <class T>
int64_t squares_numbers(int blocks, int potentials, int latent, int hidden1, int hidden2, LaplacianForm form,
                        bool keep) {
    (void)potentials, (void)latent;
    if (form != LaplacianForm::gram) return 0;
    const GramForwardCut cut = gram_forward_cut<T>(hidden1, hidden2);
    const int64_t slots = static_cast<int64_t>(blocks) * kRows;
    return (cut.tiles > 1 ? cut.tiles * slots * hidden2 : 0) +
           (keep && cut.chunks > 1 ? cut.chunks * slots * hidden1 : 0);
}

// squares (H2, P): S. column_sums (P, H1): e, in the Gram form where it is kept, else null.
template <class T, class Launcher>
void launch_squares(Launcher& launch, const CubicOperands<T>& op, LaplacianForm form, bool keep,
                    Precision precision, T* workspace, T* squares, T* column_sums) {
    const int64_t slots = op.slots();
    if (form != LaplacianForm::gram) {
        with_arithmetic<T>(precision, [&](auto arithmetic) {
            using Tile = typename JacobianTiles<T>::Tile;
            launch.template operator()<JacobianForward<decltype(arithmetic), Tile>>(
                {op.blocks, static_cast<int>(divide_up(op.hidden2, Tile::kColumns)), 1}, {op, squares, 0});
        });
        return;
    }
    const GramForwardCut cut = gram_forward_cut<T>(op.hidden1, op.hidden2);
    const int64_t square_count = slots * op.hidden2, column_count = slots * op.hidden1;
    T* square_parts = cut.tiles > 1 ? workspace : squares;
    T* column_parts = !keep ? nullptr : cut.chunks > 1 ? workspace : column_sums;
    if (cut.tiles > 1 && keep && cut.chunks > 1) column_parts += cut.tiles * square_count;
    with_arithmetic<T>(precision, [&](auto arithmetic) {
        with_gram_forward_tile<T>(op.hidden1, SharedMemoryOf<Launcher>::bytes(launch), [&](auto tile) {
            launch.template operator()<GramForward<decltype(arithmetic), decltype(tile)>>(
                {op.blocks, cut.tiles, cut.chunks}, {op, square_parts, column_parts, cut.chunk_units});
        });
    });
    if (cut.tiles > 1) for_each(launch, AddParts<T>{square_count, cut.tiles, 1, square_parts, squares});
    if (keep && cut.chunks > 1)
        for_each(launch, AddParts<T>{column_count, cut.chunks, 1, column_parts, column_sums});
}

}  // namespace ffrl::cuda
