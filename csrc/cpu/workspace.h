// What the kernels lay out in the caller's workspace. The same code computes the size (without memory) and
// the addresses.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/potential_cpu.h"
#include "cpu/time_features_cpu.h"

namespace ffrl::cpu {
namespace {  // a copy for each instruction set: the linker must not choose one of them for all

class Arena {
  public:
    explicit Arena(void* memory) : memory_(static_cast<char*>(memory)) {}

    // Null where count is 0.
    template <class U>
    U* take(int64_t count) {
        if (count == 0) return nullptr;
        used_ = (used_ + 63) / 64 * 64;
        U* address = memory_ == nullptr ? nullptr : reinterpret_cast<U*>(memory_ + used_);
        used_ += static_cast<size_t>(count) * sizeof(U);
        return address;
    }
    size_t used() const { return (used_ + 63) / 64 * 64; }

  private:
    char* memory_;
    size_t used_ = 0;
};

inline int64_t panels_of(int64_t columns) {
    return (columns + 31) / 32;
}
inline int64_t even(int64_t rows) {
    return rows + rows % 2;
}

inline RowPlan take_plan(Arena& arena, int64_t rows, int64_t potentials, bool mixed) {
    const int64_t blocks = max_blocks(rows, potentials, mixed), tasks = max_tasks(blocks, potentials);
    RowPlan plan{};
    plan.slot_row = arena.take<int64_t>(blocks * kRowsPerBlock);
    plan.block_k = arena.take<int64_t>(blocks);
    plan.first_block = arena.take<int64_t>(potentials + 1);
    plan.first_task = arena.take<int64_t>(potentials + 1);
    plan.task_block = arena.take<int64_t>(tasks + 1);
    plan.task_k = arena.take<int64_t>(tasks);
    plan.fill = arena.take<int64_t>(potentials);
    return plan;
}

// Weights of all potentials in the shapes that the tiles read, and the time features times W2.
template <class T>
struct Prepared {
    RowPlan rows;
    RowPlan features;
    int64_t* feature_k;  // [M], kNoPotential: no row has it
    T* weight1;          // [K] W1 (H1, D) packed
    T* weight1_t;        // [K] W1ᵀ (D, H1) packed
    T* weight1_panels;   // [K] W1ᵀ (D, H1) in panels of 32 columns
    T* weight2;          // [K] W2 (H2, H1) packed
    T* weight2_t;        // [K] W2ᵀ (H1, H2) packed
    T* gram;             // [K] G (H1, H1) packed
    T* gram_diagonal;    // [K] (H1)
    T* gram_lower;       // [K] G below the diagonal and half of it, in panels of 32 columns
    T* omega;            // (M, H2) W2 ∂τ/∂t
    T* omega2;           // (M, H2) W2 ∂²τ/∂t²
    int64_t weight1_size, weight1_t_size, weight1_panels_size, weight2_size, weight2_t_size, gram_size,
        gram_lower_size;

