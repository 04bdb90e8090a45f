// Which rows stand in which block: rows of one potential together, in their order, each potential's last
// block padded. The plan is made on the device from k alone and its size does not depend on k, so nothing
// waits for it.
//
// Rows are put in order by a radix sort of k, four bits at a time: count the digits of each tile of rows, add
// up the counts, and put every row where its digit's begin. It is stable, so it is deterministic, and takes
// memory for two orders of the rows and 16 counts for every tile of them, whatever the number of potentials.
#pragma once

#include <cstdint>

#include "cuda/arithmetic.h"
#include "cuda/block.h"
#include "cuda/for_each.h"
#include "cuda/potential_cuda.h"

namespace ffrl::cuda {

constexpr int kDigitBits = 4, kDigits = 1 << kDigitBits;
constexpr int kSortThreads = 128, kSortItems = 8, kSortTile = kSortThreads * kSortItems;
constexpr int kScanThreads = 256;

struct RowPlan {
    int64_t* slot_row;  // (blocks · kRows,): the row in that slot, -1: padding
    int* block_k;       // (blocks,)
    int* first_block;   // (potentials + 1,): potential k has first_block[k] .. first_block[k + 1] - 1
    int blocks;         // the last ones may be without rows
    int potentials;
};

// Keys in [0, limit) of `count` items, in the order that an earlier digit gave them. Null: as they come.
struct SortStep {
    const int64_t* keys;  // (count,)
    const int* order;     // (count,)
    int* sorted;          // (count,), the order with this digit
    int* counts;          // (kDigits, tiles)
    int64_t limit;
    int count, tiles, shift;

    FFRL_INLINE int item(int i) const { return order == nullptr ? i : order[i]; }
    FFRL_INLINE int64_t key(int item) const {
        const int64_t given = keys[item];
        if (given >= 0 && given < limit) return given;
        trap();
        return 0;
    }
    FFRL_INLINE int digit(int item) const { return static_cast<int>(key(item) >> shift) & (kDigits - 1); }
};

// counts[digit][thread]: of the consecutive items that each thread has.
template <class Block>
FFRL_INLINE void count_digits(const Block& block, const SortStep& step,
                              int (&counts)[kDigits][kSortThreads + 1]) {
    block.region([&](int thread) {
        for (int digit = 0; digit < kDigits; ++digit) counts[digit][thread] = 0;
        const int first = block.index().x * kSortTile + thread * kSortItems;
        for (int i = first; i < first + kSortItems && i < step.count; ++i)
            ++counts[step.digit(step.item(i))][thread];
    });
}

struct CountDigits {
    static constexpr int kThreads = kSortThreads, kMinBlocks = 1;
    using Params = SortStep;
    struct Shared {
        int counts[kDigits][kSortThreads + 1];
    };

    FFRL_INLINE static void run(const Block<kThreads>& block, const Params& step, Shared& shared) {
        count_digits(block, step, shared.counts);
        block.region([&](int thread) {
            if (thread >= kDigits) return;
            int sum = 0;
            for (int i = 0; i < kSortThreads; ++i) sum += shared.counts[thread][i];
            step.counts[static_cast<int64_t>(thread) * step.tiles + block.index().x] = sum;
        });
    }
};

// Sums over the threads up to each, itself included, in ``sums[current]``; the result is the new ``current``.
template <int kThreads>
FFRL_INLINE int scan_threads(const Block<kThreads>& block, int (&sums)[2][kThreads]) {
    int current = 0;
    for (int step = 1; step < kThreads; step *= 2) {
        block.region([&](int thread) {
            const int before = thread >= step ? sums[current][thread - step] : 0;
            sums[1 - current][thread] = sums[current][thread] + before;
        });
        current = 1 - current;
    }
    return current;
}

// put(i, sum of the numbers before i) for i in 0 .. count; each thread has consecutive ones. `put` may
// replace the number i.
template <class Number, class Put>
FFRL_INLINE void scan(const Block<kScanThreads>& block, int (&sums)[2][kScanThreads], int64_t count,
                      Number number, Put put) {
    const int64_t run = divide_up(count + 1, kScanThreads);
    block.region([&](int thread) {
        int sum = 0;
        for (int64_t i = thread * run; i < (thread + 1) * run && i < count; ++i) sum += number(i);
        sums[0][thread] = sum;
    });
    const int current = scan_threads(block, sums);
    block.region([&](int thread) {
        int sum = thread > 0 ? sums[current][thread - 1] : 0;
        for (int64_t i = thread * run; i < (thread + 1) * run && i <= count; ++i) {
            const int here = i < count ? number(i) : 0;
            put(i, sum);
            sum += here;
        }
    });
}

struct ScanShared {
    int sums[2][kScanThreads];
};

// Counts become the sums of those before them: where the items of a digit and a tile begin.
struct ScanCounts {
    static constexpr int kThreads = kScanThreads, kMinBlocks = 1;
    using Shared = ScanShared;
    struct Params {
        int* counts;
        int64_t size;
    };

