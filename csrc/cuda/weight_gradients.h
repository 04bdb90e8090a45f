// Products over rows: (15), (17), (19) and (20) for W1 and W2, and what ends the gradients of the weights.
//
// Grid (tiles of left units · tiles of right units · chunks · K): a block sums over one chunk of its
// potential's blocks of rows, into parts (chunks, K, left, right), which are added up in their order.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cuda/quadratic_backward.h"
#include "cuda/row_sums.h"

namespace ffrl::cuda {

// A sum over rows with a result (potentials, left, right).
struct WeightSum {
    int potentials, left, right;
    int left_tiles, right_tiles, chunks;

    int64_t count() const { return static_cast<int64_t>(potentials) * left * right; }
    int64_t numbers() const { return chunks * count(); }  // of parts
    Index3 grid() const { return {left_tiles * right_tiles * chunks * potentials, 1, 1}; }
};

inline WeightSum weight_sum(int64_t blocks, int64_t potentials, int64_t left, int64_t right) {
    constexpr int kStep = PlainProduct<float>::Step::kDepth;  // rows of one
    const int64_t left_tiles = divide_up(left, kTileRows), right_tiles = divide_up(right, kTileColumns);
    const int64_t steps = divide_up(blocks * kRows, potentials * kStep);
    const int64_t most = std::min(divide_up(blocks, potentials), kMaxChunks);
    return {static_cast<int>(potentials),  static_cast<int>(left),
            static_cast<int>(right),       static_cast<int>(left_tiles),
            static_cast<int>(right_tiles), chunks_of_sum(left_tiles * right_tiles * potentials, steps, most)};
}

template <class T>
struct WeightParams {
    BackwardParams<T> backward;
    WeightSum sum;
    T* parts;  // (chunks, K, left, right)
};

// Which tile of which sum a block has, and its rows.
struct WeightTile {
    int64_t k, chunk;
    int first_left, first_right;
    int64_t first_slot, slots;
};

FFRL_INLINE WeightTile weight_tile(const WeightSum& sum, const int* first_block, int index) {
    WeightTile tile;
    tile.first_right = index % sum.right_tiles * kTileColumns;
    index /= sum.right_tiles;
    tile.first_left = index % sum.left_tiles * kTileRows;
    index /= sum.left_tiles;
    tile.k = index % sum.potentials;
    tile.chunk = index / sum.potentials;
    const ChunkRange blocks = chunk_of_segment(first_block, tile.k, tile.chunk, sum.chunks);
    tile.first_slot = static_cast<int64_t>(blocks.first) * kRows;
    tile.slots = static_cast<int64_t>(blocks.last - blocks.first) * kRows;
    return tile;
}

template <class Product>
struct WeightShared {
    ProductSteps<Product> steps;
    ResultTile<typename Product::T> result;
};

// sums += Σ_slot left(slot, unit) right(slot, unit) over the rows of the chunk. Padding is not read.
template <class Product, class LeftValue, class RightValue>
FFRL_INLINE void add_over_rows(const Block<kProductThreads>& block, ProductSteps<Product>& steps,
                               ProductSums<Product>& sums, const WeightSum& sum, const WeightTile& tile,
                               const int64_t* slot_row, LeftValue left, RightValue right) {
    using T = typename Product::T;
    add_product<Product>(block, steps, sums, tile.slots, across_terms([&](int unit, int64_t term) {
                             const int64_t slot = tile.first_slot + term;
                             const int at = tile.first_left + unit;
                             return at < sum.left && slot_row[slot] >= 0 ? left(slot, at) : T(0);
                         }),
                         across_terms([&](int unit, int64_t term) {
                             const int64_t slot = tile.first_slot + term;
                             const int at = tile.first_right + unit;
                             return at < sum.right && slot_row[slot] >= 0 ? right(slot, at) : T(0);
                         }));
}

template <class T>
FFRL_INLINE void store_part(const Block<kProductThreads>& block, const WeightParams<T>& p,
                            const WeightTile& tile, const ResultTile<T>& result) {
    const WeightSum& sum = p.sum;
    T* part = p.parts + (tile.chunk * sum.potentials + tile.k) * sum.left * sum.right;
    for_tile(block, [&](int row, int column) {
        const int64_t left = tile.first_left + row, right = tile.first_right + column;
        if (left < sum.left && right < sum.right) part[left * sum.right + right] = result.at[row][column];
    });
}

// Σ_n r v_vᵀ + v_a1 zᵀ.
template <class Product>
struct Weight1Gradient {
    using T = typename Product::T;
    static constexpr int kThreads = kProductThreads, kMinBlocks = 2;
    using Params = WeightParams<T>;
    using Shared = WeightShared<Product>;

