// Sums over rows that are no products. A sum over the rows of one potential or feature row is cut into
// chunks, whose number follows from shapes alone; each chunk has a block of threads and a result of its own,
// and these are added up in their order. The same inputs give the same bits.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cuda/for_each.h"
#include "cuda/slots.h"

namespace ffrl::cuda {

constexpr int64_t kEnoughBlocks = 264;  // of threads, to keep a GPU busy; more chunks cost memory and time
constexpr int64_t kMaxChunks = 16;      // of a product
constexpr int64_t kLongestSum = 64;     // steps that a thread adds up, while the number of chunks allows it

// Into how many chunks sums of about so many steps are cut, each of which one of so many blocks would take.
inline int chunks_of_sum(int64_t blocks, int64_t steps, int64_t most) {
    const int64_t wanted =
        std::max(divide_up(kEnoughBlocks, std::max<int64_t>(blocks, 1)), divide_up(steps, kLongestSum));
    return static_cast<int>(std::max<int64_t>(1, std::min(wanted, most)));
}

struct ChunkRange {
    int first, last;  // the one behind
};

// Chunk i of the items from begin on.
FFRL_INLINE ChunkRange chunk_of(int64_t begin, int64_t count, int64_t chunk, int64_t chunks) {
    return {static_cast<int>(begin + count * chunk / chunks),
            static_cast<int>(begin + count * (chunk + 1) / chunks)};
}

// Of the segment first[i] .. first[i + 1] - 1.
FFRL_INLINE ChunkRange chunk_of_segment(const int* first, int64_t segment, int64_t chunk, int64_t chunks) {
    return chunk_of(first[segment], first[segment + 1] - first[segment], chunk, chunks);
}

// parts (chunks, segments, width): sums of rows (R, width), the segment s being first[s] .. first[s + 1] - 1
// of
// ``order`` (R,) if it is given. Null first: one segment with all `count` rows. Rows in no segment are not
// read. Grid (tiles · chunks · segments).
template <class T>
struct SegmentSums {
    static constexpr int kThreads = 128, kMinBlocks = 1;
    static constexpr int kRowsAtOnce = kThreads / kLanes;
    struct Params {
        const T* rows;
        const int* order;
        const int* first;
        T* parts;
        int count, width, tiles, chunks, segments;
    };
    struct Shared {
        T sums[kRowsAtOnce][kLanes];
    };

    FFRL_INLINE static void run(const Block<kThreads>& block, const Params& p, Shared& shared) {
        const int tile = block.index().x % p.tiles;
        const int64_t part = block.index().x / p.tiles, segment = part % p.segments,
                      chunk = part / p.segments;
        const ChunkRange range = p.first != nullptr ? chunk_of_segment(p.first, segment, chunk, p.chunks)
                                                    : chunk_of(0, p.count, chunk, p.chunks);
        block.region([&](int thread) {
            const int column = tile * kLanes + thread % kLanes;
            T sum = 0;
            if (column < p.width) {
                FFRL_UNROLL_BY(4)
                for (int64_t i = range.first + thread / kLanes; i < range.last; i += kRowsAtOnce)
                    sum += p.rows[(p.order != nullptr ? p.order[i] : i) * p.width + column];
            }
            shared.sums[thread / kLanes][thread % kLanes] = sum;
        });
        block.region([&](int thread) {
            const int column = tile * kLanes + thread;
            if (thread >= kLanes || column >= p.width) return;
            T sum = 0;
            for (int i = 0; i < kRowsAtOnce; ++i) sum += shared.sums[i][thread];
            p.parts[part * p.width + column] = sum;
        });
    }
};

// Numbers of segments and columns that a sum has, and into how many chunks it is cut.
struct SegmentShape {
    int64_t segments, width, rows;

    int tiles() const { return static_cast<int>(divide_up(width, kLanes)); }
    int chunks() const {
        const int64_t steps = divide_up(rows, segments * kRows);
        return chunks_of_sum(segments * tiles(), steps, steps);
    }
    int64_t numbers() const { return chunks() * segments * width; }  // of parts
};

template <class T, class Launcher>
void launch_segment_sums(Launcher& launch, const SegmentShape& shape, const T* rows, const int* order,
                         const int* first, T* parts) {
    const int tiles = shape.tiles(), chunks = shape.chunks(), segments = static_cast<int>(shape.segments);
    launch.template operator()<SegmentSums<T>>({tiles * chunks * segments, 1, 1},
                                               {rows, order, first, parts, static_cast<int>(shape.rows),
                                                static_cast<int>(shape.width), tiles, chunks, segments});
}

// out (segments, width), with parts as memory for the sums of chunks.
template <class T, class Launcher>
void launch_sums(Launcher& launch, const SegmentShape& shape, const T* rows, const int* order,
                 const int* first, T* parts, T* out) {
    const int chunks = shape.chunks();
    launch_segment_sums(launch, shape, rows, order, first, chunks > 1 ? parts : out);
    if (chunks > 1) for_each(launch, AddParts<T>{shape.segments * shape.width, chunks, T(1), parts, out});
}

}  // namespace ffrl::cuda
