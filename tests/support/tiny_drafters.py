"""Random targets with MTP assistants, and drafting as the library's own modules do it, slowly and obviously."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import Gemma4AssistantConfig, Gemma4AssistantForCausalLM, Gemma4ForCausalLM

from deployments.decoding.rows import SamplingRows
from deployments.decoding.sampling import choose
from deployments.drafter.engine import DraftRequest
from deployments.messages import KvRange, SamplingParams, SessionId
from deployments.models.loading import EmbeddingTable, ShadowSpec, embedding_scale, shadow_spec
from tests.support.tiny_models import tiny_config


@dataclass(frozen=True)
class TinyPair:
    """A target, its assistant, and what a drafter needs to know of the target."""

    target: Gemma4ForCausalLM
    assistant: Gemma4AssistantForCausalLM
    embedding: EmbeddingTable
    spec: ShadowSpec


def tiny_assistant(target_config: Any, *, assistant: dict[str, Any] | None = None, **overrides: Any) -> Any:
    """A random three-layer assistant for this target; `overrides` go to its text configuration."""
    text = {
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 3,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        "num_kv_shared_layers": 3,
        "vocab_size_per_layer_input": 0,
        **overrides,
    }
    config = Gemma4AssistantConfig(
        text_config=tiny_config(**text), backbone_hidden_size=target_config.hidden_size, **(assistant or {})
    )
    model = Gemma4AssistantForCausalLM(config).eval().requires_grad_(False)
    spread(model)
    if model.masked_embedding is not None:
        model.masked_embedding.token_ordering.copy_(torch.randperm(config.text_config.vocab_size))
    return model


def tiny_pair(
    *, seed: int = 0, dtype: torch.dtype = torch.float32, target: dict[str, Any] | None = None, **assistant: Any
) -> TinyPair:
    """A random pair whose logits are spread widely enough to tell tokens apart."""
    torch.manual_seed(seed)
    config = tiny_config(**(target or {}))
    model = Gemma4ForCausalLM(config).eval().requires_grad_(False)
    spread(model)
    table = model.get_input_embeddings().weight.detach().to(dtype)
    embedding = EmbeddingTable(weight_VH=table, scale=embedding_scale(config.hidden_size, dtype))
    return TinyPair(
        model.to(dtype), tiny_assistant(config, **assistant).to(dtype), embedding, shadow_spec(config, dtype=dtype)
    )


def spread(model: torch.nn.Module) -> None:
    """Random weights that make every part matter: norms, scalars and projections away from their defaults."""
    for name, parameter in [*model.named_parameters(), *model.named_buffers()]:
        if parameter.dim() > 1:
            parameter.normal_(std=0.5 if "embed_tokens" in name else 0.25)
        elif "norm" in name or "layer_scalar" in name:
            parameter.uniform_(0.6, 1.4)
        elif name.endswith("bias"):
            parameter.normal_(std=0.3)


@torch.no_grad()
def target_state(pair: TinyPair, tokens: Sequence[int]) -> tuple[dict[str, Any], torch.Tensor]:
    """The target's shadow layers, each ((1, H, T, D), (1, H, T, D)), and its states (T, hidden size)."""
    output = pair.target.model(torch.tensor([list(tokens)]), use_cache=False, return_shared_kv_states=True)
    return dict(output.shared_kv_states), output.last_hidden_state[0]


def kv_ranges(pair: TinyPair, tokens: Sequence[int], start: int, stop: int) -> tuple[KvRange, ...]:
    """What a verifier ships for entries [start, stop): of the sliding layer no more than its window."""
    layers, _ = target_state(pair, tokens)
    ranges = []
    for layer_type, (keys, values) in layers.items():
        first = max(start, stop - pair.spec.sliding_window) if layer_type == "sliding_attention" else start
        data = [raw_bytes(part[0, :, first:stop].transpose(0, 1)) for part in (keys, values)]
        ranges.append(KvRange(layer_type=layer_type, start=first, stop=stop, keys=data[0], values=data[1]))  # type: ignore[arg-type]
    return tuple(ranges)


def draft_request(pair: TinyPair, session: SessionId, tokens: Sequence[int], lookahead: int) -> DraftRequest:
    """The go-ahead after these known tokens."""
    _, hidden = target_state(pair, tokens)
    return DraftRequest(
        session=session,
        context_len=len(tokens),
        last_token=tokens[-1],
        lookahead=lookahead,
        hidden=raw_bytes(hidden[len(tokens) - 2]),
    )


def raw_bytes(tensor: torch.Tensor) -> bytes:
    """A tensor's elements in C order."""
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


@torch.no_grad()
def reference_draft(
    pair: TinyPair, tokens: Sequence[int], lookahead: int, params: SamplingParams
) -> tuple[list[int], list[float]]:
    """One session's drafted tokens and confidences by `assistant.forward`, the whole shadow passed at every step."""
    layers, states = target_state(pair, tokens[:-1])
    window, length = pair.spec.sliding_window, len(tokens)
    shared = {
        layer_type: (keys[:, :, -window:], values[:, :, -window:])
        if layer_type == "sliding_attention"
        else (keys, values)
        for layer_type, (keys, values) in layers.items()
    }
    hidden, token = states[None, -1:], tokens[-1]
    drafted, confidences = [], []
    for step in range(lookahead):
        embedded = pair.target.get_input_embeddings()(torch.tensor([[token]]))
        output = pair.assistant(
            inputs_embeds=torch.cat((embedded, hidden), dim=-1),
            position_ids=torch.tensor([[length - 1]]),
            shared_kv_states=shared,
        )
        logits = corrected(pair.assistant, output.logits[0].float())
        choice = choose(logits, SamplingRows.build([(params, length + step)]))
        token, hidden = int(choice.tokens_R), output.last_hidden_state
        drafted.append(token)
        confidences.append(float(choice.confidences_R))
    return drafted, confidences


def corrected(assistant: Any, logits_1V: torch.Tensor) -> torch.Tensor:
    """The library's logits of one row with its unselected tokens at minus infinity and its softcap applied."""
    if assistant.config.use_ordered_embeddings:
        logits_1V = logits_1V.masked_fill(logits_1V == logits_1V.min(), float("-inf"))
    cap = assistant.config.get_text_config().final_logit_softcapping
    return logits_1V if cap is None else torch.where(logits_1V.isinf(), logits_1V, (logits_1V / cap).tanh() * cap)