    FFRL_INLINE static void run(const Block<kThreads>& block, const Params& params, Shared& shared) {
        static_assert(sizeof(Shared) <= kSmallSharedMemory);
        const BackwardParams<T>& p = params.backward;
        const CallSizes& s = p.size;
        const WeightTile tile = weight_tile(params.sum, p.first_block, block.index().x);
        ProductSums<Product> sums;
        Product::clear(block, sums);
        add_over_rows<Product>(
            block, shared.steps, sums, params.sum, tile, p.slot_row,
            [&](int64_t slot, int h) { return p.v_a1[slot * s.hidden1 + h]; },
            [&](int64_t slot, int d) { return p.in.z[p.slot_row[slot] * s.latent + d]; });
        if (p.has_v)
            add_over_rows<Product>(
                block, shared.steps, sums, params.sum, tile, p.slot_row,
                [&](int64_t slot, int h) {
                    const T* of_slot = p.kept + slot * s.width;
                    return unit1(of_slot[h], of_slot[s.q() + h]).r;
                },
                [&](int64_t slot, int d) { return p.v_v[slot * s.latent + d]; });
        Product::store(block, shared.result, sums);
        store_part(block, params, tile, shared.result);
    }
};

// Σ_n p v_qᵀ + v_a2 (h1 + τ)ᵀ + v_omega ∂τ/∂tᵀ + v_omega2 ∂²τ/∂t²ᵀ.
template <class Product>
struct Weight2Gradient {
    using T = typename Product::T;
    static constexpr int kThreads = kProductThreads, kMinBlocks = 2;
    using Params = WeightParams<T>;
    using Shared = WeightShared<Product>;

    FFRL_INLINE static void run(const Block<kThreads>& block, const Params& params, Shared& shared) {
        static_assert(sizeof(Shared) <= kSmallSharedMemory);
        const BackwardParams<T>& p = params.backward;
        const CallSizes& s = p.size;
        const WeightTile tile = weight_tile(params.sum, p.first_block, block.index().x);
        const T* weight3 = p.in.weight3 + tile.k * s.hidden2;
        const auto feature = [&](const T* features, int64_t slot, int h) {
            return features[feature_of(p.in, s, p.slot_row[slot]) * s.hidden1 + h];
        };
        ProductSums<Product> sums;
        Product::clear(block, sums);
        add_over_rows<Product>(
            block, shared.steps, sums, params.sum, tile, p.slot_row,
            [&](int64_t slot, int j) { return p.v_a2[slot * s.hidden2 + j]; },
            [&](int64_t slot, int h) { return p.kept[slot * s.width + h] + feature(p.in.tau, slot, h); });
        if (p.has_v || p.laplacian)
            add_over_rows<Product>(
                block, shared.steps, sums, params.sum, tile, p.slot_row,
                [&](int64_t slot, int j) { return unit2(p.kept[slot * s.width + s.h2() + j], weight3[j]).p; },
                [&](int64_t slot, int h) { return p.v_q[slot * s.hidden1 + h]; });
        if (p.time)
            add_over_rows<Product>(
                block, shared.steps, sums, params.sum, tile, p.slot_row,
                [&](int64_t slot, int j) { return p.v_omega[slot * s.hidden2 + j]; },
                [&](int64_t slot, int h) { return feature(p.in.dtau_dt, slot, h); });
        if (p.second)
            add_over_rows<Product>(
                block, shared.steps, sums, params.sum, tile, p.slot_row,
                [&](int64_t slot, int j) { return p.v_omega2[slot * s.hidden2 + j]; },
                [&](int64_t slot, int h) { return feature(p.in.d2tau_dt2, slot, h); });
        Product::store(block, shared.result, sums);
        store_part(block, params, tile, shared.result);
    }
};

// The sums of the chunks; what the Laplacian's cubic part gave is there already, and for W1 the diagonal term
// of (14), 2 (Σ λ m) ∘ W1, is still to come.
template <class T>
struct FinishWeight {
    int64_t count;
    int chunks;
    bool cubic;
    const T* parts;     // (chunks, count)
    const T* weight1;   // (K, H1, D) or null
    const T* diagonal;  // of unit i of all K H1 at k diagonal_width + i % H1
    int64_t diagonal_width;
    int hidden1, latent;
    T* v_weight;

    FFRL_INLINE void operator()(int64_t i) const {
        T sum = 0;
        for (int64_t chunk = 0; chunk < chunks; ++chunk) sum += parts[chunk * count + i];
        if (cubic) {
            sum += v_weight[i];
            if (weight1 != nullptr) {
                const int64_t unit = i / latent;
                sum += 2 * diagonal[unit / hidden1 * diagonal_width + unit % hidden1] * weight1[i];
            }
        }
        v_weight[i] = sum;
    }
};

// What was summed over the blocks of each potential, (K, width), to where it belongs.
template <class T>
struct SpreadBlockSums {
    int64_t count;
    BlockSums of;
    const T* sums;
    T *v_bias1, *v_bias2, *v_weight3, *v_bias3;

    FFRL_INLINE void operator()(int64_t i) const {
        const int64_t k = i / of.width();
        const int at = static_cast<int>(i % of.width());
        if (at < of.bias2())
            v_bias1[k * of.hidden1 + at] = sums[i];
        else if (at < of.weight3())
            v_bias2[k * of.hidden2 + at - of.bias2()] = sums[i];
        else if (at < of.bias3())
            v_weight3[k * of.hidden2 + at - of.weight3()] = sums[i];
        else if (at == of.bias3())
            v_bias3[k] = sums[i];
    }
};

template <class T, class Launcher>
void launch_weight1_gradient(Launcher& launch, const WeightParams<T>& params, Precision precision) {
    with_product<T>(precision, [&](auto product) {
        launch.template operator()<Weight1Gradient<decltype(product)>>(params.sum.grid(), params);
    });
}

template <class T, class Launcher>
void launch_weight2_gradient(Launcher& launch, const WeightParams<T>& params, Precision precision) {
    with_product<T>(precision, [&](auto product) {
        launch.template operator()<Weight2Gradient<decltype(product)>>(params.sum.grid(), params);
    });
}

}  // namespace ffrl::cuda
