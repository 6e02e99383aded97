// Attention of some query rows over one session's entries, whose values are read in place.
//
// Entries are taken in blocks, whose keys are transposed once for all rows, so that a lane is a key and no
// product needs a sum across lanes. What follows are two products of tiles of rows with a block and, between
// them, a softmax.
//
// A score is one sum over the head's dimension in order, an output one sum over entries in order, and the
// weights' total has a lane for every position modulo 16. Hidden entries add exact zeros. So a row has the
// same bits whatever rows it shares a block with and however a context was cut into steps.

#pragma once

#include "simd.h"

namespace outrider {

constexpr int kFewRows = 16, kMaxRows = 96;  // that are attended together: see `rows_at_a_time`
constexpr int64_t kScores = 1 << 17;  // that are kept at once, unless a few rows have more: half of a second cache
constexpr int kBlock = 64;  // entries of a block: with a head of 128 its keys are 32 KB, and its values too
constexpr int kEntriesAhead = kLanes;  // that are asked for before they are used: see `Block`
constexpr float kHidden = -3.0e38f;  // the score of an entry that a row does not see
// A tile is so many rows by so many vectors, whose sums fit the registers with what they multiply.
#if defined(__AVX512F__)
constexpr int kTileRows = 6, kTileVecs = 4;
#else
constexpr int kTileRows = 4, kTileVecs = 1;
#endif

// Where one session's keys and values of one KV head lie. Entry p is `slot(p) * stride` floats behind
// `keys`; its slot comes from a block table, or is p itself where there is none.
struct Entries {
    const float* keys;
    const float* values;
    int64_t stride;
    const int64_t* blocks;
    int64_t block_size;

