// k drafted tokens of a batch of sessions, one small pass and one choice after another.

#pragma once

#include "pass.h"
#include "sampling.h"

namespace outrider {

// What an assistant drafts for B sessions, longest lookahead first.
struct Draft {
    const Step* step;  // its chunks, shadows and buffers for all sessions; the counts are set here
    const int64_t* lookaheads;     // (B)
    const int64_t* noise_states;   // (B): the generator's state of a session's seed and choice
    const int64_t* positions;      // (B): where the first drafted token will stand
    Sampling sampling;             // without keys, which follow from the two above; null columns: all greedy
    int64_t num_sessions;
    int64_t* tokens;     // (k, B)
    float* confidences;  // (k, B)
};

inline void draft(const Model& model, Team& team, Workspace& space, std::vector<Candidates>& candidates,
                  const Draft& wanted) {
    Step step = *wanted.step;
    std::vector<int64_t> keys(wanted.num_sessions);
    Sampling sampling = wanted.sampling;
    sampling.key = keys.data();
    step.logits = Workspace::grown(space.logits, wanted.num_sessions * model.head.width);
    int64_t num_active = wanted.num_sessions;
    for (int64_t k = 0; k < wanted.lookaheads[0]; k++) {
        while (wanted.lookaheads[num_active - 1] <= k) num_active--;
        step.num_tokens = step.num_chunks = step.num_rows = step.num_logits = num_active;
        Pass(model, team, space, step).run();
        for (int64_t b = 0; b < num_active; b++) {
            keys[b] = static_cast<int64_t>(draw(wanted.noise_states[b], wanted.positions[b] + k));
        }
        int64_t* tokens = wanted.tokens + k * wanted.num_sessions;
        choose(team, candidates, step.logits, num_active, model.head.width, sampling, tokens,
               wanted.confidences + k * wanted.num_sessions);
        step.tokens = tokens;
    }
}

}  // namespace outrider
