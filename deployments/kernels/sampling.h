// One token per row of logits: the decisions of deployments/decoding/sampling.py, with noise for few tokens.
//
// The noise is that of deployments/decoding/noise.py: the integers have the same bits, its logarithms are taken
// in double and rounded to float. Where they are taken at all: most tokens cannot win even with the most
// that their integer allows, and that takes no logarithm to see.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <vector>

#include "simd.h"
#include "team.h"

namespace outrider {

typedef uint64_t LongVec __attribute__((vector_size(64)));
typedef int64_t SignedVec __attribute__((vector_size(64)));
typedef double DoubleVec __attribute__((vector_size(64)));
typedef float LooseShortVec __attribute__((vector_size(32), aligned(4), may_alias));

constexpr int kLongs = 8;
constexpr int64_t kGroup = 64;  // scores with a maximum of their own
constexpr float kNothing = -std::numeric_limits<float>::infinity();

// Columns of a batch, (R) each; see deployments/decoding/rows.py.
struct Sampling {
    const float* temperature;
    const int64_t* top_k;
    const float* top_p;
    const float* min_p;
    const int64_t* key;
};

struct Choice {
    int64_t token;
    float confidence;
};

// Buffers of one thread, grown as needed and kept.
struct Candidates {
    std::vector<float> scores, maxima, sorted;
};

template <class Bits>
inline Bits mixed(Bits bits) {
    bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9u;
    bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EBu;
    return bits ^ (bits >> 31);
}

constexpr uint64_t kGamma = 0x9E3779B97F4A7C15u;
constexpr uint64_t kLower63Bits = (uint64_t{1} << 63) - 1;

// Output number `index` of SplitMix64 started at `state`.
inline uint64_t draw(uint64_t state, uint64_t index) { return mixed(state + (index + 1) * kGamma); }

// -log(-log1p(-W)) for the W of these bits.
inline float gumbel(uint64_t bits) {
    constexpr double kPerCount = 0x1.fffffffffffffp-64;  // 2^-63 (1 - 2^-53)
    // Two roundings, as in the tensor operations: volatile keeps them from being fused into one.
    volatile double product = static_cast<double>(static_cast<int64_t>(bits & kLower63Bits)) * -kPerCount;
    return static_cast<float>(-std::log(-std::log1p(product - 0.5 * kPerCount)));
}

// What the noise of these bits is below: -log W, from a line under the logarithm to base 2, and some rounding.
inline DoubleVec noise_bound(LongVec bits) {
    const DoubleVec count = __builtin_convertvector((SignedVec)(bits & kLower63Bits), DoubleVec);
    const DoubleVec logarithm = __builtin_convertvector((SignedVec)count, DoubleVec) * 0x1p-52;  // exponent + mantissa
    return (1023.0 + 63.0 - logarithm) * 0.6931471805599453 + 1e-4;
}

inline bool any(SignedVec mask) {
#if defined(__AVX512DQ__)
    return _mm512_movepi64_mask((__m512i)mask) != 0;
#else
    int64_t found = 0;
    for (int i = 0; i < kLongs; i++) found |= mask[i];
    return found != 0;
#endif
}

class Chooser {
  public:
    Chooser(Candidates& space, const float* logits, int64_t size) : space_(space), logits_(logits), size_(size) {
        num_groups_ = (size + kGroup - 1) / kGroup;
        if (static_cast<int64_t>(space.maxima.size()) < num_groups_) {
            space.maxima.resize(num_groups_);
            space.scores.resize(num_groups_ * kGroup);
        }
        for (int64_t g = 0; g < num_groups_; g++) {
            const float top = group_maximum(logits + g * kGroup, std::min(kGroup, size - g * kGroup));
            space.maxima[g] = top;
            top_ = top > top_ ? top : top_;
        }
    }

    // The likeliest token, the lowest id among equals, and its probability at temperature 1.
    Choice greedy(bool with_confidence) const {
        int64_t group = 0;
        while (group + 1 < num_groups_ && space_.maxima[group] != top_) group++;
        int64_t token = group * kGroup;
        while (token + 1 < size_ && logits_[token] != top_) token++;
        return {token, with_confidence ? static_cast<float>(1.0 / total(logits_, size_, top_, kNothing)) : 0.0f};
    }

