// A pass over a model's layers: the target's over paged entries, or an assistant's over shadows.

#pragma once

#include "decoder.h"

namespace outrider {

constexpr int64_t kTokensPerUnit = 8;
constexpr int64_t kProductsPerRead = 16;

// Calls work(token) for every token, a few to a unit; `size` is how many numbers of a token it touches.
template <class Work>
void for_each_token(Team& team, int64_t num_tokens, int64_t size, const Work& work) {
    const int64_t cost = 16 * num_tokens * size;  // a norm's number takes as long as some products
    team.run((num_tokens + kTokensPerUnit - 1) / kTokensPerUnit, cost, [&](int64_t unit, int) {
        const int64_t last = (unit + 1) * kTokensPerUnit < num_tokens ? (unit + 1) * kTokensPerUnit : num_tokens;
        for (int64_t t = unit * kTokensPerUnit; t < last; t++) work(t);
    });
}

// Consecutive tokens of one chunk whose queries are attended together.
struct Strip {
    const Chunk* chunk;
    int64_t first;
    int64_t num_tokens;
};

class Pass {
  public:
    Pass(const Model& model, Team& team, Workspace& space, const Step& step)
        : model_(model), team_(team), space_(space), step_(step), eps_(static_cast<float>(model.eps)) {
        positions_.resize(step.num_tokens);
        for (int64_t c = 0; c < step.num_chunks; c++) {
            const Chunk& chunk = step.chunks[c];
            for (int64_t t = 0; t < chunk.num_tokens; t++) positions_[chunk.first + t] = chunk.start + t;
            const int64_t stop = chunk.start + chunk.num_tokens;
            longest_ = stop > longest_ ? stop : longest_;
        }
        if (!step.shadows) {
            find_slots(step.blocks, slots_);
            find_slots(step.sliding_blocks, sliding_slots_);
        }
        int64_t head_dim = 0;
        for (int64_t l = 0; l < model.num_layers; l++) {
            head_dim = model.layers[l].head_dim > head_dim ? model.layers[l].head_dim : head_dim;
        }
        space.scratch_stride = scratch_size(in_blocks(longest_), head_dim);
        Workspace::grown(space.scratch, space.scratch_stride * team.size());
    }

    void run() {
        const Team::Stretch stretch(team_);
        const int64_t num_tokens = step_.num_tokens, size = model_.hidden_size;
        float* stream = Workspace::grown(space_.stream, num_tokens * size);
        float* normed = Workspace::grown(space_.normed, num_tokens * size);
        const float* weight = model_.layers[0].before_attention;
        for_each_token(team_, num_tokens, size, [&](int64_t t) {
            embed(step_.tokens[t], stream + t * size);
            if (step_.carried) add(step_.carried + t * size, size, stream + t * size);
            normalise(stream + t * size, weight, size, eps_, normed + t * size);
        });
        for (int64_t l = 0; l < model_.num_layers; l++) {
            attention(model_.layers[l], stream, normed);
            const float* next = l + 1 < model_.num_layers ? model_.layers[l + 1].before_attention : nullptr;
            feed_forward(model_.layers[l], next, stream, normed);
        }
        finish(stream);
    }

  private:
    void find_slots(const int64_t* tables, std::vector<int64_t>& slots) {
        slots.resize(step_.num_tokens);
        for (int64_t c = 0; c < step_.num_chunks; c++) {
            const Chunk& chunk = step_.chunks[c];
            const int64_t* blocks = tables + chunk.table_row * step_.table_width;
            for (int64_t t = chunk.first; t < chunk.first + chunk.num_tokens; t++) {
                const int64_t position = positions_[t];
                slots[t] = blocks[position / step_.block_size] * step_.block_size + position % step_.block_size;
            }
        }
    }

    void embed(int64_t token, float* to) const {
        const float scale = static_cast<float>(model_.embedding_scale);
        const int64_t size = model_.hidden_size;
        for (int64_t i = 0; i < size; i += kLanes) {
            const Vec row = model_.embedding_is_brain
                                ? load(static_cast<const Brain*>(model_.embedding) + token * size + i)
                                : load(static_cast<const float*>(model_.embedding) + token * size + i);
            store(to + i, row * splat(scale));
        }
    }

