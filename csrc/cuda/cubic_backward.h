// Equation (16) in both forms: the cubic part of the gradients of W1 and W2.
#pragma once

#include <cstdint>

#include "cuda/cubic.h"
#include "cuda/cubic_forward.h"
#include "cuda/for_each.h"
#include "cuda/launch.h"

namespace ffrl::cuda {

// out (K, I, J) = a (K, I, L) b (K, L, J), the operands with any strides.
template <class T>
struct PlainMatrixProduct {
    int64_t count;
    int rows, columns, depth;
    const T* a;
    int64_t a_k, a_row, a_depth;
    const T* b;
    int64_t b_k, b_depth, b_column;
    T* out;

    FFRL_INLINE void operator()(int64_t at) const {
        const int64_t j = at % columns, i = at / columns % rows, k = at / columns / rows;
        T sum = 0;
        for (int64_t l = 0; l < depth; ++l)
            sum += a[k * a_k + i * a_row + l * a_depth] * b[k * b_k + l * b_depth + j * b_column];
        out[at] = sum;
    }
};

// (10): y_j[i] of one slot.
template <class T>
FFRL_INLINE T gram_times_x(const CubicOperands<T>& op, int64_t slot, int64_t j, int64_t i) {
    const int64_t k = op.block_k[slot / kRows], h1 = op.hidden1;
    T y = 0;
    for (int64_t l = 0; l < h1; ++l)
        y +=
            op.gram[(k * h1 + i) * h1 + l] * op.d1[slot * h1 + l] * op.weight2[(k * op.hidden2 + j) * h1 + l];
    return y;
}

// J[j, d] of one slot.
template <class T>
FFRL_INLINE T jacobian_of(const CubicOperands<T>& op, int64_t slot, int64_t j, int64_t d) {
    const int64_t k = op.block_k[slot / kRows], h1 = op.hidden1;
    T sum = 0;
    for (int64_t l = 0; l < h1; ++l)
        sum += op.d1[slot * h1 + l] * op.weight1[(k * h1 + l) * op.latent + d] *
               op.weight2[(k * op.hidden2 + j) * h1 + l];
    return sum;
}

// Sums over the rows of potential k of λ c_j times a function of the slot.
template <class T, class F>
FFRL_INLINE T sum_over_rows(const CubicOperands<T>& op, int64_t k, int64_t j, F of_slot) {
    T sum = 0;
    for (int64_t slot = static_cast<int64_t>(op.first_block[k]) * kRows;
         slot < static_cast<int64_t>(op.first_block[k + 1]) * kRows; ++slot)
        sum += op.c[j * op.slots() + slot] * of_slot(slot);
    return sum;
}

template <class T>
struct CubicWeight2 {
    int64_t count;
    CubicOperands<T> op;
    bool gram_form;
    T* v_weight2;

    FFRL_INLINE void operator()(int64_t at) const {
        const int64_t h1 = op.hidden1, i = at % h1, j = at / h1 % op.hidden2, k = at / h1 / op.hidden2;
        v_weight2[at] =
            2 * sum_over_rows(op, k, j, [&](int64_t slot) {
                T sum = 0;
                if (gram_form) {
                    sum = gram_times_x(op, slot, j, i);
                } else {
                    for (int64_t d = 0; d < op.latent; ++d)
                        sum += jacobian_of(op, slot, j, d) * op.weight1[(k * h1 + i) * op.latent + d];
                }
                return sum * op.d1[slot * h1 + i];
            });
    }
};

template <class T>
struct CubicGram {
    int64_t count;
    CubicOperands<T> op;
    T* v_gram;  // times 2

