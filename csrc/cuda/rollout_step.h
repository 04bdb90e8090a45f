// What the rollout and its way back share: a cluster of blocks that carries some rows of one potential along
// all steps, each block with a slice of both layers' units and their weights.
//
// A step is four products, in both directions: along W1 and W2 from what all blocks know to the own units,
// and across W2 and W1 from the own units to sums over them, which the blocks add up in the order of their
// ranks.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/arithmetic.h"
#include "cuda/cluster.h"
#include "cuda/mma.h"
#include "cuda/slots.h"
#include "cuda/stage.h"

namespace ffrl::cuda {

constexpr int kRolloutRows = kFragmentRows;  // of a cluster: a step waits for the one before, so few in many
constexpr int kRolloutThreads = 256, kRolloutWarps = kRolloutThreads / kWarp;
constexpr int kRolloutLanes = kRolloutThreads / kRolloutRows;  // threads that share a row
constexpr int kRolloutGroups = kRows / kRolloutRows;           // clusters of a block of the plan

// Where things are in the memory of a block: numbers from its beginning, behind the rows. Arrays are (rows,
// units) with a stride; widths are multiples of kUnitStep, and what is behind the units is zero.
struct RolloutLayout {
    static constexpr int kUnitStep = 8;
    static constexpr size_t kRowBytes = kRolloutRows * sizeof(int64_t);

