// One call of the op: sizes, which rows belong together, random inputs and cotangents in guarded arrays.
#pragma once

#include <cmath>
#include <cstring>
#include <vector>

#include "cpu/potential_cpu.h"
#include "expect.h"
#include "guarded.h"

namespace ffrl::test {

// Arrays by number, so that loops can go over them. Gradients are numbered as the inputs that they are of,
// cotangents as the outputs.
enum Input { kZ, kTau, kDtauDt, kD2tauDt2, kWeight1, kBias1, kWeight2, kBias2, kWeight3, kBias3, kInputs };
enum Output { kU, kDuDz, kDuDt, kD2uDt2, kLapU, kOutputs };
constexpr const char* kInputNames[] = {"z",     "tau",     "dtau_dt", "d2tau_dt2", "weight1",
                                       "bias1", "weight2", "bias2",   "weight3",   "bias3"};
constexpr const char* kOutputNames[] = {"u", "du_dz", "du_dt", "d2u_dt2", "lap_u"};

// One feature row for all rows, one for each, or a table in which rows share some and leave others out.
enum class Features { shared, distinct, table };

struct Layout {
    const char* name;
    bool mixed;  // k is given per row
    Features features;
};
constexpr Layout kLayouts[] = {
    {"one k, shared", false, Features::shared},      {"one k, distinct", false, Features::distinct},
    {"one k, table", false, Features::table},        {"mixed k, shared", true, Features::shared},
    {"mixed k, distinct", true, Features::distinct}, {"mixed k, table", true, Features::table},
};
constexpr int kLayoutCount = 6;

struct Sizes {
    int64_t rows, latent, hidden1, hidden2;
};

struct Variant {
    bool tanh_output, d2u_dt2;
    int64_t offset = 0;  // of every array from an aligned address, in elements
    bool saturated = false;
};

constexpr int64_t kPotentials = 3;

template <class T>
struct Case {
    PotentialShape shape;
    Layout layout;
    Variant variant;
    Guarded<T> inputs[kInputs], cotangents[kOutputs];
    Guarded<int64_t> k, feature_row;
    int64_t k_all = 1;

    Case(const Sizes& sizes, const Layout& layout, const Variant& variant, uint64_t seed)
        : layout(layout), variant(variant) {
        const int64_t features = layout.features == Features::shared     ? 1
                                 : layout.features == Features::distinct ? sizes.rows
                                                                         : 2 * kPotentials + 1;
        shape = {sizes.rows,     features,      kPotentials,         sizes.latent,
                 sizes.hidden1,  sizes.hidden2, variant.tanh_output, LaplacianForm::none,
                 variant.d2u_dt2};
        Random random(seed);
        choose_rows(random);
        for (int i = 0; i < kInputs; ++i) fill(inputs[i], size_of(Input(i)), spread(Input(i)), random);
        for (int i = 0; i < kOutputs; ++i) fill(cotangents[i], size_of(Output(i)), 1, random);
        if (variant.saturated) saturate();
        remember();
    }

    bool mixed() const { return layout.mixed; }
    bool distinct() const { return !feature_row.exists() && shape.features == shape.rows; }
    int64_t k_of(int64_t row) const { return mixed() ? k[row] : k_all; }
    int64_t feature_of(int64_t row) const {
        return feature_row.exists() ? feature_row[row] : shape.features == 1 ? 0 : row;
    }

    int64_t size_of(Input i) const {
        const PotentialShape& s = shape;
        const int64_t features = s.features * s.hidden1;
        const int64_t sizes[] = {s.rows * s.latent,
                                 features,
                                 features,
                                 s.d2u_dt2 ? features : 0,
                                 s.potentials * s.hidden1 * s.latent,
                                 s.potentials * s.hidden1,
                                 s.potentials * s.hidden2 * s.hidden1,
                                 s.potentials * s.hidden2,
                                 s.potentials * s.hidden2,
                                 s.potentials};
        return sizes[i];
    }
    int64_t size_of(Output i) const {
        if (i == kDuDz) return shape.rows * shape.latent;
        return i == kD2uDt2 && !shape.d2u_dt2 ? 0 : shape.rows;
    }
    // Whether the op has this output in this form.
    bool has(Output i, LaplacianForm form) const {
        return size_of(i) > 0 && (i != kLapU || form != LaplacianForm::none);
    }

