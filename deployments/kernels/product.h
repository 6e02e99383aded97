// Matrix products with weights in panels of 64 columns, K rows each, padded with zeros.
//
// Every output is one sum over k in order, in one accumulator, so it has the same bits whatever other
// rows are computed beside it and by however many threads.

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

#if defined(__AVX512F__)
constexpr int kTileVecs = 4, kTileRows = 6;  // 24 accumulators of 32 registers
#else
constexpr int kTileVecs = 1, kTileRows = 4;
#endif

template <int kRows, class Weight>
inline void tile_product(const float* rows, int64_t stride, const Weight* panel, int64_t depth, float* tile) {
    for (int first = 0; first < kPanel; first += kTileVecs * kLanes) {
        Vec totals[kRows][kTileVecs] = {};
        const Weight* weights = panel + first;
        for (int64_t k = 0; k < depth; k++, weights += kPanel) {
            Vec columns[kTileVecs];
#pragma GCC unroll 4
            for (int j = 0; j < kTileVecs; j++) columns[j] = load(weights + j * kLanes);
#pragma GCC unroll 6
            for (int m = 0; m < kRows; m++) {
                const Vec x = splat(rows[m * stride + k]);
#pragma GCC unroll 4
                for (int j = 0; j < kTileVecs; j++) totals[m][j] += x * columns[j];
            }
        }
        for (int m = 0; m < kRows; m++) {
            for (int j = 0; j < kTileVecs; j++) store(tile + m * kPanel + first + j * kLanes, totals[m][j]);
        }
    }
}

template <class Weight>
inline void tile_product(int num, const float* rows, int64_t stride, const Weight* panel, int64_t depth, float* tile) {
    switch (num) {
        case 1: return tile_product<1>(rows, stride, panel, depth, tile);
        case 2: return tile_product<2>(rows, stride, panel, depth, tile);
        case 3: return tile_product<3>(rows, stride, panel, depth, tile);
        case 4: return tile_product<4>(rows, stride, panel, depth, tile);
#if defined(__AVX512F__)
        case 5: return tile_product<5>(rows, stride, panel, depth, tile);
        case 6: return tile_product<6>(rows, stride, panel, depth, tile);
#endif
    }
}

template <class Weight, class Finish>
inline void panel_product(const float* rows, int64_t num_rows, const Matrix& matrix, int64_t p, const Finish& finish) {
    alignas(64) float tile[kTileRows * kPanel];
    const Weight* panel = static_cast<const Weight*>(matrix.panels) + p * matrix.depth * kPanel;
    const int64_t num_tiles = (num_rows + kTileRows - 1) / kTileRows;
    int64_t first = 0;
    for (int64_t t = 0; t < num_tiles; t++) {
        const int num = static_cast<int>((num_rows - first + num_tiles - t - 1) / (num_tiles - t));
        tile_product(num, rows + first * matrix.depth, matrix.depth, panel, matrix.depth, tile);
        for (int m = 0; m < num; m++) finish(first + m, p, tile + m * kPanel);
        first += num;
    }
}

// Calls finish(row, panel, values) with the 64 outputs of every row and panel of rows @ weight.T;
// rows are dense, `matrix.depth` apart.
template <class Finish>
inline void product(Team& team, const float* rows, int64_t num_rows, const Matrix& matrix, const Finish& finish) {
    const int64_t num_panels = (matrix.width + kPanel - 1) / kPanel;
    const int64_t panel_work = matrix.depth * (2 + num_rows);
    int64_t per_unit = 1 + (1 << 12) / panel_work;  // a unit of less than some microseconds is not worth sharing
    if (num_panels / per_unit > (1 << 20)) per_unit = num_panels >> 20;
    const int64_t num_units = (num_panels + per_unit - 1) / per_unit;
    team.run(num_units, panel_work * num_panels * kPanel, [&](int64_t unit, int) {
        const int64_t last = (unit + 1) * per_unit < num_panels ? (unit + 1) * per_unit : num_panels;
        for (int64_t p = unit * per_unit; p < last; p++) {
            if (matrix.is_brain) panel_product<Brain>(rows, num_rows, matrix, p, finish);
            else panel_product<float>(rows, num_rows, matrix, p, finish);
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
