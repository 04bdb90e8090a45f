// The cubic part of the CUDA op, equations (8) to (10) and (16), against loops in double: the kernels
// emulated on the host, every launch with its threads in three orders. Outputs and workspace begin as NaN, so
// that what was read without having been written shows.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "cuda/cubic_backward.h"
#include "cuda/cubic_forward.h"
#include "expect.h"
#include "guarded.h"

using namespace ffrl;
using namespace ffrl::cuda;
using namespace ffrl::test;

namespace {

constexpr ThreadOrder kOrders[] = {ThreadOrder::forward, ThreadOrder::backward, ThreadOrder::interleaved};
constexpr const char* kPrecisionNames[] = {"ieee", "tf32x3", "tf32"};

// A number and the sum of the sizes of its terms: what rounding is relative to.
struct Total {
    double value = 0, size = 0;

    void add(double term, double size_of_term) { value += term, size += size_of_term; }
    void add(double term) { add(term, std::abs(term)); }
};
using Totals = std::vector<Total>;

struct Sizes {
    int latent, hidden1, hidden2;
    std::vector<int> rows;  // of each potential
    int spare = 0;          // blocks of none
};

template <class T>
struct Problem {
    Sizes sizes;
    int k, d, h1, h2;
    int64_t slots;
    Guarded<T> weight1, weight2, gram, d1, c, v_ell_c;
    std::vector<int> block_k, first_block;

    explicit Problem(const Sizes& sizes, uint64_t seed = 1)
        : sizes(sizes),
          k(static_cast<int>(sizes.rows.size())),
          d(sizes.latent),
          h1(sizes.hidden1),
          h2(sizes.hidden2) {
        Random random(seed);
        first_block = {0};
        for (int i = 0; i < k; ++i) {
            const int blocks = (sizes.rows[static_cast<size_t>(i)] + kRows - 1) / kRows;
            block_k.insert(block_k.end(), static_cast<size_t>(blocks), i);
            first_block.push_back(first_block.back() + blocks);
        }
        block_k.insert(block_k.end(), static_cast<size_t>(sizes.spare), 1 << 20);
        slots = static_cast<int64_t>(block_k.size()) * kRows;
        weight1 = random_array(int64_t{k} * h1 * d, -1, random);
        weight2 = random_array(int64_t{k} * h2 * h1, -1, random);
        d1 = random_array(slots * h1, 0, random);
        c = random_array(slots * h2, -1, random);
        v_ell_c = random_array(slots * h2, -1, random);
        for (int i = 0; i < k; ++i)
            for (int64_t slot = int64_t{first_block[i]} * kRows + sizes.rows[static_cast<size_t>(i)];
                 slot < int64_t{first_block[i + 1]} * kRows; ++slot)
                for (int j = 0; j < h2; ++j) v_ell_c[j * slots + slot] = 0;
        for (int64_t slot = int64_t{first_block.back()} * kRows; slot < slots; ++slot)
            for (int j = 0; j < h2; ++j) v_ell_c[j * slots + slot] = 0;
        gram = Guarded<T>(int64_t{k} * h1 * h1);
        for (int64_t at = 0; at < gram.size(); ++at) gram[at] = static_cast<T>(gram_of(at).value);
    }

    static Guarded<T> random_array(int64_t count, double low, Random& random) {
        Guarded<T> array(count);
        for (int64_t i = 0; i < count; ++i) array[i] = static_cast<T>(random.uniform(low, 1));
        return array;
    }

    CubicOperands<T> operands(bool backward) const {
        return {weight1.data(),
                weight2.data(),
                gram.data(),
                block_k.data(),
                first_block.data(),
                d1.data(),
                backward ? v_ell_c.data() : c.data(),
                static_cast<int>(block_k.size()),
                k,
                d,
                h1,
                h2};
    }

    Total gram_of(int64_t at) const {
        const int64_t l = at % h1, i = at / h1 % h1, of_k = at / h1 / h1 * h1;
        Total sum;
        for (int e = 0; e < d; ++e)
            sum.add(double(weight1[(of_k + i) * d + e]) * double(weight1[(of_k + l) * d + e]));
        return sum;
    }

