"""Drafting with a Gemma 4 MTP assistant, away from the target (DESIGN.md 5).

For L known tokens the assistant's query stands at position L - 1 during all k steps. Its first input
is [embedding of the last token ; target's state at L - 2], then [embedding of the token just drafted ;
its own projected state]. It attends to entries [0, L - 1) of the full shadow layer and to the last
window of them, [L - 1 - window, L - 1), of the sliding one. transformers lets the same query see
`window + 1` entries right after a prefill and up to `window - 1 + its step` afterwards, some of them of
rejected tokens, the target itself `window - 1` beside its own. Where the verifier ships only those
`window - 1`, they are what is attended to.

Shapes: B sessions of a batch, longest lookahead first; H the target's hidden size, V vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel

from deployments.decoding.adjustments import Adjuster, RowGroup, adjust, adjuster_for
from deployments.decoding.drawing import Draw, Drawer, Drawn
from deployments.decoding.rows import SamplingRows
from deployments.drafter.attention_inputs import AttentionInputs, EntryMemory, separate, stacked
from deployments.drafter.compiled_forward import CompiledForward, can_run_compiled
from deployments.drafter.engine import Draft, DraftRequest
from deployments.drafter.forward import AssistantForward, DraftSteps, InPlaceForward, InPlaceSteps
from deployments.drafter.lean_forward import LeanForward, can_run_lean
from deployments.drafter.library_forward import LibraryForward
from deployments.drafter.shadow import Shadow, ShadowPool, tensor_from_bytes
from deployments.kernels.library import Kernels
from deployments.messages import EarlyStop, KvRange, LayerType, SamplingParams, SessionId, Token
from deployments.models.loading import (
    EmbeddingTable,
    ShadowSpec,
    kv_shape,
    load_assistant,
    load_config,
    load_embedding_table,
    shadow_spec,
)
from deployments.policy.early_stop import Drafting

if TYPE_CHECKING:
    from deployments.grammars import Grammars

logger = logging.getLogger(__name__)

_MAX_STACKED_BYTES = 4 << 20
"""A batch's padded stack may take this much on a CPU; above it copying costs more than one call per session."""


