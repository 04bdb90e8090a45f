// Calls of the op in guarded memory, and what must hold of every one of them.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "cpu/potential_cpu.h"
#include "expect.h"
#include "guarded.h"
#include "potential_case.h"
#include "reference.h"
#include "schedules.h"

namespace ffrl::test {

// What the workspace, and what is kept, hold before a call.
enum class Before { poison, zeros };

template <class T>
Guarded<T> workspace_of(size_t bytes, Before before) {
    expect(bytes % sizeof(T) == 0, "a workspace of whole numbers");
    Guarded<T> workspace(static_cast<int64_t>(bytes / sizeof(T)));
    if (before == Before::zeros) workspace.clear();
    return workspace;
}

template <class T>
bool written(const Guarded<T>& array) {
    return array.intact() && array.unwritten() == 0;
}

template <class T>
T* address(const Guarded<T>& array) {
    return array.exists() ? array.data() : nullptr;
}

template <class T>
struct ForwardCall {
    Guarded<T> outputs[kOutputs], kept;
    cpu::Status status;

    ForwardCall(const Case<T>& one, LaplacianForm form, bool keep, Before before, const cpu::Threads& with) {
        const PotentialShape s = one.shape_of(form);
        for (int i = 0; i < kOutputs; ++i)
            if (one.has(Output(i), form)) outputs[i] = Guarded<T>(one.size_of(Output(i)), one.variant.offset);
        if (keep)
            kept = Guarded<T>(cpu::max_blocks(s.rows, s.potentials, one.mixed()) * cpu::kept_rows(s) *
                              cpu::kRowsPerBlock);
        if (keep && before == Before::zeros) kept.clear();
        const Guarded<T> workspace =
            workspace_of<T>(cpu::forward_workspace<T>(s, one.mixed(), keep, with.count), before);
        status = cpu::forward<T>(s, one.pointers(),
                                 {address(outputs[kU]), address(outputs[kDuDz]), address(outputs[kDuDt]),
                                  address(outputs[kD2uDt2]), address(outputs[kLapU])},
                                 address(kept), workspace.data(), with);
        expect(workspace.intact() && kept.intact(), "nothing is written beside the workspace");
        for (const Guarded<T>& array : outputs)
            expect(status == cpu::Status::ok ? written(array) : array.intact(), "outputs are written, whole");
        one.expect_untouched();
    }

    bool same_bits(const ForwardCall& other) const {
        bool all = kept.same_bits(other.kept);
        for (int i = 0; i < kOutputs; ++i) all = all && outputs[i].same_bits(other.outputs[i]);
        return all;
    }
};

// The same call on memory that holds other things gives the same bits: nothing is read before it is written.
// Of what is kept all is written, because it is the output of an operator.
template <class T>
ForwardCall<T> forward(const Case<T>& one, LaplacianForm form, bool keep,
                       const cpu::Threads& with = serial(1)) {
    ForwardCall<T> first(one, form, keep, Before::poison, with);
    const ForwardCall<T> second(one, form, keep, Before::zeros, with);
    expect(first.status == cpu::Status::ok, "the forward succeeds");
    expect(first.same_bits(second), "the forward reads nothing before it is written");
    return first;
}

// Which cotangents are there, bit by bit as Output.
constexpr int kAllCotangents = (1 << kOutputs) - 1;
constexpr cpu::BackwardNeeds kAllNeeds{true, true, true};

inline bool is_needed(Input i, const cpu::BackwardNeeds& needs) {
    return i == kZ ? needs.z : i <= kD2tauDt2 ? needs.features : needs.weights;
}

template <class T>
struct BackwardCall {
    Guarded<T> gradients[kInputs];
    cpu::Status status;

