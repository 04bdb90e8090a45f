// The potential op on the CPU: plain pointers, no torch. The caller owns all memory and the threads.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/row_plan.h"
#include "ffrl/potential_params.h"

namespace ffrl::cpu {

// run(count, state, task) calls task(state, i) for i in 0 .. count - 1, count <= threads, in any order, and
// returns when all have.
struct Threads {
    int64_t count;
    void (*run)(int64_t count, void* state, void (*task)(void*, int64_t));
};

enum class Status { ok, k_out_of_range, feature_row_out_of_range, feature_row_of_two_potentials };

// Latent dimensions up to which the Jacobian J is kept for the backward, at most as much as all else that is;
// beyond, it is formed again.
constexpr int64_t kKeptJacobianDims = 4;

inline bool keeps_jacobian(const PotentialShape& shape) {
    return shape.form == LaplacianForm::jacobian && shape.latent <= kKeptJacobianDims;
}

// Rows of 32 numbers that one block of rows keeps for the backward: h1, q, h2, v, four scalars, S and e or J.
inline int64_t kept_rows(const PotentialShape& shape) {
    return 2 * shape.hidden1 + shape.hidden2 + shape.latent + 4 +
           (shape.form == LaplacianForm::none ? 0 : shape.hidden2) +
           (shape.form == LaplacianForm::gram ? shape.hidden1 : 0) +
           (keeps_jacobian(shape) ? shape.latent * shape.hidden2 : 0);
}

// What the backward is asked for beside the cotangents that are there.
struct BackwardNeeds {
    bool z;
    bool features;
    bool weights;
};

// Bytes of workspace, 64-byte aligned; `mixed`: whether k is given per row. T is float or double.
template <class T>
size_t forward_workspace(const PotentialShape& shape, bool mixed, bool keep, int64_t threads);

template <class T>
size_t backward_workspace(const PotentialShape& shape, bool mixed, bool distinct_features,
                          const BackwardNeeds& needs, int64_t threads);

// kept: (max_blocks, kept_rows, 32), 64-byte aligned, or null where no backward follows. `distinct_features`:
// feature_row is null and features == rows.
template <class T>
Status forward(const PotentialShape& shape, const PotentialInputs<T>& inputs,
               const PotentialOutputs<T>& outputs, T* kept, void* workspace, const Threads& threads);

// Writes every gradient that is not null, whole; needs says which those are.
template <class T>
Status backward(const PotentialShape& shape, const PotentialInputs<T>& inputs, const T* kept,
                const PotentialCotangents<T>& cotangents, const BackwardNeeds& needs,
                const PotentialGradients<T>& gradients, void* workspace, const Threads& threads);

}  // namespace ffrl::cpu