class MtpEngine:
    """A DrafterEngine that holds an assistant, the embedding's part in it, and shadows.

    `draw` says how tokens are drawn, `grammars` are the target's; without them drafts follow none.
    """

    def __init__(
        self, forward: AssistantForward | InPlaceForward, spec: ShadowSpec, *, shadow_bytes: int, device: str = "cpu"
    ) -> None:
        self.draw: Draw = Drawer()
        self.grammars: Grammars | None = None
        self._forward = forward
        self._spec = spec
        self._device = torch.device(device)
        self._params: dict[SessionId, SamplingParams] = {}
        self._adjusters: dict[SessionId, Adjuster] = {}
        self._shadows = ShadowPool(spec, budget_bytes=shadow_bytes, device=self._device)

    @property
    def vocab_size(self) -> int:
        """Token ids are in [0, vocab_size)."""
        return self._forward.vocab_size

    @property
    def shadow_bytes(self) -> int:
        """Bytes that the shadows hold now; at most the budget."""
        return self._shadows.num_bytes

    def attach(self, session: SessionId, params: SamplingParams) -> None:
        """Begin an empty shadow; a session that is attached already starts over."""
        self._params[session] = params
        self._adjusters.pop(session, None)
        if (adjuster := adjuster_for(params, self.grammars)) is not None:
            self._adjusters[session] = adjuster
        self._shadows.start(session)

    def detach(self, session: SessionId) -> None:
        """Drop a session's shadow. Idempotent."""
        self._params.pop(session, None)
        self._adjusters.pop(session, None)
        self._shadows.drop(session)

    def has(self, session: SessionId) -> bool:
        """Whether the session is attached and its shadow was not evicted."""
        return session in self._params and self._shadows.get(session) is not None

    def have_len(self, session: SessionId) -> int:
        """Shadow entries held from position 0 on; 0 when the shadow was evicted."""
        shadow = self._shadows.get(session)
        return 0 if shadow is None else shadow.have_len

    def extend(
        self, session: SessionId, ranges: Sequence[KvRange], tokens: Sequence[Token] = (), is_whole: bool = True
    ) -> None:
        """Write ranges into the shadow, all or, on a ValueError, none of them."""
        assert session in self._params, "extend comes after attach"
        adjuster = self._adjusters.get(session)
        full = next((item for item in ranges if item.layer_type == "full_attention"), None)
        if full is None or adjuster is None or not adjuster.params.needs_tokens:
            self._shadows.extend(session, ranges, is_whole=is_whole)
            return
        self._check_tokens(tokens, full.stop - full.start)
        self._shadows.extend(session, ranges, is_whole=is_whole)
        adjuster.extend(full.start, tokens)

    @torch.inference_mode()
    def draft(self, requests: Sequence[DraftRequest]) -> list[Draft]:
        """Draft for several sessions at once, at the cost of one small forward pass per drafted token.

        A request that cannot be drafted for (evicted meanwhile, or malformed) gets an empty draft.
        """
        drafts = [Draft(session=request.session, tokens=(), confidences=()) for request in requests]
        batch = [index for index, request in enumerate(requests) if self._is_draftable(request)]
        if batch:
            batch.sort(key=lambda index: -requests[index].lookahead)
            for index, draft in zip(batch, self._draft_batch([requests[index] for index in batch]), strict=True):
                drafts[index] = draft
        return drafts

    def _draft_batch(self, requests: Sequence[DraftRequest]) -> list[Draft]:
        self._shadows.touch(request.session for request in requests)
        hidden = bytearray().join(request.hidden for request in requests)
        hidden_BH = tensor_from_bytes(hidden, self._spec.dtype).view(len(requests), -1)
        tokens = [request.last_token for request in requests]
        positions = [request.context_len - 1 for request in requests]
        steps: DraftSteps
        if isinstance(self._forward, InPlaceForward):
            steps = in_place = self._forward.start(hidden_BH, tokens, positions, self._memory(requests))
            if isinstance(self.draw, Drawer) and all(self._is_plain(request.session) for request in requests):
                return self._draft_whole(in_place, requests)
        else:
            positions_B = torch.tensor(positions, device=self._device)
            attention = self._attention(self._forward, requests)
            steps = self._forward.start(hidden_BH.to(self._device), positions_B, attention)
        return self._draft_stepwise(steps, requests)

    def _draft_stepwise(self, steps: DraftSteps, requests: Sequence[DraftRequest]) -> list[Draft]:
        tokens_B = torch.tensor([request.last_token for request in requests], device=self._device)
        early_stops = [self._early_stop(request) for request in requests]
        drafting = Drafting([request.lookahead for request in requests], early_stops)
        drawn: list[Drawn] = []
        while drafting.rows:
            going_on = requests[: drafting.num_active]
            salts = [
                request.context_len if self._params[request.session].draws_to_reject else None for request in going_on
            ]
            logits_BV = self._adjusted(steps.step(tokens_B[: len(going_on)]), requests, drawn)
            drawn.append(self.draw(logits_BV, self._rows(going_on, len(drawn)), salts))
            tokens_B = drawn[-1].tokens_R
            drafting.has_stepped(drawn[-1].confidences_R.tolist)
        return _as_drafts(requests, drawn, drafting.lengths)

    def _early_stop(self, request: DraftRequest) -> EarlyStop | None:
        """Nothing may depend on a drawn token's probability where that is what the verifier rejects by."""
        return None if self._params[request.session].draws_to_reject else request.early_stop

    def _is_plain(self, session: SessionId) -> bool:
        """Whether its tokens are drawn from the assistant's own logits, by shared noise or none."""
        return session not in self._adjusters and not self._params[session].draws_to_reject

    def _draft_whole(self, steps: InPlaceSteps, requests: Sequence[DraftRequest]) -> list[Draft]:
        """The same where nothing between two steps needs Python: no adjustments, tokens drawn by shared noise."""
        drawn = steps.draw(
            [request.lookahead for request in requests],
            [request.early_stop for request in requests],
            [self._params[request.session] for request in requests],
            [request.context_len for request in requests],
        )
        tokens_BK, confidences_BK = drawn.tokens_KB.T.tolist(), drawn.confidences_KB.T.tolist()
        return [
            Draft(session=request.session, tokens=tuple(tokens[:length]), confidences=tuple(confidences[:length]))
            for request, tokens, confidences, length in zip(
                requests, tokens_BK, confidences_BK, drawn.lengths, strict=True
            )
        ]

    def _rows(self, requests: Sequence[DraftRequest], step: int) -> SamplingRows:
        """How sessions choose their token of this step: by the noise of its own position."""
        return SamplingRows.build([(self._params[r.session], r.context_len + step) for r in requests], self._device)

    def _adjusted(
        self, logits_BV: torch.Tensor, requests: Sequence[DraftRequest], drawn: Sequence[Drawn]
    ) -> torch.Tensor:
        """The logits as the verifier will adjust them, if the proposal so far holds."""
        groups = []
        for row, request in enumerate(requests[: len(logits_BV)]):
            if (adjuster := self._adjusters.get(request.session)) is not None:
                needs_tokens = adjuster.params.needs_tokens
                following = [request.last_token, *(int(one.tokens_R[row]) for one in drawn)] if needs_tokens else ()
                groups.append(RowGroup(adjuster, row, 1, request.context_len + len(drawn), following))
        return adjust(logits_BV, groups) if groups else logits_BV

    def _memory(self, requests: Sequence[DraftRequest]) -> dict[LayerType, list[EntryMemory]]:
        """Where each layer's entries lie, session by session."""
        return {
            layer_type: [self._shadow(r).window_memory(layer_type, r.context_len - 1) for r in requests]
            for layer_type in self._spec.layers
        }

    def _attention(self, forward: AssistantForward, requests: Sequence[DraftRequest]) -> AttentionInputs:
        """Lay out each layer's entries: as one padded stack where that is cheap, else session by session."""
        inputs: AttentionInputs = {}
        for layer_type, layer in self._spec.layers.items():
            views = [self._shadow(r).window_view(layer_type, r.context_len - 1) for r in requests]
            longest = max(keys_HTD.shape[1] for keys_HTD, _ in views)
            num_bytes = 2 * len(views) * longest * layer.entry_numel * self._spec.dtype.itemsize
            is_stacked = forward.needs_stack or self._device.type != "cpu" or num_bytes <= _MAX_STACKED_BYTES
            inputs[layer_type] = stacked(views) if is_stacked else separate(views)
        return inputs

    def _shadow(self, request: DraftRequest) -> Shadow:
        shadow = self._shadows.get(request.session)
        assert shadow is not None
        return shadow

    def _check_tokens(self, tokens: Sequence[Token], num_expected: int) -> None:
        if len(tokens) != num_expected or not all(0 <= token < self._forward.vocab_size for token in tokens):
            raise ValueError(
                f"{len(tokens)} tokens for {num_expected} entries of a session that needs them, or no tokens"
            )

    def _is_draftable(self, request: DraftRequest) -> bool:
        if request.lookahead <= 0:
            return False
        problem = None
        if not self.has(request.session):
            problem = "its shadow was evicted"
        elif self.have_len(request.session) != request.context_len - 1 or request.context_len < 2:
            problem = f"the shadow has {self.have_len(request.session)} entries at context {request.context_len}"
        elif len(request.hidden) != self._spec.hidden_size * self._spec.dtype.itemsize:
            problem = (
                f"the hidden state has {len(request.hidden)} bytes, not {self._spec.hidden_size} {self._spec.dtype}"
            )
        elif not 0 <= request.last_token < self._forward.vocab_size:
            problem = f"token {request.last_token} is not in the vocabulary"
        if problem is not None:
            logger.warning("session %x gets no draft: %s", request.session, problem)
        return problem is None


