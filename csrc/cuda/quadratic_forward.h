// Equations (1) to (8) of docs/derivation.md and (11), block by block of rows: every product of a weight with
// the rows, and what ends a row. A grid is (blocks, tiles of columns); P slots are rows in blocks, padded.
#pragma once

#include <cstdint>

#include "cuda/for_each.h"
#include "cuda/slots.h"
#include "ffrl/potential_math.h"

namespace ffrl::cuda {

template <class T>
struct ForwardParams {
    PotentialInputs<T> in;
    PotentialOutputs<T> out;
    CallSizes size;
    const int64_t* slot_row;
    const int* block_k;
    T* kept;               // (P, width)
    T* d1;                 // (P, H1)
    T* c;                  // (H2, P)
    T* parts;              // (3, unit_tiles, P): shares of o, ∂o/∂t, ∂²o/∂t²
    const T* squares;      // (H2, P), S
    const T* column_sums;  // (P, H1), e; null where it is not kept
    const T* diagonal;     // G_ii of potential k at k diagonal_of_k + i diagonal_step
    int64_t diagonal_of_k;
    int diagonal_step;
    int unit_tiles;
    bool keep;
};

// (1): h1 and d1 of a tile of units.
template <class Product>
struct Hidden1Forward {
    using T = typename Product::T;
    static constexpr int kThreads = kProductThreads, kMinBlocks = Product::kMinBlocks;
    using Params = ForwardParams<T>;
    struct Shared {
        ProductSteps<Product> steps;
        ResultTile<T> a1;
        BlockRows rows;
    };

    FFRL_INLINE static void run(const Block<kThreads>& block, const Params& p, Shared& shared) {
        static_assert(sizeof(Shared) <= kSmallSharedMemory);
        const CallSizes& s = p.size;
        const int index = block.index().x, first = block.index().y * kTileColumns;
        const int64_t k = p.block_k[index];
        const T* weight1 = p.in.weight1 + k * s.hidden1 * s.latent;
        load_rows(block, shared.rows, p.slot_row);
        multiply<Product>(block, shared.steps, shared.a1, has_rows(p.slot_row, index) ? s.latent : 0,
                          along_terms([&](int row, int64_t d) {
                              const int64_t n = shared.rows.row[row];
                              return n >= 0 ? p.in.z[n * s.latent + d] : T(0);
                          }),
                          along_terms([&](int column, int64_t d) {
                              const int64_t h = first + column;
                              return h < s.hidden1 ? weight1[h * s.latent + d] : T(0);
                          }));
        const T* bias1 = p.in.bias1 + k * s.hidden1;
        T* kept = of_block(p.kept, index, s.width);
        T* d1 = of_block(p.d1, index, s.hidden1);
        for_tile(block, [&](int row, int column) {
            const int h = first + column;
            if (h >= s.hidden1) return;
            const T h1 = hyperbolic_tangent(shared.a1.at[row][column] + bias1[h]);
            kept[static_cast<int64_t>(row) * s.width + h] = h1;
            d1[static_cast<int64_t>(row) * s.hidden1 + h] = slope(h1);
        });
    }
};

// The time features of a block's rows as left operands, and W2 as the right one, (H2, H1) times (H1,), terms
// = H1.
template <class T>
FFRL_INLINE T feature_number(const T* features, const BlockRows& rows, int row, int64_t h, int hidden1) {
    const int64_t feature = rows.feature[row];
    return feature >= 0 ? features[feature * hidden1 + h] : T(0);
}

template <class Product, class LeftValue>
FFRL_INLINE void multiply_weight2(const Block<kProductThreads>& block, ProductSteps<Product>& steps,
                                  ResultTile<typename Product::T>& result, const CallSizes& s,
                                  const typename Product::T* weight2, int first, int terms, LeftValue left) {
    using T = typename Product::T;
    multiply<Product>(block, steps, result, terms, along_terms(left), along_terms([&](int column, int64_t h) {
                          const int64_t j = first + column;
                          return j < s.hidden2 ? weight2[j * s.hidden1 + h] : T(0);
                      }));
}

// (2), (3), (6), (7): h2 and c of a tile of units, and its share of o, ∂o/∂t and ∂²o/∂t².
template <class Product>
struct Hidden2Forward {
    using T = typename Product::T;
    static constexpr int kThreads = kProductThreads, kMinBlocks = Product::kMinBlocks;
    static constexpr int kShares = 3;
    using Params = ForwardParams<T>;
    struct Shared {
        ProductSteps<Product> steps;
        ResultTile<T> result[kShares];  // a2, ω and W2 ∂²τ/∂t²; then the shares of each unit
        ResultTile<T> c;
        BlockRows rows;
    };

