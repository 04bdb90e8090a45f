// The product of all quadratic kernels: a tile (kTileRows, kTileColumns) of Σ_l left(row, l) right(column,
// l). Both operands are functions, so that they may be gathered, masked or made on the fly; they pass through
// shared memory, the next step of the contraction being read from global memory while this one is multiplied.
//
// The order of the sum is that of l, whatever the row or the column.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda/arithmetic.h"
#include "cuda/block.h"
#include "cuda/mma.h"
#include "cuda/potential_cuda.h"

namespace ffrl::cuda {

constexpr int kTileRows = kRows, kTileColumns = 32;
constexpr int kProductThreads = 128;

// An operand as value(outer, term) for outer in the tile and term in the contraction. Neighbouring threads
// read neighbouring terms, or else neighbouring rows or columns: whatever is contiguous in memory.
template <bool kAlongTerms, class F>
struct Operand {
    static constexpr bool along_terms = kAlongTerms;
    F value;
};

template <class F>
FFRL_INLINE Operand<true, F> along_terms(F value) {
    return {value};
}
template <class F>
FFRL_INLINE Operand<false, F> across_terms(F value) {
    return {value};
}

// A finished tile in shared memory. One number more a row spreads columns over the banks.
template <class T>
struct ResultTile {
    T at[kTileRows][kTileColumns + 1];
};

// One step of an operand in shared memory, (kDepth, kOuter) in groups of four that a thread reads at once.
template <class T, int kOuter, int kDepth>
struct OperandTile {
    static constexpr int kGroup = 4;
    static constexpr int kTermsAtOnce = 8;  // of neighbouring threads: one sector of floats
    static constexpr int kPerThread = kOuter * kDepth / kProductThreads;
    static_assert(kOuter % kGroup == 0 && kOuter * kDepth % kProductThreads == 0);
    static_assert(kDepth % kTermsAtOnce == 0 && kProductThreads % kOuter == 0);
    static_assert(kOuter % (kProductThreads / kTermsAtOnce) == 0);

    struct alignas(4 * sizeof(T) < 16 ? 4 * sizeof(T) : 16) Group {
        T of[kGroup];
    };
    // A group more than needed: the eight terms and four rows that a warp writes are in 32 different banks.
    Group at[kDepth][kOuter / kGroup + 1];
    static constexpr int kStride = kOuter + kGroup;  // numbers from one term to the next
    static_assert(sizeof(Group) == kGroup * sizeof(T));

    FFRL_INLINE const T* from(int term, int outer) const {
        return at[term][outer / kGroup].of + outer % kGroup;
    }

    // What a thread carries from global memory to the tile.
    struct Carried {
        T number[kPerThread];
    };

    struct Place {
        int outer, term;
    };
    template <bool kAlongTerms>
    FFRL_INLINE static Place place(int thread, int i) {
        if constexpr (kAlongTerms) {
            constexpr int kParts = kDepth / kTermsAtOnce;
            return {thread / kTermsAtOnce + i / kParts * (kProductThreads / kTermsAtOnce),
                    thread % kTermsAtOnce + i % kParts * kTermsAtOnce};
        } else {
            return {thread % kOuter, thread / kOuter + i * (kProductThreads / kOuter)};
        }
    }

    template <class Source>
    FFRL_INLINE static void fetch(Carried& carried, const Source& source, int thread, int64_t first,
                                  int64_t terms) {
        FFRL_UNROLL
        for (int i = 0; i < kPerThread; ++i) {
            const Place p = place<Source::along_terms>(thread, i);
            carried.number[i] = first + p.term < terms ? source.value(p.outer, first + p.term) : T(0);
        }
    }

