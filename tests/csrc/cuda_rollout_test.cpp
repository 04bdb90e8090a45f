// The rollout of a flow on the GPU, its kernels and launches emulated on the host with clusters of one block
// and of eight: values and gradients against automatic differentiation of the flow, what it does to the
// memory that it is given, and that neither the order of the threads nor the batch changes the bits of a row.
//
//     cuda_rollout_test [full]
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "autodiff.h"
#include "calls.h"
#include "cuda/launch.h"
#include "cuda/rollout.h"
#include "expect.h"
#include "guarded.h"

using namespace ffrl;
using namespace ffrl::test;
using cuda::Precision;
using cuda::RolloutDevice;
using cuda::ThreadOrder;

namespace {

constexpr ThreadOrder kOrders[] = {ThreadOrder::forward, ThreadOrder::backward, ThreadOrder::interleaved};
constexpr int64_t kManyBytes = 232'448;

// Clusters of one block with everything in shared memory, with W2 or both weights in global memory, with
// everything there, and clusters of eight with and without their weights.
enum class Spread { one, one_without_weights, off_chip, eight, eight_without_weights, count };
constexpr const char* kSpreadNames[] = {"one block", "one block without weights", "off chip", "eight blocks",
                                        "eight blocks without weights"};

struct FlowShape {
    int64_t batch, steps, latent, hidden1, hidden2, potentials;
    bool mixed;
    int direction;
    bool tanh_output;
};

enum FlowInput { kZ0, kTauT, kDtauT, kW1, kB1, kW2, kB2, kW3, kB3, kFlowInputs };
enum FlowOutput { kStates, kVelocities, kRates, kFlowOutputs };
constexpr const char* kFlowInputNames[] = {"z0",      "tau",   "dtau_dt", "weight1", "bias1",
                                           "weight2", "bias2", "weight3", "bias3"};
constexpr const char* kFlowOutputNames[] = {"z", "du_dz", "du_dt"};
constexpr int kAllOfFlow = (1 << kFlowOutputs) - 1;

template <class T>
struct FlowCase {
    FlowShape shape;
    Guarded<T> inputs[kFlowInputs], cotangents[kFlowOutputs];
    Guarded<int64_t> k;
    int64_t k_all;

    FlowCase(const FlowShape& shape, uint64_t seed, int64_t offset = 0)
        : shape(shape), k_all(shape.potentials - 1) {
        Random random(seed);
        if (shape.mixed) {
            k = Guarded<int64_t>(shape.batch);
            // The first potential has no rows where there are others.
            for (int64_t row = 0; row < shape.batch; ++row)
                k[row] = shape.potentials > 1 ? 1 + random.below(shape.potentials - 1) : 0;
        }
        for (int i = 0; i < kFlowInputs; ++i) {
            inputs[i] = Guarded<T>(size_of(FlowInput(i)), offset);
            fill(inputs[i], spread(FlowInput(i)), random);
        }
        for (int i = 0; i < kFlowOutputs; ++i) {
            cotangents[i] = Guarded<T>(size_of(FlowOutput(i)), offset);
            fill(cotangents[i], 1, random);
        }
    }

    int64_t k_of(int64_t row) const { return shape.mixed ? k[row] : k_all; }
    int64_t feature_of(int64_t row, int64_t step) const {
        return (shape.mixed ? k[row] * shape.steps : 0) + step;
    }
    int64_t size_of(FlowInput i) const {
        const FlowShape& s = shape;
        const int64_t features = (s.mixed ? s.potentials : 1) * s.steps * s.hidden1;
        const int64_t sizes[] = {s.batch * s.latent,
                                 features,
                                 features,
                                 s.potentials * s.hidden1 * s.latent,
                                 s.potentials * s.hidden1,
                                 s.potentials * s.hidden2 * s.hidden1,
                                 s.potentials * s.hidden2,
                                 s.potentials * s.hidden2,
                                 s.potentials};
        return sizes[i];
    }
    int64_t width_of(FlowOutput i) const {  // of one row
        return i == kRates ? shape.steps : (shape.steps + (i == kStates ? 1 : 0)) * shape.latent;
    }
    int64_t size_of(FlowOutput i) const { return shape.batch * width_of(i); }