    const T* weights(int64_t of_k, int64_t j) const { return weight2.data() + (of_k * h2 + j) * h1; }

    // x_j and y_j = G x_j of one slot, (9) and (10).
    void product(int64_t slot, int64_t j, std::vector<double>& x, Totals& y) const {
        const int64_t of_k = block_k[static_cast<size_t>(slot / kRows)];
        const T* weight = weights(of_k, j);
        x.resize(static_cast<size_t>(h1));
        y.assign(static_cast<size_t>(h1), {});
        for (int i = 0; i < h1; ++i) x[i] = double(d1[slot * h1 + i]) * double(weight[i]);
        for (int i = 0; i < h1; ++i)
            for (int l = 0; l < h1; ++l) y[i].add(double(gram[(of_k * h1 + i) * h1 + l]) * x[l]);
    }

    // Row j of the Jacobian of one slot.
    Totals jacobian(int64_t slot, int64_t j) const {
        const int64_t of_k = block_k[static_cast<size_t>(slot / kRows)];
        const T* weight = weights(of_k, j);
        Totals row(static_cast<size_t>(d));
        for (int i = 0; i < h1; ++i)
            for (int e = 0; e < d; ++e)
                row[e].add(double(d1[slot * h1 + i]) * double(weight[i]) *
                           double(weight1[(of_k * h1 + i) * d + e]));
        return row;
    }
};

struct Wanted {
    Totals squares, column_sums, v_d1, v_weight1, v_weight2;
};

template <class T>
Wanted wanted_of(const Problem<T>& p, LaplacianForm form) {
    const size_t h1 = static_cast<size_t>(p.h1), d = static_cast<size_t>(p.d),
                 slots = static_cast<size_t>(p.slots);
    const size_t k = static_cast<size_t>(p.k), h2 = static_cast<size_t>(p.h2);
    Wanted w{Totals(h2 * slots), Totals(slots * h1), Totals(slots * h1), Totals(k * h1 * d),
             Totals(k * h2 * h1)};
    Totals v_gram(k * h1 * h1), y;
    std::vector<double> x;
    // In blocks of no potential all is zero.
    for (size_t slot = 0; slot < slots - static_cast<size_t>(p.sizes.spare) * kRows; ++slot) {
        const size_t of_k = static_cast<size_t>(p.block_k[slot / kRows]);
        const T* d1 = p.d1.data() + slot * h1;
        for (size_t j = 0; j < h2; ++j) {
            const T* weight = p.weights(static_cast<int64_t>(of_k), static_cast<int64_t>(j));
            const double c = p.c[j * slots + slot], v_ell_c = p.v_ell_c[j * slots + slot];
            Total* v_weight2 = &w.v_weight2[(of_k * h2 + j) * h1];
            if (form == LaplacianForm::gram) {
                p.product(static_cast<int64_t>(slot), static_cast<int64_t>(j), x, y);
                for (size_t i = 0; i < h1; ++i) {
                    w.squares[j * slots + slot].add(x[i] * y[i].value, std::abs(x[i]) * y[i].size);
                    w.column_sums[slot * h1 + i].add(c * weight[i] * y[i].value,
                                                     std::abs(c * weight[i]) * y[i].size);
                    const double factor = 2 * v_ell_c * d1[i];
                    v_weight2[i].add(factor * y[i].value, std::abs(factor) * y[i].size);
                    if (v_ell_c == 0) continue;
                    for (size_t l = 0; l < h1; ++l)
                        v_gram[(of_k * h1 + i) * h1 + l].add(v_ell_c * x[i] * x[l]);
                }
            } else {
                const Totals row = p.jacobian(static_cast<int64_t>(slot), static_cast<int64_t>(j));
                for (size_t e = 0; e < d; ++e) {
                    w.squares[j * slots + slot].add(row[e].value * row[e].value, row[e].size * row[e].size);
                    const double v_row = 2 * v_ell_c * row[e].value,
                                 size = 2 * std::abs(v_ell_c) * row[e].size;
                    for (size_t i = 0; i < h1; ++i) {
                        const double weight1 = p.weight1[(of_k * h1 + i) * d + e], of_i = weight[i],
                                     slope = d1[i];
                        w.v_d1[slot * h1 + i].add(v_row * of_i * weight1, size * std::abs(of_i * weight1));
                        w.v_weight1[(of_k * h1 + i) * d + e].add(v_row * of_i * slope,
                                                                 size * std::abs(of_i * slope));
                        v_weight2[i].add(v_row * weight1 * slope, size * std::abs(weight1 * slope));
                    }
                }
            }
        }
    }
    if (form == LaplacianForm::gram)
        for (size_t at = 0; at < v_gram.size(); ++at)
            for (size_t e = 0; e < d; ++e) {
                const double weight1 = p.weight1[(at / h1 / h1 * h1 + at % h1) * d + e];
                w.v_weight1[at / h1 * d + e].add(2 * v_gram[at].value * weight1,
                                                 2 * v_gram[at].size * std::abs(weight1));
            }
    return w;
}

// Relative to the sizes of the terms. TF32 rounds both operands to 2^-11; an epilogue and sums in float
// follow.
template <class T>
double allowed(Precision precision) {
    if (sizeof(T) == sizeof(double)) return 1e-14;
    return precision == Precision::tf32     ? 0x1p-9 + 0x1p-17
           : precision == Precision::tf32x3 ? 0x1p-20
                                            : 0x1p-21;
}

template <class T>
double compare(const Guarded<T>& got, const Totals& want, double bound, const char* name) {
    double largest = 0;
    if (!expect(got.size() == static_cast<int64_t>(want.size()), name)) return largest;
    expect(got.unwritten() == 0 && got.intact(), name);
    for (int64_t i = 0; i < got.size(); ++i) {
        const Total& one = want[static_cast<size_t>(i)];
        expect_close(static_cast<double>(got[i]), one.value, bound * one.size, name);
        if (one.size > 0)
            largest = std::max(largest, std::abs(static_cast<double>(got[i]) - one.value) / one.size);
    }
    return largest;
}

// What a GPU asks of a launch beside what the kernel does.
class CheckedLauncher {
  public:
    explicit CheckedLauncher(ThreadOrder order, size_t shared_memory = kLargeSharedMemory)
        : launch_(order), shared_memory_(shared_memory) {}

