// Register tiles: a few rows of a left operand against two vectors of columns, held in registers over the
// whole contraction and then handed to the caller, which consumes them without writing them down. Every right
// operand has rows of kBlock numbers. Included inside a namespace of one instruction set.

constexpr int kBlock = 32;  // rows of the op in one block, columns in one panel

constexpr ptrdiff_t round_up(ptrdiff_t n, ptrdiff_t multiple) {
    return (n + multiple - 1) / multiple * multiple;
}

template <class S, int kHeight, int kVectors = 2>
struct Tile {
    using T = typename S::Scalar;
    using V = typename S::Vec;
    V y[kHeight][kVectors];

    FFRL_INLINE Tile() {
#pragma GCC unroll 16
        for (int r = 0; r < kHeight; ++r)
#pragma GCC unroll 2
            for (int v = 0; v < kVectors; ++v) y[r][v] = V{};
    }

    // a (depth, kHeight) packed, b (depth, kBlock)
    FFRL_INLINE void add_packed(ptrdiff_t depth, const T* __restrict a, const T* __restrict b) {
        for (ptrdiff_t k = 0; k < depth; ++k) {
            V column[kVectors];
#pragma GCC unroll 2
            for (int v = 0; v < kVectors; ++v) column[v] = load<S>(b + k * kBlock + v * S::width);
#pragma GCC unroll 16
            for (int r = 0; r < kHeight; ++r)
#pragma GCC unroll 2
                for (int v = 0; v < kVectors; ++v) y[r][v] = fma<V>(a[k * kHeight + r], column[v], y[r][v]);
        }
    }

    // a (kHeight, kBlock) of a block of rows, b (kBlock, kBlock): a contraction over the block's first rows
    FFRL_INLINE void add_block(const T* __restrict a, const T* __restrict b, int rows = kBlock) {
        for (int k = 0; k < rows; ++k) {
            V column[kVectors];
#pragma GCC unroll 2
            for (int v = 0; v < kVectors; ++v) column[v] = load<S>(b + k * kBlock + v * S::width);
#pragma GCC unroll 16
            for (int r = 0; r < kHeight; ++r)
#pragma GCC unroll 2
                for (int v = 0; v < kVectors; ++v) y[r][v] = fma<V>(a[r * kBlock + k], column[v], y[r][v]);
        }
    }
};

template <int kHeight>
struct Height {
    static constexpr int value = kHeight;
};

// Calls f(Height, first) for panels of S::height rows, the last one as low as evenness allows: an odd count
// has one row too many, which the caller must not use.
template <class S, class F>
FFRL_INLINE void for_panels(ptrdiff_t count, F f) {
    ptrdiff_t i = 0;
    for (; i + S::height <= count; i += S::height) f(Height<S::height>{}, i);
    switch ((count - i + 1) / 2) {
        case 1:
            f(Height<2>{}, i);
            break;
        case 2:
            f(Height<4>{}, i);
            break;
        case 3:
            f(Height<6>{}, i);
            break;
        case 4:
            f(Height<8>{}, i);
            break;
        default:
            break;
    }
}

constexpr ptrdiff_t packed_size(ptrdiff_t rows, ptrdiff_t depth) {
    return round_up(rows, 2) * depth;
}

// Left operand (rows, depth) with strides, as panels for Tile::add_packed; the panel of row i begins at i *
// depth.
template <class S>
void pack_panels(typename S::Scalar* out, const typename S::Scalar* from, ptrdiff_t rows, ptrdiff_t depth,
                 ptrdiff_t row_stride, ptrdiff_t depth_stride) {
    for (ptrdiff_t first = 0; first < rows; first += S::height) {
        const ptrdiff_t height = rows - first < S::height ? round_up(rows - first, 2) : S::height;
        auto* panel = out + first * depth;
        for (ptrdiff_t r = 0; r < height; ++r)
            for (ptrdiff_t k = 0; k < depth; ++k)
                panel[k * height + r] =
                    first + r < rows ? from[(first + r) * row_stride + k * depth_stride] : 0;
    }
}

// epilogue(i, column, y) for each vector y of the product of a packed (rows, depth) and b (depth, kBlock).
template <class S, class Epilogue>
FFRL_INLINE void product(const typename S::Scalar* packed, ptrdiff_t rows, ptrdiff_t depth,
                         const typename S::Scalar* b, Epilogue epilogue) {
    for (int column = 0; column < kBlock; column += 2 * S::width)
        for_panels<S>(rows, [&](auto height, ptrdiff_t first) FFRL_LAMBDA {
            constexpr int kHeight = decltype(height)::value;
            Tile<S, kHeight> tile;
            tile.add_packed(depth, packed + first * depth, b + column);
#pragma GCC unroll 16
            for (int r = 0; r < kHeight; ++r)
                if (first + r < rows) {
                    epilogue(first + r, column, tile.y[r][0]);
                    epilogue(first + r, column + S::width, tile.y[r][1]);
                }
        });
}

