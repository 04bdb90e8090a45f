// Which rows stand in which block: rows of one potential together, in their order, each potential's last
// block padded.
#pragma once

#include <cstdint>

namespace ffrl::cpu {

constexpr int64_t kRowsPerBlock = 32;
// Tasks of the sums over rows. Their number depends on the rows alone, so that bits do not depend on the
// threads.
constexpr int64_t kFewTasks = 8, kMaxTasks = 16;

// Blocks that rows of mixed k (or of one, where k is null) can need.
inline int64_t max_blocks(int64_t rows, int64_t potentials, bool mixed) {
    return mixed ? rows / kRowsPerBlock + potentials : (rows + kRowsPerBlock - 1) / kRowsPerBlock;
}

// Tasks that sum over rows: each is of one potential.
inline int64_t max_tasks(int64_t blocks, int64_t potentials) {
    return blocks < kMaxTasks + potentials ? blocks : kMaxTasks + potentials;
}

struct RowPlan {
    int64_t* slot_row;     // [max_blocks * 32] row in that slot, -1: padding
    int64_t* block_k;      // [max_blocks]
    int64_t* first_block;  // [K + 1] blocks of potential k are first_block[k] .. first_block[k+1]
    int64_t* first_task;   // [K + 1] likewise for tasks
    int64_t* task_block;   // [max_tasks + 1] blocks of task i are task_block[i] .. task_block[i+1]
    int64_t* task_k;       // [max_tasks]
    int64_t* fill;         // [K] scratch
    int64_t blocks;
    int64_t tasks;
};

// Rows of a block; what follows them is padding.
inline int rows_in_block(const RowPlan& plan, int64_t block) {
    int rows = kRowsPerBlock;
    while (rows > 0 && plan.slot_row[block * kRowsPerBlock + rows - 1] < 0) --rows;
    return rows;
}

constexpr int64_t kNoPotential = -1;

// Fills the plan; k null means that all rows are of k_all. Rows of kNoPotential are in no block where
// some_left_out says that there may be such. Returns false where another k is not in 0 .. potentials - 1.
bool plan_rows(RowPlan& plan, int64_t rows, int64_t potentials, const int64_t* k, int64_t k_all,
               bool some_left_out = false);

}  // namespace ffrl::cpu
