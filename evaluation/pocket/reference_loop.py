"""Speculative decoding in one obvious, slow function: every round reads the whole text again, without a cache."""

from dataclasses import dataclass

import torch
from torch import Tensor
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


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One reading of a text by the target."""

    choices: list[int]  # the target's greedy choice after every token
    states: Tensor
    shared: dict[str, tuple[Tensor, Tensor]]


@torch.no_grad()
def generate(
    target: Gemma4ForCausalLM,
    assistant: Gemma4AssistantForCausalLM,
    prompt: list[int],
    lookahead: int,
    max_new_tokens: int,
) -> Generation:
    """Decode greedily; the output is the target's own, whatever the assistant drafts."""
    last = read(target, prompt)
    known = [*prompt, last.choices[-1]]
    num_rounds = 0
    while len(known) - len(prompt) < max_new_tokens and known[-1] not in (EOS, TURN_END):
        drafted = draft(target, assistant, known, last, lookahead)
        last = read(target, known + drafted)
        answers = last.choices[len(known) - 1 :]
        num_accepted = 0
        while num_accepted < len(drafted) and drafted[num_accepted] == answers[num_accepted]:
            num_accepted += 1
        known += stop_at_end(answers[: num_accepted + 1])
        num_rounds += 1
    tokens = tuple(known[len(prompt) :])
    return Generation(tokens=tokens, num_rounds=num_rounds, num_committed_tokens=len(tokens) - 1)


def read(target: Gemma4ForCausalLM, tokens: list[int]) -> Pass:
    output = target.model(torch.tensor([tokens]), use_cache=False, return_shared_kv_states=True)
    choices: list[int] = target.lm_head(output.last_hidden_state)[0].argmax(-1).tolist()
    return Pass(choices=choices, states=output.last_hidden_state, shared=dict(output.shared_kv_states))


def draft(
    target: Gemma4ForCausalLM, assistant: Gemma4AssistantForCausalLM, known: list[int], last: Pass, lookahead: int
) -> list[int]:
    """Draft from entries 0..L-2 and the hidden state at L-2, with every query at position L-1."""
    end, token = len(known) - 1, known[-1]
    first = {"full_attention": 0, "sliding_attention": max(0, end - target.config.sliding_window)}
    shared = {kind: (k[:, :, first[kind] : end], v[:, :, first[kind] : end]) for kind, (k, v) in last.shared.items()}
    state, position = last.states[:, end - 1 : end], torch.tensor([[end]])
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