    PotentialShape shape_of(LaplacianForm form) const {
        PotentialShape s = shape;
        s.form = form;
        return s;
    }
    PotentialInputs<T> pointers() const {
        const auto at = [&](Input i) { return inputs[i].size() > 0 ? inputs[i].data() : nullptr; };
        return {at(kZ),
                at(kTau),
                at(kDtauDt),
                at(kD2tauDt2),
                at(kWeight1),
                at(kBias1),
                at(kWeight2),
                at(kBias2),
                at(kWeight3),
                at(kBias3),
                k.exists() ? k.data() : nullptr,
                k_all,
                feature_row.exists() ? feature_row.data() : nullptr};
    }

    // Nothing was written to or beside what the caller gave.
    void expect_untouched() const {
        bool all = k.intact() && feature_row.intact();
        size_t at = 0;
        const auto check = [&](const Guarded<T>& array) {
            const size_t bytes = static_cast<size_t>(array.size()) * sizeof(T);
            all = all && array.intact() && std::memcmp(array.data(), original_.data() + at, bytes) == 0;
            at += bytes;
        };
        for (const Guarded<T>& array : inputs) check(array);
        for (const Guarded<T>& array : cotangents) check(array);
        expect(all, "the inputs are as they were");
    }

    // After the inputs were changed.
    void remember() {
        original_.clear();
        const auto append = [&](const Guarded<T>& array) {
            const char* bytes = reinterpret_cast<const char*>(array.data());
            original_.insert(original_.end(), bytes, bytes + static_cast<size_t>(array.size()) * sizeof(T));
        };
        for (const Guarded<T>& array : inputs) append(array);
        for (const Guarded<T>& array : cotangents) append(array);
    }

  private:
    // Where k is given per row the first potential has none; where the feature row is shared all rows are of
    // one. Of a table, feature row m is of potential m % K, and some feature rows belong to no row.
    void choose_rows(Random& random) {
        if (mixed()) {
            k = Guarded<int64_t>(shape.rows);
            for (int64_t row = 0; row < shape.rows; ++row)
                k[row] = layout.features == Features::shared ? 2 : 1 + random.below(kPotentials - 1);
        }
        if (layout.features != Features::table) return;
        feature_row = Guarded<int64_t>(shape.rows);
        for (int64_t row = 0; row < shape.rows; ++row)
            feature_row[row] = k_of(row) + kPotentials * random.below(2);
    }

    // Sums over units stay of the order of 1, and tanh bends.
    double spread(Input i) const {
        if (i == kZ || i == kTau || i == kDtauDt || i == kD2tauDt2) return 1;
        const auto sum_over = [](int64_t units) { return 2 / std::sqrt(static_cast<double>(units)); };
        if (i == kWeight1) return sum_over(shape.latent);
        if (i == kWeight2) return sum_over(shape.hidden1);
        return i == kWeight3 ? sum_over(shape.hidden2) : 0.5;
    }

    void fill(Guarded<T>& array, int64_t count, double range, Random& random) const {
        array = Guarded<T>(count, variant.offset);
        for (int64_t i = 0; i < count; ++i) array[i] = static_cast<T>(random.uniform(-range, range));
    }

    // Every unit of the first layer is at ±1: the weights of one are of one sign, and z is large.
    void saturate() {
        for (int64_t i = 0; i < inputs[kWeight1].size(); ++i)
            inputs[kWeight1][i] = std::abs(inputs[kWeight1][i]) + T(0.1);
        for (int64_t i = 0; i < inputs[kZ].size(); ++i)
            inputs[kZ][i] = i / shape.latent % 2 ? T(1e4) : T(-1e4);
    }

    std::vector<char> original_;
};

}  // namespace ffrl::test
