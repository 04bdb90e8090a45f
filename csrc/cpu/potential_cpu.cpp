#include "cpu/potential_cpu.h"

#include <atomic>
#include <cstring>

#include "cpu/capability.h"
#include "cpu/dispatch.h"

namespace ffrl::cpu {
namespace {

struct Capability {
    const char* name;
    bool (*usable)();
    const Kernels<float>* kernels_float;
    const Kernels<double>* kernels_double;
};

// Best first.
const Capability kCapabilities[] = {
#if defined(FFRL_HAS_X86)
    {"avx512",
     [] {
         return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
     },
     &avx512::kernels_float, &avx512::kernels_double},
    {"avx2", [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); },
     &avx2::kernels_float, &avx2::kernels_double},
#endif
    {"portable", [] { return true; }, &portable::kernels_float, &portable::kernels_double},
};

const Capability* find(const char* name) {
    for (const Capability& one : kCapabilities)
        if ((std::strcmp(name, "auto") == 0 || std::strcmp(name, one.name) == 0) && one.usable()) return &one;
    return nullptr;
}

std::atomic<const Capability*> chosen{nullptr};

const Capability& current() {
    const Capability* one = chosen.load();
    if (one == nullptr) {
        one = find("auto");
        chosen.store(one);
    }
    return *one;
}

template <class T>
const Kernels<T>& kernels();
template <>
const Kernels<float>& kernels<float>() {
    return *current().kernels_float;
}
template <>
const Kernels<double>& kernels<double>() {
    return *current().kernels_double;
}

}  // namespace

const char* capability() {
    return current().name;
}

bool set_capability(const char* name) {
    const Capability* one = find(name);
    if (one == nullptr) return false;
    chosen.store(one);
    return true;
}

template <class T>
size_t forward_workspace(const PotentialShape& shape, bool mixed, bool keep, int64_t threads) {
    Arena arena(nullptr);
    T kept;
    ForwardWorkspace<T>(arena, shape, mixed, keep ? &kept : nullptr, threads);
    return arena.used();
}

template <class T>
size_t backward_workspace(const PotentialShape& shape, bool mixed, bool distinct_features,
                          const BackwardNeeds& needs, int64_t threads) {
    Arena arena(nullptr);
    BackwardWorkspace<T>(arena, shape, mixed, distinct_features, needs, threads);
    return arena.used();
}

template <class T>
Status forward(const PotentialShape& shape, const PotentialInputs<T>& inputs,
               const PotentialOutputs<T>& outputs, T* kept, void* workspace, const Threads& threads) {
    return kernels<T>().forward(shape, inputs, outputs, kept, workspace, threads);
}

template <class T>
Status backward(const PotentialShape& shape, const PotentialInputs<T>& inputs, const T* kept,
                const PotentialCotangents<T>& cotangents, const BackwardNeeds& needs,
                const PotentialGradients<T>& gradients, void* workspace, const Threads& threads) {
    return kernels<T>().backward(shape, inputs, kept, cotangents, needs, gradients, workspace, threads);
}

template <class T>
void time_features(const TimeShape& shape, const TimeInputs<T>& inputs, T* const* features, T* kept,
                   const Threads& threads) {
    kernels<T>().time_features(shape, inputs, features, kept, threads);
}

template <class T>
void time_features_vjp(const TimeShape& shape, const TimeInputs<T>& inputs, const T* kept,
                       const T* const* v_features, const TimeGradients<T>& gradients, void* workspace,
                       const Threads& threads) {
    kernels<T>().time_features_vjp(shape, inputs, kept, v_features, gradients, workspace, threads);
}

template <class T>
size_t time_workspace(const TimeShape& shape) {
    Arena arena(nullptr);
    TimeWorkspace<T>(arena, shape);
    return arena.used();
}

#define FFRL_INSTANTIATE(T)                                                                                  \
    template size_t forward_workspace<T>(const PotentialShape&, bool, bool, int64_t);                        \
    template size_t backward_workspace<T>(const PotentialShape&, bool, bool, const BackwardNeeds&, int64_t); \
    template Status forward<T>(const PotentialShape&, const PotentialInputs<T>&, const PotentialOutputs<T>&, \
                               T*, void*, const Threads&);                                                   \
    template Status backward<T>(const PotentialShape&, const PotentialInputs<T>&, const T*,                  \
                                const PotentialCotangents<T>&, const BackwardNeeds&,                         \
                                const PotentialGradients<T>&, void*, const Threads&);                        \
    template void time_features<T>(const TimeShape&, const TimeInputs<T>&, T* const*, T*, const Threads&);   \
    template void time_features_vjp<T>(const TimeShape&, const TimeInputs<T>&, const T*, const T* const*,    \
                                       const TimeGradients<T>&, void*, const Threads&);                      \
    template size_t time_workspace<T>(const TimeShape&);
FFRL_INSTANTIATE(float)
FFRL_INSTANTIATE(double)
#undef FFRL_INSTANTIATE

}  // namespace ffrl::cpu
