#include "cpu/row_plan.h"

namespace ffrl::cpu {

bool plan_rows(RowPlan& plan, int64_t rows, int64_t potentials, const int64_t* k, int64_t k_all,
               bool some_left_out) {
    const auto potential_of = [&](int64_t row) { return k == nullptr ? k_all : k[row]; };
    const auto left_out = [&](int64_t row) { return some_left_out && potential_of(row) == kNoPotential; };
    for (int64_t i = 0; i < potentials; ++i) plan.fill[i] = 0;
    for (int64_t row = 0; row < rows; ++row) {
        if (left_out(row)) continue;
        const int64_t one = potential_of(row);
        if (one < 0 || one >= potentials) return false;
        ++plan.fill[one];
    }
    plan.first_block[0] = 0;
    for (int64_t i = 0; i < potentials; ++i) {
        plan.first_block[i + 1] = plan.first_block[i] + (plan.fill[i] + kRowsPerBlock - 1) / kRowsPerBlock;
        plan.fill[i] = plan.first_block[i] * kRowsPerBlock;
        for (int64_t b = plan.first_block[i]; b < plan.first_block[i + 1]; ++b) plan.block_k[b] = i;
    }
    plan.blocks = plan.first_block[potentials];
    for (int64_t slot = 0; slot < plan.blocks * kRowsPerBlock; ++slot) plan.slot_row[slot] = -1;
    for (int64_t row = 0; row < rows; ++row)
        if (!left_out(row)) plan.slot_row[plan.fill[potential_of(row)]++] = row;

    // A sum over few rows costs more to clear and to add up than it saves in waiting.
    const int64_t wanted = plan.blocks / 4 < kFewTasks ? kFewTasks : plan.blocks / 4;
    const int64_t limit = wanted < kMaxTasks ? wanted : kMaxTasks;
    plan.tasks = 0;
    for (int64_t i = 0; i < potentials; ++i) {
        plan.first_task[i] = plan.tasks;
        const int64_t begin = plan.first_block[i], count = plan.first_block[i + 1] - begin;
        if (count == 0) continue;
        int64_t tasks =
            (limit * count + plan.blocks - 1) / plan.blocks;  // at least 1, together at most kMaxTasks + K
        if (tasks > count) tasks = count;
        for (int64_t task = 0; task < tasks; ++task) {
            plan.task_block[plan.tasks] = begin + count * task / tasks;
            plan.task_k[plan.tasks++] = i;
        }
    }
    plan.first_task[potentials] = plan.tasks;
    plan.task_block[plan.tasks] = plan.blocks;
    return true;
}

}  // namespace ffrl::cpu
