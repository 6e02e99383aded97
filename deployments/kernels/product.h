// Matrix products with weights in panels of 64 columns, K rows each, padded with zeros.
//
// Every output is one sum over k in order, in one accumulator, so it has the same bits whatever other
// rows are computed beside it and by however many threads. Few rows stream a panel once. More rows go
// through it in blocks of k that stay in the core's first cache while every tile of rows uses them; the
// accumulators lie in memory between two blocks, which changes no bit.

#pragma once

#include "simd.h"
#include "team.h"

namespace outrider {

constexpr int kPanel = 64;

// weight[n][k] lies at panels[n / 64][k][n % 64], as float or, where all weights are such, as bfloat16.
struct Matrix {
    const void* panels;
    int64_t depth;
    int64_t width;
    int64_t is_brain;
};

// A tile is so many rows by so many vectors of columns: a low one reads a whole panel's width at once, a
// high one loads and widens each weight for twice the rows. Both fit the registers with what they multiply.
#if defined(__AVX512F__)
constexpr int kLowRows = 6, kLowVecs = 4, kHighRows = 10, kHighVecs = 2;  // 24 and 20 accumulators of 32
#else
constexpr int kLowRows = 4, kLowVecs = 1, kHighRows = 4, kHighVecs = 1;
#endif

constexpr int64_t kBlockDepth = 256;  // a block of bfloat16 weights is 32 KB
constexpr int64_t kMaxBatch = 96;     // rows whose accumulators are kept at once
constexpr int64_t kUnitsPerThread = 4;  // so that all end at about the same time
constexpr int64_t kMaxRun = 16;         // panels: a unit is some 100 us at most
constexpr int64_t kAhead = 8192;      // bytes: the processor's own reading ahead ends with a page of memory

// What a tile asks memory for while it computes: one cache line per k, `step` bytes from the one before.
struct Reading {
    const char* next;
    int64_t step;
};

template <int kRows, int kVecs, class Weight>
inline void tile_product(
    const float* rows, int64_t stride, const Weight* weights, int64_t depth, bool is_first, Reading reading, float* tile) {
    Vec totals[kRows][kVecs] = {};
    if (!is_first) {
#pragma GCC unroll 10
        for (int m = 0; m < kRows; m++) {
#pragma GCC unroll 4
            for (int j = 0; j < kVecs; j++) totals[m][j] = load(tile + m * kPanel + j * kLanes);
        }
    }
    for (int64_t k = 0; k < depth; k++, weights += kPanel) {
        __builtin_prefetch(reading.next, 0, 2);
        if (kVecs * kLanes * sizeof(Weight) > 64) __builtin_prefetch(reading.next + 64, 0, 2);
        reading.next += reading.step;
        Vec columns[kVecs];
#pragma GCC unroll 4
        for (int j = 0; j < kVecs; j++) columns[j] = load(weights + j * kLanes);
#pragma GCC unroll 10
        for (int m = 0; m < kRows; m++) {
            const Vec x = splat(rows[m * stride + k]);
#pragma GCC unroll 4
            for (int j = 0; j < kVecs; j++) totals[m][j] += x * columns[j];
        }
    }
#pragma GCC unroll 10
    for (int m = 0; m < kRows; m++) {
#pragma GCC unroll 4
        for (int j = 0; j < kVecs; j++) store(tile + m * kPanel + j * kLanes, totals[m][j]);
    }
}

// The tile of `num` rows, at most kRows.
template <int kRows, int kVecs, class Weight>
inline void some_rows(
    int num, const float* rows, int64_t stride, const Weight* weights, int64_t depth, bool is_first, Reading reading,
    float* tile) {
    if (num == kRows) tile_product<kRows, kVecs>(rows, stride, weights, depth, is_first, reading, tile);
    else if constexpr (kRows > 1) {
        some_rows<kRows - 1, kVecs>(num, rows, stride, weights, depth, is_first, reading, tile);
    }
}

// Outputs of up to kLowRows rows and one panel, which is read once from end to end.
template <class Weight>
inline void low_product(const float* rows, int num, int64_t depth, const Weight* panel, float* totals) {
    constexpr int kColumns = kLowVecs * kLanes;
    for (int first = 0; first < kPanel; first += kColumns) {
        const Weight* weights = panel + first;
        const Reading reading = {reinterpret_cast<const char*>(weights) + kAhead, kPanel * sizeof(Weight)};
        some_rows<kLowRows, kLowVecs>(num, rows, depth, weights, depth, true, reading, totals + first);
    }
}

// The same of up to kMaxBatch rows: block by block, and while one is used the next is asked for.
template <class Weight>
inline void high_product(const float* rows, int64_t num_rows, int64_t depth, const Weight* panel, float* totals) {
    constexpr int kColumns = kHighVecs * kLanes;
    const int64_t num_tiles = (num_rows + kHighRows - 1) / kHighRows;
    const int64_t step = (kColumns * static_cast<int64_t>(sizeof(Weight)) + num_tiles - 1) / num_tiles;
    for (int64_t k = 0; k < depth; k += kBlockDepth) {
        const int64_t block_depth = depth - k < kBlockDepth ? depth - k : kBlockDepth;
        Reading reading = {reinterpret_cast<const char*>(panel + (k + block_depth) * kPanel), step};
        for (int column = 0; column < kPanel; column += kColumns) {
            const Weight* weights = panel + k * kPanel + column;
            for (int64_t t = 0, first = 0; t < num_tiles; t++) {
                const int num = static_cast<int>((num_rows - first + num_tiles - t - 1) / (num_tiles - t));
                some_rows<kHighRows, kHighVecs>(num, rows + first * depth + k, depth, weights, block_depth, k == 0,
                                                reading, totals + first * kPanel + column);
                reading.next += step * block_depth;
                first += num;
            }
        }
    }
}

// Rows [first, last) of one panel.
template <class Weight, class Finish>
inline void panel_product(
    const float* rows, int64_t first, int64_t last, const Matrix& matrix, int64_t p, const Finish& finish) {
    alignas(64) float totals[kMaxBatch * kPanel];
    const Weight* panel = static_cast<const Weight*>(matrix.panels) + p * matrix.depth * kPanel;
    for (; first < last; first += kMaxBatch) {
        const int64_t num = last - first < kMaxBatch ? last - first : kMaxBatch;
        const float* batch = rows + first * matrix.depth;
        if (num <= kLowRows) low_product(batch, static_cast<int>(num), matrix.depth, panel, totals);
        else high_product(batch, num, matrix.depth, panel, totals);
        for (int64_t m = 0; m < num; m++) finish(first + m, p, totals + m * kPanel);
    }
}

// How a product is cut into units: so many panels in a row, which one thread asks memory for ahead, or, where
// panels are few, parts of their rows.
struct Cut {
    int64_t panels_per_unit;
    int64_t num_parts;
};

inline Cut cut_for(int64_t num_panels, int64_t panel_work, int64_t num_rows, int num_threads) {
    const int64_t wanted = kUnitsPerThread * num_threads;
    int64_t panels = 1 + (1 << 12) / panel_work;  // a unit of less than some microseconds is not worth sharing
    if (panels < num_panels / wanted) panels = num_panels / wanted;
    if (panels > 1 || num_panels >= wanted) return {panels < kMaxRun ? panels : kMaxRun, 1};
    return {1, (num_rows + kMaxBatch - 1) / kMaxBatch};
}

// Calls finish(row, panel, values) with the 64 outputs of every row and panel of rows @ weight.T;
// rows are dense, `matrix.depth` apart.
template <class Finish>
inline void product(Team& team, const float* rows, int64_t num_rows, const Matrix& matrix, const Finish& finish) {
    const int64_t num_panels = (matrix.width + kPanel - 1) / kPanel;
    const int64_t panel_work = matrix.depth * (2 + num_rows);
    const Cut cut = cut_for(num_panels, panel_work, num_rows, team.size());
    const int64_t num_runs = (num_panels + cut.panels_per_unit - 1) / cut.panels_per_unit;
    team.run(num_runs * cut.num_parts, panel_work * num_panels * kPanel, [&](int64_t unit, int) {
        const int64_t part = unit / num_runs, from = unit % num_runs * cut.panels_per_unit;
        const int64_t to = from + cut.panels_per_unit < num_panels ? from + cut.panels_per_unit : num_panels;
        const int64_t first = part * num_rows / cut.num_parts, last = (part + 1) * num_rows / cut.num_parts;
        for (int64_t p = from; p < to; p++) {
            if (matrix.is_brain) panel_product<Brain>(rows, first, last, matrix, p, finish);
            else panel_product<float>(rows, first, last, matrix, p, finish);
        }
    });
}

// The plain case: values go to outputs[row][column].
inline void product(Team& team, const float* rows, int64_t num_rows, const Matrix& matrix, float* outputs) {
    product(team, rows, num_rows, matrix, [&](int64_t row, int64_t p, const float* values) {
        float* to = outputs + row * matrix.width + p * kPanel;
        const int64_t rest = matrix.width - p * kPanel;
        const int64_t num = rest < kPanel ? rest : kPanel;
        for (int64_t i = 0; i < num; i++) to[i] = values[i];
    });
}

}  // namespace outrider
