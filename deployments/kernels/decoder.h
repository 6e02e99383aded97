// Gemma 4 decoder layers over a batch of tokens, and what they read. The structs mirror `structs.py`.
//
// Shapes: T tokens, H hidden size, Q query heads, G kv heads, D head dimension, F feed-forward size, V vocabulary.

#pragma once

#include <cmath>
#include <new>
#include <vector>

#include "attention.h"
#include "product.h"
#include "simd.h"
#include "team.h"

namespace outrider {

struct Layer {
    Matrix projections;  // H -> Q D queries, then G D keys, then G D values where they have weights of their own
    Matrix output;       // Q D -> H
    Matrix gate_up;      // H -> 2 F: 32 gate rows, then their 32 up rows, and so on
    Matrix down;         // F -> H
    const float* before_attention;  // norm weights, (H) or (D)
    const float* after_attention;
    const float* before_mlp;
    const float* after_mlp;
    const float* query_norm;
    const float* key_norm;
    float* keys;  // the pool that this layer reads, (S, G, D)
    float* values;
    const float* cosines;  // (positions, D / 2)
    const float* sines;
    int64_t window;  // entries that a query sees, its own included; 0 for all
    int64_t num_kv_heads;
    int64_t head_dim;
    int64_t writes_entries;      // 0 where an earlier layer's are read
    int64_t has_value_weights;   // 0 where values are keys before norm and rotation
    int64_t kind;                // index into the `shadows` of a step that has them
    double scalar;
};

struct Model {
    const Layer* layers;
    int64_t num_layers;
    int64_t hidden_size;
    int64_t num_heads;
    Matrix head;                // H -> V
    Matrix feedback;            // H -> H: an assistant's state to its half of the next input
    const void* embedding;      // (V, H)
    int64_t embedding_is_brain;
    const float* final_norm;
    double embedding_scale;
    double eps;
    double softcap;  // 0 for none
};

// One session's part of a step: `num_tokens` rows from `first` on, at positions from `start` on.
struct Chunk {
    int64_t first;
    int64_t num_tokens;
    int64_t start;
    int64_t table_row;
};

constexpr int kNumKinds = 2;  // sliding and full layers

// What one session's queries see of the layers of one kind: a drafter's copy of the target's entries.
struct Shadow {
    const float* keys;  // (G, D) blocks of entries, `head_stride` floats from head to head
    const float* values;
    int64_t head_stride;
    int64_t num_entries;
};

struct Step {
    const int64_t* tokens;
    int64_t num_tokens;
    const Chunk* chunks;
    int64_t num_chunks;
    const int64_t* blocks;  // block tables, `table_width` entries a row
    const int64_t* sliding_blocks;  // those of layers with a window
    int64_t table_width;
    int64_t block_size;
    const int64_t* rows;  // rows whose state is wanted; of the first `num_logits` the logits as well
    int64_t num_rows;
    int64_t num_logits;
    float* states;  // (num_rows, H), after the final norm
    float* logits;  // (num_logits, V)
    // Of a draft alone, whose chunks are sessions of one token each: null for a target.
    const Shadow* shadows;  // (num_chunks, kNumKinds)
    float* carried;         // (T, H), added to the embedding, and afterwards the next step's
};

// Allocates at multiples of a cache line, so that no vector lies in two.
template <class T>
struct Aligned {
    using value_type = T;
    static constexpr std::align_val_t kLine{64};

    Aligned() = default;
    template <class U>
    Aligned(const Aligned<U>&) {}
    T* allocate(std::size_t num) { return static_cast<T*>(::operator new(num * sizeof(T), kLine)); }
    void deallocate(T* at, std::size_t) { ::operator delete(at, kLine); }
    bool operator==(const Aligned&) const { return true; }
    bool operator!=(const Aligned&) const { return false; }
};

using Floats = std::vector<float, Aligned<float>>;

// Buffers of a step, grown as needed and kept.
struct Workspace {
    Floats stream, normed, projected, attended, hidden, scratch, logits;
    int64_t scratch_stride = 0;

    static float* grown(Floats& buffer, int64_t size) {
        if (static_cast<int64_t>(buffer.size()) < size) buffer.resize(size);
        return buffer.data();
    }
};

// to += x.
inline void add(const float* x, int64_t size, float* to) {
    for (int64_t i = 0; i < size; i += kLanes) store(to + i, load(to + i) + load(x + i));
}

// x scaled to unit mean square, times the weight if there is one.
inline void normalise(const float* x, const float* weight, int64_t size, float eps, float* to) {
    Vec squares = {};
    for (int64_t i = 0; i < size; i += kLanes) squares += load(x + i) * load(x + i);
    const Vec scale = splat(1.0f / std::sqrt(sum(squares) / static_cast<float>(size) + eps));
    for (int64_t i = 0; i < size; i += kLanes) {
        const Vec scaled = load(x + i) * scale;
        store(to + i, weight ? scaled * load(weight + i) : scaled);
    }
}

// to += the normalised x.
inline void add_normalised(const float* x, const float* weight, int64_t size, float eps, float* to) {
    Vec squares = {};
    for (int64_t i = 0; i < size; i += kLanes) squares += load(x + i) * load(x + i);
    const Vec scale = splat(1.0f / std::sqrt(sum(squares) / static_cast<float>(size) + eps));
    for (int64_t i = 0; i < size; i += kLanes) {
        store(to + i, load(to + i) + load(x + i) * scale * load(weight + i));
    }
}

// Rotates a head in place: halves (a, b) become (a cos - b sin, b cos + a sin). D / 2 is a multiple of 8.
inline void rotate(float* head, const float* cosines, const float* sines, int64_t head_dim) {
    const int64_t half = head_dim / 2;
    for (int64_t i = 0; i < half; i++) {
        const float a = head[i], b = head[half + i];
        head[i] = a * cosines[i] - b * sines[i];
        head[half + i] = b * cosines[i] + a * sines[i];
    }
}

}  // namespace outrider