    FFRL_INLINE void operator()(int64_t at) const {
        const int64_t h1 = op.hidden1, l = at % h1, i = at / h1 % h1, k = at / h1 / h1;
        T sum = 0;
        for (int64_t j = 0; j < op.hidden2; ++j) {
            const T* weight = op.weight2 + (k * op.hidden2 + j) * h1;
            sum += weight[i] * weight[l] * sum_over_rows(op, k, j, [&](int64_t slot) {
                       return op.d1[slot * h1 + i] * op.d1[slot * h1 + l];
                   });
        }
        v_gram[at] = 2 * sum;
    }
};

// Jacobian form: B_d[i] = Σ_j J̄[j, d] W2[j, i] of one slot.
template <class T>
FFRL_INLINE T jacobian_vjp(const CubicOperands<T>& op, int64_t slot, int64_t i, int64_t d) {
    const int64_t k = op.block_k[slot / kRows];
    T sum = 0;
    for (int64_t j = 0; j < op.hidden2; ++j)
        sum += 2 * op.c[j * op.slots() + slot] * jacobian_of(op, slot, j, d) *
               op.weight2[(k * op.hidden2 + j) * op.hidden1 + i];
    return sum;
}

template <class T>
struct JacobianSlope {
    int64_t count;
    CubicOperands<T> op;
    T* v_d1;

    FFRL_INLINE void operator()(int64_t at) const {
        const int64_t i = at % op.hidden1, slot = at / op.hidden1, k = op.block_k[slot / kRows];
        T sum = 0;
        for (int64_t d = 0; d < op.latent; ++d)
            sum += jacobian_vjp(op, slot, i, d) * op.weight1[(k * op.hidden1 + i) * op.latent + d];
        v_d1[at] = sum;
    }
};

template <class T>
struct JacobianWeight1 {
    int64_t count;
    CubicOperands<T> op;
    T* v_weight1;

    FFRL_INLINE void operator()(int64_t at) const {
        const int64_t d = at % op.latent, i = at / op.latent % op.hidden1, k = at / op.latent / op.hidden1;
        T sum = 0;
        for (int64_t slot = static_cast<int64_t>(op.first_block[k]) * kRows;
             slot < static_cast<int64_t>(op.first_block[k + 1]) * kRows; ++slot)
            sum += jacobian_vjp(op, slot, i, d) * op.d1[slot * op.hidden1 + i];
        v_weight1[at] = sum;
    }
};

// Numbers of workspace for launch_cubic_backward.
template <class T>
int64_t cubic_backward_numbers(int blocks, int potentials, int latent, int hidden1, int hidden2,
                               LaplacianForm form, bool needs_weights) {
    (void)blocks, (void)latent, (void)hidden2;
    return form == LaplacianForm::gram && needs_weights ? static_cast<int64_t>(potentials) * hidden1 * hidden1
                                                        : 0;
}

// v_d1 (P, H1), in the Jacobian form, else null. v_weight1 (K, H1, D): in the Gram form 2 Ḡ W1 without the
// diagonal term of (14). v_weight2 (K, H2, H1). The weights' are null unless needs_weights.
template <class T, class Launcher>
void launch_cubic_backward(Launcher& launch, const CubicOperands<T>& op, LaplacianForm form,
                           bool needs_weights, Precision, T* workspace, T* v_d1, T* v_weight1, T* v_weight2) {
    const bool gram_form = form == LaplacianForm::gram;
    const int64_t k = op.potentials, h1 = op.hidden1, h2 = op.hidden2, d = op.latent;
    if (!gram_form) for_each(launch, JacobianSlope<T>{op.slots() * h1, op, v_d1});
    if (!needs_weights) return;
    for_each(launch, CubicWeight2<T>{k * h2 * h1, op, gram_form, v_weight2});
    if (!gram_form) {
        for_each(launch, JacobianWeight1<T>{k * h1 * d, op, v_weight1});
        return;
    }
    for_each(launch, CubicGram<T>{k * h1 * h1, op, workspace});
    for_each(launch, PlainMatrixProduct<T>{k * h1 * d, op.hidden1, op.latent, op.hidden1, workspace, h1 * h1,
                                           h1, 1, op.weight1, h1 * d, d, 1, v_weight1});
}

}  // namespace ffrl::cuda