    BackwardCall(const Case<T>& one, LaplacianForm form, const ForwardCall<T>& from, int cotangents,
                 const cpu::BackwardNeeds& needs, Before before, const cpu::Threads& with) {
        const PotentialShape s = one.shape_of(form);
        for (int i = 0; i < kInputs; ++i)
            if (is_needed(Input(i), needs) && one.size_of(Input(i)) > 0)
                gradients[i] = Guarded<T>(one.size_of(Input(i)), one.variant.offset);
        const auto cotangent = [&](Output i) {
            return (cotangents >> i & 1) && one.has(i, form) ? one.cotangents[i].data() : nullptr;
        };
        const Guarded<T> workspace = workspace_of<T>(
            cpu::backward_workspace<T>(s, one.mixed(), one.distinct(), needs, with.count), before);
        Guarded<T> kept(from.kept.size());
        for (int64_t i = 0; i < kept.size(); ++i) kept[i] = from.kept[i];
        status = cpu::backward<T>(
            s, one.pointers(), kept.data(),
            {cotangent(kU), cotangent(kDuDz), cotangent(kDuDt), cotangent(kD2uDt2), cotangent(kLapU)}, needs,
            {address(gradients[kZ]), address(gradients[kTau]), address(gradients[kDtauDt]),
             address(gradients[kD2tauDt2]), address(gradients[kWeight1]), address(gradients[kBias1]),
             address(gradients[kWeight2]), address(gradients[kBias2]), address(gradients[kWeight3]),
             address(gradients[kBias3])},
            workspace.data(), with);
        expect(workspace.intact(), "nothing is written beside the workspace");
        expect(kept.intact() && kept.same_bits(from.kept), "what was kept is as it was");
        for (const Guarded<T>& array : gradients)
            expect(status == cpu::Status::ok ? written(array) : array.intact(),
                   "gradients are written, whole");
        one.expect_untouched();
    }

    bool same_bits(const BackwardCall& other) const {
        bool all = true;
        for (int i = 0; i < kInputs; ++i) all = all && gradients[i].same_bits(other.gradients[i]);
        return all;
    }
};

template <class T>
BackwardCall<T> backward(const Case<T>& one, LaplacianForm form, const ForwardCall<T>& from,
                         int cotangents = kAllCotangents, const cpu::BackwardNeeds& needs = kAllNeeds,
                         const cpu::Threads& with = serial(1)) {
    BackwardCall<T> first(one, form, from, cotangents, needs, Before::poison, with);
    const BackwardCall<T> second(one, form, from, cotangents, needs, Before::zeros, with);
    expect(first.status == cpu::Status::ok, "the backward succeeds");
    expect(first.same_bits(second), "the backward reads nothing before it is written");
    return first;
}

// A result is a chain of sums over D, H1, H2 and, for a gradient, N numbers. The error of a sum is at most
// its length times eps times the sizes of what is added; a handful of them follow each other.
template <class T>
double rounding(const PotentialShape& s, double size) {
    const auto length = static_cast<double>(s.latent + s.hidden1 + s.hidden2 + s.rows + 16);
    return 4 * length * std::numeric_limits<T>::epsilon() * size;
}

template <class T>
void expect_values(const Case<T>& one, const ForwardCall<T>& call, const Reference& reference) {
    for (int i = 0; i < kOutputs; ++i)
        if (call.outputs[i].exists())
            expect_array(call.outputs[i], reference.outputs[i],
                         rounding<T>(one.shape, reference.size_of(Output(i))), kOutputNames[i]);
}

template <class T>
void expect_gradients(const Case<T>& one, LaplacianForm form, const BackwardCall<T>& call,
                      const Reference& reference, int cotangents = kAllCotangents) {
    for (int i = 0; i < kInputs; ++i) {
        if (!call.gradients[i].exists()) continue;
        std::vector<double> want(static_cast<size_t>(call.gradients[i].size()));
        for (int output = 0; output < kOutputs; ++output)
            if ((cotangents >> output & 1) && one.has(Output(output), form))
                for (size_t at = 0; at < want.size(); ++at) want[at] += reference.gradients[output][i][at];
        expect_array(call.gradients[i], want, rounding<T>(one.shape, reference.size_of(Input(i))),
                     kInputNames[i]);
    }
}

}  // namespace ffrl::test
