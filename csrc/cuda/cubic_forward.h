// Equations (8) to (10): the Gram matrix, S and e.
#pragma once

#include <cstdint>

#include "cuda/cubic.h"
#include "cuda/for_each.h"
#include "cuda/launch.h"

namespace ffrl::cuda {

// out (K, I, J) = a (K, I, L) b (K, L, J), the operands with any strides.
template <class T>
struct MatrixProduct {
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

// (8)
template <class T, class Launcher>
void launch_gram_matrix(Launcher& launch, const T* weight1, int potentials, int latent, int hidden1,
                        Precision, T* gram) {
    const int64_t size = static_cast<int64_t>(hidden1) * latent;
    for_each(launch, MatrixProduct<T>{static_cast<int64_t>(potentials) * hidden1 * hidden1, hidden1, hidden1,
                                      latent, weight1, size, latent, 1, weight1, size, 1, latent, gram});
}

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

template <class T>
struct Squares {
    int64_t count;
    CubicOperands<T> op;
    bool gram_form;
    T* squares;

    FFRL_INLINE void operator()(int64_t at) const {
        const int64_t slot = at % op.slots(), j = at / op.slots(), k = op.block_k[slot / kRows],
                      h1 = op.hidden1;
        T sum = 0;
        if (gram_form)
            for (int64_t i = 0; i < h1; ++i)
                sum += gram_times_x(op, slot, j, i) * op.d1[slot * h1 + i] *
                       op.weight2[(k * op.hidden2 + j) * h1 + i];
        else
            for (int64_t d = 0; d < op.latent; ++d) {
                const T jacobian = jacobian_of(op, slot, j, d);
                sum += jacobian * jacobian;
            }
        squares[at] = sum;
    }
};

template <class T>
struct ColumnSums {
    int64_t count;
    CubicOperands<T> op;
    T* column_sums;

    FFRL_INLINE void operator()(int64_t at) const {
        const int64_t i = at % op.hidden1, slot = at / op.hidden1, k = op.block_k[slot / kRows];
        T sum = 0;
        for (int64_t j = 0; j < op.hidden2; ++j)
            sum += op.c[j * op.slots() + slot] * op.weight2[(k * op.hidden2 + j) * op.hidden1 + i] *
                   gram_times_x(op, slot, j, i);
        column_sums[at] = sum;
    }
};

// Numbers of workspace for launch_squares.
template <class T>
int64_t squares_numbers(int blocks, int potentials, int latent, int hidden1, int hidden2, LaplacianForm form,
                        bool keep) {
    (void)blocks, (void)potentials, (void)latent, (void)hidden1, (void)hidden2, (void)form, (void)keep;
    return 0;
}

// squares (H2, P): S. column_sums (P, H1): e, in the Gram form where it is kept, else null.
template <class T, class Launcher>
void launch_squares(Launcher& launch, const CubicOperands<T>& op, LaplacianForm form, bool keep, Precision,
                    T* workspace, T* squares, T* column_sums) {
    (void)workspace;
    const bool gram_form = form == LaplacianForm::gram;
    for_each(launch, Squares<T>{op.slots() * op.hidden2, op, gram_form, squares});
    if (gram_form && keep) for_each(launch, ColumnSums<T>{op.slots() * op.hidden1, op, column_sums});
}

}  // namespace ffrl::cuda
