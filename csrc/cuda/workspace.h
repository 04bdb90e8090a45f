// What a call lays out in the caller's workspace. The same code computes the size (without memory) and the
// addresses.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/row_plan.h"

namespace ffrl::cuda {

constexpr size_t kAlignment = 256;  // of every piece

class Arena {
  public:
    explicit Arena(void* memory) : memory_(static_cast<char*>(memory)) {}

    // Null where count is 0.
    template <class U>
    U* take(int64_t count) {
        if (count == 0) return nullptr;
        U* address = memory_ == nullptr ? nullptr : reinterpret_cast<U*>(memory_ + used_);
        used_ += (static_cast<size_t>(count) * sizeof(U) + kAlignment - 1) / kAlignment * kAlignment;
        return address;
    }
    size_t used() const { return used_; }

  private:
    char* memory_;
    size_t used_ = 0;
};

// The shape that the kernels of a call see: where no k is given all rows are of one potential, and there are
// no others.
inline PotentialShape shape_of_call(PotentialShape s, bool mixed) {
    if (!mixed) s.potentials = 1;
    return s;
}

// The weights of potential k and those behind it.
template <class T>
PotentialInputs<T> weights_from(PotentialInputs<T> in, const PotentialShape& s, int64_t k) {
    in.weight1 += k * s.hidden1 * s.latent;
    in.bias1 += k * s.hidden1;
    in.weight2 += k * s.hidden2 * s.hidden1;
    in.bias2 += k * s.hidden2;
    in.weight3 += k * s.hidden2;
    in.bias3 += k;
    return in;
}

struct PlanMemory {
    RowPlan plan;
    int* first_row;

    // Of `steps` equal parts of the rows, which have one plan: each of its blocks is there so many times.
    PlanMemory(Arena& arena, const PotentialShape& s, bool mixed, int64_t steps = 1) {
        PotentialShape part = s;
        part.rows /= steps;
        plan.potentials = static_cast<int>(s.potentials);
        plan.blocks = static_cast<int>(max_blocks(part, mixed) * steps);
        plan.slot_row = arena.take<int64_t>(static_cast<int64_t>(plan.blocks) * kRows);
        plan.block_k = arena.take<int>(plan.blocks);
        plan.first_block = arena.take<int>(s.potentials + 1);
        first_row = arena.take<int>(mixed ? s.potentials + 1 : 0);
    }
};

inline SortMemory take_sort(Arena& arena, int64_t count) {
    return {arena.take<int>(2 * count), arena.take<int>(SortMemory::counts_of(count))};
}

}  // namespace ffrl::cuda