    int64_t slot(int64_t position) const {
        return blocks ? blocks[position / block_size] * block_size + position % block_size : position;
    }
};

// A query and its output, both `head_dim` floats; it sees entries [first, last).
struct QueryRow {
    const float* query;
    float* output;
    int64_t first;
    int64_t last;
};

// Rows that go through the products together, and the entries that any of them sees.
struct Tile {
    const QueryRow* rows;
    int num_rows;
    int64_t first;  // a multiple of 16
    int64_t last;
    float* scores;  // of the first row, from the attention's first entry on; `length` floats a row
    int64_t length;
    Vec* best;    // a row's largest scores by lane, and afterwards its largest in every lane
    Vec* totals;  // of a row's weights, by lane
};

// Some entries in a row, and how many floats behind the pool's first each of them lies; and those of 16 more,
// which are asked for meanwhile.
struct Block {
    int64_t first;  // a multiple of 16
    int64_t last;
    int64_t start;  // the attention's first entry, where rows of scores begin
    int64_t offset[kBlock + kEntriesAhead];
};

// Offsets of 16 entries from `position` on; those from `stop` on repeat the last one before it.
inline void find_offsets(const Entries& entries, int64_t position, int64_t stop, int64_t* to) {
    const bool is_run = !entries.blocks || entries.block_size % kLanes == 0;
    const int64_t slot = entries.slot(position);
    for (int i = 0; i < kLanes; i++) {
        const int64_t p = position + i < stop ? position + i : stop - 1;
        to[i] = (is_run ? slot + p - position : entries.slot(p)) * entries.stride;
    }
}

// The block of entries from `first` on, of those in [start, stop). Where none are left to ask for, its own are.
inline void find_block(const Entries& entries, int64_t start, int64_t first, int64_t stop, Block& block) {
    block.start = start;
    block.first = first;
    block.last = stop < first + kBlock ? stop : first + kBlock;
    int64_t i = first;
    for (; i < block.last; i += kLanes) find_offsets(entries, i, stop, block.offset + i - first);
    find_offsets(entries, i < stop ? i : first, stop, block.offset + i - first);
}

// How many rows `attend` takes at a time, kFewRows to kMaxRows: so many that their scores of `length` entries
// stay in a core's second cache.
inline int rows_at_a_time(int64_t length) {
    const int64_t num = kScores / length;
    return static_cast<int>(num < kFewRows ? kFewRows : num < kMaxRows ? num : kMaxRows);
}

// Floats of scratch that `attend` needs for so many rows, a multiple of 16: `length` is that of what any of them
// sees, from a multiple of 16 on in whole blocks.
inline int64_t scratch_size(int64_t length, int64_t head_dim) {
    const int64_t few = kFewRows * length;
    return kBlock * head_dim + (few > kScores ? few : kScores);
}

// Adds to totals, for each k in order, weights[r][k] times the vectors at line(k).
template <int kRows, int kVecs, class Line>
inline void add_products(const float* const* weights, int64_t depth, const Line& line, Vec totals[kRows][kVecs]) {
    for (int64_t k = 0; k < depth; k++) {
        const float* from = line(k);
        Vec column[kVecs];
#pragma GCC unroll 4
        for (int j = 0; j < kVecs; j++) column[j] = load(from + j * kLanes);
#pragma GCC unroll 6
        for (int r = 0; r < kRows; r++) {
            const Vec weight = splat(weights[r][k]);
#pragma GCC unroll 4
            for (int j = 0; j < kVecs; j++) totals[r][j] += weight * column[j];
        }
    }
}

// A block's keys by dimension, (D, kBlock).
inline void transpose_keys(const Entries& entries, const Block& block, int64_t head_dim, float* to) {
    for (int64_t i = 0; block.first + i < block.last; i += kLanes) {
        const int64_t* offset = block.offset + i;
        transpose(entries.keys, offset, offset + kEntriesAhead, head_dim, to + i, kBlock);
    }
}

// Scores of kRows rows and kVecs vectors of keys, `at` entries behind the block's first.
template <int kRows, int kVecs>
inline void score(const Tile& tile, const Block& block, int64_t at, const float* keys, int64_t head_dim) {
    const float* queries[kRows];
    Vec totals[kRows][kVecs] = {};
#pragma GCC unroll 6
    for (int r = 0; r < kRows; r++) queries[r] = tile.rows[r].query;
    add_products<kRows, kVecs>(queries, head_dim, [&](int64_t d) { return keys + d * kBlock + at; }, totals);
    const IntVec lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#pragma GCC unroll 6
    for (int r = 0; r < kRows; r++) {
        float* scores = tile.scores + r * tile.length + block.first + at - block.start;
#pragma GCC unroll 4
        for (int j = 0; j < kVecs; j++) {
            const int64_t position = block.first + at + j * kLanes;
            const int64_t before = tile.rows[r].first - position, stop = tile.rows[r].last - position;
            Vec seen = totals[r][j];
            if (before > 0 || stop < kLanes) {
                const IntVec is_seen = (lane >= static_cast<int32_t>(before)) & (lane < static_cast<int32_t>(stop));
                seen = pick(is_seen, seen, splat(kHidden));
            }
            store(scores + j * kLanes, seen);
            tile.best[r] = larger(tile.best[r], seen);
        }
    }
}

// A tile's scores of a block's entries.
template <int kRows>
inline void score_block(const Tile& tile, const Block& block, const float* keys, int64_t head_dim) {
    if constexpr (kRows > 1) {
        if (tile.num_rows < kRows) return score_block<kRows - 1>(tile, block, keys, head_dim);
    }
    int64_t at = tile.first > block.first ? tile.first - block.first : 0;
    const int64_t end = (tile.last < block.last ? tile.last : block.last) - block.first;
    if (kTileVecs * kLanes == kBlock && end - at > kBlock / 2) {  // sooner than by single vectors
        return score<kRows, kTileVecs>(tile, block, 0, keys, head_dim);
    }
    for (; at < end; at += kLanes) score<kRows, 1>(tile, block, at, keys, head_dim);
}

// Scores of entries from `first` to `last`, in one block, become weights: e^(score - best).
inline void weigh(const Tile& tile, const Block& block, int64_t first, int64_t last) {
    for (int r = 0; r < tile.num_rows; r++) {
        float* scores = tile.scores + r * tile.length - block.start;
        const Vec best = tile.best[r];
        Vec total = tile.totals[r];
        for (int64_t i = first; i < last; i += kLanes) {
            const Vec weight = exponential(load(scores + i) - best);
            store(scores + i, weight);
            total += weight;
        }
        tile.totals[r] = total;
    }
}

// Adds weight times value of entries from `first` to `last`, in one block, to 16 kVecs floats of kRows outputs.
template <int kRows, int kVecs>
inline void add_values(
    const Tile& tile, const Block& block, int64_t first, int64_t last, const float* values, int64_t d) {
    const float* weights[kRows];
    Vec totals[kRows][kVecs];
#pragma GCC unroll 6
    for (int r = 0; r < kRows; r++) {
        weights[r] = tile.scores + r * tile.length + first - block.start;
        const float* output = tile.rows[r].output + d;
#pragma GCC unroll 4
        for (int j = 0; j < kVecs; j++) totals[r][j] = first == tile.first ? Vec{} : load(output + j * kLanes);
    }
    const int64_t* offset = block.offset + first - block.first;
    const auto line = [&](int64_t i) {
        const float* later = values + offset[i + kEntriesAhead] + d;
#pragma GCC unroll 4
        for (int j = 0; j < kVecs; j++) __builtin_prefetch(later + j * kLanes);
        return values + offset[i] + d;
    };
    add_products<kRows, kVecs>(weights, last - first, line, totals);
#pragma GCC unroll 6
    for (int r = 0; r < kRows; r++) {
#pragma GCC unroll 4
        for (int j = 0; j < kVecs; j++) store(tile.rows[r].output + d + j * kLanes, totals[r][j]);
    }
}

// A tile's weights of a block's entries, and its outputs with them.
template <int kRows>
inline void add_block(const Tile& tile, const Block& block, const float* values, int64_t head_dim) {
    if constexpr (kRows > 1) {
        if (tile.num_rows < kRows) return add_block<kRows - 1>(tile, block, values, head_dim);
    }
    const int64_t first = tile.first > block.first ? tile.first : block.first;
    const int64_t last = tile.last < block.last ? tile.last : block.last;
    if (first >= last) return;
    weigh(tile, block, first, last);
    int64_t d = 0;
    for (; d + kTileVecs * kLanes <= head_dim; d += kTileVecs * kLanes) {
        add_values<kRows, kTileVecs>(tile, block, first, last, values, d);
    }
    for (; d < head_dim; d += kLanes) add_values<kRows, 1>(tile, block, first, last, values, d);
}

// `num` rows from `rows` on as one tile. Its buffers are its own part of those of all rows.
inline Tile tile_of(const QueryRow* rows, int num) {
    Tile tile = {rows, num, rows[0].first, rows[0].last, nullptr, 0, nullptr, nullptr};
    for (int r = 1; r < num; r++) {
        tile.first = rows[r].first < tile.first ? rows[r].first : tile.first;
        tile.last = rows[r].last > tile.last ? rows[r].last : tile.last;
    }
    tile.first -= tile.first % kLanes;
    return tile;
}

// Attention without a factor on the scores, for up to kMaxRows rows of one KV head.
inline void attend(const QueryRow* rows, int num_rows, const Entries& entries, int64_t head_dim, float* scratch) {
    const Tile all = tile_of(rows, num_rows);
    const int64_t start = all.first, stop = all.last;
    const int64_t length = (stop - start + kBlock - 1) / kBlock * kBlock;
    float* keys = scratch;
    float* scores = scratch + kBlock * head_dim;
    Vec best[kMaxRows], totals[kMaxRows] = {};
    for (int r = 0; r < num_rows; r++) best[r] = splat(kHidden);
    Tile tiles[(kMaxRows + kTileRows - 1) / kTileRows];
    const int num_tiles = (num_rows + kTileRows - 1) / kTileRows;
    for (int t = 0, r = 0; t < num_tiles; t++) {
        const int num = (num_rows - r + num_tiles - t - 1) / (num_tiles - t);
        tiles[t] = tile_of(rows + r, num);
        tiles[t].scores = scores + r * length;
        tiles[t].length = length;
        tiles[t].best = best + r;
        tiles[t].totals = totals + r;
        r += num;
    }
    Block block;
    for (int64_t first = start; first < stop; first += kBlock) {
        find_block(entries, start, first, stop, block);
        transpose_keys(entries, block, head_dim, keys);
        for (int t = 0; t < num_tiles; t++) score_block<kTileRows>(tiles[t], block, keys, head_dim);
    }
    for (int r = 0; r < num_rows; r++) best[r] = splat(largest(best[r]));
    for (int64_t first = start; first < stop; first += kBlock) {
        find_block(entries, start, first, stop, block);
        for (int t = 0; t < num_tiles; t++) add_block<kTileRows>(tiles[t], block, entries.values, head_dim);
    }
    for (int r = 0; r < num_rows; r++) {
        const Vec scale = splat(1.0f / sum(totals[r]));
        for (int64_t d = 0; d < head_dim; d += kLanes) {
            const Vec output = stop > start ? load(rows[r].output + d) * scale : Vec{};  // nobody has written it
            store(rows[r].output + d, output);
        }
    }
}

}  // namespace outrider