def load_mtp_engine(
    target: str,
    assistant: str,
    *,
    dtype: torch.dtype,
    shadow_bytes: int,
    device: str = "cpu",
    kernels: Kernels | None = None,
) -> MtpEngine:
    """Load the assistant and, of the target, its configuration and its input embedding alone.

    `target` and `assistant` are folders or hub ids; ValueError when they do not belong together.
    """
    return build_mtp_engine(
        load_assistant(assistant, dtype=dtype, device=device),
        load_embedding_table(target, dtype=dtype, device=device),
        shadow_spec(load_config(target), dtype=dtype),
        shadow_bytes=shadow_bytes,
        device=device,
        kernels=kernels,
    )


def build_mtp_engine(
    assistant: PreTrainedModel,
    embedding: EmbeddingTable,
    spec: ShadowSpec,
    *,
    shadow_bytes: int,
    device: str = "cpu",
    kernels: Kernels | None = None,
) -> MtpEngine:
    """An engine for this assistant, on the fastest forward pass that its layers allow.

    ValueError when assistant and target do not belong together.
    """
    check_pair(assistant, embedding, spec)
    forward = _build_forward(assistant, embedding, kernels or Kernels())
    return MtpEngine(forward, spec, shadow_bytes=shadow_bytes, device=device)


