// plan_rows: what every block and task may rely on, for many random (N, K, k), in memory of exactly the size
// that max_blocks and max_tasks announce.
#include "cpu/row_plan.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "expect.h"
#include "guarded.h"

using namespace ffrl::cpu;
using namespace ffrl::test;

namespace {

struct PlanMemory {
    Guarded<int64_t> slot_row, block_k, first_block, first_task, task_block, task_k, fill;
    RowPlan plan;

    PlanMemory(int64_t most_blocks, int64_t potentials)
        : slot_row(most_blocks * kRowsPerBlock),
          block_k(most_blocks),
          first_block(potentials + 1),
          first_task(potentials + 1),
          task_block(max_tasks(most_blocks, potentials) + 1),
          task_k(max_tasks(most_blocks, potentials)),
          fill(potentials),
          plan{slot_row.data(),
               block_k.data(),
               first_block.data(),
               first_task.data(),
               task_block.data(),
               task_k.data(),
               fill.data(),
               -1,
               -1} {}

    void expect_intact() const {
        for (const auto* array :
             {&slot_row, &block_k, &first_block, &first_task, &task_block, &task_k, &fill})
            expect(array->intact(), "nothing is written beside the arrays");
    }
};

struct Rows {
    int64_t potentials;
    std::vector<int64_t> k;
    bool mixed;
    int64_t k_all;