    FFRL_INLINE static void run(const Block<kThreads>& block, const Params& p, Shared& shared) {
        static_assert(sizeof(Shared) <= kSmallSharedMemory);
        const CallSizes& s = p.size;
        const int index = block.index().x, first = block.index().y * kTileColumns;
        const int64_t k = p.block_k[index];
        const T* weight2 = p.in.weight2 + k * s.hidden2 * s.hidden1;
        T* kept = of_block(p.kept, index, s.width);
        load_rows(block, shared.rows, p.in, s, p.slot_row);
        const int terms = has_rows(p.slot_row, index) ? s.hidden1 : 0;
        multiply_weight2<Product>(
            block, shared.steps, shared.result[0], s, weight2, first, terms, [&](int row, int64_t h) {
                return shared.rows.row[row] >= 0
                           ? kept[static_cast<int64_t>(row) * s.width + h] +
                                 feature_number(p.in.tau, shared.rows, row, h, s.hidden1)
                           : T(0);
            });
        multiply_weight2<Product>(
            block, shared.steps, shared.result[1], s, weight2, first, terms,
            [&](int row, int64_t h) { return feature_number(p.in.dtau_dt, shared.rows, row, h, s.hidden1); });
        if (s.second)
            multiply_weight2<Product>(
                block, shared.steps, shared.result[2], s, weight2, first, terms, [&](int row, int64_t h) {
                    return feature_number(p.in.d2tau_dt2, shared.rows, row, h, s.hidden1);
                });
        const T* bias2 = p.in.bias2 + k * s.hidden2;
        const T* weight3 = p.in.weight3 + k * s.hidden2;
        for_tile(block, [&](int row, int column) {
            const int j = first + column;
            T& a2 = shared.result[0].at[row][column];
            T& omega = shared.result[1].at[row][column];
            T& omega2 = shared.result[2].at[row][column];
            if (j >= s.hidden2) {
                a2 = omega = omega2 = 0;
                return;
            }
            const T h2 = hyperbolic_tangent(a2 + bias2[j]);
            const Unit2<T> unit = unit2(h2, weight3[j]);
            const TimeTerms<T> terms = time_terms(unit.p, unit.c, omega, s.second ? omega2 : T(0));
            kept[static_cast<int64_t>(row) * s.width + s.h2() + j] = h2;
            shared.c.at[row][column] = unit.c;
            a2 = unit.o;
            omega = terms.o_dot;
            omega2 = terms.o_ddot;
        });
        block.region([&](int thread) {
            for (int i = thread; i < kShares * kRows; i += kThreads) {
                const int share = i / kRows, row = i % kRows;
                T sum = 0;
                FFRL_UNROLL_BY(8)
                for (int column = 0; column < kTileColumns; ++column)
                    sum += shared.result[share].at[row][column];
                p.parts[(static_cast<int64_t>(share) * p.unit_tiles + block.index().y) * s.slots +
                        static_cast<int64_t>(index) * kRows + row] = sum;
            }
        });
        for_tile_transposed(block, [&](int row, int column) {
            const int64_t j = first + column;
            if (j < s.hidden2)
                p.c[j * s.slots + static_cast<int64_t>(index) * kRows + row] = shared.c.at[row][column];
        });
    }
};

// (5): q = W2ᵀ p.
template <class Product>
struct QForward {
    using T = typename Product::T;
    static constexpr int kThreads = kProductThreads, kMinBlocks = Product::kMinBlocks;
    using Params = ForwardParams<T>;
    struct Shared {
        ProductSteps<Product> steps;
        ResultTile<T> q;
    };

