// k drafted tokens of a batch of sessions, one small pass and one choice after another.

#pragma once

#include <algorithm>

#include "pass.h"
#include "sampling.h"

namespace outrider {

constexpr int kConfidenceBins = 8;
constexpr float kConfidenceEdges[kConfidenceBins - 1] = {0.1f, 0.3f, 0.5f, 0.7f, 0.85f, 0.95f, 0.99f};

// When a session's draft ends before its lookahead; never with an infinite value. See policy/early_stop.py, which has
// the chances of tokens to come beside it, as Draft has.
struct EarlyStop {
    float value;
    float token_cost;
    float step_cost;
    float chances[kConfidenceBins];
};

// What an assistant drafts for B sessions.
struct Draft {
    const Step* step;  // its chunks, shadows and buffers for all sessions; the counts are set here
    const int64_t* lookaheads;     // (B)
    const int64_t* noise_states;   // (B): the generator's state of a session's seed and choice
    const int64_t* positions;      // (B): where the first drafted token will stand
    Sampling sampling;             // without keys, which follow from the two above; null columns: all greedy
    int64_t num_sessions;
    int64_t num_steps;             // k, the longest lookahead
    const EarlyStop* early_stops;  // (B)
    const float* nexts;            // (B, k): the chance of a token of which nothing is known yet
    int64_t* tokens;               // (k, B)
    float* confidences;            // (k, B)
    int64_t* lengths;              // (B): how many tokens were drafted
};

// The sessions of a batch that still draft. What a step reads lies in rows, theirs in their order.
class Drafting {
  public:
    explicit Drafting(const Draft& wanted) : wanted_(wanted), survival_(wanted.num_sessions, 1.0f) {
        const Step& step = *wanted.step;
        const int64_t num_rows = wanted.num_sessions;
        tokens_.assign(step.tokens, step.tokens + num_rows);
        chunks_.assign(step.chunks, step.chunks + num_rows);
        shadows_.assign(step.shadows, step.shadows + num_rows * kNumKinds);
        for (int64_t b = 0; b < num_rows; b++) {
            sessions_.push_back(b);
            wanted.lengths[b] = 0;
        }
        keys_.resize(num_rows);
        confidences_.resize(num_rows);
        if (!wanted.sampling.temperature) return;
        temperature_.assign(wanted.sampling.temperature, wanted.sampling.temperature + num_rows);
        top_k_.assign(wanted.sampling.top_k, wanted.sampling.top_k + num_rows);
        top_p_.assign(wanted.sampling.top_p, wanted.sampling.top_p + num_rows);
        min_p_.assign(wanted.sampling.min_p, wanted.sampling.min_p + num_rows);
    }

    int64_t num_rows() const { return static_cast<int64_t>(sessions_.size()); }

    // One more token for each of them.
    void step(const Model& model, Team& team, Workspace& space, std::vector<Candidates>& candidates, int64_t k) {
        Step step = *wanted_.step;
        step.tokens = tokens_.data();
        step.chunks = chunks_.data();
        step.shadows = shadows_.data();
        step.num_tokens = step.num_chunks = step.num_rows = step.num_logits = num_rows();
        step.logits = Workspace::grown(space.logits, num_rows() * model.head.width);
        Pass(model, team, space, step).run();
        Sampling sampling{};
        if (!temperature_.empty()) {
            for (int64_t row = 0; row < num_rows(); row++) {
                const int64_t b = sessions_[row];
                keys_[row] = static_cast<int64_t>(draw(wanted_.noise_states[b], wanted_.positions[b] + k));
            }
            sampling = {temperature_.data(), top_k_.data(), top_p_.data(), min_p_.data(), keys_.data()};
        }
        choose(team, candidates, step.logits, num_rows(), model.head.width, sampling, tokens_.data(),
               confidences_.data());
        for (int64_t row = 0; row < num_rows(); row++) {
            const int64_t b = sessions_[row];
            wanted_.tokens[k * wanted_.num_sessions + b] = tokens_[row];
            wanted_.confidences[k * wanted_.num_sessions + b] = confidences_[row];
            wanted_.lengths[b] = k + 1;
        }
        leave_out(k + 1, model.hidden_size);
    }

  private:
    // Those that have as many as they asked for, and those for which another token is not worth it.
    void leave_out(int64_t length, int64_t size) {
        float surplus = 0.0f, step_cost = 0.0f;
        int64_t num_left = 0;
        for (int64_t row = 0; row < num_rows(); row++) {
            const int64_t b = sessions_[row];
            if (length >= wanted_.lookaheads[b]) continue;
            const EarlyStop& early_stop = wanted_.early_stops[b];
            survival_[b] *= early_stop.chances[bin_of(confidences_[row])];
            const float next = wanted_.nexts[b * wanted_.num_steps + length];
            const float gain = early_stop.value * survival_[b] * next - early_stop.token_cost;
            if (!(gain > 0.0f)) continue;
            surplus += gain;
            step_cost = early_stop.step_cost > step_cost ? early_stop.step_cost : step_cost;
            if (row != num_left) move(row, num_left, size);
            num_left++;
        }
        sessions_.resize(surplus > step_cost ? num_left : 0);
    }

    void move(int64_t from, int64_t to, int64_t size) {
        sessions_[to] = sessions_[from];
        tokens_[to] = tokens_[from];
        chunks_[to].start = chunks_[from].start;
        for (int kind = 0; kind < kNumKinds; kind++) {
            shadows_[to * kNumKinds + kind] = shadows_[from * kNumKinds + kind];
        }
        float* carried = wanted_.step->carried;
        std::copy(carried + from * size, carried + (from + 1) * size, carried + to * size);
        if (temperature_.empty()) return;
        temperature_[to] = temperature_[from];
        top_k_[to] = top_k_[from];
        top_p_[to] = top_p_[from];
        min_p_[to] = min_p_[from];
    }

    static int bin_of(float confidence) {
        int bin = 0;
        while (bin < kConfidenceBins - 1 && confidence >= kConfidenceEdges[bin]) bin++;
        return bin;
    }

    const Draft& wanted_;
    std::vector<int64_t> sessions_, tokens_, keys_, top_k_;
    std::vector<Chunk> chunks_;
    std::vector<Shadow> shadows_;
    std::vector<float> survival_, confidences_, temperature_, top_p_, min_p_;
};

inline void draft(const Model& model, Team& team, Workspace& space, std::vector<Candidates>& candidates,
                  const Draft& wanted) {
    Drafting drafting(wanted);
    for (int64_t k = 0; drafting.num_rows(); k++) drafting.step(model, team, space, candidates, k);
}

}  // namespace outrider