    template <bool kAlongTerms>
    FFRL_INLINE void put(const Carried& carried, int thread) {
        FFRL_UNROLL
        for (int i = 0; i < kPerThread; ++i) {
            const Place p = place<kAlongTerms>(thread, i);
            at[p.term][p.outer / kGroup].of[p.outer % kGroup] = carried.number[i];
        }
    }
};

// Both operands of one step.
template <class T, int kTerms>
struct ProductStep {
    static constexpr int kDepth = kTerms;
    using Left = OperandTile<T, kTileRows, kDepth>;
    using Right = OperandTile<T, kTileColumns, kDepth>;
    Left left;
    Right right;
};

// In plain multiply-adds: float as it is in "ieee", and double. A thread has a square of the tile.
template <class Scalar>
struct PlainProduct {
    using T = Scalar;
    static constexpr int kSide = 4, kAcross = kTileColumns / kSide;
    static constexpr int kMinBlocks = sizeof(T) == sizeof(float) ? 4 : 2;
    using Step = ProductStep<T, sizeof(T) == sizeof(float) ? 32 : 16>;
    static_assert(kTileRows * kTileColumns == kProductThreads * kSide * kSide);
    static_assert(Step::Left::kGroup == kSide && Step::Right::kGroup == kSide);

    struct Square {
        T at[kSide][kSide];
    };
    using OfThreads = Private<Square, kProductThreads>;

    FFRL_INLINE static void clear(const Block<kProductThreads>& block, OfThreads& sums) {
        block.region_without_barrier([&](int thread) {
            FFRL_UNROLL
            for (int i = 0; i < kSide; ++i) {
                FFRL_UNROLL
                for (int j = 0; j < kSide; ++j) sums(thread).at[i][j] = 0;
            }
        });
    }

    FFRL_INLINE static void multiply(const Block<kProductThreads>& block, OfThreads& sums, const Step& step) {
        block.region_without_barrier([&](int thread) {
            FFRL_UNROLL
            for (int l = 0; l < Step::kDepth; ++l) {
                const typename Step::Left::Group left = step.left.at[l][thread / kAcross];
                const typename Step::Right::Group right = step.right.at[l][thread % kAcross];
                FFRL_UNROLL
                for (int i = 0; i < kSide; ++i) {
                    FFRL_UNROLL
                    for (int j = 0; j < kSide; ++j) {
                        T& sum = sums(thread).at[i][j];
                        sum = multiply_add(left.of[i], right.of[j], sum);
                    }
                }
            }
        });
    }

    FFRL_INLINE static void store(const Block<kProductThreads>& block, ResultTile<T>& result,
                                  OfThreads& sums) {
        block.region([&](int thread) {
            FFRL_UNROLL
            for (int i = 0; i < kSide; ++i) {
                FFRL_UNROLL
                for (int j = 0; j < kSide; ++j)
                    result.at[thread / kAcross * kSide + i][thread % kAcross * kSide + j] =
                        sums(thread).at[i][j];
            }
        });
    }
};

// By the tensor cores: a warp has kFragmentRows rows of the tile.
template <Precision kPrecision>
struct TensorProduct {
    using T = float;
    using M = Arithmetic<float, kPrecision>;
    static constexpr int kMinBlocks = 4;
    static constexpr int kFragments = kTileColumns / kFragmentColumns;
    using Step = ProductStep<float, 32>;
    static_assert(kTileRows == kProductThreads / kWarp * kFragmentRows);
    static_assert(Step::kDepth % M::kDepth == 0);
    static_assert(reads_across_from_all_banks(Step::Left::kStride));
    static_assert(reads_across_from_all_banks(Step::Right::kStride));

    using OfThreads = Private<Sums<M, 1, kFragments>, kProductThreads>;

    FFRL_INLINE static void clear(const Block<kProductThreads>& block, OfThreads& sums) {
        clear_sums(block, sums);
    }

    FFRL_INLINE static void multiply(const Block<kProductThreads>& block, OfThreads& sums, const Step& step) {
        FFRL_UNROLL_BY(1)
        for (int depth = 0; depth < Step::kDepth; depth += M::kDepth)
            multiply_step<M>(
                block, sums,
                [&](int thread, int) {
                    return left_fragment_across<M>(step.left.from(depth, thread / kWarp * kFragmentRows),
                                                   Step::Left::kStride, thread % kWarp);
                },
                [&](int thread, int f) {
                    return right_fragment_across<M>(step.right.from(depth, f * kFragmentColumns),
                                                    Step::Right::kStride, thread % kWarp);
                });
    }

