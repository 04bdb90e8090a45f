// The time feature on the CPU through its plain interface: values and gradients against automatic
// differentiation of τ = B GELU(A e(t) + α) + β, and what it does to the memory that it is given.
//
//     time_features_test CAPABILITY
//
// Exit status 77: the processor lacks the instruction set.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <string>
#include <vector>

#include "autodiff.h"
#include "cpu/capability.h"
#include "cpu/time_features_cpu.h"
#include "expect.h"
#include "guarded.h"
#include "schedules.h"

using namespace ffrl;
using namespace ffrl::test;

namespace {

enum Input { kTime, kFrequencies, kWeight1, kBias1, kWeight2, kBias2, kInputs };
constexpr const char* kInputNames[] = {"time", "frequencies", "weight1", "bias1", "weight2", "bias2"};
constexpr int kOrders = 3;

std::vector<int64_t> input_sizes(const cpu::TimeShape& s) {
    const int64_t units = s.potentials * s.features;
    return {s.times, s.frequencies, units * 2 * s.frequencies, units, units * s.features, units};
}

template <class T>
struct Case {
    cpu::TimeShape shape;
    int64_t offset;
    Guarded<T> inputs[kInputs], v_features[kOrders];

    Case(const cpu::TimeShape& shape, int64_t offset) : shape(shape), offset(offset) {
        Random random(1);
        const auto fill = [&](Guarded<T>& array, int64_t count, double range) {
            array = Guarded<T>(count, offset);
            for (int64_t i = 0; i < count; ++i) array[i] = static_cast<T>(random.uniform(-range, range));
        };
        const auto units = static_cast<double>(shape.features);
        const double ranges[] = {
            3, 1, 2 / std::sqrt(static_cast<double>(shape.frequencies)), 1, 2 / std::sqrt(units), 1};
        for (int i = 0; i < kInputs; ++i)
            fill(inputs[i], input_sizes(shape)[static_cast<size_t>(i)], ranges[i]);
        for (int64_t o = 0; o <= shape.order; ++o) fill(v_features[o], shape.rows() * shape.features, 1);
    }
    cpu::TimeInputs<T> pointers() const {
        return {inputs[kTime].data(),  inputs[kFrequencies].data(), inputs[kWeight1].data(),
                inputs[kBias1].data(), inputs[kWeight2].data(),     inputs[kBias2].data()};
    }
    bool intact() const {
        bool all = true;
        for (const auto& array : inputs) all = all && array.intact();
        for (const auto& array : v_features) all = all && array.intact();
        return all;
    }
};

// Values, gradients and the sum of the sizes of what they are made of.
struct Reference {
    std::vector<double> features[kOrders], gradients[kOrders][kInputs], magnitudes[kInputs];

    template <class T>
    explicit Reference(const Case<T>& one) {
        const cpu::TimeShape& s = one.shape;
        const int64_t h = s.features, e = 2 * s.frequencies;
        tape().clear();
        std::vector<Var> leaves[kInputs];
        for (int i = 0; i < kInputs; ++i)
            for (int64_t at = 0; at < one.inputs[i].size(); ++at)
                leaves[i].push_back(tape().leaf(static_cast<double>(one.inputs[i][at])));
        const auto leaf = [&](Input i, int64_t at) { return leaves[i][static_cast<size_t>(at)]; };
        std::vector<Var> results[kOrders];
        for (int64_t row = 0; row < s.rows(); ++row) {
            const int64_t k = s.k < 0 ? row / s.times : s.k;
            const Jet t{leaf(kTime, row % s.times), 1, {}};
            std::vector<Jet> embedding, units;
            for (int64_t i = 0; i < e; ++i) {
                const Jet angle = leaf(kFrequencies, i % s.frequencies) * t;
                embedding.push_back(i < s.frequencies ? sin(angle) : cos(angle));
            }
            for (int64_t i = 0; i < h; ++i) {
                Jet a{leaf(kBias1, k * h + i), {}, {}};
                for (int64_t c = 0; c < e; ++c)
                    a = a + leaf(kWeight1, (k * h + i) * e + c) * embedding[static_cast<size_t>(c)];
                units.push_back(gelu(a));
            }
            for (int64_t i = 0; i < h; ++i) {
                Jet tau{leaf(kBias2, k * h + i), {}, {}};
                for (int64_t c = 0; c < h; ++c)
                    tau = tau + leaf(kWeight2, (k * h + i) * h + c) * units[static_cast<size_t>(c)];
                const Var all[] = {tau.f0, tau.f1, Var(2) * tau.f2};
                for (int64_t o = 0; o <= s.order; ++o) results[o].push_back(all[o]);
            }
        }
        for (int i = 0; i < kInputs; ++i) magnitudes[i].resize(leaves[i].size());
        for (int64_t o = 0; o <= s.order; ++o) {
            for (const Var one_result : results[o]) features[o].push_back(one_result.value);
            for (int i = 0; i < kInputs; ++i) gradients[o][i].resize(leaves[i].size());
            std::vector<double> adjoint(static_cast<size_t>(tape().size()));
            for (size_t at = 0; at < results[o].size(); ++at)
                adjoint[static_cast<size_t>(results[o][at].node)] =
                    static_cast<double>(one.v_features[o][static_cast<int64_t>(at)]);
            tape().sweep(adjoint);
            for (int i = 0; i < kInputs; ++i)
                for (size_t at = 0; at < leaves[i].size(); ++at) {
                    gradients[o][i][at] = adjoint[static_cast<size_t>(leaves[i][at].node)];
                    magnitudes[i][at] += std::abs(gradients[o][i][at]);
                }
        }
    }
};

template <class T>
struct Results {
    Guarded<T> features[kOrders], kept, gradients[kInputs];