    PotentialShape op() const {
        return {shape.batch,        size_of(kTauT) / shape.hidden1,
                shape.potentials,   shape.latent,
                shape.hidden1,      shape.hidden2,
                shape.tanh_output,  LaplacianForm::none,
                /* d2u_dt2 */ false};
    }
    PotentialInputs<T> pointers() const {
        return {inputs[kZ0].data(),
                inputs[kTauT].data(),
                inputs[kDtauT].data(),
                nullptr,
                inputs[kW1].data(),
                inputs[kB1].data(),
                inputs[kW2].data(),
                inputs[kB2].data(),
                inputs[kW3].data(),
                inputs[kB3].data(),
                address(k),
                k_all,
                nullptr};
    }
    int64_t slots() const { return cuda::max_blocks(op(), shape.mixed) * shape.steps * cuda::kRows; }
    int64_t width() const { return cuda::kept_width(op()); }

    void describe(const std::string& more) const {
        std::string& text = report().context;
        text = sizeof(T) == 4 ? "float" : "double";
        for (const int64_t size :
             {shape.batch, shape.steps, shape.latent, shape.hidden1, shape.hidden2, shape.potentials})
            text += " " + std::to_string(size);
        text += shape.mixed ? " mixed" : " one k";
        text += shape.tanh_output ? " tanh " : " identity ";
        text += std::to_string(shape.direction) + " " + more;
    }

  private:
    // Sums over units stay of the order of 1, and states do not run away.
    double spread(FlowInput i) const {
        const auto sum_over = [](int64_t units) { return 1.7 / std::sqrt(static_cast<double>(units)); };
        if (i == kW1) return sum_over(shape.latent);
        if (i == kW2) return sum_over(shape.hidden1);
        return i == kW3 ? sum_over(shape.hidden2) : i == kZ0 || i == kTauT || i == kDtauT ? 1 : 0.5;
    }
    static void fill(const Guarded<T>& array, double range, Random& random) {
        for (int64_t i = 0; i < array.size(); ++i) array[i] = static_cast<T>(random.uniform(-range, range));
    }
};

// The flow in double on a tape, with ∇u by the product rule, and its gradients for some of the cotangents.
struct FlowReference {
    std::vector<double> outputs[kFlowOutputs];
    std::vector<double> gradients[kFlowOutputs][kFlowInputs], magnitudes[kFlowInputs];

    template <class T>
    explicit FlowReference(const FlowCase<T>& one) {
        for (int i = 0; i < kFlowOutputs; ++i)
            outputs[i].resize(static_cast<size_t>(one.size_of(FlowOutput(i))));
        for (int i = 0; i < kFlowInputs; ++i) {
            const auto size = static_cast<size_t>(one.size_of(FlowInput(i)));
            magnitudes[i].resize(size);
            for (auto& gradient : gradients) gradient[i].resize(size);
        }
        for (int64_t row = 0; row < one.shape.batch; ++row) add_row(one, row);
    }

    static double largest(const std::vector<double>& values) {
        double most = 1;
        for (const double value : values) most = std::max(most, std::abs(value));
        return most;
    }

  private:
    using Vars = std::vector<Var>;
    struct Leaves {
        int64_t begin;
        Vars vars;
    };

    template <class T>
    static Leaves leaves_of(const FlowCase<T>& one, FlowInput i, int64_t begin, int64_t count) {
        Leaves leaves{begin, {}};
        for (int64_t j = 0; j < count; ++j)
            leaves.vars.push_back(tape().leaf(static_cast<double>(one.inputs[i][begin + j])));
        return leaves;
    }

    // y = A x, or Aᵀ x, of A (rows, columns)
    static Vars product(const Vars& a, const Vars& x, size_t rows, size_t columns, bool transposed) {
        Vars y(transposed ? columns : rows);
        for (size_t i = 0; i < rows; ++i)
            for (size_t j = 0; j < columns; ++j) {
                Var& to = transposed ? y[j] : y[i];
                to = to + a[i * columns + j] * x[transposed ? i : j];
            }
        return y;
    }