def _build_forward(
    assistant: PreTrainedModel, embedding: EmbeddingTable, kernels: Kernels
) -> AssistantForward | InPlaceForward:
    library = kernels.library() if can_run_compiled(assistant) else None
    if library is not None:
        return CompiledForward(library, assistant, embedding, num_threads=kernels.num_threads)
    if embedding.weight_VH.device.type == "cuda":
        # Here, not above: triton comes with torch's builds for GPUs alone.
        from deployments.drafter.graphed_forward import GraphedForward, can_run_graphed

        if can_run_graphed(assistant):
            return GraphedForward(assistant, embedding)
    return LeanForward(assistant, embedding) if can_run_lean(assistant) else LibraryForward(assistant, embedding)


def check_pair(assistant: PreTrainedModel, embedding: EmbeddingTable, spec: ShadowSpec) -> None:
    """ValueError when the assistant was not made for the target that `spec` and `embedding` describe."""
    text_config = assistant.config.get_text_config()
    expected: dict[str, tuple[object, object]] = {
        "backbone hidden size": (assistant.config.backbone_hidden_size, spec.hidden_size),
        "vocabulary size": (text_config.vocab_size, len(embedding.weight_VH)),
    }
    for index, layer_type in enumerate(text_config.layer_types):
        layer = spec.layers[layer_type]
        expected[f"layer {index} (kv heads, head dim)"] = (
            kv_shape(text_config, index),
            (layer.num_kv_heads, layer.head_dim),
        )
    for name, (found, wanted) in expected.items():
        if found != wanted:
            raise ValueError(
                f"the assistant's {name} is {found}, the target needs {wanted}; "
                "use the assistant that was published with this target"
            )


def _as_drafts(requests: Sequence[DraftRequest], drawn: Sequence[Drawn], lengths: Sequence[int]) -> list[Draft]:
    """Cut what was drafted step by step into one draft per session."""
    tokens = torch.cat([step.tokens_R for step in drawn]).tolist()
    confidences = torch.cat([step.confidences_R for step in drawn]).tolist()
    starts = [0, *accumulate(len(step.tokens_R) for step in drawn)]
    drafts = []
    for row, (request, length) in enumerate(zip(requests, lengths, strict=True)):
        picks = [starts[step] + row for step in range(length)]
        distributions = tuple(d for step in drawn[:length] if (d := step.distributions.get(row)))
        drafts.append(
            Draft(
                session=request.session,
                tokens=tuple(tokens[pick] for pick in picks),
                confidences=() if distributions else tuple(confidences[pick] for pick in picks),
                distributions=distributions,
            )
        )
    return drafts
