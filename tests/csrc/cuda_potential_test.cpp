// The op on the GPU, its kernels and launches emulated on the host: values and gradients against automatic
// differentiation, what it does to the memory that it is given, and that neither the order of the threads nor
// the batch changes the bits of a row.
//
//     cuda_potential_test [full]
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "cuda_calls.h"
#include "expect.h"
#include "potential_case.h"
#include "reference.h"

using namespace ffrl;
using namespace ffrl::test;

namespace {

constexpr LaplacianForm kForms[] = {LaplacianForm::none, LaplacianForm::gram, LaplacianForm::jacobian};
constexpr const char* kFormNames[] = {"none", "gram", "jacobian"};
constexpr ThreadOrder kOrders[] = {ThreadOrder::forward, ThreadOrder::backward, ThreadOrder::interleaved};

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

// Forward with and without anything kept, backward with everything; the second of each on memory that holds
// other things, with the threads in another order: nothing is read before it is written, and there is no
// race.
template <class T>
void check_all(const Case<T>& one, int64_t turn) {
    const Reference reference(one);
    const Precision precision = turn % 2 == 0 ? Precision::tf32x3 : Precision::ieee;
    const Run first{Before::poison, ThreadOrder::forward, precision};
    const Run second{Before::zeros, turn % 4 < 2 ? ThreadOrder::backward : ThreadOrder::interleaved,
                     precision};
    for (const LaplacianForm form : kForms) {
        describe(one, form);
        const CudaForward<T> call(one, form, true, first);
        expect_values(one, call, reference);
        expect(call.same_bits(CudaForward<T>(one, form, true, second)),
               "the forward is the same on any memory");
        expect_values(one, CudaForward<T>(one, form, false, first), reference);
        const CudaBackward<T> gradients(one, form, call, kAllCotangents, {}, first);
        expect_gradients(one, form, gradients, reference);
        expect(gradients.same_bits(CudaBackward<T>(one, form, call, kAllCotangents, {}, second)),
               "the backward is the same on any memory");
    }
}

// Each size in turn through numbers that fill tiles and blocks, or miss them by one.
template <class T>
void sizes(bool full) {
    int64_t i = 0;
    const auto check = [&](const Sizes& sizes) {
        check_all(Case<T>(sizes, kLayouts[i % kLayoutCount], variant_of(i / 2), static_cast<uint64_t>(i)), i);
        ++i;
    };
    for (const int64_t rows : {1, 2, 3, 17, 33, 64, 65, 130}) check({rows, 3, 5, 4});
    for (const int64_t n : {1, 17, 33, 65}) {
        check({3, n, 4, 3});
        check({4, 2, n, 5});
        check({3, 3, 6, n});
        check({2, 2, n, n});
        check({2, n, n < 65 ? n : 17, 3});
        if (full) check({n, n, n, n < 40 ? n : 9});
    }
    for (const Sizes& some :
         {Sizes{2, 1, 1, 1}, Sizes{17, 9, 34, 5}, Sizes{3, 10, 33, 20}, Sizes{70, 1, 35, 2}})
        check(some);
    for (int layout = 0; layout < kLayoutCount; ++layout) check({130, 2, 3, 2});
    // several chunks of each sum over rows
    for (int repeat = 0; repeat < (full ? kLayoutCount : 1); ++repeat) check({700, 2, 3, 2});
}

// Every subset of the cotangents with every subset of what is asked for.
template <class T>
void combinations(bool full) {
    int64_t i = 0;
    for (int layout = 0; layout < kLayoutCount; ++layout)
        for (int64_t variant = 0; variant < 4; ++variant) {
            const Case<T> one({9, 3, 5, 3}, kLayouts[layout], variant_of(variant),
                              100 + static_cast<uint64_t>(i));
            const Reference reference(one);
            for (const LaplacianForm form : kForms) {
                describe(one, form);
                const CudaForward<T> call(one, form, true);
                for (int cotangents = 0; cotangents <= kAllCotangents; ++cotangents)
                    for (int asked = 0; asked < 8; ++asked) {
                        // quick: each combination once for every form, layouts and variants in turn
                        const int64_t turn = cotangents * 8 + asked;
                        if (!full && (turn + turn / 24) % 24 != layout * 4 + variant) continue;
                        const Needs needs{(asked & 1) != 0, (asked & 2) != 0, (asked & 4) != 0};
                        describe(
                            one, form,
                            "cotangents " + std::to_string(cotangents) + " asked " + std::to_string(asked));
                        expect_gradients(one, form, CudaBackward<T>(one, form, call, cotangents, needs),
                                         reference, cotangents);
                    }
            }
            ++i;
        }
}

// Within a region no thread reads what another one writes: their order does not show.
template <class T>
void orders() {
    for (int layout = 0; layout < kLayoutCount; ++layout) {
        const Case<T> one({70, 3, 34, 5}, kLayouts[layout], {layout % 2 == 0, true}, 200);
        for (const LaplacianForm form : kForms) {
            const Precision precision = layout % 2 == 0 ? Precision::tf32x3 : Precision::ieee;
            const Run first{Before::poison, ThreadOrder::forward, precision};
            const CudaForward<T> call(one, form, true, first);
            const CudaBackward<T> gradients(one, form, call, kAllCotangents, {}, first);
            for (const ThreadOrder order : kOrders) {
                describe(one, form, "order " + std::to_string(static_cast<int>(order)));
                const Run run{Before::poison, order, precision};
                expect(call.same_bits(CudaForward<T>(one, form, true, run)),
                       "outputs do not depend on the order");
                expect(gradients.same_bits(CudaBackward<T>(one, form, call, kAllCotangents, {}, run)),
                       "gradients do not depend on the order");
            }
        }
    }
}

// Where tanh is ±1 everything is finite, and what is multiplied by its slope is zero.
template <class T>
void saturation() {
    for (int layout = 0; layout < kLayoutCount; ++layout) {
        const Case<T> one({35, 3, 9, 4}, kLayouts[layout], {true, true, 0, true}, 400);
        check_all(one, layout);
        for (const LaplacianForm form : kForms) {
            const CudaForward<T> call(one, form, true);
            for (int64_t i = 0; i < one.size_of(kDuDz); ++i)
                expect(call.outputs[kDuDz][i] == 0, "no velocity where saturated");
            const CudaBackward<T> gradients(one, form, call);
            for (const Guarded<T>& array : gradients.gradients)
                for (int64_t i = 0; i < array.size(); ++i)
                    expect(std::isfinite(array[i]), "gradients are finite where saturated");
        }
    }
}

// The case with some of its rows, in another order, and the same weights.
template <class T>
Case<T> some_rows(const Case<T>& one, const std::vector<int64_t>& rows) {
    const PotentialShape& s = one.shape;
    Case<T> other({static_cast<int64_t>(rows.size()), s.latent, s.hidden1, s.hidden2}, one.layout,
                  one.variant, 1);
    for (int input = kWeight1; input < kInputs; ++input)
        for (int64_t i = 0; i < one.inputs[input].size(); ++i) other.inputs[input][i] = one.inputs[input][i];
    const auto copy = [](Guarded<T>& to, int64_t to_row, const Guarded<T>& from, int64_t from_row,
                         int64_t width) {
        for (int64_t i = 0; i < width && from.size() > 0; ++i)
            to[to_row * width + i] = from[from_row * width + i];
    };
    for (size_t at = 0; at < rows.size(); ++at) {
        const auto to = static_cast<int64_t>(at);
        const int64_t from = rows[at];
        if (one.mixed()) other.k[to] = one.k[from];
        if (one.feature_row.exists()) other.feature_row[to] = one.feature_row[from];
        copy(other.inputs[kZ], to, one.inputs[kZ], from, s.latent);
        for (const Input input : {kTau, kDtauDt, kD2tauDt2})
            copy(other.inputs[input], other.feature_of(to), one.inputs[input], one.feature_of(from),
                 s.hidden1);
        for (int output = 0; output < kOutputs; ++output)
            copy(other.cotangents[output], to, one.cotangents[output], from,
                 one.size_of(Output(output)) / s.rows);
    }
    other.remember();
    return other;
}

template <class T>
void expect_row(const Guarded<T>& got, int64_t row, const Guarded<T>& want, int64_t from, int64_t rows,
                const char* name) {
    if (!want.exists()) return;
    const int64_t width = want.size() / rows;
    expect(std::memcmp(got.data() + row * width, want.data() + from * width,
                       static_cast<size_t>(width) * sizeof(T)) == 0,
           name);
}

// A row has the same bits in every batch and at every place, and a row of NaN is nobody else's.
template <class T>
void batches(bool full) {
    for (int layout = 0; layout < kLayoutCount; ++layout) {
        const Case<T> one({full ? 200 : 75, 5, 34, 7}, kLayouts[layout], {layout % 2 == 1, true}, 500);
        const int64_t count = one.shape.rows;
        std::vector<int64_t> reversed, few = {count - 1, 3, 40};
        for (int64_t row = 0; row < count; ++row) reversed.push_back(count - 1 - row);
        for (const LaplacianForm form : kForms) {
            describe(one, form);
            const Run run{Before::poison, ThreadOrder::forward,
                          layout % 2 == 0 ? Precision::tf32x3 : Precision::ieee};
            const CudaForward<T> call(one, form, true, run);
            const CudaBackward<T> gradients(one, form, call, kAllCotangents, {true, false, false}, run);
            for (const std::vector<int64_t>& rows : {reversed, few, std::vector<int64_t>{17}}) {
                const Case<T> part = some_rows(one, rows);
                const CudaForward<T> part_call(part, form, true, run);
                const CudaBackward<T> part_gradients(part, form, part_call, kAllCotangents,
                                                     {true, false, false}, run);
                for (size_t at = 0; at < rows.size(); ++at) {
                    const auto row = static_cast<int64_t>(at);
                    for (int i = 0; i < kOutputs; ++i)
                        expect_row(part_call.outputs[i], row, call.outputs[i], rows[at], count,
                                   kOutputNames[i]);
                    expect_row(part_gradients.gradients[kZ], row, gradients.gradients[kZ], rows[at], count,
                               "z");
                }
            }
            Case<T> with_nan = some_rows(one, reversed);
            const int64_t bad = 20;
            with_nan.inputs[kZ][bad * one.shape.latent] = std::numeric_limits<T>::quiet_NaN();
            with_nan.remember();
            const CudaForward<T> nan_call(with_nan, form, true, run);
            const CudaBackward<T> nan_gradients(with_nan, form, nan_call, kAllCotangents,
                                                {true, false, false}, run);
            expect(std::isnan(nan_call.outputs[kU][bad]), "NaN shows in its row");
            for (int64_t row = 0; row < count; ++row) {
                if (row == bad) continue;
                for (int i = 0; i < kOutputs; ++i)
                    expect_row(nan_call.outputs[i], row, call.outputs[i], count - 1 - row, count,
                               kOutputNames[i]);
                expect_row(nan_gradients.gradients[kZ], row, gradients.gradients[kZ], count - 1 - row, count,
                           "z");
            }
        }
    }
}

// What padding keeps is not used by the backward, whatever it is.
template <class T>
void padding() {
    for (int layout = 0; layout < kLayoutCount; ++layout) {
        const Case<T> one({35, 3, 9, 4}, kLayouts[layout], {layout % 2 == 0, true}, 600);
        for (const LaplacianForm form : kForms) {
            describe(one, form);
            const CudaForward<T> call(one, form, true), poisoned(one, form, true);
            const CudaBackward<T> gradients(one, form, call);
            const PotentialShape s = one.shape_of(form);
            const int64_t width = cuda::kept_width(s), slots = poisoned.kept.size() / width;
            // Where rows are: those of one potential stand at the beginning of its blocks.
            std::vector<bool> has_row(static_cast<size_t>(slots));
            int64_t block = 0;
            for (int64_t k = 0; k < kPotentials; ++k) {
                int64_t rows = 0;
                for (int64_t row = 0; row < s.rows; ++row) rows += one.k_of(row) == k;
                for (int64_t i = 0; i < rows; ++i)
                    has_row[static_cast<size_t>(block * cuda::kRows + i)] = true;
                block += cuda::divide_up(rows, cuda::kRows);
            }
            for (int64_t slot = 0; slot < slots; ++slot)
                for (int64_t i = 0; i < width && !has_row[static_cast<size_t>(slot)]; ++i) {
                    expect(std::isfinite(poisoned.kept[slot * width + i]), "padding is finite");
                    poisoned.kept[slot * width + i] = std::numeric_limits<T>::quiet_NaN();
                }
            expect(gradients.same_bits(CudaBackward<T>(one, form, poisoned)), "padding is not used");
        }
    }
}

// No rows: gradients of zero.
template <class T>
void nothing() {
    for (const bool mixed : {false, true}) {
        Case<T> one({3, 2, 3, 2}, kLayouts[mixed ? 3 : 0], {true, true}, 700);
        one.shape.rows = 0;
        for (const LaplacianForm form : kForms) {
            describe(one, form);
            const CudaForward<T> call(one, form, true);
            const CudaBackward<T> gradients(one, form, call);
            for (const Guarded<T>& array : gradients.gradients)
                for (int64_t i = 0; i < array.size(); ++i) expect(array[i] == 0, "no rows, no gradient");
        }
    }
}

// k or a feature row out of range ends the kernel; until it does nothing outside of the arrays is touched.
void traps() {
    for (const int64_t wrong : {int64_t{-1}, kPotentials, INT64_MIN, INT64_MAX})
        for (const int64_t row : {0, 39}) {
            Case<double> one({40, 3, 5, 4}, kLayouts[4], {true, true}, 800);
            one.k[row] = wrong;
            one.remember();
            cuda::trap_count() = 0;
            const CudaForward<double> call(one, LaplacianForm::none, false);
            expect(cuda::trap_count() > 0, "k out of range traps");
        }
    for (const int64_t wrong : {int64_t{-1}, 2 * kPotentials + 1, INT64_MIN, INT64_MAX})
        for (const int64_t row : {0, 39}) {
            Case<double> one({40, 3, 5, 4}, kLayouts[2], {true, true}, 801);
            one.feature_row[row] = wrong;
            one.remember();
            cuda::trap_count() = 0;
            const CudaForward<double> call(one, LaplacianForm::none, true);
            expect(cuda::trap_count() > 0, "a feature row out of range traps in the forward");
            cuda::trap_count() = 0;
            const CudaBackward<double> gradients(one, LaplacianForm::none, call);
            expect(cuda::trap_count() > 0, "a feature row out of range traps in the backward");
        }
    cuda::trap_count() = 0;
    const Case<double> one({40, 3, 5, 4}, kLayouts[5], {true, true}, 802);
    const CudaForward<double> call(one, LaplacianForm::none, true);
    const CudaBackward<double> gradients(one, LaplacianForm::none, call);
    expect(cuda::trap_count() == 0, "nothing traps where all is right");
}

// The plan of many rows and potentials: rows of one stand together, in their order.
void plans(bool full) {
    Random random(900);
    for (const int64_t rows : {1, 63, 64, 65, 1000, 1024, 1025, full ? 40'000 : 5'000})
        for (const int64_t potentials : {1, 2, 3, 16, 17, 300, 65'535, 70'000})
            for (const ThreadOrder order : kOrders) {
                if (potentials > 300 && (order != ThreadOrder::forward || rows % 1000 != 0)) continue;
                report().context =
                    std::to_string(rows) + " rows " + std::to_string(potentials) + " potentials";
                Guarded<int64_t> k(rows);
                const int64_t some = 1 + random.below(potentials);
                for (int64_t row = 0; row < rows; ++row) k[row] = potentials - 1 - random.below(some);
                PotentialShape shape{};
                shape.rows = rows;
                shape.potentials = potentials;
                cuda::Arena size(nullptr);
                const cuda::PlanMemory unused(size, shape, true);
                cuda::take_sort(size, rows);
                const Guarded<int64_t> memory = workspace_of<int64_t>(size.used(), Before::poison);
                cuda::Arena arena(memory.data());
                const cuda::PlanMemory w(arena, shape, true);
                const cuda::SortMemory sort = cuda::take_sort(arena, rows);
                cuda::EmulatedLauncher launch(order);
                cuda::launch_row_plan(launch, w.plan, k.data(), static_cast<int>(rows), sort, w.first_row);
                expect(memory.intact(), "nothing is written beside the plan");
                std::vector<std::vector<int64_t>> of_k(static_cast<size_t>(potentials));
                for (int64_t row = 0; row < rows; ++row) of_k[static_cast<size_t>(k[row])].push_back(row);
                int64_t block = 0, wrong = 0;
                for (int64_t i = 0; i < potentials; ++i) {
                    const std::vector<int64_t>& those = of_k[static_cast<size_t>(i)];
                    const auto count = static_cast<int64_t>(those.size());
                    wrong += w.plan.first_block[i] != block;
                    for (int64_t at = 0; at < cuda::divide_up(count, cuda::kRows) * cuda::kRows; ++at) {
                        const int64_t want = at < count ? those[static_cast<size_t>(at)] : -1;
                        wrong += w.plan.slot_row[block * cuda::kRows + at] != want;
                        wrong += w.plan.block_k[block + at / cuda::kRows] != i;
                    }
                    block += cuda::divide_up(count, cuda::kRows);
                }
                wrong += w.plan.first_block[potentials] != block;
                for (; block < w.plan.blocks; ++block) {
                    wrong += w.plan.block_k[block] < 0 || w.plan.block_k[block] >= potentials;
                    for (int64_t at = 0; at < cuda::kRows; ++at)
                        wrong += w.plan.slot_row[block * cuda::kRows + at] != -1;
                }
                expect(wrong == 0, "slots, blocks and first blocks are those of the rows");
            }
}

template <class T>
void all(const std::string& type, bool full) {
    section("sizes_" + type);
    sizes<T>(full);
    section("combinations_" + type);
    combinations<T>(full);
    section("orders_" + type);
    orders<T>();
    section("saturation_" + type);
    saturation<T>();
    section("batches_" + type);
    batches<T>(full);
    section("padding_" + type);
    padding<T>();
    section("nothing_" + type);
    nothing<T>();
}

}  // namespace

int main(int count, char** arguments) {
    const bool full = count == 2 && std::strcmp(arguments[1], "full") == 0;
    if (count != 1 && !full) {
        std::fprintf(stderr, "cuda_potential_test [full]\n");
        return 2;
    }
    section("plans");
    plans(full);
    section("traps");
    traps();
    all<float>("float", full);
    all<double>("double", full);
    return finish();
}
