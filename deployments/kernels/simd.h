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
typedef float Quad __attribute__((vector_size(16)));
typedef int32_t IntVec __attribute__((vector_size(64)));
typedef uint32_t UintVec __attribute__((vector_size(64)));
typedef uint16_t HalfVec __attribute__((vector_size(32)));
typedef float LooseVec __attribute__((vector_size(64), aligned(4), may_alias));
typedef float LooseQuad __attribute__((vector_size(16), aligned(4), may_alias));
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

inline Quad quad(const float* from) { return *reinterpret_cast<const LooseQuad*>(from); }

inline void store(float* to, Quad value) { *reinterpret_cast<LooseQuad*>(to) = value; }

inline Vec splat(float x) { return Vec{x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }

inline Vec pick(IntVec mask, Vec yes, Vec no) { return mask ? yes : no; }

#if defined(__AVX512F__)  // one instruction, of which GCC 12 makes two

inline Vec larger(Vec a, Vec b) { return (Vec)_mm512_max_ps((__m512)a, (__m512)b); }

inline Vec smaller(Vec a, Vec b) { return (Vec)_mm512_min_ps((__m512)a, (__m512)b); }

#else

inline Vec larger(Vec a, Vec b) { return pick(a > b, a, b); }

inline Vec smaller(Vec a, Vec b) { return pick(a < b, a, b); }

#endif

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

#if defined(__AVX512F__)

// The 4 x 4 matrices in four vectors, one of each in every quarter, transposed.
inline void transpose_quarters(const Vec from[4], Vec to[4]) {
    const Vec a = from[0], b = from[1], c = from[2], d = from[3];
    const Vec ab = __builtin_shufflevector(a, b, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29);
    const Vec cd = __builtin_shufflevector(c, d, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29);
    const Vec ab2 = __builtin_shufflevector(a, b, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
    const Vec cd2 = __builtin_shufflevector(c, d, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
    to[0] = __builtin_shufflevector(ab, cd, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29);
    to[1] = __builtin_shufflevector(ab, cd, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
    to[2] = __builtin_shufflevector(ab2, cd2, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29);
    to[3] = __builtin_shufflevector(ab2, cd2, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
}

inline Vec even_quarters(Vec a, Vec b) {
    return __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27);
}

inline Vec odd_quarters(Vec a, Vec b) {
    return __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
}

// to[d * step + i] = from[offset[i] + d] for 16 lines i of `size` floats each, a multiple of 16. Those at `next`
// are asked for meanwhile.
inline void transpose(
    const float* from, const int64_t* offset, const int64_t* next, int64_t size, float* to, int64_t step) {
    for (int64_t d = 0; d < size; d += kLanes, to += kLanes * step) {
        Vec lines[kLanes], quarters[kLanes];
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; i++) {
            __builtin_prefetch(from + next[i] + d);
            lines[i] = load(from + offset[i] + d);
        }
#pragma GCC unroll 4
        for (int i = 0; i < kLanes; i += 4) transpose_quarters(lines + i, quarters + i);
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            const Vec a = quarters[i], b = quarters[i + 4], c = quarters[i + 8], e = quarters[i + 12];
            const Vec even_ab = even_quarters(a, b), odd_ab = odd_quarters(a, b);
            const Vec even_ce = even_quarters(c, e), odd_ce = odd_quarters(c, e);
            store(to + i * step, even_quarters(even_ab, even_ce));
            store(to + (i + 4) * step, even_quarters(odd_ab, odd_ce));
            store(to + (i + 8) * step, odd_quarters(even_ab, even_ce));
            store(to + (i + 12) * step, odd_quarters(odd_ab, odd_ce));
        }
    }
}

#else  // by fours: compilers make single moves of wider shuffles

inline void transpose(
    const float* from, const int64_t* offset, const int64_t* next, int64_t size, float* to, int64_t step) {
    for (int i = 0; i < kLanes; i += 4) {
        const float *a = from + offset[i], *b = from + offset[i + 1], *c = from + offset[i + 2], *e = from + offset[i + 3];
        float* at = to + i;
        for (int64_t d = 0; d < size; d += 4, at += 4 * step) {
            __builtin_prefetch(from + next[i + d / 4 % 4] + d / kLanes * kLanes);
            const Quad p = quad(a + d), q = quad(b + d), r = quad(c + d), s = quad(e + d);
            const Quad pq = __builtin_shufflevector(p, q, 0, 4, 1, 5), rs = __builtin_shufflevector(r, s, 0, 4, 1, 5);
            const Quad pq2 = __builtin_shufflevector(p, q, 2, 6, 3, 7), rs2 = __builtin_shufflevector(r, s, 2, 6, 3, 7);
            store(at, __builtin_shufflevector(pq, rs, 0, 1, 4, 5));
            store(at + step, __builtin_shufflevector(pq, rs, 2, 3, 6, 7));
            store(at + 2 * step, __builtin_shufflevector(pq2, rs2, 0, 1, 4, 5));
            store(at + 3 * step, __builtin_shufflevector(pq2, rs2, 2, 3, 6, 7));
        }
    }
}

#endif

}  // namespace outrider