    FFRL_INLINE static void store(const Block<kProductThreads>& block, ResultTile<T>& result,
                                  OfThreads& sums) {
        block.region([&](int thread) {
            const int lane = thread % kWarp;
            FFRL_UNROLL
            for (int half = 0; half < 2; ++half) {
                const int row = thread / kWarp * kFragmentRows + fragment_row(lane, half);
                FFRL_UNROLL
                for (int f = 0; f < kFragments; ++f) {
                    FFRL_UNROLL
                    for (int i = 0; i < 2; ++i)
                        result.at[row][f * kFragmentColumns + M::sum_column(lane, i)] =
                            sums(thread).of[0][f].at[half][i];
                }
            }
        });
    }
};

template <class Product>
using ProductSteps = typename Product::Step[2];

template <class Product>
using ProductSums = typename Product::OfThreads;

// sums += Σ_l left(row, l) right(column, l) for l < terms. Steps alternate between two halves of the shared
// memory, so that one barrier a step is enough: a half is written after everyone has left the step that read
// it.
template <class Product, class LeftOperand, class RightOperand>
FFRL_INLINE void add_product(const Block<kProductThreads>& block, ProductSteps<Product>& steps,
                             ProductSums<Product>& sums, int64_t terms, const LeftOperand& left,
                             const RightOperand& right) {
    using Step = typename Product::Step;
    using Left = typename Step::Left;
    using Right = typename Step::Right;
    if (terms <= 0) return;
    Private<typename Left::Carried, kProductThreads> of_left;
    Private<typename Right::Carried, kProductThreads> of_right;
    const auto fetch = [&](int64_t first) {
        block.region_without_barrier([&](int thread) {
            Left::fetch(of_left(thread), left, thread, first, terms);
            Right::fetch(of_right(thread), right, thread, first, terms);
        });
    };
    const auto put = [&](Step& step, bool any) {
        block.region([&](int thread) {
            if (!any) return;
            step.left.template put<LeftOperand::along_terms>(of_left(thread), thread);
            step.right.template put<RightOperand::along_terms>(of_right(thread), thread);
        });
    };
    fetch(0);
    put(steps[0], true);
    int half = 0;
    for (int64_t next = Step::kDepth; next - Step::kDepth < terms; next += Step::kDepth, half = 1 - half) {
        if (next < terms) fetch(next);
        Product::multiply(block, sums, steps[half]);
        put(steps[1 - half], next < terms);
    }
}

// result = Σ_l left(row, l) right(column, l).
template <class Product, class LeftOperand, class RightOperand>
FFRL_INLINE void multiply(const Block<kProductThreads>& block, ProductSteps<Product>& steps,
                          ResultTile<typename Product::T>& result, int64_t terms, const LeftOperand& left,
                          const RightOperand& right) {
    ProductSums<Product> sums;
    Product::clear(block, sums);
    add_product<Product>(block, steps, sums, terms, left, right);
    Product::store(block, result, sums);
}

template <class T>
FFRL_INLINE void clear(const Block<kProductThreads>& block, ResultTile<T>& result) {
    block.region([&](int thread) {
        for (int i = thread; i < kTileRows * kTileColumns; i += kProductThreads)
            result.at[i / kTileColumns][i % kTileColumns] = 0;
    });
}

// of_element(row, column) for each element of a tile; neighbouring threads have neighbouring columns.
template <class F>
FFRL_INLINE void for_tile(const Block<kProductThreads>& block, F of_element) {
    block.region([&](int thread) {
        FFRL_UNROLL_BY(4)
        for (int i = thread; i < kTileRows * kTileColumns; i += kProductThreads)
            of_element(i / kTileColumns, i % kTileColumns);
    });
}

// The same where neighbouring threads have neighbouring rows, for arrays in which slots are contiguous.
template <class F>
FFRL_INLINE void for_tile_transposed(const Block<kProductThreads>& block, F of_element) {
    block.region([&](int thread) {
        FFRL_UNROLL_BY(4)
        for (int i = thread; i < kTileRows * kTileColumns; i += kProductThreads)
            of_element(i % kTileRows, i / kTileRows);
    });
}

// f(Product) of the precision, chosen once by the host. What is not cubic is never in tf32.
template <class T, class F>
void with_product(Precision precision, F f) {
    if constexpr (std::is_same_v<T, float>) {
        if (precision != Precision::ieee) return f(TensorProduct<Precision::tf32x3>{});
    }
    f(PlainProduct<T>{});
}

}  // namespace ffrl::cuda