    int slice1, slice2;   // units of a block
    int latent, hidden1;  // padded
    int stride_x, stride_all, stride1, stride2, stride_weight1, stride_weight2;
    int64_t x, partial_x;      // (rows, D): what the products along W1 read; sums over the own units
    int64_t state;             // (rows, D), of the way back
    int64_t units1, back1;     // (rows, slice1): what the others read, what the products across W1 read
    int64_t all;               // (rows, H1): the units of all blocks, then sums over the own ones
    int64_t units2, shares2;   // (rows, slice2)
    int64_t lanes, sums, row;  // (2, rows, lanes), (2, rows) that the others read, (2, rows)
    int64_t numbers;           // of all this
    int64_t weight1, weight2;  // (slice1, D) and (slice2, H1), where they fit
    int64_t bytes;             // of shared memory
    bool on_chip, has_weight1, has_weight2;
};

// Neighbouring rows in banks 8 apart.
inline int stride_of(int64_t width) {
    return static_cast<int>(width % 16 == 8 ? width : width + 8);
}

// Of so many blocks of a cluster, each with so much shared memory.
template <class T>
RolloutLayout rollout_layout(const PotentialShape& s, int ranks, int64_t shared_memory) {
    const auto padded = [](int64_t units, int64_t parts) {
        return static_cast<int>(divide_up(units, RolloutLayout::kUnitStep * parts) *
                                RolloutLayout::kUnitStep);
    };
    RolloutLayout a{};
    a.slice1 = padded(s.hidden1, ranks);
    a.slice2 = padded(s.hidden2, ranks);
    a.latent = padded(s.latent, 1);
    a.hidden1 = a.slice1 * ranks;
    a.stride_x = stride_of(a.latent);
    a.stride_all = stride_of(a.hidden1);
    a.stride1 = stride_of(a.slice1);
    a.stride2 = stride_of(a.slice2);
    a.stride_weight1 = stride_of(a.latent);
    a.stride_weight2 = stride_of(a.hidden1);
    int64_t used = 0;
    const auto take = [&](int64_t count) {
        const int64_t begin = used;
        used += count;
        return begin;
    };
    const int64_t rows = kRolloutRows;
    a.x = take(rows * a.stride_x);
    a.partial_x = take(rows * a.stride_x);
    a.state = take(rows * a.stride_x);
    a.units1 = take(rows * a.stride1);
    a.back1 = a.shares2 = take(rows * (a.stride1 > a.stride2 ? a.stride1 : a.stride2));
    a.all = take(rows * a.stride_all);
    a.units2 = take(rows * a.stride2);
    a.lanes = take(2 * rows * (kRolloutLanes + 1));
    a.sums = take(2 * rows);
    a.row = take(2 * rows);
    a.numbers = used;
    const auto fits = [&](int64_t more) {
        return static_cast<int64_t>(RolloutLayout::kRowBytes) +
                   (used + more) * static_cast<int64_t>(sizeof(T)) <=
               shared_memory;
    };
    a.on_chip = fits(0);
    const int64_t size1 = static_cast<int64_t>(a.slice1) * a.stride_weight1,
                  size2 = static_cast<int64_t>(a.slice2) * a.stride_weight2;
    if (a.on_chip && fits(size2)) {
        a.has_weight2 = true;
        a.weight2 = take(size2);
    }
    if (a.on_chip && fits(size1)) {
        a.has_weight1 = true;
        a.weight1 = take(size1);
    }
    a.bytes = static_cast<int64_t>(RolloutLayout::kRowBytes) +
              (a.on_chip ? used * static_cast<int64_t>(sizeof(T)) : 0);
    return a;
}

template <class T>
struct RolloutParams {
    PotentialInputs<T> in;
    CallSizes size;  // of one step
    RolloutLayout layout;
    const int64_t* slot_row;
    const int* block_k;
    T* scratch;      // (clusters · ranks, layout.numbers) where it is not on the chip
    const T* omega;  // (features, H2), W2 ∂τ/∂t; null where it is not needed
    int steps;
    T sign;
    bool mixed;
};

// The rows of a block's weights, which are in its shared memory or not.
template <class T>
struct WeightRows {
    const T* staged;
    int stride;
    Matrix<T> all;
};

// A right operand of the product along the weights' rows, or across them.
template <class M, bool kStaged, bool kAcross>
FFRL_INLINE typename M::RightFragment weight_fragment(const WeightRows<typename M::T>& weight, int column,
                                                      int depth, int lane) {
    using T = typename M::T;
    if constexpr (kStaged) {
        const int outer = kAcross ? depth : column, inner = kAcross ? column : depth;
        const T* from = weight.staged + outer * weight.stride + inner;
        if constexpr (kAcross)
            return right_fragment_across<M>(from, weight.stride, lane);
        else
            return right_fragment<M>(from, weight.stride, lane);
    } else {
        const auto number = [&](int c, int d) {
            const int outer = kAcross ? d : c, inner = kAcross ? c : d;
            return outer < weight.all.rows && inner < weight.all.columns
                       ? weight.all.at[outer * weight.all.row_stride + inner]
                       : T(0);
        };
        typename M::RightFragment right;
        FFRL_UNROLL
        for (int i = 0; i < M::kRightColumns; ++i) {
            const int c = column + M::right_column(lane, i), d = depth + M::depth(lane);
            right.column[i] = {number(c, d), number(c, d + 1)};
        }
        return right;
    }
}

// store(thread, row, column, Σ_l left right) for `columns` columns, both sizes multiples of kUnitStep. A warp
// has kFragments fragments at a time, and of each kChains sums, which do not wait for each other.
template <class M, int kFragments, int kChains, class C, class OfLeft, class OfRight, class Store>
FFRL_INLINE void multiply_fragments(const C& cluster, int columns, int depth, OfLeft left, OfRight right,
                                    Store store) {
    using T = typename M::T;
    using Mine = Sums<M, 1, kFragments>;
    const auto block = cluster.as_block();
    const int fragments = columns / kFragmentColumns;
    for (int first = 0; first < fragments; first += kRolloutWarps * kFragments) {
        const auto fragment = [&](int thread, int f) {
            return first + f * kRolloutWarps + cluster.in_block(thread) / kWarp;
        };
        if (!cluster.has_work([&](int thread) { return fragment(thread, 0) < fragments; })) continue;
        const auto column = [&](int thread, int f) {
            const int wanted = fragment(thread, f);
            return (wanted < fragments ? wanted : fragments - 1) * kFragmentColumns;
        };
        typename C::template Own<Mine> sums[kChains];
        FFRL_UNROLL
        for (int chain = 0; chain < kChains; ++chain) clear_sums(block, sums[chain]);
        const auto add = [&](int chain, int d) {
            multiply_step<M>(
                block, sums[chain], [&](int thread, int) { return left(thread, d); },
                [&](int thread, int f) { return right(thread, column(thread, f), d); });
        };
        int d = 0;
        FFRL_UNROLL_BY(1)
        for (; d + kChains * M::kDepth <= depth; d += kChains * M::kDepth) {
            FFRL_UNROLL
            for (int chain = 0; chain < kChains; ++chain) add(chain, d + chain * M::kDepth);
        }
        FFRL_UNROLL_BY(1)
        for (; d < depth; d += M::kDepth) add(0, d);
        cluster.region_without_barrier([&](int thread) {
            const int lane = thread % kWarp;
            FFRL_UNROLL
            for (int f = 0; f < kFragments; ++f) {
                if (fragment(thread, f) >= fragments) continue;
                FFRL_UNROLL
                for (int i = 0; i < 4; ++i) {
                    T sum = 0;
                    FFRL_UNROLL
                    for (int chain = 0; chain < kChains; ++chain)
                        sum += sums[chain](thread).of[0][f].at[i / 2][i % 2];
                    store(thread, fragment_row(lane, i / 2), column(thread, f) + M::sum_column(lane, i % 2),
                          sum);
                }
            }
        });
    }
}

// The cluster and what a thread of it asks.
template <class M, int kRanks, bool kOnChip>
struct RolloutCluster {
    using T = typename M::T;
    using C = Cluster<kRolloutThreads, kRanks>;

