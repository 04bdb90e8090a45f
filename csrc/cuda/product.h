// The product of all quadratic kernels: a tile (kTileRows, kTileColumns) of Σ_l left(row, l) right(column,
// l). Both operands are functions, so that they may be gathered, masked or made on the fly; they pass through
// shared memory, the next step of the contraction being read from global memory while this one is multiplied.
//
// The order of the sum is that of l, whatever the row or the column.
#pragma once

#include <cstdint>

#include "cuda/arithmetic.h"
#include "cuda/block.h"
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

// In plain multiply-adds: float as it is in "ieee", and double.
template <class Scalar>
struct PlainProduct {
    using T = Scalar;
    static constexpr int kDepth = sizeof(T) == sizeof(float) ? 32 : 16;  // terms of one step
    static constexpr int kSide = 4;                                      // of the square that a thread has
    static constexpr int kMinBlocks = sizeof(T) == sizeof(float) ? 4 : 2;
    using Left = OperandTile<T, kTileRows, kDepth>;
    using Right = OperandTile<T, kTileColumns, kDepth>;
    static_assert(kTileRows * kTileColumns == kProductThreads * kSide * kSide);
    static_assert(Left::kGroup == kSide && Right::kGroup == kSide);

    struct Step {
        Left left;
        Right right;
    };

    // What a thread has of the tile.
    struct Sums {
        T at[kSide][kSide];
    };

    FFRL_INLINE static Sums zero() {
        Sums sums;
        FFRL_UNROLL
        for (int i = 0; i < kSide; ++i) {
            FFRL_UNROLL
            for (int j = 0; j < kSide; ++j) sums.at[i][j] = 0;
        }
        return sums;
    }

    FFRL_INLINE static void multiply(Sums& sums, const Step& step, int thread) {
        constexpr int kAcross = kTileColumns / kSide;
        FFRL_UNROLL
        for (int l = 0; l < kDepth; ++l) {
            const typename Left::Group left = step.left.at[l][thread / kAcross];
            const typename Right::Group right = step.right.at[l][thread % kAcross];
            FFRL_UNROLL
            for (int i = 0; i < kSide; ++i) {
                FFRL_UNROLL
                for (int j = 0; j < kSide; ++j)
                    sums.at[i][j] = multiply_add(left.of[i], right.of[j], sums.at[i][j]);
            }
        }
    }

    FFRL_INLINE static void store(ResultTile<T>& result, const Sums& sums, int thread) {
        constexpr int kAcross = kTileColumns / kSide;
        FFRL_UNROLL
        for (int i = 0; i < kSide; ++i) {
            FFRL_UNROLL
            for (int j = 0; j < kSide; ++j)
                result.at[thread / kAcross * kSide + i][thread % kAcross * kSide + j] = sums.at[i][j];
        }
    }
};

template <class Product>
using ProductSteps = typename Product::Step[2];

template <class Product>
using ProductSums = Private<typename Product::Sums, kProductThreads>;

template <class Product>
FFRL_INLINE void clear(const Block<kProductThreads>& block, ProductSums<Product>& sums) {
    block.region_without_barrier([&](int thread) { sums(thread) = Product::zero(); });
}

// sums += Σ_l left(row, l) right(column, l) for l < terms. Steps alternate between two halves of the shared
// memory, so that one barrier a step is enough: a half is written after everyone has left the step that read
// it.
template <class Product, class LeftOperand, class RightOperand>
FFRL_INLINE void add_product(const Block<kProductThreads>& block, ProductSteps<Product>& steps,
                             ProductSums<Product>& sums, int64_t terms, const LeftOperand& left,
                             const RightOperand& right) {
    using Left = typename Product::Left;
    using Right = typename Product::Right;
    constexpr int kDepth = Product::kDepth;
    if (terms <= 0) return;
    block.region([&](int thread) {
        typename Left::Carried left_numbers;
        typename Right::Carried right_numbers;
        Left::fetch(left_numbers, left, thread, 0, terms);
        Right::fetch(right_numbers, right, thread, 0, terms);
        steps[0].left.template put<LeftOperand::along_terms>(left_numbers, thread);
        steps[0].right.template put<RightOperand::along_terms>(right_numbers, thread);
    });
    int half = 0;
    for (int64_t next = kDepth; next - kDepth < terms; next += kDepth, half = 1 - half) {
        block.region([&](int thread) {
            typename Left::Carried left_numbers;
            typename Right::Carried right_numbers;
            if (next < terms) {
                Left::fetch(left_numbers, left, thread, next, terms);
                Right::fetch(right_numbers, right, thread, next, terms);
            }
            Product::multiply(sums(thread), steps[half], thread);
            if (next < terms) {
                steps[1 - half].left.template put<LeftOperand::along_terms>(left_numbers, thread);
                steps[1 - half].right.template put<RightOperand::along_terms>(right_numbers, thread);
            }
        });
    }
}

template <class Product>
FFRL_INLINE void store_tile(const Block<kProductThreads>& block, ResultTile<typename Product::T>& result,
                            ProductSums<Product>& sums) {
    block.region([&](int thread) { Product::store(result, sums(thread), thread); });
}

// result = Σ_l left(row, l) right(column, l).
template <class Product, class LeftOperand, class RightOperand>
FFRL_INLINE void multiply(const Block<kProductThreads>& block, ProductSteps<Product>& steps,
                          ResultTile<typename Product::T>& result, int64_t terms, const LeftOperand& left,
                          const RightOperand& right) {
    ProductSums<Product> sums;
    clear<Product>(block, sums);
    add_product<Product>(block, steps, sums, terms, left, right);
    store_tile<Product>(block, result, sums);
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

// The kinds of products are chosen once, by the host: with_product<T>(precision, [&](auto product) { ... }).
template <class T, class F>
void with_product(Precision, F f) {
    f(PlainProduct<T>{});
}

}  // namespace ffrl::cuda