    FFRL_INLINE static void run(const Block<kThreads>& block, const Params& p, Shared& shared) {
        scan(
            block, shared.sums, p.size, [&](int64_t i) { return p.counts[i]; },
            [&](int64_t i, int sum) {
                if (i < p.size) p.counts[i] = sum;
            });
    }
};

struct PlaceItems {
    static constexpr int kThreads = kSortThreads, kMinBlocks = 1;
    using Params = SortStep;
    struct Shared {
        int counts[2][kDigits][kSortThreads + 1];
    };

    FFRL_INLINE static void run(const Block<kThreads>& block, const Params& step, Shared& shared) {
        count_digits(block, step, shared.counts[0]);
        int current = 0;
        for (int before = 1; before < kSortThreads; before *= 2) {
            block.region([&](int thread) {
                for (int digit = 0; digit < kDigits; ++digit) {
                    const int* from = shared.counts[current][digit];
                    shared.counts[1 - current][digit][thread] =
                        from[thread] + (thread >= before ? from[thread - before] : 0);
                }
            });
            current = 1 - current;
        }
        // Where the next item of each digit goes: own numbers of each thread, in the array that is free.
        block.region([&](int thread) {
            int (&next)[kDigits][kSortThreads + 1] = shared.counts[1 - current];
            for (int digit = 0; digit < kDigits; ++digit)
                next[digit][thread] =
                    step.counts[static_cast<int64_t>(digit) * step.tiles + block.index().x] +
                    (thread > 0 ? shared.counts[current][digit][thread - 1] : 0);
            const int first = block.index().x * kSortTile + thread * kSortItems;
            for (int i = first; i < first + kSortItems && i < step.count; ++i) {
                const int item = step.item(i);
                step.sorted[next[step.digit(item)][thread]++] = item;
            }
        });
    }
};

// first[key] for key in 0 .. limit, count = limit + 1: items with a smaller key, of sorted ones.
struct FindFirst {
    int64_t count;
    const int64_t* keys;
    const int* order;
    int items;
    int* first;

    FFRL_INLINE void operator()(int64_t key) const {
        int low = 0, high = items;
        while (low < high) {
            const int middle = low + (high - low) / 2;
            if (keys[order[middle]] < key)
                low = middle + 1;
            else
                high = middle;
        }
        first[key] = low;
    }
};

// first_block from first_row, (potentials + 1,) each.
struct FindFirstBlocks {
    static constexpr int kThreads = kScanThreads, kMinBlocks = 1;
    using Shared = ScanShared;
    struct Params {
        const int* first_row;
        int* first_block;
        int potentials;
    };