    size_t shared_memory() const { return shared_memory_; }

    template <class K>
    void operator()(Index3 grid, const typename K::Params& params) {
        expect(sizeof(typename K::Shared) <= shared_memory_, "shared memory");
        expect(K::kThreads % kWarp == 0 && K::kThreads <= 1024, "threads of a block");
        expect(grid.x >= 0 && grid.y >= 0 && grid.y <= 65535 && grid.z >= 0 && grid.z <= 65535, "a grid");
        expect(sizeof(params) <= 4096, "parameters of a kernel");
        launch_.template operator()<K>(grid, params);
    }
    void zero(void* memory, size_t bytes) { launch_.zero(memory, bytes); }

  private:
    EmulatedLauncher launch_;
    size_t shared_memory_;
};

// Of a launch of many blocks the first and the last few alone.
class EndsLauncher {
  public:
    size_t shared_memory() const { return kLargeSharedMemory; }

    template <class K>
    void operator()(Index3 grid, const typename K::Params& params) {
        expect(grid.y <= 65535 && grid.z <= 65535, "a grid");
        constexpr int kFew = 20;
        const auto shared = std::make_unique<typename K::Shared>();
        for (int x = 0; x < grid.x; x = grid.x > 1000 && x == kFew ? grid.x - kFew : x + 1) {
            for (int yz = 0; yz < grid.y * grid.z; ++yz) {
                std::memset(static_cast<void*>(shared.get()), 0xff, sizeof(typename K::Shared));
                K::run(Block<K::kThreads>({x, yz % grid.y, yz / grid.y}, grid, ThreadOrder::forward), params,
                       *shared);
            }
        }
    }
};

template <class T>
struct Forward {
    Guarded<T> squares, column_sums, workspace;
};

template <class T>
Forward<T> run_forward(const Problem<T>& p, LaplacianForm form, bool keep, Precision precision,
                       ThreadOrder order, size_t shared_memory = kLargeSharedMemory) {
    const int blocks = static_cast<int>(p.block_k.size());
    Forward<T> out;
    out.squares = Guarded<T>(p.slots * p.h2);
    if (form == LaplacianForm::gram && keep) out.column_sums = Guarded<T>(p.slots * p.h1);
    out.workspace = Guarded<T>(squares_numbers<T>(blocks, p.k, p.d, p.h1, p.h2, form, keep));
    CheckedLauncher launch(order, shared_memory);
    launch_squares<T>(launch, p.operands(false), form, keep, precision, out.workspace.data(),
                      out.squares.data(), out.column_sums.exists() ? out.column_sums.data() : nullptr);
    expect(out.squares.intact() && out.column_sums.intact() && out.workspace.intact(),
           "nothing beside is written");
    return out;
}

template <class T>
struct Backward {
    Guarded<T> v_d1, v_weight1, v_weight2, workspace;
};

template <class T>
Backward<T> run_backward(const Problem<T>& p, LaplacianForm form, bool needs_weights, Precision precision,
                         ThreadOrder order) {
    const int blocks = static_cast<int>(p.block_k.size());
    Backward<T> out;
    if (form == LaplacianForm::jacobian) out.v_d1 = Guarded<T>(p.slots * p.h1);
    if (needs_weights) {
        out.v_weight1 = Guarded<T>(int64_t{p.k} * p.h1 * p.d);
        out.v_weight2 = Guarded<T>(int64_t{p.k} * p.h2 * p.h1);
    }
    out.workspace = Guarded<T>(cubic_backward_numbers<T>(blocks, p.k, p.d, p.h1, p.h2, form, needs_weights));
    const auto at = [](const Guarded<T>& array) { return array.exists() ? array.data() : nullptr; };
    CheckedLauncher launch(order, kSharedMemory);
    launch_cubic_backward<T>(launch, p.operands(true), form, needs_weights, precision, out.workspace.data(),
                             at(out.v_d1), at(out.v_weight1), at(out.v_weight2));
    expect(out.v_d1.intact() && out.v_weight1.intact() && out.v_weight2.intact() && out.workspace.intact(),
           "nothing beside is written");
    return out;
}

// Largest error of each precision: the modes are what they say.
double largest_error[3];

template <class T>
void check(const Problem<T>& p, LaplacianForm form, Precision precision, bool backward, bool all_orders) {
    const Wanted want = wanted_of(p, form);
    const double bound = allowed<T>(precision);
    const bool gram = form == LaplacianForm::gram;
    const auto compared = [&](const Guarded<T>& got, const Totals& wanted, const char* name) {
        double& largest = largest_error[static_cast<int>(precision)];
        const double error = compare(got, wanted, bound, name);
        if (sizeof(T) == sizeof(float)) largest = std::max(largest, error);
    };
    const int orders = all_orders ? 3 : 1;
    if (!backward) {
        const Forward<T> first = run_forward(p, form, true, precision, kOrders[0]);
        compared(first.squares, want.squares, "S");
        if (gram) compared(first.column_sums, want.column_sums, "e");
        for (int i = 1; i < orders; ++i) {
            const Forward<T> other = run_forward(p, form, true, precision, kOrders[i]);
            expect(other.squares.same_bits(first.squares), "S in every order");
            expect(other.column_sums.same_bits(first.column_sums), "e in every order");
        }
        expect(run_forward(p, form, false, precision, kOrders[0]).squares.same_bits(first.squares),
               "S alone");
        if (gram && p.h1 > 72) {
            const Forward<T> sliced = run_forward(p, form, true, precision, kOrders[0], kSharedMemory);
            expect(sliced.squares.same_bits(first.squares), "S with less shared memory");
            expect(sliced.column_sums.same_bits(first.column_sums), "e with less shared memory");
        }
        return;
    }
    const Backward<T> first = run_backward(p, form, true, precision, kOrders[0]);
    compared(first.v_weight1, want.v_weight1, "v_weight1");
    compared(first.v_weight2, want.v_weight2, "v_weight2");
    if (!gram) compared(first.v_d1, want.v_d1, "v_d1");
    for (int i = 1; i < orders; ++i) {
        const Backward<T> other = run_backward(p, form, true, precision, kOrders[i]);
        expect(other.v_weight1.same_bits(first.v_weight1), "v_weight1 in every order");
        expect(other.v_weight2.same_bits(first.v_weight2), "v_weight2 in every order");
        expect(other.v_d1.same_bits(first.v_d1), "v_d1 in every order");
    }
    if (!gram)
        expect(run_backward(p, form, false, precision, kOrders[0]).v_d1.same_bits(first.v_d1), "v_d1 alone");
}

// Small and odd sizes, empty potentials, then each side of where tiles and shared memory end.
const std::vector<Sizes> kSmall = {
    {1, 1, 1, {1}},         {2, 3, 2, {0, 0}}, {6, 9, 5, {66, 1}, 2}, {3, 3, 1, {0, 2, 0}},
    {2, 17, 3, {5, 0, 70}}, {5, 33, 17, {64}}, {4, 65, 10, {3, 65}},  {1, 2, 9, {kRows * 70}},
};
const std::vector<Sizes> kLarge = {
    {9, 72, 70, {2}},  {3, 73, 9, {2}, 1}, {7, 137, 5, {1, 1}},
    {17, 226, 3, {4}}, {3, 324, 9, {1}},   {2, 341, 2, {1}},
};

template <class T>
void check_all(const char* name, LaplacianForm form, bool backward, bool quick) {
    section(name);
    for (const auto* all : {&kSmall, &kLarge}) {
        for (const Sizes& sizes : *all) {
            if (quick && all == &kLarge) continue;
            const Problem<T> problem(sizes);
            for (int i = 0; i < (sizeof(T) == sizeof(float) ? 3 : 1); ++i) {
                report().context = "D " + std::to_string(sizes.latent) + ", H1 " +
                                   std::to_string(sizes.hidden1) + ", H2 " + std::to_string(sizes.hidden2) +
                                   ", " + kPrecisionNames[i];
                // The order of the threads means the same at every size: all three where it is cheap.
                check(problem, form, static_cast<Precision>(i), backward,
                      all == &kSmall || sizes.hidden1 < 100);
            }
        }
    }
}

// The sizes above have parts of every kind, and what a row adds up to does not follow the number of rows.
template <class T>
void check_cuts() {
    const GramForwardCut forward = gram_forward_cut<T>(72, 70);
    expect(forward.tiles > 1 && forward.chunks > 1, "parts of S and e");
    const GramBackwardCut gram = gram_backward_cut<T>(70, 1, 2, 9);
    expect(gram.unit_chunks > 1 && gram.row_chunks > 1 && gram_backward_cut<T>(1, 1, 72, 70).tiles > 1,
           "parts of Gbar and W2bar");
    const JacobianBackwardCut jacobian = jacobian_backward_cut<T>(70, 1, 2, 9);
    expect(jacobian.weight1_chunks > 1 && jacobian.weight2_chunks > 1, "parts of W1bar and W2bar");
    for (const int h1 : {1, 33, 72, 73, 324, 1024}) {
        for (const int h2 : {1, 64, 324, 1024}) {
            const GramForwardCut cut = gram_forward_cut<T>(h1, h2);
            expect(cut.chunks <= GramForwardCut::kMostChunks && (cut.chunks - 1) * cut.chunk_units < h2 &&
                       cut.chunks * cut.chunk_units >= h2,
                   "chunks of units");
            for (const int blocks : {0, 1, 16, 1000}) {
                for (const int k : {1, 7}) {
                    const GramBackwardCut back = gram_backward_cut<T>(blocks, k, h1, h2);
                    expect((back.unit_chunks - 1) * back.chunk_units < h2 &&
                               back.unit_chunks * back.chunk_units >= h2,
                           "chunks of units");
                    expect(back.row_chunks >= 1 && back.row_chunks <= 16 && back.tile * back.tiles >= h1 &&
                               int64_t{65535} >= int64_t{back.unit_chunks} * back.row_chunks,
                           "a grid");
                }
            }
        }
    }
}

// (8)
template <class T>
void check_gram(const char* name) {
    section(name);
    for (const Sizes& sizes : {Sizes{1, 1, 1, {1, 1}}, Sizes{3, 65, 1, {1, 1, 1}}, Sizes{70, 33, 1, {1}}}) {
        const Problem<T> p(sizes);
        Totals want;
        for (int64_t at = 0; at < p.gram.size(); ++at) want.push_back(p.gram_of(at));
        for (int i = 0; i < (sizeof(T) == sizeof(float) ? 2 : 1); ++i) {
            const auto precision = static_cast<Precision>(i);
            for (const ThreadOrder order : kOrders) {
                Guarded<T> gram(p.gram.size());
                CheckedLauncher launch(order);
                launch_gram_matrix<T>(launch, p.weight1.data(), p.k, p.d, p.h1, precision, gram.data());
                compare(gram, want, allowed<T>(precision), "G");
            }
        }
    }
}

// The first and the last one of many potentials, which alone have rows.
template <class T>
void check_many_potentials(int many, int hidden1, int hidden2) {
    Sizes sizes{2, hidden1, hidden2, std::vector<int>(static_cast<size_t>(many))};
    sizes.rows.front() = 1, sizes.rows.back() = 66;
    report().context = std::to_string(many) + " potentials";
    const Problem<T> p(sizes);
    const auto ends = [](const Guarded<T>& array, int64_t of_potential) {
        Guarded<T> both(2 * of_potential);
        for (int64_t i = 0; i < of_potential; ++i) {
            both[i] = array[i];
            both[of_potential + i] = array[array.size() - of_potential + i];
        }
        return both;
    };
    const auto wanted_ends = [](const Totals& all, int64_t of_potential) {
        Totals both(all.begin(), all.begin() + of_potential);
        both.insert(both.end(), all.end() - of_potential, all.end());
        return both;
    };
    const int64_t h1 = p.h1, h2 = p.h2, d = p.d;
    EndsLauncher launch;
    Guarded<T> gram(p.gram.size());
    launch_gram_matrix<T>(launch, p.weight1.data(), p.k, p.d, p.h1, Precision::ieee, gram.data());
    Totals of_gram;
    for (int64_t at = 0; at < gram.size(); ++at) of_gram.push_back(p.gram_of(at));
    compare(ends(gram, h1 * h1), wanted_ends(of_gram, h1 * h1), allowed<T>(Precision::ieee), "G");
    for (const LaplacianForm form : {LaplacianForm::gram, LaplacianForm::jacobian}) {
        const int blocks = static_cast<int>(p.block_k.size());
        const Wanted want = wanted_of(p, form);
        Guarded<T> v_d1(p.slots * h1), v_weight1(many * h1 * d), v_weight2(many * h2 * h1);
        const Guarded<T> workspace(cubic_backward_numbers<T>(blocks, p.k, p.d, p.h1, p.h2, form, true));
        launch_cubic_backward<T>(launch, p.operands(true), form, true, Precision::ieee, workspace.data(),
                                 v_d1.data(), v_weight1.data(), v_weight2.data());
        expect(workspace.intact() && v_weight1.intact() && v_weight2.intact(), "nothing beside is written");
        compare(ends(v_weight1, h1 * d), wanted_ends(want.v_weight1, h1 * d), allowed<T>(Precision::ieee),
                "v_weight1");
        compare(ends(v_weight2, h2 * h1), wanted_ends(want.v_weight2, h2 * h1), allowed<T>(Precision::ieee),
                "v_weight2");
    }
}

// A row has the same bits alone and among others.
template <class T>
void check_batches() {
    for (const LaplacianForm form : {LaplacianForm::gram, LaplacianForm::jacobian}) {
        for (int i = 0; i < (sizeof(T) == sizeof(float) ? 3 : 1); ++i) {
            report().context = kPrecisionNames[i];
            const auto precision = static_cast<Precision>(i);
            const Problem<T> all({5, 33, 20, {64, 0, 192}});
            Problem<T> one({5, 33, 20, {0, 0, 64}});  // the weights are the same
            const int64_t offset = all.slots - kRows;
            for (int64_t at = 0; at < one.d1.size(); ++at) one.d1[at] = all.d1[offset * all.h1 + at];
            for (int j = 0; j < one.h2; ++j)
                for (int64_t row = 0; row < kRows; ++row) {
                    one.c[j * one.slots + row] = all.c[j * all.slots + offset + row];
                    one.v_ell_c[j * one.slots + row] = all.v_ell_c[j * all.slots + offset + row];
                }
            const Forward<T> of_all = run_forward(all, form, true, precision, kOrders[0]);
            const Forward<T> of_one = run_forward(one, form, true, precision, kOrders[0]);
            const auto same = [](const T& a, const T& b) { return std::memcmp(&a, &b, sizeof(T)) == 0; };
            for (int j = 0; j < one.h2; ++j)
                for (int64_t row = 0; row < kRows; ++row)
                    expect(same(of_one.squares[j * one.slots + row],
                                of_all.squares[j * all.slots + offset + row]),
                           "S of a row");
            for (int64_t at = 0; at < of_one.column_sums.size(); ++at)
                expect(same(of_one.column_sums[at], of_all.column_sums[offset * all.h1 + at]), "e of a row");
            if (form == LaplacianForm::gram) continue;
            const Backward<T> back_all = run_backward(all, form, true, precision, kOrders[0]);
            const Backward<T> back_one = run_backward(one, form, true, precision, kOrders[0]);
            for (int64_t at = 0; at < back_one.v_d1.size(); ++at)
                expect(same(back_one.v_d1[at], back_all.v_d1[offset * all.h1 + at]), "v_d1 of a row");
        }
    }
}

// A row that is NaN makes S and e of no other row so.
template <class T>
void check_nan_rows() {
    for (const LaplacianForm form : {LaplacianForm::gram, LaplacianForm::jacobian}) {
        for (int i = 0; i < (sizeof(T) == sizeof(float) ? 3 : 1); ++i) {
            report().context = kPrecisionNames[i];
            Problem<T> p({3, 20, 9, {64}});
            constexpr int64_t kRow = 37;
            for (int l = 0; l < p.h1; ++l) p.d1[kRow * p.h1 + l] = std::nan("");
            const Forward<T> out = run_forward(p, form, true, static_cast<Precision>(i), kOrders[0]);
            for (int64_t at = 0; at < out.squares.size(); ++at)
                expect(std::isnan(out.squares[at]) == (at % p.slots == kRow), "S is NaN in this row alone");
            for (int64_t at = 0; at < out.column_sums.size(); ++at)
                expect(std::isnan(out.column_sums[at]) == (at / p.h1 == kRow), "e is NaN in this row alone");
        }
    }
}

// Rounding to TF32 and the layout of fragments, by the text of PTX: each product of two unit vectors is where
// it should be, and has the value that it should.
void check_fragments() {
    section("fragments");
    expect(round_to_tf32(1) == 1 && round_to_tf32(-1) == -1, "TF32 has 1");
    expect(round_to_tf32(1 + 0x1p-11f) == 1 + 0x1p-10f, "halfway is rounded away from zero");
    expect(round_to_tf32(-1 - 0x1p-11f) == -1 - 0x1p-10f, "halfway is rounded away from zero");
    expect(round_to_tf32(1 + 0x1p-11f - 0x1p-23f) == 1, "below halfway is rounded down");
    expect(std::isnan(round_to_tf32(std::nanf(""))), "NaN stays");
    expect(std::isinf(round_to_tf32(HUGE_VALF)), "infinity stays");
    // mma.m16n8k8: a0 (g, t), a1 (g + 8, t), a2 (g, t + 4), a3 (g + 8, t + 4); b0 (t, g), b1 (t + 4, g);
    // c0 (g, 2 t), c1 (g, 2 t + 1), c2 (g + 8, 2 t), c3 (g + 8, 2 t + 1) with g = lane / 4, t = lane % 4.
    for (int row = 0; row < 16; ++row) {
        for (int column = 0; column < 8; ++column) {
            for (int depth = 0; depth < 8; ++depth) {
                Tf32Left left[kWarp] = {};
                Tf32Right right[kWarp] = {};
                Sum<float> sums[kWarp] = {};
                Sum<float>* pointers[kWarp];
                for (int lane = 0; lane < kWarp; ++lane) pointers[lane] = &sums[lane];
                left[row % 8 * 4 + depth % 4].at[row / 8 + depth / 4 * 2] = 3;
                right[column * 4 + depth % 4].at[depth / 4] = 5;
                mma_sync(pointers, left, right);
                double total = 0;
                for (const Sum<float>& sum : sums)
                    for (const auto& of_row : sum.at)
                        for (const float value : of_row) total += value;
                expect(sums[row % 8 * 4 + column / 2].at[row / 8][column % 2] == 15 && total == 15, "mma");
            }
        }
    }
}

}  // namespace

