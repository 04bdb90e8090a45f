// From global to shared memory, past the registers where the chip can: matrices with zeros beyond their ends,
// and loops that fetch one step while they compute another.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/arithmetic.h"
#include "cuda/block.h"
#include "ffrl/host_device.h"

namespace ffrl::cuda {

// kCount neighbours, of which `valid` are there and the others become zero.
template <int kCount, class T>
FFRL_INLINE void copy_async(T* shared, const T* global, int valid) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    constexpr int kBytes = kCount * static_cast<int>(sizeof(T));
    static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
    const auto to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
    const int bytes = valid * static_cast<int>(sizeof(T));
    if constexpr (kBytes == 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(bytes));
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(global), "n"(kBytes),
                     "r"(bytes));
#else
    FFRL_UNROLL
    for (int i = 0; i < kCount; ++i) shared[i] = i < valid ? global[i] : T(0);
#endif
}

// What a thread has copied since the last call is one batch.
FFRL_INLINE void end_batch() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Until all batches of this thread but the last kPending have arrived.
template <int kPending>
FFRL_INLINE void wait_for_batches() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#endif
}

// A matrix in global memory: `rows` x `columns` are there, what is beyond reads as zero.
template <class T>
struct Matrix {
    const T* at;
    int64_t row_stride, column_stride;
    int rows, columns;
};

template <class T>
FFRL_INLINE Matrix<T> matrix(const T* at, int64_t row_stride, int rows, int columns) {
    return {at, row_stride, 1, rows, columns};
}

template <class T>
FFRL_INLINE bool copies_16_bytes(const Matrix<T>& from) {
    return from.column_stride == 1 && from.row_stride * sizeof(T) % 16 == 0 &&
           reinterpret_cast<uintptr_t>(from.at) % 16 == 0;
}

// Whether rows of an array in shared memory begin where 16 bytes can be copied to.
template <class T>
constexpr bool rows_take_16_bytes(int stride) {
    return stride * sizeof(T) % 16 == 0;
}

// (rows, columns) into shared memory with a stride; columns and stride are multiples of 16 bytes. kAcross
// neighbouring threads have one row.
template <int kThreads, int kAcross, class T>
FFRL_INLINE void stage(int thread, T* shared, int stride, int rows, int columns, const Matrix<T>& from) {
    static_assert(kThreads % kAcross == 0);
    constexpr int kMany = 16 / static_cast<int>(sizeof(T));
    const auto clamped = [](int n, int most) { return n < 0 ? 0 : n < most ? n : most; };
    // Not unrolled: copies do not wait, and registers are full of sums.
    if (copies_16_bytes(from)) {
        FFRL_UNROLL_BY(1)
        for (int row = thread / kAcross; row < rows; row += kThreads / kAcross) {
            const T* from_row = from.at + row * from.row_stride;
            FFRL_UNROLL_BY(1)
            for (int column = thread % kAcross * kMany; column < columns; column += kAcross * kMany) {
                const int valid = row < from.rows ? clamped(from.columns - column, kMany) : 0;
                copy_async<kMany>(shared + row * stride + column, valid > 0 ? from_row + column : from.at,
                                  valid);
            }
        }
    } else {
        FFRL_UNROLL_BY(1)
        for (int row = thread / kAcross; row < rows; row += kThreads / kAcross) {
            const T* from_row = from.at + row * from.row_stride;
            FFRL_UNROLL_BY(1)
            for (int column = thread % kAcross; column < columns; column += kAcross) {
                const bool valid = row < from.rows && column < from.columns;
                copy_async<1>(shared + row * stride + column,
                              valid ? from_row + column * from.column_stride : from.at, valid ? 1 : 0);
            }
        }
    }
}

// For each step load(thread, step, half) into one of two halves of shared memory while compute(step, half),
// which all threads enter together, reads the other.
template <int kThreads, class Load, class Compute>
FFRL_INLINE void pipeline(const Block<kThreads>& block, int steps, Load load, Compute compute) {
    block.region_without_barrier([&](int thread) {
        if (steps > 0) load(thread, 0, 0);
        end_batch();
    });
    for (int step = 0; step < steps; ++step) {
        block.region([&](int thread) {
            if (step + 1 < steps) load(thread, step + 1, (step + 1) % 2);
            end_batch();
            wait_for_batches<1>();
        });
        compute(step, step % 2);
        block.region([](int) {});  // nobody reads this half any more
    }
}

}  // namespace ffrl::cuda