    int64_t count() const { return static_cast<int64_t>(k.size()); }
    int64_t of(int64_t row) const { return mixed ? k[static_cast<size_t>(row)] : k_all; }
    int64_t most_blocks() const { return max_blocks(count(), potentials, mixed); }
    bool plan(PlanMemory& memory) const {
        return plan_rows(memory.plan, count(), potentials, mixed ? k.data() : nullptr, k_all);
    }
};

void check_blocks(const Rows& rows, const RowPlan& plan) {
    expect(plan.blocks >= 0 && plan.blocks <= rows.most_blocks(), "blocks <= max_blocks");
    expect(plan.first_block[0] == 0 && plan.first_block[rows.potentials] == plan.blocks,
           "first_block begins at 0 and ends at blocks");
    std::vector<int64_t> seen(static_cast<size_t>(rows.count()));
    for (int64_t k = 0; k < rows.potentials; ++k) {
        int64_t before = -1, padding = 0;
        for (int64_t block = plan.first_block[k]; block < plan.first_block[k + 1]; ++block) {
            expect(plan.block_k[block] == k, "the block is of the potential");
            expect(plan.slot_row[block * kRowsPerBlock] >= 0, "no block is all padding");
            for (int64_t slot = block * kRowsPerBlock; slot < (block + 1) * kRowsPerBlock; ++slot) {
                const int64_t row = plan.slot_row[slot];
                if (row == -1) {
                    ++padding;
                    continue;
                }
                if (!expect(row >= 0 && row < rows.count(), "slots hold rows or -1")) continue;
                expect(padding == 0, "padding is at the end of a potential's last block");
                expect(row > before, "rows keep their order");
                expect(rows.of(row) == k, "a block has rows of one potential");
                before = row;
                ++seen[static_cast<size_t>(row)];
            }
        }
        expect(padding < kRowsPerBlock, "only the last block is padded");
    }
    for (const int64_t times : seen) expect(times == 1, "every row stands once");
}

void check_tasks(const Rows& rows, const RowPlan& plan) {
    expect(plan.tasks >= 0 && plan.tasks <= max_tasks(rows.most_blocks(), rows.potentials),
           "tasks <= max_tasks");
    expect(plan.first_task[0] == 0 && plan.first_task[rows.potentials] == plan.tasks,
           "first_task begins at 0 and ends at tasks");
    expect(plan.task_block[plan.tasks] == plan.blocks, "the last task ends at the last block");
    for (int64_t k = 0; k < rows.potentials; ++k) {
        int64_t next = plan.first_block[k];
        for (int64_t task = plan.first_task[k]; task < plan.first_task[k + 1]; ++task) {
            expect(plan.task_k[task] == k, "the task is of the potential");
            expect(plan.task_block[task] == next, "tasks follow each other");
            expect(plan.task_block[task + 1] > next, "no task is empty");
            next = plan.task_block[task + 1];
        }
        const bool present = plan.first_block[k + 1] > plan.first_block[k];
        expect(present == (plan.first_task[k + 1] > plan.first_task[k]), "tasks where there are blocks");
        if (present)
            expect(next == plan.first_block[k + 1], "the tasks of a potential are all of its blocks");
    }
}

// Returns whether as many blocks were used as max_blocks allows.
bool check(const Rows& rows) {
    report().context = "N = " + std::to_string(rows.count()) + ", K = " + std::to_string(rows.potentials);
    PlanMemory memory(rows.most_blocks(), rows.potentials);
    if (!expect(rows.plan(memory), "the rows are in range")) return false;
    check_blocks(rows, memory.plan);
    check_tasks(rows, memory.plan);
    memory.expect_intact();
    return memory.plan.blocks == rows.most_blocks();
}

Rows random_rows(Random& random, int64_t count, int64_t potentials) {
    Rows rows{potentials, std::vector<int64_t>(static_cast<size_t>(count)), true, 0};
    const int64_t present = 1 + random.below(potentials);  // some potentials may have no row
    const int64_t run = 1 + random.below(40);              // and some many in succession
    int64_t k = 0;
    for (int64_t row = 0; row < count; ++row) {
        if (row % run == 0) k = random.below(present) * potentials / present;
        rows.k[static_cast<size_t>(row)] = k;
    }
    return rows;
}

constexpr int64_t kCounts[] = {0, 1, 2, 31, 32, 33, 63, 64, 65, 96, 127, 500, 511, 512, 513, 545, 1000, 1024};

void mixed_rows() {
    section("mixed");
    Random random(1);
    for (const int64_t count : kCounts)
        for (const int64_t potentials : {1, 2, 3, 5, 17, 40})
            for (int repeat = 0; repeat < 4; ++repeat) check(random_rows(random, count, potentials));
}

void one_potential() {
    section("one_potential");
    for (const int64_t count : kCounts)
        for (const int64_t potentials : {1, 2, 5})
            for (int64_t k = 0; k < potentials; ++k)
                expect(check({potentials, std::vector<int64_t>(static_cast<size_t>(count)), false, k}),
                       "max_blocks is what is needed");
}

// K potentials with one row more than whole blocks: the bound of mixed rows is reached.
void bound() {
    section("bound");
    for (const int64_t potentials : {1, 2, 5, 31})
        for (const int64_t blocks_each : {0, 1, 3}) {
            Rows rows{potentials, {}, true, 0};
            for (int64_t i = 0; i < potentials * (blocks_each * kRowsPerBlock + 1); ++i)
                rows.k.push_back(i % potentials);
            expect(check(rows), "max_blocks is reached");
        }
}

// Rows of no potential: the plan is that of the others.
void left_out() {
    section("left_out");
    Random random(3);
    for (const int64_t count : kCounts)
        for (const int64_t potentials : {1, 3, 17}) {
            report().context = "N = " + std::to_string(count) + ", K = " + std::to_string(potentials);
            Rows all = random_rows(random, count, potentials), others{potentials, {}, true, 0};
            std::vector<int64_t> row_of;
            for (int64_t row = 0; row < count; ++row) {
                int64_t& k = all.k[static_cast<size_t>(row)];
                if (random.below(3) == 0) {
                    k = kNoPotential;
                } else {
                    others.k.push_back(k);
                    row_of.push_back(row);
                }
            }
            PlanMemory got(all.most_blocks(), potentials), want(others.most_blocks(), potentials);
            expect(plan_rows(got.plan, count, potentials, all.k.data(), 0, true), "rows may be left out");
            expect(others.plan(want), "the others are in range");
            got.expect_intact();
            if (!expect(got.plan.blocks == want.plan.blocks && got.plan.tasks == want.plan.tasks,
                        "blocks and tasks are those of the others"))
                continue;
            for (int64_t i = 0; i <= want.plan.tasks; ++i)
                expect(got.plan.task_block[i] == want.plan.task_block[i], "tasks are those of the others");
            for (int64_t i = 0; i < want.plan.blocks; ++i)
                expect(got.plan.block_k[i] == want.plan.block_k[i], "blocks are those of the others");
            for (int64_t i = 0; i < want.plan.blocks * kRowsPerBlock; ++i) {
                const int64_t row = want.plan.slot_row[i];
                expect(got.plan.slot_row[i] == (row < 0 ? row : row_of[static_cast<size_t>(row)]),
                       "slots are those of the others");
            }
            if (count == 0) continue;
            all.k[static_cast<size_t>(count - 1)] = kNoPotential - 1;
            expect(!plan_rows(got.plan, count, potentials, all.k.data(), 0, true), "k is out of range");
        }
}

void out_of_range() {
    section("out_of_range");
    Random random(2);
    constexpr int64_t kLowest = std::numeric_limits<int64_t>::min(),
                      kHighest = std::numeric_limits<int64_t>::max();
    for (const int64_t potentials : {1, 3})
        for (const int64_t wrong : {int64_t{-1}, potentials, potentials + 1, kLowest, kHighest}) {
            report().context = "k = " + std::to_string(wrong) + ", K = " + std::to_string(potentials);
            for (const int64_t at : {0, 1, 32, 69}) {
                Rows rows = random_rows(random, 70, potentials);
                rows.k[static_cast<size_t>(at)] = wrong;
                PlanMemory memory(rows.most_blocks(), potentials);
                expect(!rows.plan(memory), "k of a row is out of range");
                memory.expect_intact();
            }
            const Rows rows{potentials, std::vector<int64_t>(70), false, wrong};
            PlanMemory memory(rows.most_blocks(), potentials);
            expect(!rows.plan(memory), "k of all rows is out of range");
            memory.expect_intact();
        }
}

}  // namespace

int main() {
    mixed_rows();
    one_potential();
    bound();
    left_out();
    out_of_range();
    return finish();
}