int main(int argc, char** argv) {
    const bool quick = argc > 1 && std::string(argv[1]) == "quick";
    check_fragments();
    check_gram<float>("gram_matrix_float");
    check_gram<double>("gram_matrix_double");
    check_all<float>("gram_forward_float", LaplacianForm::gram, false, quick);
    check_all<double>("gram_forward_double", LaplacianForm::gram, false, quick);
    check_all<float>("jacobian_forward_float", LaplacianForm::jacobian, false, quick);
    check_all<double>("jacobian_forward_double", LaplacianForm::jacobian, false, quick);
    check_all<float>("gram_backward_float", LaplacianForm::gram, true, quick);
    check_all<double>("gram_backward_double", LaplacianForm::gram, true, quick);
    check_all<float>("jacobian_backward_float", LaplacianForm::jacobian, true, quick);
    check_all<double>("jacobian_backward_double", LaplacianForm::jacobian, true, quick);
    section("precisions");
    report().context = "largest errors";
    expect(largest_error[static_cast<int>(Precision::tf32)] > 0x1p-14, "tf32 rounds to TF32");
    expect(largest_error[static_cast<int>(Precision::tf32x3)] > 0, "tf32x3 rounds");
    section("cuts");
    check_cuts<float>();
    check_cuts<double>();
    section("many_potentials");
    for (const auto& [many, hidden1, hidden2] :
         {std::tuple{70'000, 3, 2},    // more than y and z of a grid have
          std::tuple{400, 33, 17}}) {  // groups of units in one block
        check_many_potentials<float>(many, hidden1, hidden2);
        check_many_potentials<double>(many, hidden1, hidden2);
    }
    expect(gram_backward_cut<float>(3, 400, 33, 17).chunk_units > 8 &&
               gram_backward_cut<double>(3, 400, 33, 17).chunk_units > 8,
           "groups of units in one block");
    section("batches");
    check_batches<float>();
    check_batches<double>();
    section("nan_rows");
    check_nan_rows<float>();
    check_nan_rows<double>();
    std::fprintf(stderr, "largest errors: ieee %.2g, tf32x3 %.2g, tf32 %.2g\n", largest_error[0],
                 largest_error[1], largest_error[2]);
    return finish();
}
