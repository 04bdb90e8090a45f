// Sizes of a call as its kernels take them, and what a slot keeps.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/product.h"
#include "cuda/row_plan.h"
#include "ffrl/potential_params.h"

namespace ffrl::cuda {

// Where things stand in the ``width`` numbers of a slot; h1 is at 0.
struct CallSizes {
    int64_t rows, features, slots;
    int latent, hidden1, hidden2;
    int width;
    bool tanh_output, second;  // second: ∂²u/∂t² too
    LaplacianForm form;        // which decides the width, also where there is no cotangent of the Laplacian

    FFRL_INLINE int q() const { return hidden1; }
    FFRL_INLINE int h2() const { return 2 * hidden1; }
    FFRL_INLINE int v() const { return 2 * hidden1 + hidden2; }
    FFRL_INLINE int scalars() const { return v() + latent; }  // u, ∂o/∂t, ∂²o/∂t², ℓ
    FFRL_INLINE int squares() const { return scalars() + 4; }
    FFRL_INLINE int column_sums() const { return squares() + hidden2; }
};

inline CallSizes sizes_of(const PotentialShape& s, int blocks) {
    return {s.rows,
            s.features,
            static_cast<int64_t>(blocks) * kRows,
            static_cast<int>(s.latent),
            static_cast<int>(s.hidden1),
            static_cast<int>(s.hidden2),
            static_cast<int>(kept_width(s)),
            s.tanh_output,
            s.d2u_dt2,
            s.form};
}

constexpr size_t kSmallSharedMemory = 99 * 1024;  // of a block, on chips that have less of it than others

// The rows of one block, and the time feature row of each. Padding: -1.
struct BlockRows {
    int64_t row[kRows], feature[kRows];
};

template <class T>
FFRL_INLINE int64_t feature_of(const PotentialInputs<T>& in, const CallSizes& s, int64_t row) {
    if (row < 0) return -1;
    if (in.feature_row == nullptr) return s.features == 1 ? 0 : row;
    const int64_t feature = in.feature_row[row];
    if (feature >= 0 && feature < s.features) return feature;
    trap();
    return 0;
}

// Rows fill a block from its first slot on, and the last blocks of a plan may be without any.
FFRL_INLINE bool has_rows(const int64_t* slot_row, int block) {
    return slot_row[static_cast<int64_t>(block) * kRows] >= 0;
}

// Rows and features of the block, where a kernel needs both.
template <class T, int kThreads>
FFRL_INLINE void load_rows(const Block<kThreads>& block, BlockRows& rows, const PotentialInputs<T>& in,
                           const CallSizes& s, const int64_t* slot_row) {
    block.region([&](int thread) {
        for (int r = thread; r < kRows; r += kThreads) {
            rows.row[r] = slot_row[static_cast<int64_t>(block.index().x) * kRows + r];
            rows.feature[r] = feature_of(in, s, rows.row[r]);
        }
    });
}

// Only the rows.
template <int kThreads>
FFRL_INLINE void load_rows(const Block<kThreads>& block, BlockRows& rows, const int64_t* slot_row) {
    block.region([&](int thread) {
        for (int r = thread; r < kRows; r += kThreads)
            rows.row[r] = slot_row[static_cast<int64_t>(block.index().x) * kRows + r];
    });
}

// An array of numbers for each slot, from the block's first on.
template <class T>
FFRL_INLINE T* of_block(T* slots, int block, int64_t width) {
    return slots + static_cast<int64_t>(block) * kRows * width;
}

// Sums over rows or columns of a tile that many threads share: each adds up what it has, and the last step is
// that of one thread for each sum, in order.
constexpr int kRowThreads = 256, kLanes = kWarp, kRowWarps = kRowThreads / kLanes;

template <class T>
struct LaneSums {
    T at[kRows][kLanes + 1];

    FFRL_INLINE T of_row(int row) const {
        T sum = 0;
        FFRL_UNROLL_BY(8)
        for (int lane = 0; lane < kLanes; ++lane) sum += at[row][lane];
        return sum;
    }
};

// Calls f(row, lane) with neighbouring lanes in neighbouring threads; each thread has the same lane of its
// rows.
template <class F>
FFRL_INLINE void for_rows(const Block<kRowThreads>& block, F f) {
    block.region([&](int thread) {
        for (int row = thread / kLanes; row < kRows; row += kRowWarps) f(row, thread % kLanes);
    });
}

}  // namespace ffrl::cuda