    // cotangents: bit o, the derivative of order o has one
    Results(const Case<T>& one, int cotangents, bool needs_time, bool needs_weights, bool cleared,
            const cpu::Threads& with) {
        const cpu::TimeShape& s = one.shape;
        T* outputs[kOrders] = {};
        const T* v[kOrders] = {};
        for (int64_t o = 0; o <= s.order; ++o) {
            features[o] = Guarded<T>(s.rows() * s.features, one.offset);
            outputs[o] = features[o].data();
            v[o] = cotangents >> o & 1 ? one.v_features[o].data() : nullptr;
        }
        kept = Guarded<T>(s.rows() * (s.order + 1) * s.features, one.offset);
        for (int i = 0; i < kInputs; ++i)
            if (i == kTime ? needs_time : i != kFrequencies && needs_weights)
                gradients[i] = Guarded<T>(input_sizes(s)[static_cast<size_t>(i)], one.offset);
        Guarded<T> workspace(static_cast<int64_t>(cpu::time_workspace<T>(s) / sizeof(T)));
        if (cleared) workspace.clear(), kept.clear();
        const auto address = [&](Input i) { return gradients[i].exists() ? gradients[i].data() : nullptr; };
        cpu::time_features<T>(s, one.pointers(), outputs, kept.data(), with);
        cpu::time_features_vjp<T>(
            s, one.pointers(), kept.data(), v,
            {address(kTime), address(kWeight1), address(kBias1), address(kWeight2), address(kBias2)},
            workspace.data(), with);
        bool all = workspace.intact() && one.intact() && kept.intact() && kept.unwritten() == 0;
        for (const auto& array : features) all = all && array.intact() && array.unwritten() == 0;
        for (const auto& array : gradients) all = all && array.intact() && array.unwritten() == 0;
        expect(all, "the results are written, whole, and nothing beside them");
    }
    bool same_bits(const Results& other) const {
        bool all = kept.same_bits(other.kept);
        for (int o = 0; o < kOrders; ++o) all = all && features[o].same_bits(other.features[o]);
        for (int i = 0; i < kInputs; ++i) all = all && gradients[i].same_bits(other.gradients[i]);
        return all;
    }
};

// A handful of sums over E, H and M numbers, one after the other; the angles are of the order of 1.
template <class T>
double rounding(const cpu::TimeShape& s, const std::vector<double>& sizes) {
    double largest = 1;
    for (const double size : sizes) largest = std::max(largest, std::abs(size));
    const auto length = static_cast<double>(2 * s.frequencies + s.features + s.rows() + 16);
    return 4 * length * std::numeric_limits<T>::epsilon() * largest;
}

// With every subset of the cotangents and of what is asked for, or with all of them.
template <class T>
void check(const cpu::TimeShape& shape, int64_t offset, bool subsets) {
    const Case<T> one(shape, offset);
    const Reference reference(one);
    const int all_cotangents = (2 << shape.order) - 1;
    for (int cotangents = 0; cotangents <= all_cotangents; ++cotangents)
        for (int asked = 0; asked < 4; ++asked) {
            if (!subsets && (cotangents < all_cotangents || asked < 3)) continue;
            const bool needs_time = asked & 1, needs_weights = asked & 2;
            const auto call = [&](bool cleared, const cpu::Threads& with) {
                return Results<T>(one, cotangents, needs_time, needs_weights, cleared, with);
            };
            const Results<T> got = call(false, serial(1));
            expect(got.same_bits(call(true, serial(1))), "nothing is read before it is written");
            expect(got.same_bits(call(false, backwards(8))), "bits do not depend on the order of the tasks");
            for (int64_t o = 0; o <= shape.order; ++o)
                expect_array(got.features[o], reference.features[o],
                             rounding<T>(shape, reference.features[o]), "tau and its derivatives");
            for (int i = 0; i < kInputs; ++i) {
                if (!got.gradients[i].exists()) continue;
                std::vector<double> want(reference.magnitudes[i].size());
                for (int64_t o = 0; o <= shape.order; ++o)
                    for (size_t at = 0; (cotangents >> o & 1) && at < want.size(); ++at)
                        want[at] += reference.gradients[o][i][at];
                expect_array(got.gradients[i], want, rounding<T>(shape, reference.magnitudes[i]),
                             kInputNames[i]);
            }
        }
    expect(Results<T>(one, all_cotangents, true, true, false, serial(1))
               .same_bits(Results<T>(one, all_cotangents, true, true, false, threads(3))),
           "bits do not depend on the threads");
}

// Sizes below, at and above those of registers, and of the pieces in which the embedding is made.
template <class T>
void all(const char* type) {
    section(type);
    struct Sizes {
        int64_t times, frequencies, features;
    };
    int64_t i = 0;
    for (const int64_t order : {1, 2})
        for (const int64_t k : {-1, 0, 2})
            for (const Sizes& some : {Sizes{1, 2, 1}, {2, 3, 5}, {9, 2, 9}, {3, 33, 7}, {2, 9, 65}}) {
                const cpu::TimeShape shape{some.times, some.frequencies, some.features, 3, k, order};
                report().context = std::string(type) + ", k " + std::to_string(k) + ", order " +
                                   std::to_string(order) + ", M F H " + std::to_string(some.times) + " " +
                                   std::to_string(some.frequencies) + " " + std::to_string(some.features);
                check<T>(shape, i++ % 3, some.features < 9);
            }
}

}  // namespace

int main(int count, char** arguments) {
    if (count != 2) {
        std::fprintf(stderr, "time_features_test CAPABILITY\n");
        return 2;
    }
    if (!cpu::set_capability(arguments[1])) return 77;
    all<float>("float");
    all<double>("double");
    return finish();
}
