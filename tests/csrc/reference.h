// The op in double by automatic differentiation of the network, equations (1) to (3) and nothing else: the
// derivatives in z and t are Taylor coefficients along lines, the gradients come from a tape.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "autodiff.h"
#include "potential_case.h"

namespace ffrl::test {

struct Reference {
    std::vector<double> outputs[kOutputs];
    // Gradients that each cotangent alone gives, and the sum over rows and cotangents of their sizes: what
    // rounding is relative to.
    std::vector<double> gradients[kOutputs][kInputs], magnitudes[kInputs];

    template <class T>
    explicit Reference(const Case<T>& one, bool with_gradients = true) {
        for (int i = 0; i < kOutputs; ++i) outputs[i].resize(static_cast<size_t>(one.size_of(Output(i))));
        for (int i = 0; i < kInputs; ++i) {
            const auto size = static_cast<size_t>(one.size_of(Input(i)));
            magnitudes[i].resize(size);
            for (auto& gradient : gradients) gradient[i].resize(size);
        }
        for (int64_t row = 0; row < one.shape.rows; ++row) add_row(one, row, with_gradients);
    }

    // The largest of an output, at least the 1 that the inputs have.
    double size_of(Output i) const {
        double largest = 1;
        for (const double value : outputs[i]) largest = std::max(largest, std::abs(value));
        return largest;
    }
    double size_of(Input i) const {
        double largest = 1;
        for (const double value : magnitudes[i]) largest = std::max(largest, value);
        return largest;
    }

  private:
    // What one row reads, as leaves of the tape: `count` numbers of an input from `begin`.
    struct Leaves {
        int64_t begin;
        std::vector<Var> vars;
    };

    template <class T>
    static Leaves leaves_of(const Case<T>& one, Input i, int64_t begin, int64_t count) {
        Leaves leaves{begin, {}};
        for (int64_t j = 0; j < (one.inputs[i].size() > 0 ? count : 0); ++j)
            leaves.vars.push_back(tape().leaf(static_cast<double>(one.inputs[i][begin + j])));
        return leaves;
    }

    // (1), (2), (3)
    static Jet network(const std::vector<Jet>& z, const std::vector<Jet>& tau,
                       const Leaves (&leaves)[kInputs], bool tanh_output) {
        std::vector<Jet> sum = tau;
        for (size_t i = 0; i < sum.size(); ++i) {
            Jet a{leaves[kBias1].vars[i], {}, {}};
            for (size_t d = 0; d < z.size(); ++d) a = a + leaves[kWeight1].vars[i * z.size() + d] * z[d];
            sum[i] = sum[i] + tanh(a);
        }
        Jet o{leaves[kBias3].vars[0], {}, {}};
        for (size_t j = 0; j < leaves[kBias2].vars.size(); ++j) {
            Jet a{leaves[kBias2].vars[j], {}, {}};
            for (size_t i = 0; i < sum.size(); ++i)
                a = a + leaves[kWeight2].vars[j * sum.size() + i] * sum[i];
            o = o + leaves[kWeight3].vars[j] * tanh(a);
        }
        return tanh_output ? tanh(o) : o;
    }

    template <class T>
    void add_row(const Case<T>& one, int64_t row, bool with_gradients) {
        tape().clear();
        const PotentialShape& s = one.shape;
        const int64_t k = one.k_of(row), feature = one.feature_of(row), h1 = s.hidden1, h2 = s.hidden2;
        const Leaves leaves[kInputs] = {leaves_of(one, kZ, row * s.latent, s.latent),
                                        leaves_of(one, kTau, feature * h1, h1),
                                        leaves_of(one, kDtauDt, feature * h1, h1),
                                        leaves_of(one, kD2tauDt2, feature * h1, h1),
                                        leaves_of(one, kWeight1, k * h1 * s.latent, h1 * s.latent),
                                        leaves_of(one, kBias1, k * h1, h1),
                                        leaves_of(one, kWeight2, k * h2 * h1, h2 * h1),
                                        leaves_of(one, kBias2, k * h2, h2),
                                        leaves_of(one, kWeight3, k * h2, h2),
                                        leaves_of(one, kBias3, k, 1)};
        const auto constant = [](const Leaves& from) {
            std::vector<Jet> jets;
            for (const Var value : from.vars) jets.push_back({value, {}, {}});
            return jets;
        };
        std::vector<Jet> z = constant(leaves[kZ]), tau = constant(leaves[kTau]);
        std::vector<Var> results[kOutputs];
        Var laplacian;
        for (Jet& direction : z) {
            direction.f1 = 1;
            const Jet u = network(z, tau, leaves, s.tanh_output);
            direction.f1 = 0;
            results[kDuDz].push_back(u.f1);
            laplacian = laplacian + Var(2) * u.f2;
        }
        results[kLapU].push_back(laplacian);
        for (size_t i = 0; i < tau.size(); ++i) {
            tau[i].f1 = leaves[kDtauDt].vars[i];
            if (s.d2u_dt2) tau[i].f2 = Var(0.5) * leaves[kD2tauDt2].vars[i];
        }
        const Jet u = network(z, tau, leaves, s.tanh_output);
        results[kU].push_back(u.f0);
        results[kDuDt].push_back(u.f1);
        if (s.d2u_dt2) results[kD2uDt2].push_back(Var(2) * u.f2);

        for (int output = 0; output < kOutputs; ++output) {
            const size_t width = results[output].size(), begin = static_cast<size_t>(row) * width;
            for (size_t i = 0; i < width; ++i) outputs[output][begin + i] = results[output][i].value;
            if (!with_gradients || width == 0) continue;
            std::vector<double> adjoint(static_cast<size_t>(tape().size()));
            for (size_t i = 0; i < width; ++i)
                if (results[output][i].node >= 0)
                    adjoint[static_cast<size_t>(results[output][i].node)] +=
                        static_cast<double>(one.cotangents[output][static_cast<int64_t>(begin + i)]);
            tape().sweep(adjoint);
            for (int input = 0; input < kInputs; ++input) {
                auto at = static_cast<size_t>(leaves[input].begin);
                for (const Var leaf : leaves[input].vars) {
                    const double value = adjoint[static_cast<size_t>(leaf.node)];
                    gradients[output][input][at] += value;
                    magnitudes[input][at++] += std::abs(value);
                }
            }
        }
    }
};

}  // namespace ffrl::test