    // normed -> stream += norm(attention(normed)), and normed for the feed-forward part.
    void attention(const Layer& layer, float* stream, float* normed) {
        const int64_t num_tokens = step_.num_tokens, size = model_.hidden_size;
        const int64_t query_size = model_.num_heads * layer.head_dim;
        const int64_t stride = layer.projections.width;
        float* projected = Workspace::grown(space_.projected, num_tokens * (stride > size ? stride : size));
        float* attended = Workspace::grown(space_.attended, num_tokens * query_size);
        product(team_, normed, num_tokens, layer.projections, projected);
        for_each_token(team_, num_tokens, stride, [&](int64_t t) { place(layer, t, projected + t * stride); });
        attend_all(layer, projected, stride, attended);
        product(team_, attended, num_tokens, layer.output, projected);
        for_each_token(team_, num_tokens, size, [&](int64_t t) {
            add_normalised(projected + t * size, layer.after_attention, size, eps_, stream + t * size);
            normalise(stream + t * size, layer.before_mlp, size, eps_, normed + t * size);
        });
    }

    // Norms and rotates one token's queries and keys in place, and writes its entry into the pools.
    void place(const Layer& layer, int64_t token, float* row) {
        const int64_t dim = layer.head_dim;
        const float* cosines = layer.cosines + positions_[token] * (dim / 2);
        const float* sines = layer.sines + positions_[token] * (dim / 2);
        for (int64_t h = 0; h < model_.num_heads; h++) {
            normalise(row + h * dim, layer.query_norm, dim, eps_, row + h * dim);
            rotate(row + h * dim, cosines, sines, dim);
        }
        if (!layer.writes_entries) return;
        const int64_t entry = layer.num_kv_heads * dim;
        const float* keys = row + model_.num_heads * dim;
        const float* values = layer.has_value_weights ? keys + entry : keys;
        const int64_t slot = (layer.window ? sliding_slots_ : slots_)[token];
        float* key_slot = layer.keys + slot * entry;
        float* value_slot = layer.values + slot * entry;
        for (int64_t g = 0; g < layer.num_kv_heads; g++) {
            normalise(keys + g * dim, layer.key_norm, dim, eps_, key_slot + g * dim);
            rotate(key_slot + g * dim, cosines, sines, dim);
            normalise(values + g * dim, nullptr, dim, eps_, value_slot + g * dim);
        }
    }

    void attend_all(const Layer& layer, const float* projected, int64_t stride, float* attended) {
        const int64_t heads_per_kv = model_.num_heads / layer.num_kv_heads;
        const int64_t reach = layer.window && layer.window < longest_ ? layer.window : longest_;
        const int64_t num_rows = rows_per_unit(layer);
        const int64_t tokens_per_strip = heads_per_kv < num_rows ? num_rows / heads_per_kv : 1;
        strips_.clear();
        for (int64_t c = 0; c < step_.num_chunks; c++) {
            const Chunk& chunk = step_.chunks[c];
            for (int64_t t = 0; t < chunk.num_tokens; t += tokens_per_strip) {
                const int64_t rest = chunk.num_tokens - t;
                strips_.push_back({&chunk, t, rest < tokens_per_strip ? rest : tokens_per_strip});
            }
        }
        const int64_t num_units = static_cast<int64_t>(strips_.size()) * layer.num_kv_heads;
        // To read an entry's number takes as long as some products, whatever the number of rows that it is read for.
        const int64_t num_products = step_.num_tokens * model_.num_heads + kProductsPerRead * num_units;
        const int64_t cost = 2 * reach * layer.head_dim * num_products;
        team_.run(num_units, cost, [&](int64_t unit, int worker) {
            attend_strip(layer, strips_[unit / layer.num_kv_heads], unit % layer.num_kv_heads, num_rows, projected, stride,
                         attended, space_.scratch.data() + worker * space_.scratch_stride);
        });
    }

    // Entries in whole blocks, wherever they begin.
    static int64_t in_blocks(int64_t num_entries) { return (num_entries / kBlock + 2) * kBlock; }

    // Rows that are attended together: the more, the less their keys' transposition costs each, but never so many
    // that threads are left without a unit.
    int64_t rows_per_unit(const Layer& layer) const {
        const bool is_bounded = !step_.shadows && layer.window && layer.window + kMaxRows < longest_;
        int64_t num_rows = rows_at_a_time(in_blocks(is_bounded ? layer.window + kMaxRows : longest_));
        const int64_t share = step_.num_tokens * model_.num_heads / (kUnitsPerThread * team_.size());
        if (share < num_rows) num_rows = share < kFewRows ? kFewRows : share;
        return num_rows;
    }