    FFRL_INLINE static void run(const Block<kThreads>& block, const Params& p, Shared& shared) {
        static_assert(sizeof(Shared) <= kSmallSharedMemory);
        const CallSizes& s = p.size;
        const int index = block.index().x, first = block.index().y * kTileColumns;
        const int64_t k = p.block_k[index];
        const T* weight2 = p.in.weight2 + k * s.hidden2 * s.hidden1;
        const T* weight3 = p.in.weight3 + k * s.hidden2;
        T* kept = of_block(p.kept, index, s.width);
        multiply<Product>(
            block, shared.steps, shared.q, has_rows(p.slot_row, index) ? s.hidden2 : 0,
            along_terms([&](int row, int64_t j) {
                return unit2(kept[static_cast<int64_t>(row) * s.width + s.h2() + j], weight3[j]).p;
            }),
            across_terms([&](int column, int64_t j) {
                const int h = first + column;
                return h < s.hidden1 ? weight2[j * s.hidden1 + h] : T(0);
            }));
        for_tile(block, [&](int row, int column) {
            const int h = first + column;
            if (h < s.hidden1)
                kept[static_cast<int64_t>(row) * s.width + s.q() + h] = shared.q.at[row][column];
        });
    }
};

// (5): v = W1ᵀ r.
template <class Product>
struct VForward {
    using T = typename Product::T;
    static constexpr int kThreads = kProductThreads, kMinBlocks = Product::kMinBlocks;
    using Params = ForwardParams<T>;
    struct Shared {
        ProductSteps<Product> steps;
        ResultTile<T> v;
    };

    FFRL_INLINE static void run(const Block<kThreads>& block, const Params& p, Shared& shared) {
        static_assert(sizeof(Shared) <= kSmallSharedMemory);
        const CallSizes& s = p.size;
        const int index = block.index().x, first = block.index().y * kTileColumns;
        const T* weight1 = p.in.weight1 + static_cast<int64_t>(p.block_k[index]) * s.hidden1 * s.latent;
        T* kept = of_block(p.kept, index, s.width);
        multiply<Product>(block, shared.steps, shared.v, has_rows(p.slot_row, index) ? s.hidden1 : 0,
                          along_terms([&](int row, int64_t h) {
                              const T* slot = kept + static_cast<int64_t>(row) * s.width;
                              return unit1(slot[h], slot[s.q() + h]).r;
                          }),
                          across_terms([&](int column, int64_t h) {
                              const int d = first + column;
                              return d < s.latent ? weight1[h * s.latent + d] : T(0);
                          }));
        for_tile(block, [&](int row, int column) {
            const int d = first + column;
            if (d < s.latent)
                kept[static_cast<int64_t>(row) * s.width + s.v() + d] = shared.v.at[row][column];
        });
    }
};

// (3) to (7), (11): the sums that end a row, in the order of their parts, and what the caller gets of it.
// Grid (blocks).
template <class T>
struct RowsForward {
    static constexpr int kThreads = kRowThreads, kMinBlocks = 1;
    using Params = ForwardParams<T>;
    struct Shared {
        LaneSums<T> squared, ell;
        T tile[kLanes][kRows + 1], c[kLanes][kRows + 1];  // S and c of some units
        T phi[kRows];
        BlockRows rows;
    };