    template <class T>
    void add_row(const FlowCase<T>& one, int64_t row) {
        tape().clear();
        const FlowShape& s = one.shape;
        const int64_t k = one.k_of(row), h1 = s.hidden1, h2 = s.hidden2;
        const int64_t features = one.feature_of(row, 0) * h1;
        const Leaves leaves[kFlowInputs] = {leaves_of(one, kZ0, row * s.latent, s.latent),
                                            leaves_of(one, kTauT, features, s.steps * h1),
                                            leaves_of(one, kDtauT, features, s.steps * h1),
                                            leaves_of(one, kW1, k * h1 * s.latent, h1 * s.latent),
                                            leaves_of(one, kB1, k * h1, h1),
                                            leaves_of(one, kW2, k * h2 * h1, h2 * h1),
                                            leaves_of(one, kB2, k * h2, h2),
                                            leaves_of(one, kW3, k * h2, h2),
                                            leaves_of(one, kB3, k, 1)};
        const auto n1 = static_cast<size_t>(h1), n2 = static_cast<size_t>(h2),
                   n = static_cast<size_t>(s.latent);
        const auto slope_of = [](Var h) { return (Var(1) - h) * (Var(1) + h); };
        Vars results[kFlowOutputs], z = leaves[kZ0].vars;
        results[kStates] = z;
        for (int64_t step = 0; step < s.steps; ++step) {
            Vars first = product(leaves[kW1].vars, z, n1, n, false), sum(n1), dot(n1);
            for (size_t i = 0; i < n1; ++i) {
                first[i] = tanh(first[i] + leaves[kB1].vars[i]);
                sum[i] = first[i] + leaves[kTauT].vars[static_cast<size_t>(step) * n1 + i];
                dot[i] = leaves[kDtauT].vars[static_cast<size_t>(step) * n1 + i];
            }
            Vars second = product(leaves[kW2].vars, sum, n2, n1, false), p(n2);
            const Vars omega = product(leaves[kW2].vars, dot, n2, n1, false);
            Var o = leaves[kB3].vars[0], o_dot;
            for (size_t j = 0; j < n2; ++j) {
                second[j] = tanh(second[j] + leaves[kB2].vars[j]);
                o = o + leaves[kW3].vars[j] * second[j];
                p[j] = slope_of(second[j]) * leaves[kW3].vars[j];
                o_dot = o_dot + p[j] * omega[j];
            }
            Vars q = product(leaves[kW2].vars, p, n2, n1, true);
            for (size_t i = 0; i < n1; ++i) q[i] = slope_of(first[i]) * q[i];
            const Vars v = product(leaves[kW1].vars, q, n1, n, true);
            const Var phi = s.tanh_output ? slope_of(tanh(o)) : Var(1);
            results[kRates].push_back(phi * o_dot);
            for (size_t d = 0; d < n; ++d) {
                const Var velocity = phi * v[d];
                results[kVelocities].push_back(velocity);
                z[d] = z[d] + Var(s.direction) * velocity;
                results[kStates].push_back(z[d]);
            }
        }
        for (int output = 0; output < kFlowOutputs; ++output) {
            const size_t width = results[output].size(), begin = static_cast<size_t>(row) * width;
            std::vector<double> adjoint(static_cast<size_t>(tape().size()));
            for (size_t i = 0; i < width; ++i) {
                outputs[output][begin + i] = results[output][i].value;
                if (results[output][i].node >= 0)
                    adjoint[static_cast<size_t>(results[output][i].node)] +=
                        static_cast<double>(one.cotangents[output][static_cast<int64_t>(begin + i)]);
            }
            tape().sweep(adjoint);
            for (int input = 0; input < kFlowInputs; ++input) {
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

struct FlowRun {
    Spread spread = Spread::one;
    Before before = Before::poison;
    ThreadOrder order = ThreadOrder::forward;
    Precision precision = Precision::ieee;
};

// A GPU on which the call is spread so.
template <class T>
RolloutDevice device_of(const FlowCase<T>& one, Spread spread) {
    const bool eight = spread == Spread::eight || spread == Spread::eight_without_weights;
    RolloutDevice device{eight ? 9 : 8, int64_t{1} << 30, eight, 0};
    if (spread == Spread::off_chip) device.shared_memory = 0;
    if (spread == Spread::one_without_weights || spread == Spread::eight_without_weights) {
        const cuda::RolloutLayout layout = cuda::rollout_layout<T>(one.op(), eight ? cuda::kMaxRanks : 1, 0);
        device.shared_memory =
            static_cast<int64_t>(cuda::RolloutLayout::kRowBytes + sizeof(T) * layout.numbers);
    }
    const cuda::RolloutSpread got = cuda::rollout_spread<T>(one.op(), device);
    expect(got.ranks == (eight ? cuda::kMaxRanks : 1), "as many blocks as wanted");
    expect(got.layout.on_chip == (spread != Spread::off_chip), "on the chip as wanted");
    expect(got.layout.has_weight2 == (spread == Spread::one || spread == Spread::eight),
           "weights on the chip as wanted");
    return device;
}

template <class T>
struct FlowForward {
    Guarded<T> outputs[kFlowOutputs], kept;

    FlowForward(const FlowCase<T>& one, bool keep, const FlowRun& run = {}, int64_t offset = 0) {
        for (int i = 0; i < kFlowOutputs; ++i) outputs[i] = Guarded<T>(one.size_of(FlowOutput(i)), offset);
        if (keep) kept = Guarded<T>(one.slots() * one.width());
        if (keep && run.before == Before::zeros) kept.clear();
        const RolloutDevice device = device_of(one, run.spread);
        const Guarded<T> workspace = workspace_of<T>(
            cuda::rollout_forward_workspace<T>(one.op(), one.shape.steps, one.shape.mixed, device),
            run.before);
        cuda::EmulatedLauncher launch(run.order);
        cuda::launch_rollout_forward<T>(
            launch, one.op(), {one.shape.steps, one.shape.direction}, one.pointers(),
            {outputs[kStates].data(), outputs[kVelocities].data(), outputs[kRates].data(), address(kept)},
            workspace.data(), run.precision, device);
        expect(workspace.intact() && kept.intact(), "nothing is written beside the workspace");
        const bool whole = cuda::trap_count() == 0;
        expect(!whole || kept.unwritten() == 0, "what is kept is written, whole");
        for (const Guarded<T>& array : outputs)
            expect(array.intact() && (!whole || array.unwritten() == 0), "outputs are written, whole");
    }

    bool same_bits(const FlowForward& other) const {
        bool all = kept.same_bits(other.kept);
        for (int i = 0; i < kFlowOutputs; ++i) all = all && outputs[i].same_bits(other.outputs[i]);
        return all;
    }
};

struct FlowNeeds {
    bool z0 = true, features = true, weights = true;
};

inline bool is_needed(FlowInput i, const FlowNeeds& needs) {
    return i == kZ0 ? needs.z0 : i <= kDtauT ? needs.features : needs.weights;
}

template <class T>
struct FlowBackward {
    Guarded<T> gradients[kFlowInputs];

    FlowBackward(const FlowCase<T>& one, const FlowForward<T>& from, int cotangents = kAllOfFlow,
                 const FlowNeeds& needs = {}, const FlowRun& run = {}, int64_t offset = 0) {
        for (int i = 0; i < kFlowInputs; ++i)
            if (is_needed(FlowInput(i), needs)) gradients[i] = Guarded<T>(one.size_of(FlowInput(i)), offset);
        const auto cotangent = [&](FlowOutput i) {
            return cotangents >> i & 1 ? one.cotangents[i].data() : nullptr;
        };
        const auto gradient = [&](FlowInput i) { return address(gradients[i]); };
        const RolloutDevice device = device_of(one, run.spread);
        const Guarded<T> workspace =
            workspace_of<T>(cuda::rollout_backward_workspace<T>(one.op(), one.shape.steps, one.shape.mixed,
                                                                needs.features, needs.weights, device),
                            run.before);
        PotentialInputs<T> inputs = one.pointers();
        inputs.z = from.outputs[kStates].data();
        cuda::EmulatedLauncher launch(run.order);
        cuda::launch_rollout_backward<T>(
            launch, one.op(), {one.shape.steps, one.shape.direction}, inputs, address(from.kept),
            {cotangent(kStates), cotangent(kVelocities), cotangent(kRates)},
            {gradient(kZ0), gradient(kTauT), gradient(kDtauT), nullptr, gradient(kW1), gradient(kB1),
             gradient(kW2), gradient(kB2), gradient(kW3), gradient(kB3)},
            workspace.data(), run.precision, device);
        expect(workspace.intact() && from.kept.intact(), "nothing is written beside the workspace");
        const bool whole = cuda::trap_count() == 0;
        for (const Guarded<T>& array : gradients)
            expect(array.intact() && (!whole || array.unwritten() == 0), "gradients are written, whole");
    }

    bool same_bits(const FlowBackward& other) const {
        bool all = true;
        for (int i = 0; i < kFlowInputs; ++i) all = all && gradients[i].same_bits(other.gradients[i]);
        return all;
    }
};

// Rounding errors of a step are carried on by the steps behind it.
template <class T>
double allowed(const FlowCase<T>& one, double size) {
    const FlowShape& s = one.shape;
    const auto length = static_cast<double>(s.latent + s.hidden1 + s.hidden2 + s.batch + 16);
    return (sizeof(T) == sizeof(double) ? 1e-11 : 8 * length * std::numeric_limits<float>::epsilon()) *
           static_cast<double>(s.steps) * size;
}

template <class T>
void expect_flow(const FlowCase<T>& one, const FlowForward<T>& call, const FlowReference& reference) {
    for (int i = 0; i < kFlowOutputs; ++i)
        expect_array(call.outputs[i], reference.outputs[i],
                     allowed(one, FlowReference::largest(reference.outputs[i])), kFlowOutputNames[i]);
}

template <class T>
void expect_flow_gradients(const FlowCase<T>& one, const FlowBackward<T>& call,
                           const FlowReference& reference, int cotangents = kAllOfFlow) {
    for (int i = 0; i < kFlowInputs; ++i) {
        if (!call.gradients[i].exists()) continue;
        std::vector<double> want(static_cast<size_t>(call.gradients[i].size()));
        for (int output = 0; output < kFlowOutputs; ++output)
            if (cotangents >> output & 1)
                for (size_t at = 0; at < want.size(); ++at) want[at] += reference.gradients[output][i][at];
        expect_array(call.gradients[i], want, allowed(one, FlowReference::largest(reference.magnitudes[i])),
                     kFlowInputNames[i]);
    }
}

constexpr int kSpreads = static_cast<int>(Spread::count);

// Forward and backward, spread in every way or in turn; again on memory that holds other things with the
// threads in another order.
template <class T>
void check_flow(const FlowShape& shape, int64_t turn, bool all_spreads) {
    const FlowCase<T> one(shape, static_cast<uint64_t>(turn), turn % 3);
    const FlowReference reference(one);
    for (int spread = 0; spread < kSpreads; ++spread) {
        if (!all_spreads && (spread + turn) % 3 != 0) continue;
        const Precision precision = (turn + spread) % 2 == 0 ? Precision::tf32x3 : Precision::ieee;
        const FlowRun first{Spread(spread), Before::poison, ThreadOrder::forward, precision};
        const FlowRun second{Spread(spread), Before::zeros,
                             turn % 2 == 0 ? ThreadOrder::backward : ThreadOrder::interleaved, precision};
        one.describe(kSpreadNames[spread]);
        const FlowForward<T> call(one, true, first);
        expect_flow(one, call, reference);
        expect(call.same_bits(FlowForward<T>(one, true, second)), "the forward is the same on any memory");
        const FlowBackward<T> gradients(one, call, kAllOfFlow, {}, first);
        expect_flow_gradients(one, gradients, reference);
        expect(gradients.same_bits(FlowBackward<T>(one, call, kAllOfFlow, {}, second)),
               "the backward is the same on any memory");
    }
}

template <class T>
void sizes(bool full) {
    int64_t i = 0;
    // T, D, H1, H2 of B rows; the rest in turn
    const auto check = [&](int64_t batch, int64_t steps, int64_t latent, int64_t hidden1, int64_t hidden2) {
        const bool mixed = i % 2 == 1;
        check_flow<T>({batch, steps, latent, hidden1, hidden2, mixed ? 1 + i % 4 : 2, mixed,
                       i / 2 % 2 == 0 ? 1 : -1, i / 4 % 2 == 0},
                      i, full || batch < 4);
        ++i;
    };
    for (const int64_t batch : {1, 2, 17, 64, 65, 130}) check(batch, 2, 3, 5, 4);
    for (const int64_t n : {1, 3, 17, 33, 65}) {
        check(3, 2, n, 5, 4);
        check(2, 1, 3, n, 3);
        check(2, 2, 2, 4, n);
        check(n < 33 ? 2 : 1, n < 33 ? 5 : 2, n, n, n);
    }
    check(1, 1, 1, 1, 1);
    check(2, 66, 2, 3, 2);
    check(1, 1, 9, 130, 20);  // several turns of the warps
    check(1, 1, 3, 20, 264);
    check(1, 1, 264, 9, 264);
}

template <class T>
void combinations() {
    int64_t turn = 0;
    for (const bool mixed : {false, true})
        for (const bool tanh_output : {false, true}) {
            const FlowCase<T> one({5, 3, 4, 9, 6, 3, mixed, mixed == tanh_output ? 1 : -1, tanh_output},
                                  static_cast<uint64_t>(100 + turn));
            const FlowReference reference(one);
            for (const Spread spread : {Spread::one, Spread::eight}) {
                const FlowForward<T> call(one, true, {spread});
                one.describe("kept");
                FlowForward<T> not_kept(one, false, {spread});
                for (int i = 0; i < kFlowOutputs; ++i)
                    expect(call.outputs[i].same_bits(not_kept.outputs[i]), "the same, kept or not");
                for (int cotangents = 0; cotangents <= kAllOfFlow; ++cotangents)
                    for (int asked = 0; asked < 8; ++asked) {
                        if (spread == Spread::eight && (cotangents * 8 + asked + turn) % 4 != 0) continue;
                        one.describe("cotangents " + std::to_string(cotangents) + " asked " +
                                     std::to_string(asked));
                        const FlowNeeds needs{(asked & 1) != 0, (asked & 2) != 0, (asked & 4) != 0};
                        expect_flow_gradients(one, FlowBackward<T>(one, call, cotangents, needs, {spread}),
                                              reference, cotangents);
                    }
            }
            ++turn;
        }
}

template <class T>
void orders() {
    const FlowCase<T> one({20, 2, 5, 35, 18, 3, true, 1, true}, 200);
    for (int spread = 0; spread < kSpreads; ++spread)
        for (const Precision precision : {Precision::ieee, Precision::tf32x3}) {
            const FlowForward<T> call(one, true, {Spread(spread), Before::poison, kOrders[0], precision});
            const FlowBackward<T> gradients(one, call, kAllOfFlow, {},
                                            {Spread(spread), Before::poison, kOrders[0], precision});
            for (const ThreadOrder order : kOrders) {
                one.describe("order " + std::to_string(static_cast<int>(order)));
                const FlowRun run{Spread(spread), Before::zeros, order, precision};
                expect(call.same_bits(FlowForward<T>(one, true, run)), "outputs do not depend on the order");
                expect(gradients.same_bits(FlowBackward<T>(one, call, kAllOfFlow, {}, run)),
                       "gradients do not depend on the order");
            }
        }
}

// The case with some of its rows, in another order, and the same weights.
template <class T>
FlowCase<T> some_rows(const FlowCase<T>& one, const std::vector<int64_t>& rows) {
    FlowShape shape = one.shape;
    shape.batch = static_cast<int64_t>(rows.size());
    FlowCase<T> other(shape, 1);
    for (int i = kTauT; i < kFlowInputs; ++i)
        for (int64_t at = 0; at < one.inputs[i].size(); ++at) other.inputs[i][at] = one.inputs[i][at];
    for (size_t at = 0; at < rows.size(); ++at) {
        const auto to = static_cast<int64_t>(at);
        if (shape.mixed) other.k[to] = one.k[rows[at]];
        const auto copy = [&](const Guarded<T>& into, const Guarded<T>& from, int64_t width) {
            for (int64_t i = 0; i < width; ++i) into[to * width + i] = from[rows[at] * width + i];
        };
        copy(other.inputs[kZ0], one.inputs[kZ0], shape.latent);
        for (int i = 0; i < kFlowOutputs; ++i)
            copy(other.cotangents[i], one.cotangents[i], one.width_of(FlowOutput(i)));
    }
    return other;
}

template <class T>
bool same_row(const Guarded<T>& got, int64_t row, const Guarded<T>& want, int64_t from, int64_t width) {
    return std::memcmp(got.data() + row * width, want.data() + from * width,
                       static_cast<size_t>(width) * sizeof(T)) == 0;
}

// A row has the same bits in every batch and at every place, and a row of NaN is nobody else's.
template <class T>
void batches() {
    for (const bool mixed : {false, true}) {
        const FlowCase<T> one({70, 2, 5, 19, 10, 3, mixed, 1, true}, 300);
        const int64_t count = one.shape.batch;
        std::vector<int64_t> reversed;
        for (int64_t row = 0; row < count; ++row) reversed.push_back(count - 1 - row);
        for (const Spread spread : {Spread::one, Spread::eight}) {
            const FlowRun run{spread, Before::poison, ThreadOrder::forward, Precision::tf32x3};
            const FlowNeeds needs{true, false, false};
            const FlowForward<T> call(one, true, run);
            const FlowBackward<T> gradients(one, call, kAllOfFlow, needs, run);
            int64_t bad = -1;
            const auto compare = [&](const FlowCase<T>& part, const std::vector<int64_t>& rows) {
                part.describe(kSpreadNames[static_cast<int>(spread)]);
                const FlowForward<T> part_call(part, true, run);
                const FlowBackward<T> part_gradients(part, part_call, kAllOfFlow, needs, run);
                for (size_t at = 0; at < rows.size(); ++at) {
                    const auto row = static_cast<int64_t>(at);
                    if (row == bad) {
                        expect(std::isnan(part_call.outputs[kRates][row * one.shape.steps]), "NaN shows");
                        continue;
                    }
                    for (int i = 0; i < kFlowOutputs; ++i)
                        expect(same_row(part_call.outputs[i], row, call.outputs[i], rows[at],
                                        one.width_of(FlowOutput(i))),
                               kFlowOutputNames[i]);
                    expect(same_row(part_gradients.gradients[kZ0], row, gradients.gradients[kZ0], rows[at],
                                    one.shape.latent),
                           "z0");
                }
            };
            for (const std::vector<int64_t>& rows : {reversed, {count - 1, 3, 40}, {17}})
                compare(some_rows(one, rows), rows);
            const FlowCase<T> with_nan = some_rows(one, reversed);
            bad = 20;
            with_nan.inputs[kZ0][bad * one.shape.latent] = std::numeric_limits<T>::quiet_NaN();
            compare(with_nan, reversed);
        }
    }
}

// What padding keeps is finite, and the backward does not use it.
template <class T>
void padding() {
    for (const bool mixed : {false, true}) {
        const FlowCase<T> one({37, 2, 3, 9, 4, 3, mixed, -1, true}, 400);
        for (const Spread spread : {Spread::one, Spread::eight}) {
            one.describe(kSpreadNames[static_cast<int>(spread)]);
            const FlowForward<T> call(one, true, {spread}), poisoned(one, true, {spread});
            const FlowBackward<T> gradients(one, call, kAllOfFlow, {}, {spread});
            std::vector<bool> has_row(static_cast<size_t>(one.slots()));
            int64_t block = 0;
            for (int64_t k = 0; k < one.shape.potentials; ++k) {
                int64_t rows = 0;
                for (int64_t row = 0; row < one.shape.batch; ++row) rows += one.k_of(row) == k;
                for (int64_t step = 0; step < one.shape.steps; ++step)
                    for (int64_t i = 0; i < rows; ++i)
                        has_row[static_cast<size_t>((block * one.shape.steps + step) * cuda::kRows + i)] =
                            true;
                block += cuda::divide_up(rows, cuda::kRows);
            }
            for (int64_t slot = 0; slot < one.slots(); ++slot)
                for (int64_t i = 0; i < one.width() && !has_row[static_cast<size_t>(slot)]; ++i) {
                    expect(std::isfinite(poisoned.kept[slot * one.width() + i]), "padding is finite");
                    poisoned.kept[slot * one.width() + i] = std::numeric_limits<T>::quiet_NaN();
                }
            expect(gradients.same_bits(FlowBackward<T>(one, poisoned, kAllOfFlow, {}, {spread})),
                   "padding is not used");
        }
    }
}

template <class T>
void nothing() {
    for (const bool mixed : {false, true}) {
        const FlowCase<T> one({0, 2, 3, 5, 4, 2, mixed, 1, true}, 500);
        one.describe("no rows");
        const FlowForward<T> call(one, true);
        const FlowBackward<T> gradients(one, call);
        for (const Guarded<T>& array : gradients.gradients)
            for (int64_t i = 0; i < array.size(); ++i) expect(array[i] == 0, "no rows, no gradient");
    }
}

// k out of range ends the kernel; until it does nothing outside of the arrays is touched.
void traps() {
    for (const int64_t wrong : {int64_t{-1}, int64_t{3}, INT64_MIN, INT64_MAX}) {
        FlowCase<double> one({40, 2, 3, 5, 4, 3, true, 1, true}, 600);
        one.k[39] = wrong;
        one.describe("k " + std::to_string(wrong));
        cuda::trap_count() = 0;
        const FlowForward<double> call(one, true);
        expect(cuda::trap_count() > 0, "k out of range traps in the forward");
        cuda::trap_count() = 0;
        const FlowBackward<double> gradients(one, call);
        expect(cuda::trap_count() > 0, "k out of range traps in the backward");
    }
    cuda::trap_count() = 0;
}

// Sizes that real networks have: what fits into shared memory, and that a cluster is taken where it pays.
void layouts() {
    const auto spread = [](int64_t latent, int64_t hidden, int capability, int64_t bytes) {
        report().context = std::to_string(latent) + " " + std::to_string(hidden);
        const PotentialShape s{64, 8, 1, latent, hidden, hidden, true, LaplacianForm::none, false};
        return cuda::rollout_spread<float>(s, {capability, bytes, capability >= 9});
    };
    for (const int64_t hidden : {32, 64, 128, 256, 512}) {
        const cuda::RolloutSpread many = spread(64, hidden, 9, kManyBytes),
                                  few = spread(64, hidden, 8, 166'912);
        expect(many.layout.on_chip && many.layout.bytes <= kManyBytes, "on the chip");
        expect((many.ranks == cuda::kMaxRanks) == (hidden >= 128), "a cluster where it pays");
        expect(many.layout.has_weight2 && (many.layout.has_weight1 || hidden == 512), "weights on the chip");
        expect(few.ranks == 1 && few.layout.on_chip && few.layout.bytes <= 166'912, "on the chip");
    }
    const cuda::RolloutSpread large = spread(4096, 8192, 9, kManyBytes);
    expect(!large.layout.on_chip && large.ranks == 1, "off the chip where it does not fit");
}

template <class T>
void all(const std::string& type, bool full) {
    section("sizes_" + type);
    sizes<T>(full);
    section("combinations_" + type);
    combinations<T>();
    section("orders_" + type);
    orders<T>();
    section("batches_" + type);
    batches<T>();
    section("padding_" + type);
    padding<T>();
    section("nothing_" + type);
    nothing<T>();
}

}  // namespace

int main(int count, char** arguments) {
    const bool full = count == 2 && std::strcmp(arguments[1], "full") == 0;
    if (count != 1 && !full) {
        std::fprintf(stderr, "cuda_rollout_test [full]\n");
        return 2;
    }
    section("layouts");
    layouts();
    section("traps");
    traps();
    all<float>("float", full);
    all<double>("double", full);
    return finish();
}
