// Products by warps: fragments of a tile in the registers of 32 threads, multiplied by the tensor cores or by
// plain multiply-adds. A kernel is one template over Arithmetic<T, Precision>; on the host the 32 lanes of a
// warp are emulated together, by the layouts of PTX, with the rounding to TF32.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda/arithmetic.h"
#include "cuda/block.h"
#include "cuda/potential_cuda.h"
#include "ffrl/host_device.h"

#if !defined(__CUDA_ARCH__)
#include <algorithm>
#include <cmath>
#include <cstring>
#endif

namespace ffrl::cuda {

// A warp's product is (kFragmentRows, depth) x (depth, kFragmentColumns).
constexpr int kFragmentRows = 16, kFragmentColumns = 8;

// Two neighbours, read at once.
template <class T>
struct alignas(2 * sizeof(T)) Pair {
    T x, y;
};

template <class T>
FFRL_INLINE Pair<T> load_pair(const T* from) {
#if defined(__CUDA_ARCH__)
    return *reinterpret_cast<const Pair<T>*>(from);
#else
    return {from[0], from[1]};
#endif
}

// What a thread has of the left operand: two depths of each of its two rows.
template <class T>
struct Left {
    Pair<T> row[2];
};

// Of the right one: two depths of each of its columns.
template <class T, int kColumns>
struct Right {
    Pair<T> column[kColumns];
};

// Of the product: two columns of each of its two rows.
template <class T>
struct Sum {
    T at[2][2];
};

// Row of a fragment that a lane has, half 0 or 1, in the left operand and in the product.
FFRL_INLINE int fragment_row(int lane, int half) {
    return lane / 4 + 8 * half;
}

// x to the nearest number of TF32, away from zero where it is halfway: eight bits of exponent, ten of
// fraction.
FFRL_INLINE float round_to_tf32(float x) {
#if defined(__CUDA_ARCH__)
#if __CUDA_ARCH__ >= 800
    uint32_t bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
    return __uint_as_float(bits);
#else
    return x;
#endif
#else
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof(bits));
    if (x != x) return x;
    bits = (bits + 0x1000u) & 0xffffe000u;
    std::memcpy(&x, &bits, sizeof(bits));
    return x;
#endif
}

// The same by two instructions. NaN may become zero: what stands beside it must be NaN.
FFRL_INLINE float round_numbers_to_tf32(float x) {
#if defined(__CUDA_ARCH__)
    return __uint_as_float((__float_as_uint(x) + 0x1000u) & 0xffffe000u);
#else
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof(bits));
    bits = (bits + 0x1000u) & 0xffffe000u;
    std::memcpy(&x, &bits, sizeof(bits));
    return x;
#endif
}

// An operand of the tensor cores as registers, in the order of PTX.
template <int kCount>
struct Tf32Registers {
    float at[kCount];
};
using Tf32Left = Tf32Registers<4>;
using Tf32Right = Tf32Registers<2>;

#if defined(__CUDA_ARCH__)

// out = left right + in, mma.m16n8k8
FFRL_INLINE void mma_sync(Sum<float>& out, const Tf32Left& left, const Tf32Right& right,
                          const Sum<float>& in) {
#if __CUDA_ARCH__ >= 800
    const auto bits = [](float x) { return __float_as_uint(x); };
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%10, %11, %12, %13};"
        : "=f"(out.at[0][0]), "=f"(out.at[0][1]), "=f"(out.at[1][0]), "=f"(out.at[1][1])
        : "r"(bits(left.at[0])), "r"(bits(left.at[1])), "r"(bits(left.at[2])), "r"(bits(left.at[3])),
          "r"(bits(right.at[0])), "r"(bits(right.at[1])), "f"(in.at[0][0]), "f"(in.at[0][1]),
          "f"(in.at[1][0]), "f"(in.at[1][1]));
#else
    trap();  // such a chip is given "ieee"
#endif
}

#else

// sum + Σ_l a[l] b[l] over kTensorCoreTerms products, as tensor cores add: M. Fasi, N. J. Higham, M. Mikaitis
// and S. Pranesh, "Numerical behavior of NVIDIA tensor cores", PeerJ Computer Science 7:e330 (2021). Products
// are exact; of every addend the bits are cut off that lie below the last one of the largest addend's
// fraction (kTensorCoreBits, little more than the 23 of float), and what their sum has beyond float is cut
// off, too: always towards zero. How many terms and bits is not documented and differs between chips; these
// are few.
constexpr int kTensorCoreTerms = 4, kTensorCoreBits = 24;