    // argmax(warped score + noise), and the probability of that token under the warped scores.
    Choice sampled(float temperature, int64_t top_k, float top_p, float min_p, uint64_t key, bool with_confidence) {
        score(temperature);
        const float cut = lowest_kept(top_k, top_p, min_p);
        const int64_t token = winner(key, cut);
        if (!with_confidence) return {token, 0.0f};
        const double sum = total(space_.scores.data(), num_groups_ * kGroup, 0.0f, cut);
        return {token, static_cast<float>(std::exp(static_cast<double>(space_.scores[token])) / sum)};
    }

  private:
    static float group_maximum(const float* values, int64_t num) {
        if (num < kGroup) {
            float top = kNothing;
            for (int64_t i = 0; i < num; i++) top = values[i] > top ? values[i] : top;
            return top;
        }
        const Vec a = larger(load(values), load(values + kLanes));
        return largest_of(larger(a, larger(load(values + 2 * kLanes), load(values + 3 * kLanes))));
    }

    static float largest_of(Vec v) {
        v = larger(v, __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));
        v = larger(v, __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11));
        v = larger(v, __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));
        return v[0] > v[1] ? v[0] : v[1];
    }

    // The sum of e^(value - top) over the values from `cut` on.
    static double total(const float* values, int64_t size, float top, float cut) {
        double sum_of_all = 0.0;
        int64_t i = 0;
        for (; i + kGroup <= size; i += kGroup) {
            Vec part = {};
            for (int64_t j = i; j < i + kGroup; j += kLanes) {
                const Vec value = load(values + j);
                part += pick(value >= splat(cut), exponential(value - splat(top)), Vec{});
            }
            sum_of_all += sum(part);
        }
        for (; i < size; i++) sum_of_all += values[i] >= cut ? std::exp(values[i] - top) : 0.0f;
        return sum_of_all;
    }

    // Scores and their groups' maxima in place of the logits'; the last group is filled up with nothing.
    void score(float temperature) {
        float* scores = space_.scores.data();
        for (int64_t i = 0; i < size_; i++) scores[i] = (logits_[i] - top_) / temperature;
        std::fill(scores + size_, scores + num_groups_ * kGroup, kNothing);
        for (int64_t g = 0; g < num_groups_; g++) space_.maxima[g] = (space_.maxima[g] - top_) / temperature;
    }

    float lowest_kept(int64_t top_k, float top_p, float min_p) {
        float cut = min_p > 0 ? std::log(min_p) : kNothing;
        if (top_k > 0) {
            const float kth = kth_largest(std::min(top_k, size_));
            cut = std::max(cut, top_p < 1 ? nucleus_of_kept(kth, top_p) : kth);
        } else if (top_p < 1) {
            cut = std::max(cut, nucleus(top_p));
        }
        return std::min(cut, 0.0f);
    }

    // Every score from `bound` on, in no order, as the sorted ones.
    void gather(float bound) {
        space_.sorted.clear();
        for (int64_t g = 0; g < num_groups_; g++) {
            if (!(space_.maxima[g] >= bound)) continue;
            for (int64_t i = g * kGroup; i < std::min(size_, (g + 1) * kGroup); i++) {
                if (space_.scores[i] >= bound) space_.sorted.push_back(space_.scores[i]);
            }
        }
    }

    float kth_largest(int64_t k) {
        float bound = kNothing;
        if (k <= num_groups_) {  // k groups have a score that is at least the k-th largest maximum
            space_.sorted.assign(space_.maxima.begin(), space_.maxima.begin() + num_groups_);
            bound = nth(k);
        }
        gather(bound);
        return static_cast<int64_t>(space_.sorted.size()) < k ? kNothing : nth(k);
    }

    float nth(int64_t k) {
        std::nth_element(space_.sorted.begin(), space_.sorted.begin() + k - 1, space_.sorted.end(), std::greater<float>());
        return space_.sorted[k - 1];
    }

    // The lowest score of the nucleus of what a top-k has left, equals of its last one included.
    float nucleus_of_kept(float kth, float top_p) {
        gather(kth);
        double mass = 0.0;
        for (const float score : space_.sorted) mass += std::exp(static_cast<double>(score));
        return lowest_of_nucleus(mass * top_p);
    }

    // The same of all scores: looks at those from a bound on, which falls until the nucleus lies above it.
    float nucleus(float top_p) {
        const double share = total(space_.scores.data(), num_groups_ * kGroup, 0.0f, kNothing) * top_p;
        for (float bound = -1.0f; bound > -128.0f; bound *= 2) {
            gather(bound);
            if (total(space_.sorted.data(), space_.sorted.size(), 0.0f, kNothing) > share) return lowest_of_nucleus(share);
        }
        gather(kNothing);
        return lowest_of_nucleus(share);
    }

    // The last of the gathered scores, in falling order, before which less than `share` of the mass lies: halves what
    // is left until it is short enough to be sorted.
    float lowest_of_nucleus(double share) {
        float *first = space_.sorted.data(), *last = first + space_.sorted.size();
        double before = 0.0;
        while (last - first > kGroup) {
            float* middle = first + (last - first) / 2;
            std::nth_element(first, middle, last, std::greater<float>());
            const double upper = total(first, middle - first, 0.0f, kNothing);
            if (before + upper >= share) {
                last = middle;
            } else {
                before += upper;
                first = middle;
            }
        }
        std::sort(first, last, std::greater<float>());
        float cut = first < last ? *first : kNothing;
        for (const float* score = first; score < last && (score == first || before < share); score++) {
            cut = *score;
            before += std::exp(static_cast<double>(*score));
        }
        return cut;
    }

    // The lowest id among the largest sums of score and noise; the last one where a row has no number to offer.
    int64_t winner(uint64_t key, float cut) const {
        const LongVec steps = LongVec{0, 1, 2, 3, 4, 5, 6, 7} * kGamma;
        float best = std::numeric_limits<float>::lowest();
        int64_t token = size_ - 1;
        for (int64_t g = 0; g < num_groups_; g++) {
            if (!(space_.maxima[g] >= cut) || space_.maxima[g] + 45.0f < best) continue;
            for (int64_t first = g * kGroup; first < std::min(size_, (g + 1) * kGroup); first += kLongs) {
                const LongVec bits = mixed(steps + (key + (first + 1) * kGamma));
                const float* scores = space_.scores.data() + first;
                const DoubleVec score =
                    __builtin_convertvector(*reinterpret_cast<const LooseShortVec*>(scores), DoubleVec);
                const SignedVec may_win = (score >= cut) & (score + noise_bound(bits) >= best);
                if (!any(may_win)) continue;
                for (int i = 0; i < kLongs; i++) {
                    if (!may_win[i]) continue;
                    const float sum = scores[i] + gumbel(bits[i]);
                    if (sum > best) {
                        best = sum;
                        token = first + i;
                    }
                }
            }
        }
        return token;
    }

    Candidates& space_;
    const float* logits_;
    const int64_t size_;
    int64_t num_groups_;
    float top_ = kNothing;
};

// Chooses a token for each of `num_rows` rows of `size` logits; null confidences are not asked for, and null
// columns mean that all rows are greedy.
inline void choose(Team& team, std::vector<Candidates>& spaces, const float* logits, int64_t num_rows, int64_t size,
                   const Sampling& sampling, int64_t* tokens, float* confidences) {
    if (static_cast<int>(spaces.size()) < team.size()) spaces.resize(team.size());
    const bool is_asked = confidences != nullptr;
    team.run(num_rows, num_rows * size * (sampling.temperature ? 16 : 4), [&](int64_t row, int worker) {
        Chooser chooser(spaces[worker], logits + row * size, size);
        const bool is_greedy = !sampling.temperature || !(sampling.temperature[row] > 0);
        const Choice choice =
            is_greedy ? chooser.greedy(is_asked)
                      : chooser.sampled(sampling.temperature[row], sampling.top_k[row], sampling.top_p[row],
                                        sampling.min_p[row], static_cast<uint64_t>(sampling.key[row]), is_asked);
        tokens[row] = choice.token;
        if (is_asked) confidences[row] = choice.confidence;
    });
}

}  // namespace outrider
