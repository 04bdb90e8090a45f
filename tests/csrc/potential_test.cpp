// The op on the CPU through its plain interface: values and gradients against automatic differentiation, and
// what it does to the memory that it is given.
//
//     potential_test CAPABILITY quick|full|threads
//
// "threads" is only what runs on several threads. Exit status 77: the processor lacks the instruction set.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "calls.h"
#include "cpu/capability.h"
#include "cpu/potential_cpu.h"
#include "expect.h"
#include "potential_case.h"
#include "reference.h"

using namespace ffrl;
using namespace ffrl::test;

namespace {

constexpr LaplacianForm kForms[] = {LaplacianForm::none, LaplacianForm::gram, LaplacianForm::jacobian};
constexpr const char* kFormNames[] = {"none", "gram", "jacobian"};

template <class T>
void describe(const Case<T>& one, LaplacianForm form, const std::string& more = "") {
    const PotentialShape& s = one.shape;
    std::string& text = report().context;
    text = sizeof(T) == 4 ? "float, " : "double, ";
    text += std::string(kFormNames[static_cast<int>(form)]) + ", " + one.layout.name;
    text += s.tanh_output ? ", tanh" : ", identity";
    text += s.d2u_dt2 ? ", d2u_dt2" : "";
    for (const int64_t size : {s.rows, s.latent, s.hidden1, s.hidden2}) text += " " + std::to_string(size);
    text += " " + more;
}

Variant variant_of(int64_t i) {
    return {i % 2 == 0, i / 2 % 2 == 0, i % 3, false};
}

// Forward with and without anything kept, backward with everything.
template <class T>
void check_all(const Case<T>& one, int64_t thread_count = 1) {
    const Reference reference(one);
    for (const LaplacianForm form : kForms) {
        describe(one, form);
        const ForwardCall<T> call = forward(one, form, true, serial(thread_count));
        expect_values(one, call, reference);
        expect_values(one, forward(one, form, false, serial(thread_count)), reference);
        const BackwardCall<T> gradients =
            backward(one, form, call, kAllCotangents, kAllNeeds, serial(thread_count));
        expect_gradients(one, form, gradients, reference);
    }
}

// Each size in turn through numbers that fill registers, panels and blocks, or miss them by one.
template <class T>
void sizes(bool full) {
    int64_t i = 0;
    const auto check = [&](const Sizes& sizes) {
        check_all(Case<T>(sizes, kLayouts[i % kLayoutCount], variant_of(i / 2), static_cast<uint64_t>(i)),
                  1 + i % 3);
        ++i;
    };
    for (const int64_t n : {1, 2, 3, 7, 8, 9, 15, 17, 31, 33, 40, 65}) {
        check({n, 3, 5, 4});
        check({5, n, 4, 3});
        check({4, 2, n, 5});
        check({3, 3, 6, n});
        check({3, 2, n, n});
        check({2, n, n, 3});
        if (full) check({n, n, n, n < 40 ? n : 9});
    }
    for (const Sizes& some :
         {Sizes{2, 1, 1, 1}, Sizes{33, 9, 40, 5}, Sizes{3, 10, 33, 65}, Sizes{9, 1, 40, 2}})
        check(some);
    // more blocks of one potential than any task takes together
    for (int repeat = 0; repeat < (full ? kLayoutCount : 2); ++repeat) check({1100, 2, 3, 2});
}

// Every subset of the cotangents with every subset of what is asked for.
template <class T>
void combinations(bool full) {
    int64_t i = 0;
    for (int layout = 0; layout < kLayoutCount; ++layout)
        for (int64_t variant = 0; variant < 4; ++variant) {
            const Case<T> one({35, 3, 5, 3}, kLayouts[layout], variant_of(variant),
                              100 + static_cast<uint64_t>(i));
            const Reference reference(one);
            for (const LaplacianForm form : kForms) {
                describe(one, form);
                const ForwardCall<T> call = forward(one, form, true);
                for (int cotangents = 0; cotangents <= kAllCotangents; ++cotangents)
                    for (int asked = 0; asked < 8; ++asked) {
                        // quick: each combination once for every form, layouts and variants in turn
                        const int64_t turn = cotangents * 8 + asked;
                        if (!full && (turn + turn / 24) % 24 != layout * 4 + variant) continue;
                        const cpu::BackwardNeeds needs{(asked & 1) != 0, (asked & 2) != 0, (asked & 4) != 0};
                        describe(
                            one, form,
                            "cotangents " + std::to_string(cotangents) + " asked " + std::to_string(asked));
                        expect_gradients(one, form, backward(one, form, call, cotangents, needs), reference,
                                         cotangents);
                    }
            }
            ++i;
        }
}

// Slots in any order and at the same time give the bits of one.
template <class T>
void thread_counts(bool full) {
    for (const Layout& layout : kLayouts) {
        const Case<T> one(full ? Sizes{230, 5, 37, 66} : Sizes{70, 3, 34, 5}, layout, {true, true}, 200);
        for (const LaplacianForm form : kForms) {
            const ForwardCall<T> call = forward(one, form, true);
            const BackwardCall<T> gradients = backward(one, form, call);
            for (const cpu::Threads& with :
                 {serial(8), backwards(3), backwards(8), threads(2), threads(3), threads(8)}) {
                describe(one, form, std::to_string(with.count) + " threads");
                const ForwardCall<T> other(one, form, true, Before::poison, with);
                expect(other.same_bits(call), "outputs do not depend on the threads");
                const BackwardCall<T> others(one, form, other, kAllCotangents, kAllNeeds, Before::poison,
                                             with);
                expect(others.same_bits(gradients), "gradients do not depend on the threads");
            }
        }
    }
}

// The arrays of a caller may begin at any element.
template <class T>
void alignments() {
    for (const Layout& layout : kLayouts) {
        const Case<T> aligned({37, 9, 17, 10}, layout, {true, true, 0}, 300);
        for (const int64_t offset : {1, 3}) {
            const Case<T> one({37, 9, 17, 10}, layout, {true, true, offset}, 300);
            for (const LaplacianForm form : kForms) {
                describe(one, form, "offset " + std::to_string(offset));
                const ForwardCall<T> call = forward(one, form, true), want = forward(aligned, form, true);
                expect(call.same_bits(want), "outputs do not depend on the alignment");
                expect(backward(one, form, call).same_bits(backward(aligned, form, want)),
                       "gradients do not depend on the alignment");
            }
        }
    }
}

// Where tanh is ±1 everything is finite, and what is multiplied by its slope is zero.
template <class T>
void saturation() {
    for (const Layout& layout : kLayouts) {
        const Case<T> one({35, 3, 9, 4}, layout, {true, true, 0, true}, 400);
        check_all(one);
        for (const LaplacianForm form : kForms) {
            const ForwardCall<T> call = forward(one, form, true);
            for (int64_t i = 0; i < one.size_of(kDuDz); ++i)
                expect(call.outputs[kDuDz][i] == 0, "no velocity where saturated");
            const BackwardCall<T> gradients = backward(one, form, call);
            for (int64_t i = 0; i < one.size_of(kZ); ++i)
                expect(gradients.gradients[kZ][i] == 0, "no cotangent where saturated");
        }
    }
}

template <class T>
void statuses() {
    const auto expect_status = [](const Case<T>& one, cpu::Status want, const char* what) {
        for (const LaplacianForm form : kForms) {
            describe(one, form);
            const ForwardCall<T> call(one, form, true, Before::poison, serial(2));
            expect(call.status == want, what);
            expect(BackwardCall<T>(one, form, call, kAllCotangents, kAllNeeds, Before::poison, serial(2))
                           .status == want,
                   what);
        }
    };
    const auto make = [](int layout) { return Case<T>({40, 3, 5, 4}, kLayouts[layout], {true, true}, 500); };
    enum { kOneShared = 0, kOneTable = 2, kMixedShared = 3, kMixedTable = 5 };
    for (const int64_t wrong : {int64_t{-1}, kPotentials, INT64_MIN, INT64_MAX}) {
        Case<T> one = make(kOneShared);
        one.k_all = wrong;
        expect_status(one, cpu::Status::k_out_of_range, "k of all rows is out of range");
        for (const int64_t row : {0, 39}) {
            Case<T> mixed = make(kMixedTable);
            mixed.k[row] = wrong;
            expect_status(mixed, cpu::Status::k_out_of_range, "k of a row is out of range");
        }
    }
    for (const int layout : {kOneTable, kMixedTable})
        for (const int64_t wrong : {int64_t{-1}, 2 * kPotentials + 1, INT64_MIN, INT64_MAX}) {
            Case<T> one = make(layout);
            one.feature_row[39] = wrong;
            expect_status(one, cpu::Status::feature_row_out_of_range, "a feature row is out of range");
        }
    Case<T> shared = make(kMixedShared);
    shared.k[39] = 1;
    expect_status(shared, cpu::Status::feature_row_of_two_potentials, "a feature row is of two potentials");
    Case<T> table = make(kMixedTable);
    table.k[20] = 3 - table.k[20];
    table.feature_row[39] = table.feature_row[20];
    table.k[39] = 3 - table.k[20];
    expect_status(table, cpu::Status::feature_row_of_two_potentials, "a feature row is of two potentials");
}

// The gradients against the forward itself: central differences of fourth order, with step s, of a random
// functional of all outputs along a random direction. Truncation is of the order s⁴, rounding eps / s.
void differences() {
    for (const Layout& layout : kLayouts)
        for (const Sizes& some : {Sizes{5, 3, 4, 5}, Sizes{34, 7, 9, 8}})
            for (const LaplacianForm form : kForms) {
                const Case<double> one(some, layout, {true, true}, 600);
                describe(one, form);
                const BackwardCall<double> gradients = backward(one, form, forward(one, form, true));
                for (int input = 0; input < kInputs; ++input) {
                    const auto functional = [&](double s) {
                        Case<double> moved(some, layout, {true, true}, 600);
                        Random random(601);
                        for (int64_t i = 0; i < moved.inputs[input].size(); ++i)
                            moved.inputs[input][i] += s * random.uniform(-1, 1);
                        moved.remember();
                        const ForwardCall<double> call(moved, form, false, Before::poison, serial(1));
                        double sum = 0;
                        for (int output = 0; output < kOutputs; ++output)
                            for (int64_t i = 0; i < call.outputs[output].size(); ++i)
                                sum += one.cotangents[output][i] * call.outputs[output][i];
                        return sum;
                    };
                    Random random(601);
                    double along = 0, size = 0;
                    for (int64_t i = 0; i < gradients.gradients[input].size(); ++i) {
                        const double term = gradients.gradients[input][i] * random.uniform(-1, 1);
                        along += term;
                        size += term < 0 ? -term : term;
                    }
                    const double s = 0x1p-10;
                    const double difference =
                        (8 * (functional(s) - functional(-s)) - (functional(2 * s) - functional(-2 * s))) /
                        (12 * s);
                    expect(size > 0, "there is something to differentiate");
                    expect_close(along, difference, 1e-8 * size, kInputNames[input]);
                }
            }
}

template <class T>
void all(const std::string& type, bool full) {
    section("sizes_" + type);
    sizes<T>(full);
    section("combinations_" + type);
    combinations<T>(full);
    section("threads_" + type);
    thread_counts<T>(full);
    section("alignments_" + type);
    alignments<T>();
    section("saturation_" + type);
    saturation<T>();
    section("statuses_" + type);
    statuses<T>();
}

}  // namespace

int main(int count, char** arguments) {
    const std::string mode = count == 3 ? arguments[2] : "";
    if (mode != "quick" && mode != "full" && mode != "threads") {
        std::fprintf(stderr, "potential_test CAPABILITY quick|full|threads\n");
        return 2;
    }
    if (!cpu::set_capability(arguments[1])) return 77;
    section("capability");
    expect(std::strcmp(cpu::capability(), arguments[1]) == 0, "the capability is the one that was chosen");
    if (mode == "threads") {
        section("threads_float");
        thread_counts<float>(false);
        section("threads_double");
        thread_counts<double>(false);
    } else {
        all<float>("float", mode == "full");
        all<double>("double", mode == "full");
        section("differences");
        differences();
    }
    return finish();
}