inline float add_as_tensor_cores(float sum, const double* a, const double* b) {
    double terms[kTensorCoreTerms + 1], largest = std::abs(static_cast<double>(sum));
    terms[kTensorCoreTerms] = static_cast<double>(sum);
    for (int l = 0; l < kTensorCoreTerms; ++l) {
        terms[l] = a[l] * b[l];
        largest = std::max(largest, std::abs(terms[l]));
    }
    double total = 0;
    bool finite = true;
    for (const double term : terms) finite = finite && std::isfinite(term);
    if (largest > 0 && finite) {
        const int last = std::ilogb(largest) - kTensorCoreBits;
        const double up = std::ldexp(1.0, -last);
        int64_t cut = 0;
        for (const double term : terms) cut += static_cast<int64_t>(term * up);
        total = std::ldexp(static_cast<double>(cut), last);
    } else {
        for (const double term : terms) total += term;
    }
    const auto rounded = static_cast<float>(total);
    return std::abs(static_cast<double>(rounded)) > std::abs(total) ? std::nextafter(rounded, 0.0f) : rounded;
}

// The same of the 32 lanes of a warp. As the hardware does, it leaves out the bits that TF32 lacks.
inline void mma_sync(Sum<float>* const (&sums)[kWarp], const Tf32Left (&left)[kWarp],
                     const Tf32Right (&right)[kWarp]) {
    const auto cut = [](float x) {
        uint32_t bits;
        std::memcpy(&bits, &x, sizeof(bits));
        bits &= 0xffffe000u;
        std::memcpy(&x, &bits, sizeof(bits));
        return static_cast<double>(x);
    };
    double a[kFragmentRows][8], b[kFragmentColumns][8];
    for (int lane = 0; lane < kWarp; ++lane) {
        for (int i = 0; i < 4; ++i) a[lane / 4 + i % 2 * 8][lane % 4 + i / 2 * 4] = cut(left[lane].at[i]);
        for (int i = 0; i < 2; ++i) b[lane / 4][lane % 4 + i * 4] = cut(right[lane].at[i]);
    }
    for (int lane = 0; lane < kWarp; ++lane) {
        for (int i = 0; i < 4; ++i) {
            const double *row = a[lane / 4 + i / 2 * 8], *column = b[lane % 4 * 2 + i % 2];
            float& sum = sums[lane]->at[i / 2][i % 2];
            for (int l = 0; l < 8; l += kTensorCoreTerms) sum = add_as_tensor_cores(sum, row + l, column + l);
        }
    }
}

#endif

FFRL_INLINE void add(Sum<float>& sum, const Sum<float>& more) {
    FFRL_UNROLL
    for (int i = 0; i < 4; ++i) sum.at[i / 2][i % 2] += more.at[i / 2][i % 2];
}

// How fragments are multiplied. Of one step, kDepth of the contraction, a lane has of every row or column
// that it has the two numbers at depth(lane) and behind it, which are neighbours in shared memory. Its
// columns of the right operand are right_column(lane, i), those of the product sum_column(lane, i).
template <class T, Precision kPrecision>
struct Arithmetic;

// Plain multiply-adds, two of the contraction in a step.
template <class Scalar>
struct Arithmetic<Scalar, Precision::ieee> {
    using T = Scalar;
    static constexpr int kDepth = 2, kRightColumns = 2;
    using LeftFragment = Left<T>;
    using RightFragment = Right<T, kRightColumns>;
    using PreparedLeft = LeftFragment;
    using PreparedRight = RightFragment;

    FFRL_INLINE static int depth(int) { return 0; }
    FFRL_INLINE static int right_column(int lane, int i) { return lane % 4 + 4 * i; }
    FFRL_INLINE static int sum_column(int lane, int i) { return lane % 4 + 4 * i; }

    FFRL_INLINE static PreparedLeft prepare(const LeftFragment& left) { return left; }
    FFRL_INLINE static PreparedRight prepare(const RightFragment& right) { return right; }

    FFRL_INLINE static void multiply(Sum<T>& sum, const PreparedLeft& left, const PreparedRight& right) {
        FFRL_UNROLL
        for (int half = 0; half < 2; ++half) {
            FFRL_UNROLL
            for (int i = 0; i < 2; ++i) {
                sum.at[half][i] = multiply_add(left.row[half].x, right.column[i].x, sum.at[half][i]);
                sum.at[half][i] = multiply_add(left.row[half].y, right.column[i].y, sum.at[half][i]);
            }
        }
    }