// sums += Σ_blocks a bᵀ. sums in panels [columns / kBlock][rows][kBlock]; a [blocks][a_stride] with (rows,
// kBlock) in each, and one more row readable; b in panels [columns / kBlock][blocks * kBlock][kBlock].
template <class S>
void accumulate_outer(typename S::Scalar* sums, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t blocks,
                      const typename S::Scalar* a, ptrdiff_t a_stride, const typename S::Scalar* b) {
    for (ptrdiff_t panel = 0; panel * kBlock < columns; ++panel)
        for (int column = 0; column < kBlock; column += 2 * S::width) {
            auto* out = sums + panel * rows * kBlock + column;
            const auto* right = b + panel * blocks * kBlock * kBlock + column;
            for_panels<S>(rows, [&](auto height, ptrdiff_t first) FFRL_LAMBDA {
                constexpr int kHeight = decltype(height)::value;
                Tile<S, kHeight> tile;
                for (ptrdiff_t block = 0; block < blocks; ++block)
                    tile.add_block(a + block * a_stride + first * kBlock, right + block * kBlock * kBlock);
#pragma GCC unroll 16
                for (int r = 0; r < kHeight; ++r)
                    if (first + r < rows)
#pragma GCC unroll 2
                        for (int v = 0; v < 2; ++v) {
                            auto* p = out + (first + r) * kBlock + v * S::width;
                            store<S>(p, load<S>(p) + tile.y[r][v]);
                        }
            });
        }
}

// One step of a transposition in registers: swaps the off-diagonal squares of side kSide in pairs of rows.
template <class S, int kSide, int... kColumn>
FFRL_INLINE void swap_squares(typename S::Vec& low, typename S::Vec& high,
                              std::integer_sequence<int, kColumn...>) {
    const auto a = low, b = high;
    low = __builtin_shufflevector(a, b, (kColumn & kSide ? S::width + kColumn - kSide : kColumn)...);
    high = __builtin_shufflevector(a, b, (kColumn & kSide ? S::width + kColumn : kColumn + kSide)...);
}

template <class S, int kSide>
FFRL_INLINE void transpose_square(typename S::Vec* rows) {
    if constexpr (kSide > 0) {
#pragma GCC unroll 16
        for (int r = 0; r < S::width; ++r)
            if ((r & kSide) == 0)
                swap_squares<S, kSide>(rows[r], rows[r + kSide], std::make_integer_sequence<int, S::width>{});
        transpose_square<S, kSide / 2>(rows);
    }
}

// (rows, kBlock) to panels [rows / kBlock][slot of depth][kBlock] transposed; what lies beyond `rows` becomes
// zero.
template <class S>
void transpose_block(typename S::Scalar* panels, ptrdiff_t panel_stride, const typename S::Scalar* from,
                     ptrdiff_t rows) {
    for (ptrdiff_t first = 0; first < rows; first += kBlock, panels += panel_stride)
        for (int lane = 0; lane < kBlock; lane += S::width)
            for (int i = 0; i < kBlock; i += S::width) {
                typename S::Vec square[S::width];
#pragma GCC unroll 16
                for (int r = 0; r < S::width; ++r)
                    square[r] = first + i + r < rows ? load<S>(from + (first + i + r) * kBlock + lane)
                                                     : typename S::Vec{};
                transpose_square<S, S::width / 2>(square);
#pragma GCC unroll 16
                for (int r = 0; r < S::width; ++r) store<S>(panels + (lane + r) * kBlock + i, square[r]);
            }
}

// x = d1 ∘ W1[:, d], (rows, kBlock): one column of the Jacobian's right factor for a block of rows.
template <class S>
FFRL_INLINE void scale_by_weight1(typename S::Scalar* x, const typename S::Scalar* d1,
                                  const typename S::Scalar* weight1_panels, ptrdiff_t rows, ptrdiff_t latent,
                                  ptrdiff_t d) {
    for (ptrdiff_t i = 0; i < rows; ++i) {
        const auto weight = weight1_panels[(i / kBlock * latent + d) * kBlock + i % kBlock];
#pragma GCC unroll 8
        for (int lane = 0; lane < kBlock; lane += S::width)
            store<S>(x + i * kBlock + lane, load<S>(d1 + i * kBlock + lane) * weight);
    }
}

// Tiles of the symmetric product Σ_blocks a b that touch its lower half, in columns of one panel:
// consume(tile, i, left, column) gets rows from i and columns from left = 32 panel + column. a
// [blocks][a_stride] with (rows, kBlock) in each, and one more row readable; b (blocks * kBlock, kBlock), the
// panel's columns. Of the last block only `last_rows` rows count.
template <class S, class Consume>
FFRL_INLINE void symmetric_panel(ptrdiff_t rows, ptrdiff_t panel, ptrdiff_t blocks,
                                 const typename S::Scalar* a, ptrdiff_t a_stride, const typename S::Scalar* b,
                                 Consume consume, int last_rows = kBlock) {
    for (int column = 0; column < kBlock; column += 2 * S::width) {
        const ptrdiff_t left = panel * kBlock + column, top = left / S::height * S::height;
        if (top >= rows) return;
        const auto add_blocks = [&](auto& tile, ptrdiff_t i) FFRL_LAMBDA {
            for (ptrdiff_t block = 0; block < blocks; ++block)
                tile.add_block(a + block * a_stride + i * kBlock, b + block * kBlock * kBlock + column,
                               block + 1 < blocks ? kBlock : last_rows);
        };
        for_panels<S>(rows - top, [&](auto height, ptrdiff_t offset) FFRL_LAMBDA {
            constexpr int kHeight = decltype(height)::value;
            const ptrdiff_t i = top + offset;
            if (i + kHeight <= left + S::width) {  // the second vector lies above the diagonal
                Tile<S, kHeight, 1> tile;
                add_blocks(tile, i);
                consume(tile, i, left, column);
            } else {
                Tile<S, kHeight, 2> tile;
                add_blocks(tile, i);
                consume(tile, i, left, column);
            }
        });
    }
}
