// Vectors of 16 floats and the few functions of them that a decoder needs.
//
// GCC and Clang turn these into whatever the machine has: one AVX-512 register, two of AVX2, four of
// NEON. Nothing here depends on which.

#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace outrider {

constexpr int kLanes = 16;

typedef float Vec __attribute__((vector_size(64)));
typedef int32_t IntVec __attribute__((vector_size(64)));
typedef uint32_t UintVec __attribute__((vector_size(64)));
typedef uint16_t HalfVec __attribute__((vector_size(32)));
typedef float LooseVec __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint16_t LooseHalfVec __attribute__((vector_size(32), aligned(2), may_alias));

// A bfloat16 number: the upper half of a float32.
struct Brain {
    uint16_t bits;
};

inline Vec load(const float* from) { return *reinterpret_cast<const LooseVec*>(from); }

inline Vec load(const Brain* from) {
    const HalfVec half = *reinterpret_cast<const LooseHalfVec*>(from);
#if defined(__AVX512F__)
    return (Vec)((UintVec)_mm512_cvtepu16_epi32((__m256i)half) << 16);  // GCC 12 makes six instructions of the line below
#else
    return (Vec)(__builtin_convertvector(half, UintVec) << 16);
#endif
}

inline void store(float* to, Vec value) { *reinterpret_cast<LooseVec*>(to) = value; }

inline Vec splat(float x) { return Vec{x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }

inline Vec pick(IntVec mask, Vec yes, Vec no) { return (Vec)((mask & (IntVec)yes) | (~mask & (IntVec)no)); }

inline Vec larger(Vec a, Vec b) { return pick(a > b, a, b); }

inline Vec smaller(Vec a, Vec b) { return pick(a < b, a, b); }

inline float sum(Vec v) {
    float total = 0.0f;
    for (int i = 0; i < kLanes; i++) total += v[i];
    return total;
}

inline float largest(Vec v) {
    float best = v[0];
    for (int i = 1; i < kLanes; i++) best = v[i] > best ? v[i] : best;
    return best;
}

// e^x to about one unit in the last place; 0 from -87.3 down, finite above 88.
inline Vec exponential(Vec x) {
    const IntVec vanishes = x < splat(-87.3f);
    x = smaller(larger(x, splat(-87.3f)), splat(88.0f));
    const Vec magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    const Vec shifted = x * splat(1.44269504f) + magic;
    const Vec power = shifted - magic;
    Vec r = x - power * splat(0.693359375f);
    r = r - power * splat(-2.12194440e-4f);
    Vec p = splat(1.9875691500e-4f);
    p = p * r + splat(1.3981999507e-3f);
    p = p * r + splat(8.3334519073e-3f);
    p = p * r + splat(4.1665795894e-2f);
    p = p * r + splat(1.6666665459e-1f);
    p = p * r + splat(5.0000001201e-1f);
    p = p * r * r + r + splat(1.0f);
    const IntVec scaled = (IntVec)p + (((IntVec)shifted - (IntVec)magic) << 23);
    return pick(vanishes, Vec{}, (Vec)scaled);
}

// x times the tanh approximation of the normal distribution function, "gelu_pytorch_tanh".
inline Vec gelu(Vec x) {
    const Vec inner = splat(0.7978845608028654f) * (x + splat(0.044715f) * x * x * x);
    return x / (splat(1.0f) + exponential(splat(-2.0f) * inner));
}

inline Vec hyperbolic_tangent(Vec x) {
    return splat(1.0f) - splat(2.0f) / (exponential(splat(2.0f) * x) + splat(1.0f));
}

// Half of the way to the sums of 8 vectors; `joined` makes the other half, of two of them.
inline Vec half_summed(const Vec v[kLanes / 2]) {
    Vec a[4], b[2];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        const Vec x = v[2 * i], y = v[2 * i + 1];
        a[i] = __builtin_shufflevector(x, y, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
               __builtin_shufflevector(x, y, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
        const Vec x = a[2 * i], y = a[2 * i + 1];
        b[i] = __builtin_shufflevector(x, y, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
               __builtin_shufflevector(x, y, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
    }
    return __builtin_shufflevector(b[0], b[1], 0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29) +
           __builtin_shufflevector(b[0], b[1], 2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23, 26, 27, 30, 31);
}

// Sums of 16 vectors, one per lane. Each is added up in the same order whatever the others hold.
inline Vec joined(Vec low, Vec high) {
    return __builtin_shufflevector(low, high, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30) +
           __builtin_shufflevector(low, high, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
}

}  // namespace outrider