    // sums += left right for a number of right operands.
    template <int kFragments>
    FFRL_INLINE static void multiply(Sum<T> (&sums)[kFragments], const PreparedLeft& left,
                                     const PreparedRight (&right)[kFragments]) {
        FFRL_UNROLL
        for (int f = 0; f < kFragments; ++f) multiply(sums[f], left, right[f]);
    }

#if !defined(__CUDA_ARCH__)
    static void multiply_warp(Sum<T>* const (&sums)[kWarp], const PreparedLeft (&left)[kWarp],
                              const PreparedRight (&right)[kWarp]) {
        for (int lane = 0; lane < kWarp; ++lane) multiply(*sums[lane], left[lane], right[lane]);
    }
#endif
};

// What the two TF32 modes share. Depths t and t + 4 of a fragment are the numbers 2 t and 2 t + 1 of the
// step, in both operands alike.
struct Tf32Fragments {
    using T = float;
    static constexpr int kDepth = 8, kRightColumns = 1;
    using LeftFragment = Left<float>;
    using RightFragment = Right<float, kRightColumns>;

    FFRL_INLINE static int depth(int lane) { return lane % 4 * 2; }
    FFRL_INLINE static int right_column(int lane, int) { return lane / 4; }
    FFRL_INLINE static int sum_column(int lane, int i) { return lane % 4 * 2 + i; }

    FFRL_INLINE static Tf32Left registers(const LeftFragment& left) {
        return {{left.row[0].x, left.row[1].x, left.row[0].y, left.row[1].y}};
    }
    FFRL_INLINE static Tf32Right registers(const RightFragment& right) {
        return {{right.column[0].x, right.column[0].y}};
    }
};

template <>
struct Arithmetic<float, Precision::tf32> : Tf32Fragments {
    using PreparedLeft = Tf32Left;
    using PreparedRight = Tf32Right;

    template <int kCount>
    FFRL_INLINE static Tf32Registers<kCount> rounded(const Tf32Registers<kCount>& x) {
        Tf32Registers<kCount> out;
        FFRL_UNROLL
        for (int i = 0; i < kCount; ++i) out.at[i] = round_to_tf32(x.at[i]);
        return out;
    }

    FFRL_INLINE static PreparedLeft prepare(const LeftFragment& left) { return rounded(registers(left)); }
    FFRL_INLINE static PreparedRight prepare(const RightFragment& right) { return rounded(registers(right)); }

#if defined(__CUDA_ARCH__)
    template <int kFragments>
    FFRL_INLINE static void multiply(Sum<float> (&sums)[kFragments], const PreparedLeft& left,
                                     const PreparedRight (&right)[kFragments]) {
        FFRL_UNROLL
        for (int f = 0; f < kFragments; ++f) mma_sync(sums[f], left, right[f], sums[f]);
    }
#else
    static void multiply_warp(Sum<float>* const (&sums)[kWarp], const PreparedLeft (&left)[kWarp],
                              const PreparedRight (&right)[kWarp]) {
        mma_sync(sums, left, right);
    }
#endif
};

// Every number is the sum of two of TF32, to 2^-22 of it; of the four products the smallest is left out. The
// tensor cores do not look at the bits that TF32 lacks, so the small one is not rounded: its sign is as good
// as random, and no bias comes of it. It is NaN where the number is.
//
// What the tensor cores cut off of their sums is a bias, and over the hundreds of steps of a contraction many
// times the rounding of float. So they sum up one step, from zero, and steps are added in float.
template <>
struct Arithmetic<float, Precision::tf32x3> : Tf32Fragments {
    template <int kCount>
    struct Split {
        Tf32Registers<kCount> big, small;
    };
    using PreparedLeft = Split<4>;
    using PreparedRight = Split<2>;

