// How near to float the op is in "tf32x3", where sums are as long as the paper's: its error against double is
// at most twice (outputs) or three times (gradients) that of plain float, with tensor cores that truncate.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "cuda_calls.h"
#include "expect.h"
#include "potential_case.h"

using namespace ffrl;
using namespace ffrl::test;

namespace {

constexpr double kOutputRatio = 2, kGradientRatio = 3;
constexpr double kLeast = 0x1p-24;  // an error below this is none

// The same numbers in double.
Case<double> in_double(const Case<float>& one) {
    const PotentialShape& s = one.shape;
    Case<double> other({s.rows, s.latent, s.hidden1, s.hidden2}, one.layout, one.variant, 0);
    const auto copy = [](auto& to, const auto& from) {
        for (int64_t i = 0; i < from.size(); ++i) to[i] = from[i];
    };
    for (int i = 0; i < kInputs; ++i) copy(other.inputs[i], one.inputs[i]);
    for (int i = 0; i < kOutputs; ++i) copy(other.cotangents[i], one.cotangents[i]);
    copy(other.k, one.k);
    copy(other.feature_row, one.feature_row);
    other.remember();
    return other;
}

// Of the whole array, relative to it.
double error_of(const Guarded<float>& got, const Guarded<double>& want) {
    double error = 0, size = 0;
    for (int64_t i = 0; i < want.size(); ++i) {
        const double difference = static_cast<double>(got[i]) - want[i];
        error += difference * difference, size += want[i] * want[i];
    }
    return size > 0 ? std::sqrt(error / size) : 0;
}

void check(const Sizes& sizes, LaplacianForm form) {
    const Case<float> one(sizes, kLayouts[1], {true, true}, 1);
    const Case<double> exact = in_double(one);
    const CudaForward<double> outputs(exact, form, true);
    const CudaBackward<double> gradients(exact, form, outputs);
    const Run plain{Before::poison, ThreadOrder::forward, Precision::ieee};
    const Run split{Before::poison, ThreadOrder::forward, Precision::tf32x3};
    const CudaForward<float> plain_outputs(one, form, true, plain), split_outputs(one, form, true, split);
    const CudaBackward<float> plain_gradients(one, form, plain_outputs, kAllCotangents, {}, plain),
        split_gradients(one, form, split_outputs, kAllCotangents, {}, split);
    const auto compare = [&](const char* name, double own, double error, double ratio) {
        report().context = std::string(form == LaplacianForm::gram ? "gram " : "jacobian ") + name + ": " +
                           std::to_string(error / own) + " times " + std::to_string(own * 1e9) + "e-9";
        expect(error <= ratio * std::max(own, kLeast), "as near as float");
    };
    for (int i = 0; i < kOutputs; ++i)
        if (outputs.outputs[i].exists())
            compare(kOutputNames[i], error_of(plain_outputs.outputs[i], outputs.outputs[i]),
                    error_of(split_outputs.outputs[i], outputs.outputs[i]), kOutputRatio);
    for (int i = 0; i < kInputs; ++i)
        if (gradients.gradients[i].exists())
            compare(kInputNames[i], error_of(plain_gradients.gradients[i], gradients.gradients[i]),
                    error_of(split_gradients.gradients[i], gradients.gradients[i]), kGradientRatio);
}

}  // namespace

int main() {
    section("units");
    check({6, 324, 324, 8}, LaplacianForm::gram);
    check({6, 324, 324, 8}, LaplacianForm::jacobian);
    section("rows");
    check({1100, 12, 20, 17}, LaplacianForm::gram);
    check({1100, 12, 20, 17}, LaplacianForm::jacobian);
    return finish();
}