    // half_gram: G as its lower half, for a symmetric product, and not packed for a whole one
    Prepared(Arena& arena, const PotentialShape& s, bool mixed, bool half_gram) {
        rows = take_plan(arena, s.rows, s.potentials, mixed);
        features = take_plan(arena, s.features, s.potentials, mixed);
        feature_k = arena.take<int64_t>(s.features);
        weight1_size = even(s.hidden1) * s.latent;
        weight1_t_size = even(s.latent) * s.hidden1;
        weight1_panels_size = panels_of(s.hidden1) * 32 * s.latent;
        weight2_size = even(s.hidden2) * s.hidden1;
        weight2_t_size = even(s.hidden1) * s.hidden2;
        gram_size = even(s.hidden1) * s.hidden1;
        gram_lower_size = panels_of(s.hidden1) * 32 * s.hidden1;
        weight1 = arena.take<T>(s.potentials * weight1_size);
        weight1_t = arena.take<T>(s.potentials * weight1_t_size);
        weight1_panels = arena.take<T>(s.potentials * weight1_panels_size);
        weight2 = arena.take<T>(s.potentials * weight2_size);
        weight2_t = arena.take<T>(s.potentials * weight2_t_size);
        const bool with_gram = s.form == LaplacianForm::gram;
        gram = arena.take<T>(with_gram && !half_gram ? s.potentials * gram_size : 0);
        gram_lower = arena.take<T>(with_gram && half_gram ? s.potentials * gram_lower_size : 0);
        gram_diagonal = arena.take<T>(s.form == LaplacianForm::none ? 0 : s.potentials * s.hidden1);
        omega = arena.take<T>(s.features * s.hidden2);
        omega2 = arena.take<T>(s.d2u_dt2 ? s.features * s.hidden2 : 0);
    }
};

// Blocks of 32 that one pass of a symmetric product's contraction takes.
constexpr int64_t kPassBlocks = 16;

// Units of one row that a task of the Gram product takes; e is summed chunk by chunk, so that bits depend on
// H2 alone.
constexpr int64_t kChunks = 4;
inline int64_t chunks_of(const PotentialShape& s) {
    return s.hidden2 >= 64 ? kChunks : 1;
}

template <class T>
struct ForwardWorkspace {
    Prepared<T> prepared;
    T* kept;            // the caller's, or here where nothing is kept
    bool value_only;    // Gram form without a backward: ℓ alone, by half the work
    T* e_parts;         // [blocks][chunks] (H1, 32)
    T* weight2_blocks;  // [K][H2 / 32] W2ᵀ (H1, 32), and one more row
    T* weight2_panels;  // [K] W2 (H2 rounded up to 32, H1) in panels of 32 columns
    T* scratch;         // [threads]
    int64_t scratch_size, weight2_blocks_size, weight2_panels_size;

    ForwardWorkspace(Arena& arena, const PotentialShape& s, bool mixed, T* kept_or_null, int64_t threads)
        : prepared(arena, s, mixed, kept_or_null == nullptr),
          value_only(kept_or_null == nullptr && s.form == LaplacianForm::gram) {
        const int64_t blocks = max_blocks(s.rows, s.potentials, mixed);
        kept = kept_or_null != nullptr ? kept_or_null : arena.take<T>(blocks * kept_rows(s) * 32);
        const bool whole = s.form == LaplacianForm::gram && !value_only;
        e_parts = arena.take<T>(whole ? blocks * chunks_of(s) * s.hidden1 * 32 : 0);
        weight2_blocks_size = (panels_of(s.hidden2) * s.hidden1 + 1) * 32;
        weight2_panels_size = panels_of(s.hidden2) * panels_of(s.hidden1) * 32 * 32;
        weight2_blocks = arena.take<T>(value_only ? s.potentials * weight2_blocks_size : 0);
        weight2_panels = arena.take<T>(value_only ? s.potentials * weight2_panels_size : 0);
        width = s.hidden1 > s.hidden2 ? s.hidden1 : s.hidden2;
        if (s.latent > width) width = s.latent;
        scratch_size = 4 * width * 32;
        const int64_t for_value = (s.hidden1 + panels_of(s.hidden1) * 32 + s.hidden2 + kPassBlocks * 32) * 32;
        if (value_only && scratch_size < for_value) scratch_size = for_value;
        scratch = arena.take<T>(threads * scratch_size);
    }
    T* slot(int64_t thread, int which) const { return scratch + thread * scratch_size + which * width * 32; }

  private:
    int64_t width;
};

// Sums over the rows of one task.
template <class T>
struct TaskSums {
    T* weight1;        // W1barᵀ (D, H1) in panels of 32 columns
    T* weight2;        // W2bar (H2, H1) in panels of 32 columns
    T* bias1;          // (H1)
    T* bias2;          // (H2)
    T* weight3;        // (H2)
    T* bias3;          // (1)
    T* gram_diagonal;  // (H1)
    T* tau;            // (H1), where all rows share one feature row
    T* omega;          // (H2), likewise
    T* omega2;         // (H2), likewise