    template <int kCount>
    FFRL_INLINE static Split<kCount> split(const Tf32Registers<kCount>& x) {
        Split<kCount> out;
        FFRL_UNROLL
        for (int i = 0; i < kCount; ++i) {
            out.big.at[i] = round_numbers_to_tf32(x.at[i]);
            out.small.at[i] = x.at[i] - out.big.at[i];
        }
        return out;
    }
    FFRL_INLINE static PreparedLeft prepare(const LeftFragment& left) { return split(registers(left)); }
    FFRL_INLINE static PreparedRight prepare(const RightFragment& right) { return split(registers(right)); }

#if defined(__CUDA_ARCH__)
    // The small products first; those of one sum stand apart, so that none waits for the one before it.
    template <int kFragments>
    FFRL_INLINE static void multiply(Sum<float> (&sums)[kFragments], const PreparedLeft& left,
                                     const PreparedRight (&right)[kFragments]) {
        Sum<float> step[kFragments];
        FFRL_UNROLL
        for (int f = 0; f < kFragments; ++f) mma_sync(step[f], left.small, right[f].big, Sum<float>{});
        FFRL_UNROLL
        for (int f = 0; f < kFragments; ++f) mma_sync(step[f], left.big, right[f].small, step[f]);
        FFRL_UNROLL
        for (int f = 0; f < kFragments; ++f) mma_sync(step[f], left.big, right[f].big, step[f]);
        FFRL_UNROLL
        for (int f = 0; f < kFragments; ++f) add(sums[f], step[f]);
    }
#else
    static void multiply_warp(Sum<float>* const (&sums)[kWarp], const PreparedLeft (&left)[kWarp],
                              const PreparedRight (&right)[kWarp]) {
        Tf32Left big_left[kWarp], small_left[kWarp];
        Tf32Right big_right[kWarp], small_right[kWarp];
        for (int lane = 0; lane < kWarp; ++lane) {
            big_left[lane] = left[lane].big, small_left[lane] = left[lane].small;
            big_right[lane] = right[lane].big, small_right[lane] = right[lane].small;
        }
        Sum<float> steps[kWarp] = {};
        Sum<float>* of_lanes[kWarp];
        for (int lane = 0; lane < kWarp; ++lane) of_lanes[lane] = &steps[lane];
        mma_sync(of_lanes, small_left, big_right);
        mma_sync(of_lanes, big_left, small_right);
        mma_sync(of_lanes, big_left, big_right);
        for (int lane = 0; lane < kWarp; ++lane) add(*sums[lane], steps[lane]);
    }
#endif
};

// Blocks that shall fit into a multiprocessor, from those of a kernel in other arithmetic: the sums of a step
// in tf32x3 need registers, and one block fewer leaves them.
template <class M>
constexpr int with_sums_of_steps(int blocks) {
    return std::is_same_v<M, Arithmetic<float, Precision::tf32x3>> && blocks > 1 ? blocks - 1 : blocks;
}

// f(Arithmetic) of a precision; of double there is one.
template <class T, class F>
void with_arithmetic(Precision precision, F f) {
    if constexpr (sizeof(T) == sizeof(float)) {
        if (precision == Precision::tf32) return f(Arithmetic<float, Precision::tf32>{});
        if (precision == Precision::tf32x3) return f(Arithmetic<float, Precision::tf32x3>{});
    }
    f(Arithmetic<T, Precision::ieee>{});
}

// Fragments of arrays in shared memory, whose first row or column of the fragment and first depth of the step
// stand at `from`: (outer, depth) with the depth contiguous,
template <class M>
FFRL_INLINE typename M::LeftFragment left_fragment(const typename M::T* from, int stride, int lane) {
    typename M::LeftFragment left;
    FFRL_UNROLL
    for (int half = 0; half < 2; ++half)
        left.row[half] = load_pair(from + fragment_row(lane, half) * stride + M::depth(lane));
    return left;
}

template <class M>
FFRL_INLINE typename M::RightFragment right_fragment(const typename M::T* from, int stride, int lane) {
    typename M::RightFragment right;
    FFRL_UNROLL
    for (int i = 0; i < M::kRightColumns; ++i)
        right.column[i] = load_pair(from + M::right_column(lane, i) * stride + M::depth(lane));
    return right;
}

// and (depth, outer).
template <class M>
FFRL_INLINE typename M::LeftFragment left_fragment_across(const typename M::T* from, int stride, int lane) {
    typename M::LeftFragment left;
    FFRL_UNROLL
    for (int half = 0; half < 2; ++half) {
        const typename M::T* at = from + M::depth(lane) * stride + fragment_row(lane, half);
        left.row[half] = {at[0], at[stride]};
    }
    return left;
}

template <class M>
FFRL_INLINE typename M::RightFragment right_fragment_across(const typename M::T* from, int stride, int lane) {
    typename M::RightFragment right;
    FFRL_UNROLL
    for (int i = 0; i < M::kRightColumns; ++i) {
        const typename M::T* at = from + M::depth(lane) * stride + M::right_column(lane, i);
        right.column[i] = {at[0], at[stride]};
    }
    return right;
}

// Strides with which the 32 lanes read from as many banks, eight bytes or four at a time.
constexpr bool reads_along_from_all_banks(int stride) {
    return stride % 32 == 8 || stride % 32 == 24;
}
constexpr bool reads_across_from_all_banks(int stride) {
    return stride % 8 == 4;
}

