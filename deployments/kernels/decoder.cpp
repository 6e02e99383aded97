// The C interface, as `deployments/kernels/structs.py` describes it.

#include "draft.h"

namespace outrider {

struct Engine {
    Model model;
    Team team;
    Workspace space;
    std::vector<Candidates> candidates;
};

}  // namespace outrider

extern "C" {

// An engine on this model, whose layers and weights stay the caller's and must outlive it.
void* outrider_open(const outrider::Model* model, int64_t num_threads) {
    return new outrider::Engine{*model, outrider::Team(static_cast<int>(num_threads)), {}, {}};
}

void outrider_close(void* engine) { delete static_cast<outrider::Engine*>(engine); }

void outrider_step(void* engine, const outrider::Step* step) {
    outrider::Engine& self = *static_cast<outrider::Engine*>(engine);
    outrider::Pass(self.model, self.team, self.space, *step).run();
}

// outputs = rows @ weight.T, outputs as wide as the matrix.
void outrider_product(void* engine, const outrider::Matrix* matrix, const float* rows, int64_t num_rows, float* outputs) {
    outrider::product(static_cast<outrider::Engine*>(engine)->team, rows, num_rows, *matrix, outputs);
}

// Tokens (num_rows), and confidences where they are asked for, of rows of `size` logits.
void outrider_choose(void* engine, const float* logits, int64_t num_rows, int64_t size,
                     const outrider::Sampling* sampling, int64_t* tokens, float* confidences) {
    outrider::Engine& self = *static_cast<outrider::Engine*>(engine);
    outrider::choose(self.team, self.candidates, logits, num_rows, size, *sampling, tokens, confidences);
}

void outrider_draft(void* engine, const outrider::Draft* draft) {
    outrider::Engine& self = *static_cast<outrider::Engine*>(engine);
    outrider::draft(self.model, self.team, self.space, self.candidates, *draft);
}
}