    const C& cluster;
    const RolloutParams<T>& p;
    int64_t k, first_slot, feature;  // of the potential, in the plan, of the first step
    int block, group;

    FFRL_INLINE RolloutCluster(const C& cluster, const RolloutParams<T>& p) : cluster(cluster), p(p) {
        block = cluster.index() / kRolloutGroups;
        group = cluster.index() % kRolloutGroups * kRolloutRows;
        first_slot = static_cast<int64_t>(block) * kRows + group;
        k = p.block_k[block];
        feature = p.mixed ? k * p.steps : 0;
    }

    FFRL_INLINE bool is_empty() const { return p.slot_row[first_slot] < 0; }  // rows come first

    FFRL_INLINE T* memory(int rank, void* shared) const {
        if constexpr (kOnChip)
            return reinterpret_cast<T*>(static_cast<char*>(shared) + RolloutLayout::kRowBytes);
        else
            return p.scratch + (static_cast<int64_t>(cluster.index()) * kRanks + rank) * p.layout.numbers;
    }
    FFRL_INLINE T* own(int thread) const { return memory(cluster.rank(thread), cluster.own(thread)); }
    FFRL_INLINE const T* peer(int rank) const { return memory(rank, cluster.peer(rank)); }
    FFRL_INLINE int64_t* rows(int thread) const { return static_cast<int64_t*>(cluster.own(thread)); }

    // Of the threads that go over rows: neighbours have neighbouring units of one row.
    FFRL_INLINE int row(int thread) const { return cluster.in_block(thread) / kRolloutLanes; }
    FFRL_INLINE int lane(int thread) const { return thread % kRolloutLanes; }

    FFRL_INLINE int first1(int thread) const { return cluster.rank(thread) * p.layout.slice1; }
    FFRL_INLINE int first2(int thread) const { return cluster.rank(thread) * p.layout.slice2; }

    // What is kept of a row in a step.
    template <class U>
    FFRL_INLINE U* slot(U* kept, int step, int row) const {
        return kept + ((static_cast<int64_t>(block) * p.steps + step) * kRows + group + row) * p.size.width;
    }

    // The own rows of W1 and W2.
    FFRL_INLINE WeightRows<T> weight1(int thread) const {
        const CallSizes& s = p.size;
        const int first = first1(thread);
        const T* all = p.in.weight1 + (k * s.hidden1 + first) * s.latent;
        return {own(thread) + p.layout.weight1, p.layout.stride_weight1,
                matrix(all, s.latent, s.hidden1 - first, s.latent)};
    }
    FFRL_INLINE WeightRows<T> weight2(int thread) const {
        const CallSizes& s = p.size;
        const int first = first2(thread);
        const T* all = p.in.weight2 + (k * s.hidden2 + first) * s.hidden1;
        return {own(thread) + p.layout.weight2, p.layout.stride_weight2,
                matrix(all, s.hidden1, s.hidden2 - first, s.hidden1)};
    }

    // Rows, and the weights that fit. A barrier must follow.
    FFRL_INLINE void begin() const {
        const RolloutLayout& a = p.layout;
        cluster.region_of_blocks([&](int thread) {
            const int in_block = cluster.in_block(thread);
            if (in_block < kRolloutRows) rows(thread)[in_block] = p.slot_row[first_slot + in_block];
            if constexpr (kOnChip) {
                T* memory = own(thread);
                const auto load = [&](int64_t to, const WeightRows<T>& weight, int rows, int columns) {
                    Matrix<T> from = weight.all;
                    if (from.rows <= 0) from.at = p.in.weight1, from.rows = 0;  // of the last blocks
                    stage<kRolloutThreads, kWarp>(in_block, memory + to, weight.stride, rows, columns, from);
                };
                if (a.has_weight1) load(a.weight1, weight1(thread), a.slice1, a.latent);
                if (a.has_weight2) load(a.weight2, weight2(thread), a.slice2, a.hidden1);
                end_batch();
                wait_for_batches<0>();
            }
        });
    }