    FFRL_INLINE static void run(const Block<kThreads>& block, const Params& p, Shared& shared) {
        static_assert(sizeof(Shared) <= kSmallSharedMemory);
        const CallSizes& s = p.size;
        const int index = block.index().x;
        const int64_t k = p.block_k[index], first_slot = static_cast<int64_t>(index) * kRows;
        T* kept = of_block(p.kept, index, s.width);
        const bool laplacian = s.form != LaplacianForm::none;
        load_rows(block, shared.rows, p.slot_row);

        // |v|², and Σ m_i G_ii of (11)
        for_rows(block, [&](int row, int lane) {
            T* slot = kept + static_cast<int64_t>(row) * s.width;
            T squared = 0, ell = 0;
            for (int d = lane; d < s.latent; d += kLanes)
                squared = multiply_add(slot[s.v() + d], slot[s.v() + d], squared);
            if (laplacian) {
                const T* diagonal = p.diagonal + k * p.diagonal_of_k;
                for (int h = lane; h < s.hidden1; h += kLanes) {
                    const T of_unit = diagonal[static_cast<int64_t>(h) * p.diagonal_step];
                    ell = multiply_add(unit1(slot[h], slot[s.q() + h]).m, of_unit, ell);
                    if (p.column_sums != nullptr)
                        slot[s.column_sums() + h] = p.column_sums[(first_slot + row) * s.hidden1 + h];
                }
            }
            shared.squared.at[row][lane] = squared;
            shared.ell.at[row][lane] = ell;
        });
        for (int first = 0; laplacian && first < s.hidden2; first += kLanes) {
            block.region([&](int thread) {
                for (int unit = thread / kRows; unit < kLanes && first + unit < s.hidden2;
                     unit += kThreads / kRows) {
                    const int64_t at =
                        static_cast<int64_t>(first + unit) * s.slots + first_slot + thread % kRows;
                    shared.tile[unit][thread % kRows] = p.squares[at];
                    shared.c[unit][thread % kRows] = p.c[at];
                }
            });
            for_rows(block, [&](int row, int lane) {
                if (first + lane >= s.hidden2) return;
                const T square = shared.tile[lane][row];
                T& ell = shared.ell.at[row][lane];
                ell = multiply_add(shared.c[lane][row], square, ell);
                if (p.keep) kept[static_cast<int64_t>(row) * s.width + s.squares() + first + lane] = square;
            });
        }
        block.region([&](int thread) {
            if (thread >= kRows) return;
            const int64_t slot = first_slot + thread, n = shared.rows.row[thread];
            T o = p.in.bias3[k], o_dot = 0, o_ddot = 0;
            for (int64_t i = 0; i < p.unit_tiles; ++i) {
                o += p.parts[i * s.slots + slot];
                o_dot += p.parts[(p.unit_tiles + i) * s.slots + slot];
                o_ddot += p.parts[(2 * static_cast<int64_t>(p.unit_tiles) + i) * s.slots + slot];
            }
            const T u = s.tanh_output ? hyperbolic_tangent(o) : o;
            const T ell = shared.ell.of_row(thread);
            const OutputRow<T> row =
                output_row(u, o_dot, o_ddot, ell, shared.squared.of_row(thread), s.tanh_output);
            T* scalars = kept + static_cast<int64_t>(thread) * s.width + s.scalars();
            scalars[0] = u;
            scalars[1] = o_dot;
            scalars[2] = o_ddot;
            scalars[3] = ell;
            shared.phi[thread] = row.phi;
            if (n < 0) return;
            p.out.u[n] = u;
            p.out.du_dt[n] = row.du_dt;
            if (s.second) p.out.d2u_dt2[n] = row.d2u_dt2;
            if (laplacian) p.out.lap_u[n] = row.lap_u;
        });
        for_rows(block, [&](int row, int lane) {
            const int64_t n = shared.rows.row[row];
            if (n < 0) return;
            const T* v = kept + static_cast<int64_t>(row) * s.width + s.v();
            for (int d = lane; d < s.latent; d += kLanes)
                p.out.du_dz[n * s.latent + d] = shared.phi[row] * v[d];
        });
    }
};

// G_ii of (8) alone, (K, H1), where G is not needed.
template <class T>
struct GramDiagonal {
    int64_t count;  // K H1
    int latent;
    const T* weight1;
    T* diagonal;

    FFRL_INLINE void operator()(int64_t unit) const {
        T sum = 0;
        for (int d = 0; d < latent; ++d) {
            const T weight = weight1[unit * latent + d];
            sum = multiply_add(weight, weight, sum);
        }
        diagonal[unit] = sum;
    }
};

// The launches up to v, on which only du_dz and the end of a row depend.
template <class T, class Launcher>
void launch_layers_forward(Launcher& launch, const ForwardParams<T>& params, int blocks,
                           Precision precision) {
    const CallSizes& s = params.size;
    const auto grid = [&](int64_t columns) {
        return Index3{blocks, static_cast<int>(divide_up(columns, kTileColumns)), 1};
    };
    with_product<T>(precision, [&](auto product) {
        using Product = decltype(product);
        launch.template operator()<Hidden1Forward<Product>>(grid(s.hidden1), params);
        launch.template operator()<Hidden2Forward<Product>>(grid(s.hidden2), params);
        launch.template operator()<QForward<Product>>(grid(s.hidden1), params);
        launch.template operator()<VForward<Product>>(grid(s.latent), params);
    });
}

template <class T, class Launcher>
void launch_rows_forward(Launcher& launch, const ForwardParams<T>& params, int blocks) {
    launch.template operator()<RowsForward<T>>({blocks, 1, 1}, params);
}

}  // namespace ffrl::cuda
