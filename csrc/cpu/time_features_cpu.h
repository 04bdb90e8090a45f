// The time feature τ(t) = B GELU(A e(t) + α) + β, e(t) = (sin ω t, cos ω t), and its derivatives in t, on the
// CPU. A call has few rows: what matters is that it is one call. Shapes: M times, E = 2 F embedding width, H
// features, K potentials, of which one or all are wanted: P of them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/potential_cpu.h"

namespace ffrl::cpu {

struct TimeShape {
    int64_t times;        // M
    int64_t frequencies;  // F
    int64_t features;     // H
    int64_t potentials;   // K
    int64_t k;            // the one that is wanted, -1: all
    int64_t order;        // 1 or 2: the highest derivative

    int64_t wanted() const { return k < 0 ? potentials : 1; }
    int64_t rows() const { return wanted() * times; }
};

template <class T>
struct TimeInputs {
    const T* time;         // (M,)
    const T* frequencies;  // (F,)
    const T* weight1;      // (K, H, E)
    const T* bias1;        // (K, H)
    const T* weight2;      // (K, H, H)
    const T* bias2;        // (K, H)
};

template <class T>
struct TimeGradients {
    T* v_time;     // (M,); null: not wanted
    T* v_weight1;  // as the weights, all null or none
    T* v_bias1;
    T* v_weight2;
    T* v_bias2;
};

// features[o] (P * M, H): the o-th derivative. kept (P * M, order + 1, H): what the backward reads.
template <class T>
void time_features(const TimeShape& shape, const TimeInputs<T>& inputs, T* const* features, T* kept,
                   const Threads& threads);

// v_features[o]: null for zero. workspace: time_workspace<T>(shape) bytes, 64-byte aligned.
template <class T>
void time_features_vjp(const TimeShape& shape, const TimeInputs<T>& inputs, const T* kept,
                       const T* const* v_features, const TimeGradients<T>& gradients, void* workspace,
                       const Threads& threads);

template <class T>
size_t time_workspace(const TimeShape& shape);

}  // namespace ffrl::cpu