    // store(thread, row, column, Σ_l left[row][l] weight) for the own rows of a weight, or across them. Every
    // thread stores what it computed; no barrier.
    template <bool kAcross, bool kStaged, class OfWeight, class Store>
    FFRL_INLINE void multiply_by(OfWeight weight, int64_t left, int stride, int columns, int depth,
                                 Store store) const {
        const auto of_left = [&](int thread, int d) {
            return left_fragment<M>(own(thread) + left + d, stride, thread % kWarp);
        };
        const auto of_right = [&](int thread, int column, int d) {
            return weight_fragment<M, kStaged, kAcross>(weight(thread), column, d, thread % kWarp);
        };
        if (columns >= 4 * kRolloutWarps * kFragmentColumns)
            multiply_fragments<M, 4, 2>(cluster, columns, depth, of_left, of_right, store);
        else
            multiply_fragments<M, 1, 8>(cluster, columns, depth, of_left, of_right, store);
    }

    template <bool kAcross, class OfWeight, class Store>
    FFRL_INLINE void multiply(bool staged, OfWeight weight, int64_t left, int stride, int columns, int depth,
                              Store store) const {
        if constexpr (kOnChip) {
            if (staged) return multiply_by<kAcross, true>(weight, left, stride, columns, depth, store);
        }
        multiply_by<kAcross, false>(weight, left, stride, columns, depth, store);
    }

    template <class Store>
    FFRL_INLINE void along_weight1(Store store) const {
        const RolloutLayout& a = p.layout;
        multiply<false>(
            a.has_weight1, [&](int thread) { return weight1(thread); }, a.x, a.stride_x, a.slice1, a.latent,
            store);
    }
    template <class Store>
    FFRL_INLINE void along_weight2(Store store) const {
        const RolloutLayout& a = p.layout;
        multiply<false>(
            a.has_weight2, [&](int thread) { return weight2(thread); }, a.all, a.stride_all, a.slice2,
            a.hidden1, store);
    }
    FFRL_INLINE void across_weight2() const {
        const RolloutLayout& a = p.layout;
        multiply<true>(
            a.has_weight2, [&](int thread) { return weight2(thread); }, a.units2, a.stride2, a.hidden1,
            a.slice2,
            [&](int thread, int row, int column, T sum) {
                own(thread)[a.all + row * a.stride_all + column] = sum;
            });
    }
    FFRL_INLINE void across_weight1() const {
        const RolloutLayout& a = p.layout;
        multiply<true>(
            a.has_weight1, [&](int thread) { return weight1(thread); }, a.back1, a.stride1, a.latent,
            a.slice1,
            [&](int thread, int row, int column, T sum) {
                own(thread)[a.partial_x + row * a.stride_x + column] = sum;
            });
    }

    // all = units1 of every block + more(unit), by one thread.
    template <class More>
    FFRL_INLINE void gather_units1(int thread, More more) const {
        const RolloutLayout& a = p.layout;
        T* to = own(thread) + a.all + row(thread) * a.stride_all;
        const int64_t from = a.units1 + row(thread) * a.stride1;
        for (int unit = lane(thread); unit < a.slice1; unit += kRolloutLanes) {
            FFRL_UNROLL
            for (int rank = 0; rank < kRanks; ++rank) {
                const int h = rank * a.slice1 + unit;
                to[h] = peer(rank)[from + unit] + (h < p.size.hidden1 ? more(h) : T(0));
            }
        }
    }

    // The sum over all blocks of the number at `at`.
    FFRL_INLINE T sum_of_all(int64_t at) const {
        T sum = 0;
        FFRL_UNROLL
        for (int rank = 0; rank < kRanks; ++rank) sum += peer(rank)[at];
        return sum;
    }

    // (i, row) of two sums over the lanes of each row
    FFRL_INLINE int64_t lane_sum(int i, int row) const {
        return p.layout.lanes + (i * kRolloutRows + row) * (kRolloutLanes + 1);
    }
    FFRL_INLINE T sum_of_lanes(int thread, int i, int row) const {
        const T* from = own(thread) + lane_sum(i, row);
        T sum = 0;
        FFRL_UNROLL
        for (int lane = 0; lane < kRolloutLanes; ++lane) sum += from[lane];
        return sum;
    }
};

}  // namespace ffrl::cuda