    FFRL_INLINE static void run(const Block<kThreads>& block, const Params& p, Shared& shared) {
        scan(
            block, shared.sums, p.potentials,
            [&](int64_t k) { return (p.first_row[k + 1] - p.first_row[k] + kRows - 1) / kRows; },
            [&](int64_t k, int sum) { p.first_block[k] = sum; });
    }
};

// Grid (blocks). first_row null: all rows in their order, of the only potential there is.
struct FillSlots {
    static constexpr int kThreads = kRows, kMinBlocks = 1;
    struct Params {
        RowPlan plan;
        const int* first_row;
        const int* order;
        int rows;
    };
    struct Shared {
        char nothing;
    };

    FFRL_INLINE static void run(const Block<kThreads>& block, const Params& p, Shared&) {
        block.region([&](int thread) {
            const int index = block.index().x;
            const int64_t slot = static_cast<int64_t>(index) * kRows + thread;
            if (p.first_row == nullptr) {
                p.plan.slot_row[slot] = slot < p.rows ? slot : -1;
                if (thread == 0) p.plan.block_k[index] = 0;
                if (thread == 0 && index == 0) {
                    p.plan.first_block[0] = 0;
                    p.plan.first_block[1] = p.plan.blocks;
                }
                return;
            }
            int low = 0, high = p.plan.potentials;  // the first k whose blocks end behind this one
            while (low < high) {
                const int middle = low + (high - low) / 2;
                if (p.plan.first_block[middle + 1] <= index)
                    low = middle + 1;
                else
                    high = middle;
            }
            int64_t row = -1;
            if (low < p.plan.potentials) {
                const int64_t at =
                    p.first_row[low] + static_cast<int64_t>(index - p.plan.first_block[low]) * kRows + thread;
                if (at < p.first_row[low + 1]) row = p.order[at];
            }
            p.plan.slot_row[slot] = row;
            if (thread == 0) p.plan.block_k[index] = low < p.plan.potentials ? low : p.plan.potentials - 1;
        });
    }
};

// What a sort needs beside its result: orders (2, count), counts (kDigits, tiles).
struct SortMemory {
    int* orders;
    int* counts;

    static int64_t counts_of(int64_t count) { return kDigits * divide_up(count, kSortTile); }
};

// Items 0 .. count - 1 in the order of their keys, those of one key in their order; the result is in
// ``orders``. A key outside [0, limit) traps.
template <class Launcher>
const int* launch_sort(Launcher& launch, const int64_t* keys, int count, int64_t limit,
                       const SortMemory& memory) {
    const int tiles = static_cast<int>(divide_up(count, kSortTile));
    SortStep step{keys, nullptr, memory.orders, memory.counts, limit, count, tiles, 0};
    do {
        step.sorted = step.order == memory.orders ? memory.orders + count : memory.orders;
        launch.template operator()<CountDigits>({tiles, 1, 1}, step);
        launch.template operator()<ScanCounts>({1, 1, 1},
                                               {memory.counts, static_cast<int64_t>(kDigits) * tiles});
        launch.template operator()<PlaceItems>({tiles, 1, 1}, step);
        step.order = step.sorted;
        step.shift += kDigitBits;
    } while (((limit - 1) >> step.shift) > 0);
    return step.order;
}

// k (rows,) or null: then the plan is that of one potential. first_row (potentials + 1,) is memory for mixed
// rows.
template <class Launcher>
void launch_row_plan(Launcher& launch, const RowPlan& plan, const int64_t* k, int rows,
                     const SortMemory& memory, int* first_row) {
    if (k == nullptr) {
        launch.template operator()<FillSlots>({plan.blocks, 1, 1}, {plan, nullptr, nullptr, rows});
        return;
    }
    const int* order = launch_sort(launch, k, rows, plan.potentials, memory);
    for_each(launch, FindFirst{plan.potentials + int64_t{1}, k, order, rows, first_row});
    launch.template operator()<FindFirstBlocks>({1, 1, 1}, {first_row, plan.first_block, plan.potentials});
    launch.template operator()<FillSlots>({plan.blocks, 1, 1}, {plan, first_row, order, rows});
}

}  // namespace ffrl::cuda
