// The op as plain data: sizes, pointers to row-major arrays, no library. A null pointer is something that is
// not there. Shapes: N rows, M time feature rows, K potentials, D latent, H1 and H2 hidden.
#pragma once

#include <cstdint>

namespace ffrl {

enum class LaplacianForm : int64_t { none = 0, gram = 1, jacobian = 2 };

struct PotentialShape {
    int64_t rows;        // N
    int64_t features;    // M
    int64_t potentials;  // K
    int64_t latent;      // D
    int64_t hidden1;     // H1
    int64_t hidden2;     // H2
    bool tanh_output;
    LaplacianForm form;
    bool d2u_dt2;
};

template <class T>
struct PotentialInputs {
    const T* z;          // (N, D)
    const T* tau;        // (M, H1)
    const T* dtau_dt;    // (M, H1)
    const T* d2tau_dt2;  // (M, H1), null unless d2u_dt2
    const T* weight1;    // (K, H1, D)
    const T* bias1;      // (K, H1)
    const T* weight2;    // (K, H2, H1)
    const T* bias2;      // (K, H2)
    const T* weight3;    // (K, H2)
    const T* bias3;      // (K,)
    const int64_t* k;    // (N,), null: every row is of potential k_all
    int64_t k_all;
    const int64_t* feature_row;  // (N,), null: row n has feature row n, or the only one there is
};

template <class T>
struct PotentialOutputs {
    T* u;        // (N,)
    T* du_dz;    // (N, D)
    T* du_dt;    // (N,)
    T* d2u_dt2;  // (N,) or null
    T* lap_u;    // (N,) or null
};

template <class T>
struct PotentialCotangents {
    const T* v_u;  // as the outputs; null: zero
    const T* v_du_dz;
    const T* v_du_dt;
    const T* v_d2u_dt2;
    const T* v_lap_u;
};

// Null: not wanted. The weights' are wanted together, and so are the time features'.
template <class T>
struct PotentialGradients {
    T* v_z;          // (N, D)
    T* v_tau;        // (M, H1)
    T* v_dtau_dt;    // (M, H1)
    T* v_d2tau_dt2;  // (M, H1)
    T* v_weight1;    // (K, H1, D)
    T* v_bias1;
    T* v_weight2;
    T* v_bias2;
    T* v_weight3;
    T* v_bias3;
};

}  // namespace ffrl