    void attend_strip(const Layer& layer, const Strip& strip, int64_t kv_head, int64_t most_rows, const float* projected,
                      int64_t stride, float* attended, float* scratch) const {
        const int64_t dim = layer.head_dim, heads_per_kv = model_.num_heads / layer.num_kv_heads;
        const Shadow* shadow =
            step_.shadows ? step_.shadows + (strip.chunk - step_.chunks) * kNumKinds + layer.kind : nullptr;
        const Entries entries =
            shadow ? Entries{shadow->keys + kv_head * shadow->head_stride,
                             shadow->values + kv_head * shadow->head_stride, dim, nullptr, 0}
                   : Entries{layer.keys + kv_head * dim, layer.values + kv_head * dim, layer.num_kv_heads * dim,
                             (layer.window ? step_.sliding_blocks : step_.blocks) +
                                 strip.chunk->table_row * step_.table_width,
                             step_.block_size};
        QueryRow rows[kMaxRows];
        int num_rows = 0;
        for (int64_t t = 0; t < strip.num_tokens; t++) {
            const int64_t token = strip.chunk->first + strip.first + t;
            const int64_t last = shadow ? shadow->num_entries : positions_[token] + 1;
            const int64_t first = !shadow && layer.window && last > layer.window ? last - layer.window : 0;
            for (int64_t h = kv_head * heads_per_kv; h < (kv_head + 1) * heads_per_kv; h++) {
                rows[num_rows++] = {projected + token * stride + h * dim,
                                    attended + (token * model_.num_heads + h) * dim, first, last};
                if (num_rows == most_rows) {
                    attend(rows, num_rows, entries, dim, scratch);
                    num_rows = 0;
                }
            }
        }
        if (num_rows) attend(rows, num_rows, entries, dim, scratch);
    }

    // normed -> stream += norm(mlp(normed)), scaled; and normed for the next layer, if there is one.
    void feed_forward(const Layer& layer, const float* next_norm, float* stream, float* normed) {
        const int64_t num_tokens = step_.num_tokens, size = model_.hidden_size, inner = layer.down.depth;
        float* hidden = Workspace::grown(space_.hidden, num_tokens * inner);
        float* projected = Workspace::grown(space_.projected, num_tokens * size);
        product(team_, normed, num_tokens, layer.gate_up, [&](int64_t row, int64_t p, const float* values) {
            constexpr int64_t half = kPanel / 2;
            for (int64_t i = 0; i < half && p * half + i < inner; i += kLanes) {
                store(hidden + row * inner + p * half + i, gelu(load(values + i)) * load(values + half + i));
            }
        });
        product(team_, hidden, num_tokens, layer.down, projected);
        const Vec scalar = splat(static_cast<float>(layer.scalar));
        for_each_token(team_, num_tokens, size, [&](int64_t t) {
            float* row = stream + t * size;
            add_normalised(projected + t * size, layer.after_mlp, size, eps_, row);
            for (int64_t i = 0; i < size; i += kLanes) store(row + i, load(row + i) * scalar);
            if (next_norm) normalise(row, next_norm, size, eps_, normed + t * size);
        });
    }

    // The wanted rows' states and logits.
    void finish(const float* stream) {
        const int64_t size = model_.hidden_size, width = model_.head.width;
        for (int64_t r = 0; r < step_.num_rows; r++) {
            normalise(stream + step_.rows[r] * size, model_.final_norm, size, eps_, step_.states + r * size);
        }
        if (step_.carried) product(team_, step_.states, step_.num_rows, model_.feedback, step_.carried);
        const Vec cap = splat(static_cast<float>(model_.softcap));
        const bool is_capped = model_.softcap > 0;
        product(team_, step_.states, step_.num_logits, model_.head, [&](int64_t row, int64_t p, const float* values) {
            float* to = step_.logits + row * width + p * kPanel;
            const int64_t num = width - p * kPanel < kPanel ? width - p * kPanel : kPanel;
            for (int64_t i = 0; i < num; i += kLanes) {
                const Vec scores = load(values + i);
                const Vec logits = is_capped ? hyperbolic_tangent(scores / cap) * cap : scores;
                if (i + kLanes <= num) store(to + i, logits);
                else for (int64_t j = i; j < num; j++) to[j] = logits[j - i];
            }
        });
    }

    const Model& model_;
    Team& team_;
    Workspace& space_;
    const Step& step_;
    const float eps_;
    int64_t longest_ = 0;  // entries that the longest context has, the step's own included
    std::vector<int64_t> positions_, slots_, sliding_slots_;
    std::vector<Strip> strips_;
};

}  // namespace outrider