    TaskSums(T* at, const PotentialShape& s) {
        const int64_t columns = panels_of(s.hidden1) * 32;
        weight1 = at;
        weight2 = weight1 + columns * s.latent;
        bias1 = weight2 + columns * s.hidden2;
        gram_diagonal = bias1 + columns;
        tau = gram_diagonal + columns;
        bias2 = tau + columns;
        weight3 = bias2 + s.hidden2;
        omega = weight3 + s.hidden2;
        omega2 = omega + s.hidden2;
        bias3 = omega2 + s.hidden2;
    }
    static int64_t size(const PotentialShape& s) {
        const int64_t used = panels_of(s.hidden1) * 32 * (s.latent + s.hidden2 + 3) + 4 * s.hidden2 + 1;
        return (used + 31) / 32 * 32;
    }
};

// Latent dimensions whose part of W2bar is summed in one product: their operands should stay in the
// second-level cache.
template <class T>
int64_t jacobian_group(const PotentialShape& s) {
    const int64_t bytes_each = (s.hidden1 + s.hidden2) * 32 * static_cast<int64_t>(sizeof(T));
    int64_t group = (256 << 10) / bytes_each;
    if (group > 8) group = 8;
    if (group > s.latent) group = s.latent;
    return group < 1 ? 1 : group;
}

// Columns of time feature rows that a thread sums at once, in float64: one cache line of sums for each.
constexpr int64_t kFeatureColumns = 8;

template <class T>
struct BackwardWorkspace {
    Prepared<T> prepared;
    bool shared_feature, distinct_features;
    // Rows of one potential side by side, for the contraction over rows of the Gram form.
    T* d1;            // [blocks] (H1, 32), and one more row
    T* d1_panels;     // d1ᵀ, panels of 32 columns: [H1 / 32][blocks * 32][32]
    T* v_ell_c;       // [blocks] (H2, 32): λ c
    T* gram_sums;     // [tasks] Gbar below the diagonal (H1, H1) in panels of 32 columns
    T* gram_total;    // [K] 2 Gbar (H1, H1) in panels of 32 columns
    T* task_sums;     // [tasks]
    T* feature_sums;  // [feature tasks] W2bar (H2, H1) in panels of 32 columns
    T* v_tau_rows;    // (N, H1), where rows share feature rows in another way than all one
    T* v_omega_rows;  // (N, H2)
    T* v_omega2_rows;
    double* feature_totals;  // [threads] (M, kFeatureColumns), sums of such rows
    T* v_omega;              // (M, H2)
    T* v_omega2;
    T* scratch;  // [threads]
    int64_t scratch_size, gram_tasks, gram_sums_size;

    BackwardWorkspace(Arena& arena, const PotentialShape& s, bool mixed, bool distinct,
                      const BackwardNeeds& needs, int64_t threads)
        : prepared(arena, s, mixed, true), shared_feature(s.features == 1), distinct_features(distinct) {
        const int64_t blocks = max_blocks(s.rows, s.potentials, mixed),
                      tasks = max_tasks(blocks, s.potentials);
        const int64_t feature_blocks = max_blocks(s.features, s.potentials, mixed);
        const int64_t columns = panels_of(s.hidden1) * 32;
        const bool gram = s.form == LaplacianForm::gram && needs.weights;
        const bool features = needs.features || needs.weights;
        gram_tasks = s.hidden2 < 8 ? 1 : s.hidden2 / 8 < kMaxTasks ? s.hidden2 / 8 : kMaxTasks;
        gram_sums_size = columns * s.hidden1;
        d1 = arena.take<T>(gram ? (blocks * s.hidden1 + 1) * 32 : 0);
        d1_panels = arena.take<T>(gram ? blocks * 32 * columns : 0);
        v_ell_c = arena.take<T>(gram ? blocks * s.hidden2 * 32 : 0);
        gram_sums = arena.take<T>(gram ? gram_tasks * gram_sums_size : 0);
        gram_total = arena.take<T>(gram ? s.potentials * gram_sums_size : 0);
        task_sums = arena.take<T>(features ? tasks * TaskSums<T>::size(s) : 0);
        feature_sums =
            arena.take<T>(needs.weights ? max_tasks(feature_blocks, s.potentials) * columns * s.hidden2 : 0);
        const bool by_row = features && !shared_feature;
        v_tau_rows = arena.take<T>(by_row && !distinct ? s.rows * s.hidden1 : 0);
        v_omega_rows = arena.take<T>(by_row && !distinct ? s.rows * s.hidden2 : 0);
        v_omega2_rows = arena.take<T>(by_row && !distinct && s.d2u_dt2 ? s.rows * s.hidden2 : 0);
        feature_totals = arena.take<double>(by_row && !distinct ? threads * s.features * kFeatureColumns : 0);
        v_omega = arena.take<T>(features ? s.features * s.hidden2 : 0);
        v_omega2 = arena.take<T>(features && s.d2u_dt2 ? s.features * s.hidden2 : 0);
        layout_scratch(s);
        scratch = arena.take<T>(threads * scratch_size);
    }

