"""Speculative decoding in one obvious, slow function: every round reads the whole text again, without a cache."""

from dataclasses import dataclass

import torch
from transformers import Gemma4AssistantForCausalLM, Gemma4ForCausalLM

from evaluation.pocket.tokenizer import EOS, TURN_END


@dataclass(frozen=True, kw_only=True)
class Generation:
    tokens: tuple[int, ...]  # what was generated, the prompt excluded
    num_rounds: int
    num_committed_tokens: int  # by those rounds; the first token comes from the prompt's own pass

    @property
    def acceptance_length(self) -> float:
        return self.num_committed_tokens / max(1, self.num_rounds)


@torch.no_grad()
def generate(
    target: Gemma4ForCausalLM,
    assistant: Gemma4AssistantForCausalLM,
    prompt: list[int],
    lookahead: int,
    max_new_tokens: int,
) -> Generation:
    """Decode greedily; the output is the target's own, whatever the assistant drafts."""
    known = [*prompt, greedy(target, prompt)[-1]]
    num_rounds = 0
    while len(known) - len(prompt) < max_new_tokens and known[-1] not in (EOS, TURN_END):
        drafted = draft(target, assistant, known, lookahead)
        answers = greedy(target, known + drafted)[len(known) - 1 :]
        num_accepted = 0
        while num_accepted < len(drafted) and drafted[num_accepted] == answers[num_accepted]:
            num_accepted += 1
        known += stop_at_end(answers[: num_accepted + 1])
        num_rounds += 1
    tokens = tuple(known[len(prompt) :])
    return Generation(tokens=tokens, num_rounds=num_rounds, num_committed_tokens=len(tokens) - 1)


def greedy(target: Gemma4ForCausalLM, tokens: list[int]) -> list[int]:
    """Return the target's choice after every token."""
    choices: list[int] = target(torch.tensor([tokens]), use_cache=False).logits[0].argmax(-1).tolist()
    return choices


def draft(
    target: Gemma4ForCausalLM, assistant: Gemma4AssistantForCausalLM, known: list[int], lookahead: int
) -> list[int]:
    """Draft from entries 0..L-2 and the hidden state at L-2, with every query at position L-1."""
    past = target.model(torch.tensor([known[:-1]]), use_cache=False, return_shared_kv_states=True)
    state, token = past.last_hidden_state[:, -1:], known[-1]
    position = torch.tensor([[len(known) - 1]])
    window = target.config.sliding_window
    shared = {
        kind: (keys[:, :, -window:], values[:, :, -window:]) if kind == "sliding_attention" else (keys, values)
        for kind, (keys, values) in past.shared_kv_states.items()
    }
    drafted = []
    for _ in range(lookahead):
        inputs = torch.cat([target.model.embed_tokens(torch.tensor([[token]])), state], dim=-1)
        output = assistant(inputs_embeds=inputs, position_ids=position, shared_kv_states=shared, use_cache=False)
        token, state = int(output.logits.argmax()), output.last_hidden_state
        drafted.append(token)
    return drafted


def stop_at_end(tokens: list[int]) -> list[int]:
    for index, token in enumerate(tokens):
        if token in (EOS, TURN_END):
            return tokens[: index + 1]
    return tokens
