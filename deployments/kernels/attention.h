// Attention of a few query rows over one session's entries, read in place.
//
// Entries are taken in blocks of 16 that lie at multiples of 16 of the position, so the order of every
// sum depends on the query's own position alone: the same bits however a context was cut into steps.

#pragma once

#include "simd.h"

namespace outrider {

constexpr int kMaxRows = 16;
#if defined(__AVX512F__)
constexpr int kSummedRows = 6;  // by 4 vectors of values: 24 accumulators of 32 registers
#else
constexpr int kSummedRows = 4;
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

// Offsets of 16 entries from `position` on; those from `stop` on repeat the last one before it.
inline void offsets(const Entries& entries, int64_t position, int64_t stop, int64_t* to) {
    const bool is_run = !entries.blocks || entries.block_size % kLanes == 0;
    const int64_t slot = entries.slot(position);
    for (int i = 0; i < kLanes; i++) {
        const int64_t p = position + i < stop ? position + i : stop - 1;
        to[i] = (is_run ? slot + p - position : entries.slot(p)) * entries.stride;
    }
}

// Products of kRows queries with 16 keys: scores[r][0..16). Every key is read once for all of them.
template <int kRows>
inline void dot_products(
    const QueryRow* rows, const float* keys, const int64_t* offset, int64_t head_dim, float* scores, int64_t stride) {
    constexpr int kHalf = kLanes / 2;
    Vec halves[2][kRows];
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
        Vec totals[kRows][kHalf] = {};
        for (int64_t d = 0; d < head_dim; d += kLanes) {
            Vec x[kRows];
#pragma GCC unroll 4
            for (int r = 0; r < kRows; r++) x[r] = load(rows[r].query + d);
#pragma GCC unroll 8
            for (int i = 0; i < kHalf; i++) {
                const Vec key = load(keys + offset[half * kHalf + i] + d);
#pragma GCC unroll 4
                for (int r = 0; r < kRows; r++) totals[r][i] += x[r] * key;
            }
        }
#pragma GCC unroll 4
        for (int r = 0; r < kRows; r++) halves[half][r] = half_summed(totals[r]);
    }
    for (int r = 0; r < kRows; r++) store(scores + r * stride, joined(halves[0][r], halves[1][r]));
}

// Turns a row's scores of entries [start, start + length) into weights that add up to 1; hidden ones become 0.
inline void softmax(float* scores, int64_t start, int64_t length, const QueryRow& row) {
    const IntVec lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const Vec lowest = splat(-3.0e38f);
    Vec best = lowest;
    for (int64_t i = 0; i < length; i += kLanes) {
        const int32_t before = static_cast<int32_t>(row.first - start - i), stop = static_cast<int32_t>(row.last - start - i);
        const IntVec is_seen = (lane >= before) & (lane < stop);
        const Vec seen = pick(is_seen, load(scores + i), lowest);
        store(scores + i, seen);
        best = larger(best, seen);
    }
    const Vec top = splat(largest(best));
    Vec total = {};
    for (int64_t i = 0; i < length; i += kLanes) {
        const Vec weight = exponential(load(scores + i) - top);
        store(scores + i, weight);
        total += weight;
    }
    const Vec scale = splat(1.0f / sum(total));
    for (int64_t i = 0; i < length; i += kLanes) store(scores + i, load(scores + i) * scale);
}

// outputs[r][0..16 * kVecs) = sum over entries of weight * value, for kRows rows.
template <int kRows, int kVecs>
inline void weighted_sum(
    const float* weights, int64_t stride, const Entries& entries, int64_t start, int64_t stop, int64_t d,
    const QueryRow* rows) {
    Vec totals[kRows][kVecs] = {};
    for (int64_t block = start; block < stop; block += kLanes) {
        int64_t offset[kLanes];
        offsets(entries, block, stop, offset);
        const int num = static_cast<int>(stop - block < kLanes ? stop - block : kLanes);
        const float* weight = weights + block - start;
        for (int i = 0; i < num; i++) {
            const float* value = entries.values + offset[i] + d;
#pragma GCC unroll 4
            for (int j = 0; j < kVecs; j++) {
                const Vec v = load(value + j * kLanes);
#pragma GCC unroll 6
                for (int r = 0; r < kRows; r++) totals[r][j] += splat(weight[r * stride + i]) * v;
            }
        }
    }
    for (int r = 0; r < kRows; r++) {
        for (int j = 0; j < kVecs; j++) store(rows[r].output + d + j * kLanes, totals[r][j]);
    }
}

template <int kRows>
inline void weighted_sums(
    const float* weights, int64_t stride, const Entries& entries, int64_t start, int64_t stop, int64_t head_dim,
    const QueryRow* rows) {
    int64_t d = 0;
    for (; d + 4 * kLanes <= head_dim; d += 4 * kLanes) {
        weighted_sum<kRows, 4>(weights, stride, entries, start, stop, d, rows);
    }
    for (; d < head_dim; d += kLanes) weighted_sum<kRows, 1>(weights, stride, entries, start, stop, d, rows);
}

// The same for `num` rows, at most kRows.
template <int kRows>
inline void some_weighted_sums(
    int num, const float* weights, int64_t stride, const Entries& entries, int64_t start, int64_t stop, int64_t head_dim,
    const QueryRow* rows) {
    if (num == kRows) weighted_sums<kRows>(weights, stride, entries, start, stop, head_dim, rows);
    else if constexpr (kRows > 1) {
        some_weighted_sums<kRows - 1>(num, weights, stride, entries, start, stop, head_dim, rows);
    }
}

// Floats of scratch that `attend` needs for entries up to `stop`.
inline int64_t scratch_size(int64_t stop) { return kMaxRows * (stop + 2 * kLanes); }

// Attention without a factor on the scores, for up to kMaxRows rows of one KV head.
inline void attend(const QueryRow* rows, int num_rows, const Entries& entries, int64_t head_dim, float* scratch) {
    int64_t start = rows[0].first, stop = rows[0].last;
    for (int r = 1; r < num_rows; r++) {
        start = rows[r].first < start ? rows[r].first : start;
        stop = rows[r].last > stop ? rows[r].last : stop;
    }
    start -= start % kLanes;
    const int64_t length = (stop - start + kLanes - 1) / kLanes * kLanes;
    for (int64_t block = start; block < stop; block += kLanes) {
        int64_t offset[kLanes];
        offsets(entries, block, stop, offset);
        float* scores = scratch + block - start;
        int r = 0;
        for (; r + 2 <= num_rows; r += 2) {
            dot_products<2>(rows + r, entries.keys, offset, head_dim, scores + r * length, length);
        }
        if (r < num_rows) dot_products<1>(rows + r, entries.keys, offset, head_dim, scores + r * length, length);
    }
    for (int r = 0; r < num_rows; r++) softmax(scratch + r * length, start, length, rows[r]);
    const int num_tiles = (num_rows + kSummedRows - 1) / kSummedRows;
    for (int t = 0, r = 0; t < num_tiles; t++) {
        const int num = (num_rows - r + num_tiles - t - 1) / (num_tiles - t);
        some_weighted_sums<kSummedRows>(num, scratch + r * length, length, entries, start, stop, head_dim, rows + r);
        r += num;
    }
}

}  // namespace outrider