    // Arrays of one thread, as offsets: (rows, 32) each, panels for the products over rows.
    int64_t z, v_v, d1_block, v_r, v_q, v_d1, v_s, sum, h1_work, p, v_a2, c, v_p, omega, omega2,
        v_omega_block, v_omega2_block, v_ell_c_block, outer_panels, v_jacobian, x_panels, d1_transposed,
        gram_rows, gram_columns, weight2_row;

  private:
    void layout_scratch(const PotentialShape& s) {
        int64_t used = 0;
        const auto rows = [&](int64_t count) {
            const int64_t at = used;
            used += count * 32;
            return at;
        };
        const int64_t columns = panels_of(s.hidden1) * 32, group = jacobian_group<T>(s);
        const bool jacobian = s.form == LaplacianForm::jacobian;
        v_v = rows(s.latent + 1);  // a pair of left operands: each has a readable row behind it
        z = rows(s.latent + 1);
        p = rows(s.hidden2 + 1);
        v_a2 = rows(s.hidden2 + 1);
        v_omega_block = rows(s.hidden2 + 1);
        v_omega2_block = rows(s.hidden2 + 1);
        d1_block = rows(s.hidden1);
        v_r = rows(s.hidden1);
        v_q = rows(s.hidden1);
        v_d1 = rows(s.hidden1);
        v_s = rows(s.hidden1);
        sum = rows(s.hidden1);
        h1_work = rows(s.hidden1);
        c = rows(s.hidden2);
        v_p = rows(s.hidden2);
        omega = rows(s.hidden2);
        omega2 = rows(s.hidden2);
        v_ell_c_block = rows(s.hidden2);
        outer_panels = rows(2 * columns);
        v_jacobian = rows(jacobian ? group * (s.hidden2 + 1) : 0);
        x_panels = rows(jacobian ? group * columns : 0);
        d1_transposed = rows(jacobian ? columns : 0);
        gram_rows = used;
        used += s.hidden1 * 16;
        gram_columns = used;
        used += columns;
        weight2_row = used;
        used += columns;
        used = (used + 31) / 32 * 32;
        scaled = used;
        used += kPassBlocks * 32 * 32;
        scratch_size = used;
    }

  public:
    int64_t scaled;  // right operand of the Gram form: (rows of a pass, 32)
};

template <class T>
struct TimeWorkspace {
    T *rows, *post, *v_pre;  // (M, order + 1, E), (P * M, order + 1, H) twice
    int64_t* used;           // (P * M,) whether a cotangent of the row is not zero; of others nothing is read

    TimeWorkspace(Arena& arena, const TimeShape& s) {
        rows = arena.take<T>(s.times * (s.order + 1) * 2 * s.frequencies);
        post = arena.take<T>(s.rows() * (s.order + 1) * s.features);
        v_pre = arena.take<T>(s.rows() * (s.order + 1) * s.features);
        used = arena.take<int64_t>(s.rows());
    }
};

}  // namespace
}  // namespace ffrl::cpu
