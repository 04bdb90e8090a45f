// Calls of the CUDA op, emulated on the host, in guarded memory, and what must hold of every one of them.
#pragma once

#include <algorithm>
#include <vector>

#include "calls.h"
#include "cuda/launch.h"
#include "cuda/potential_backward.h"
#include "cuda/potential_forward.h"

namespace ffrl::test {

using cuda::Precision;
using cuda::ThreadOrder;

struct Needs {
    bool z = true, features = true, weights = true;
};

inline bool is_needed(Input i, const Needs& needs) {
    return i == kZ ? needs.z : i <= kD2tauDt2 ? needs.features : needs.weights;
}

// How a call is run: what its memory holds before, in which order the threads of a block, in which
// arithmetic.
struct Run {
    Before before = Before::poison;
    ThreadOrder order = ThreadOrder::forward;
    Precision precision = Precision::ieee;
};

template <class T>
struct CudaForward {
    Guarded<T> outputs[kOutputs], kept;

    CudaForward(const Case<T>& one, LaplacianForm form, bool keep, const Run& run = {}) {
        const PotentialShape s = one.shape_of(form);
        for (int i = 0; i < kOutputs; ++i)
            if (one.has(Output(i), form)) outputs[i] = Guarded<T>(one.size_of(Output(i)), one.variant.offset);
        if (keep) kept = Guarded<T>(cuda::max_blocks(s, one.mixed()) * cuda::kRows * cuda::kept_width(s));
        if (keep && run.before == Before::zeros) kept.clear();
        const Guarded<T> workspace =
            workspace_of<T>(cuda::forward_workspace<T>(s, one.mixed(), keep), run.before);
        cuda::EmulatedLauncher launch(run.order);
        cuda::launch_forward<T>(launch, s, one.pointers(),
                                {address(outputs[kU]), address(outputs[kDuDz]), address(outputs[kDuDt]),
                                 address(outputs[kD2uDt2]), address(outputs[kLapU])},
                                address(kept), keep, workspace.data(), run.precision);
        expect(workspace.intact(), "nothing is written beside the workspace");
        // A trap ends the call, on the device.
        const bool whole = cuda::trap_count() == 0;
        expect(kept.intact() && (!whole || kept.unwritten() == 0), "what is kept is written, whole");
        for (const Guarded<T>& array : outputs)
            expect(array.intact() && (!whole || array.unwritten() == 0), "outputs are written, whole");
        one.expect_untouched();
    }

    bool same_bits(const CudaForward& other) const {
        bool all = kept.same_bits(other.kept);
        for (int i = 0; i < kOutputs; ++i) all = all && outputs[i].same_bits(other.outputs[i]);
        return all;
    }
};

template <class T>
struct CudaBackward {
    Guarded<T> gradients[kInputs];

    CudaBackward(const Case<T>& one, LaplacianForm form, const CudaForward<T>& from,
                 int cotangents = kAllCotangents, const Needs& needs = {}, const Run& run = {}) {
        const PotentialShape s = one.shape_of(form);
        for (int i = 0; i < kInputs; ++i)
            if (is_needed(Input(i), needs) && one.size_of(Input(i)) > 0)
                gradients[i] = Guarded<T>(one.size_of(Input(i)), one.variant.offset);
        const auto cotangent = [&](Output i) {
            return (cotangents >> i & 1) && one.has(i, form) ? one.cotangents[i].data() : nullptr;
        };
        const Guarded<T> workspace = workspace_of<T>(
            cuda::backward_workspace<T>(s, one.mixed(), needs.features, needs.weights), run.before);
        const PotentialGradients<T> v = {address(gradients[kZ]),       address(gradients[kTau]),
                                         address(gradients[kDtauDt]),  address(gradients[kD2tauDt2]),
                                         address(gradients[kWeight1]), address(gradients[kBias1]),
                                         address(gradients[kWeight2]), address(gradients[kBias2]),
                                         address(gradients[kWeight3]), address(gradients[kBias3])};
        cuda::EmulatedLauncher launch(run.order);
        cuda::launch_backward<T>(
            launch, s, one.pointers(), from.kept.data(),
            {cotangent(kU), cotangent(kDuDz), cotangent(kDuDt), cotangent(kD2uDt2), cotangent(kLapU)}, v,
            workspace.data(), run.precision);
        expect(workspace.intact(), "nothing is written beside the workspace");
        expect(from.kept.intact(), "nothing is written beside what was kept");
        const bool whole = cuda::trap_count() == 0;
        for (const Guarded<T>& array : gradients)
            expect(array.intact() && (!whole || array.unwritten() == 0), "gradients are written, whole");
        one.expect_untouched();
    }

    bool same_bits(const CudaBackward& other) const {
        bool all = true;
        for (int i = 0; i < kInputs; ++i) all = all && gradients[i].same_bits(other.gradients[i]);
        return all;
    }
};

// Of the numbers of an array that size_of gives: 1e-11 in double, the rounding of sums in float.
template <class T>
double allowed_error(const PotentialShape& s, double size) {
    return sizeof(T) == sizeof(double) ? 1e-11 * size : rounding<T>(s, size);
}

template <class T>
void expect_values(const Case<T>& one, const CudaForward<T>& call, const Reference& reference) {
    for (int i = 0; i < kOutputs; ++i)
        if (call.outputs[i].exists())
            expect_array(call.outputs[i], reference.outputs[i],
                         allowed_error<T>(one.shape, reference.size_of(Output(i))), kOutputNames[i]);
}

template <class T>
void expect_gradients(const Case<T>& one, LaplacianForm form, const CudaBackward<T>& call,
                      const Reference& reference, int cotangents = kAllCotangents) {
    for (int i = 0; i < kInputs; ++i) {
        if (!call.gradients[i].exists()) continue;
        std::vector<double> want(static_cast<size_t>(call.gradients[i].size()));
        for (int output = 0; output < kOutputs; ++output)
            if ((cotangents >> output & 1) && one.has(Output(output), form))
                for (size_t at = 0; at < want.size(); ++at) want[at] += reference.gradients[output][i][at];
        expect_array(call.gradients[i], want, allowed_error<T>(one.shape, reference.size_of(Input(i))),
                     kInputNames[i]);
    }
}

}  // namespace ffrl::test