// The sums of a thread: kUnits left operands, each with the same kFragments right ones.
template <class M, int kUnits, int kFragments>
struct Sums {
    Sum<typename M::T> of[kUnits][kFragments];
};

template <class M, int kUnits, int kFragments, int kThreads>
FFRL_INLINE void clear_sums(const Block<kThreads>& block,
                            Private<Sums<M, kUnits, kFragments>, kThreads>& sums) {
    block.region_without_barrier([&](int thread) {
        FFRL_UNROLL
        for (int u = 0; u < kUnits; ++u) {
            FFRL_UNROLL
            for (int f = 0; f < kFragments; ++f) {
                FFRL_UNROLL
                for (int i = 0; i < 4; ++i) sums(thread).of[u][f].at[i / 2][i % 2] = 0;
            }
        }
    });
}

// One step of the contraction: sums.of[u][f] += left(thread, u) right(thread, f). All threads of the block
// take part, and read only.
template <class M, int kUnits, int kFragments, int kThreads, class OfLeft, class OfRight>
FFRL_INLINE void multiply_step(const Block<kThreads>&, Private<Sums<M, kUnits, kFragments>, kThreads>& sums,
                               OfLeft left, OfRight right) {
#if defined(__CUDA_ARCH__)
    const int thread = static_cast<int>(threadIdx.x);
    typename M::PreparedRight prepared[kFragments];
    FFRL_UNROLL
    for (int f = 0; f < kFragments; ++f) prepared[f] = M::prepare(right(thread, f));
    FFRL_UNROLL
    for (int u = 0; u < kUnits; ++u) M::multiply(sums(thread).of[u], M::prepare(left(thread, u)), prepared);
#else
    for (int first = 0; first < kThreads; first += kWarp) {
        typename M::PreparedLeft lefts[kUnits][kWarp];
        for (int u = 0; u < kUnits; ++u)
            for (int lane = 0; lane < kWarp; ++lane) lefts[u][lane] = M::prepare(left(first + lane, u));
        for (int f = 0; f < kFragments; ++f) {
            typename M::PreparedRight rights[kWarp];
            for (int lane = 0; lane < kWarp; ++lane) rights[lane] = M::prepare(right(first + lane, f));
            for (int u = 0; u < kUnits; ++u) {
                Sum<typename M::T>* of_lanes[kWarp];
                for (int lane = 0; lane < kWarp; ++lane) of_lanes[lane] = &sums(first + lane).of[u][f];
                M::multiply_warp(of_lanes, lefts[u], rights);
            }
        }
    }
#endif
}

// x, of which the compiler does not know where it came from: what follows from it is computed here, and not
// ahead of a loop where it would take registers all along.
FFRL_INLINE int computed_here(int x) {
#if defined(__CUDA_ARCH__)
    asm volatile("" : "+r"(x));
#endif
    return x;
}

template <class T, int kCount>
struct Values {
    T at[kCount];
};

// Every lane gets the sum over the lanes whose number differs from its own in the bits of kFirst, 2 kFirst ..
// kLast; pairs first, so that all of them have the same bits.
template <int kFirst, int kLast, class T, int kCount, int kThreads>
FFRL_INLINE void sum_over_lanes(const Block<kThreads>&, Private<Values<T, kCount>, kThreads>& values) {
#if defined(__CUDA_ARCH__)
    const int thread = static_cast<int>(threadIdx.x);
    FFRL_UNROLL
    for (int bit = kFirst; bit <= kLast; bit *= 2) {
        FFRL_UNROLL
        for (int i = 0; i < kCount; ++i) {
            T& value = values(thread).at[i];
            value += __shfl_xor_sync(0xffffffffu, value, bit);
        }
    }
#else
    for (int bit = kFirst; bit <= kLast; bit *= 2) {
        for (int thread = 0; thread < kThreads; ++thread) {
            if (thread & bit) continue;
            for (int i = 0; i < kCount; ++i) {
                T &low = values(thread).at[i], &high = values(thread | bit).at[i];
                low = high = low + high;
            }
        }
    }
#endif
}

// Of the four lanes that share a fragment's rows,
template <class T, int kCount, int kThreads>
FFRL_INLINE void sum_over_columns(const Block<kThreads>& block,
                                  Private<Values<T, kCount>, kThreads>& values) {
    sum_over_lanes<1, 2>(block, values);
}

// and of the eight that share its columns.
template <class T, int kCount, int kThreads>
FFRL_INLINE void sum_over_rows(const Block<kThreads>& block, Private<Values<T, kCount>, kThreads>& values) {
    sum_over_lanes<4, 16>(block, values);
}

}  // namespace ffrl::cuda
