"""Drafting with an independent model of the target's vocabulary, over a paged cache of its own.

Shapes: B sessions of a batch, V vocabulary.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from deployments.decoding.adjustments import Adjuster, RowGroup, adjust, adjuster_for
from deployments.decoding.drawing import Draw, Drawer
from deployments.decoding.rows import SamplingRows
from deployments.distributions import Distribution
from deployments.drafter.engine import Draft
from deployments.drafter.token_engine import ReadRequest
from deployments.kernels.library import Kernels
from deployments.messages import SamplingParams, SessionId, Token
from deployments.models.loading import Target, kv_shape, load_config, load_target
from deployments.paged.build import build_forward
from deployments.paged.chunk import Chunk
from deployments.paged.footprint import num_own_layers
from deployments.paged.kv_cache import BlockTables, KvPools

if TYPE_CHECKING:
    from deployments.grammars import Grammars

logger = logging.getLogger(__name__)

_KEPT_BATCHES = 32
"""A cache used this recently is not evicted: sessions that take turns at throwing each other out draft nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftCacheLimits:
    """How much the engine holds at once: `num_kv_tokens` entries, shared by at most `max_sessions` sessions."""

    max_context_tokens: int
    num_kv_tokens: int
    max_sessions: int = 64
    block_size: int = 16


@dataclass(slots=True)
class _Session:
    params: SamplingParams
    max_context_tokens: int
    adjuster: Adjuster | None  # of a session whose logits are adjusted
    last_batch: int = 0
    lost_tokens: int = 0  # room that it had, or wanted, when it lost its cache


@dataclass(slots=True)
class _Drafted:
    tokens: list[Token] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)
    distributions: list[Distribution] = field(default_factory=list)

    def as_draft(self, session: SessionId) -> Draft:
        return Draft(
            session=session,
            tokens=tuple(self.tokens),
            confidences=tuple(self.confidences),
            distributions=tuple(self.distributions),
        )


class DraftModelEngine:
    """Implements `TokenDrafterEngine` with any causal decoder; `vocab_size` is the target's.

    `draw` says how tokens are drawn, `grammars` are the target's; without them drafts follow none.
    """

    def __init__(
        self, model: Target, limits: DraftCacheLimits, *, vocab_size: int, kernels: Kernels | None = None
    ) -> None:
        self.draw: Draw = Drawer()
        self.grammars: Grammars | None = None
        text_config = model.text_config
        self._device = str(model.model.device)
        self._limits = limits
        self._vocab_size: int = min(vocab_size, text_config.vocab_size)
        num_blocks = -(-limits.num_kv_tokens // limits.block_size)
        self._tables = BlockTables(
            num_blocks=num_blocks,
            block_size=limits.block_size,
            max_sessions=limits.max_sessions,
            max_session_tokens=limits.max_context_tokens,
        )
        self._pools = KvPools(
            layer_shapes={layer: kv_shape(text_config, layer) for layer in range(num_own_layers(text_config))},
            num_slots=(num_blocks + 1) * limits.block_size,
            dtype=model.model.dtype,
            device=self._device,
        )
        self._forward = build_forward(model, self._tables, self._pools, kernels or Kernels())
        self._sessions: OrderedDict[SessionId, _Session] = OrderedDict()
        self._num_batches = 0
        self.num_evicted = 0
        self.cache_bytes = self._pools.num_bytes

    @property
    def vocab_size(self) -> int:
        """Token ids are in [0, vocab_size)."""
        return self._vocab_size

    def attach(self, session: SessionId, params: SamplingParams, max_context_tokens: int) -> None:
        """Take a session; it gets blocks as it is read."""
        self.detach(session)
        adjuster = adjuster_for(params, self.grammars)
        self._sessions[session] = _Session(params, min(max_context_tokens, self._limits.max_context_tokens), adjuster)

    def detach(self, session: SessionId) -> None:
        """Forget a session. Idempotent."""
        self._tables.release(session)
        self._sessions.pop(session, None)

    def computed_len(self, session: SessionId) -> int:
        """How many entries the cache holds of the session; 0 when it was evicted."""
        return self._tables.computed_len(session) if session in self._tables else 0

    @torch.inference_mode()
    def draft(self, requests: Sequence[ReadRequest]) -> list[Draft]:
        """One pass over everything to read, then one per further drafted token, for all sessions together."""
        self._num_batches += 1
        served = [request for request in requests if self._make_room(request)]
        drafts = {request.session: _Drafted() for request in served}
        for request in served:
            self._count(request.session, request.start, request.tokens)
        chunks = [_reading(request) for request in served]
        drafting = [request for request in served if request.num_draft_tokens > 0]
        step = 0
        while chunks:
            logits_BV = self._forward.forward(chunks).logits_RV[:, : self._vocab_size]
            for chunk in chunks:
                self._tables.set_computed_len(chunk.session, chunk.start + len(chunk.tokens))
            if drafting:
                self._choose(drafting, step, logits_BV, drafts)
            step += 1
            drafting = [request for request in drafting if request.num_draft_tokens > step]
            chunks = [
                Chunk(
                    session=request.session,
                    start=request.start + len(request.tokens) + step - 1,
                    tokens=(drafts[request.session].tokens[-1],),
                )
                for request in drafting
            ]
        for request in served:  # the next request may take what holds of the draft for read
            self._count(request.session, request.start + len(request.tokens), drafts[request.session].tokens)
        return [drafts.get(request.session, _Drafted()).as_draft(request.session) for request in requests]

    def check_integrity(self) -> None:
        """Assert that the cache's books balance; for tests."""
        self._tables.check_integrity()
        self._pools.check_integrity(self._limits.block_size)

    def _count(self, session: SessionId, start: int, tokens: Sequence[Token]) -> None:
        if (adjuster := self._sessions[session].adjuster) is not None:
            adjuster.extend(start, tokens)

    def _choose(
        self,
        requests: Sequence[ReadRequest],
        step: int,
        logits_BV: torch.Tensor,
        drafts: dict[SessionId, _Drafted],
    ) -> None:
        """Draw each session's next token, by the noise of the position that it is for."""
        rows = SamplingRows.build(
            [(self._sessions[r.session].params, r.start + len(r.tokens) + step) for r in requests], self._device
        )
        groups = [
            RowGroup(adjuster, row, 1, r.start + len(r.tokens) + step, drafts[r.session].tokens)
            for row, r in enumerate(requests)
            if (adjuster := self._sessions[r.session].adjuster) is not None
        ]
        if groups:
            logits_BV = adjust(logits_BV, groups)
        drawn = self.draw(logits_BV, rows, [self._salt(request) for request in requests], self._forward.choose)
        confidences = drawn.confidences_R.tolist()
        for row, (request, token) in enumerate(zip(requests, drawn.tokens_R.tolist(), strict=True)):
            draft = drafts[request.session]
            draft.tokens.append(token)
            if row in drawn.distributions:
                draft.distributions.append(drawn.distributions[row])
            else:
                draft.confidences.append(confidences[row])

    def _salt(self, request: ReadRequest) -> int | None:
        return request.context_len if self._sessions[request.session].params.draws_to_reject else None

    def _make_room(self, request: ReadRequest) -> bool:
        """Roll the session's cache back to where the request starts, and have blocks for what it adds.

        A session that finds none loses its cache, and comes back once there is room for as much as it had.
        """
        session, tables = self._sessions[request.session], self._tables
        stop = request.start + len(request.tokens) + max(0, request.num_draft_tokens - 1)
        if stop > session.max_context_tokens:
            return False
        session.last_batch = self._num_batches
        self._sessions.move_to_end(request.session)
        if request.session not in tables:
            wanted = max(stop, session.lost_tokens)
            if request.start > 0 or not self._evict_until(lambda: tables.has_room(wanted)):
                return False
            tables.reserve(request.session, wanted)
        elif not self._evict_until(lambda: tables.grow(request.session, stop)):
            self._lose(request.session, stop)
            return False
        assert request.start <= tables.computed_len(request.session), "a request leaves a gap"
        tables.set_computed_len(request.session, request.start)
        return True

    def _evict_until(self, has_room: Callable[[], bool]) -> bool:
        """Free caches that were not used for long until there is room; whether there is."""
        while not has_room():
            if not self._evict():
                return False
        return True

    def _evict(self) -> bool:
        """Free the cache that was not used for longest, unless that was just now; whether one was freed."""
        for session, state in self._sessions.items():
            if session in self._tables:
                if state.last_batch > self._num_batches - _KEPT_BATCHES:
                    return False
                self._lose(session, self._tables.computed_len(session))
                return True
        return False

    def _lose(self, session: SessionId, num_tokens: int) -> None:
        self._tables.release(session)
        self._sessions[session].lost_tokens = num_tokens
        self.num_evicted += 1


def _reading(request: ReadRequest) -> Chunk:
    return Chunk(
        session=request.session,
        start=request.start,
        tokens=request.tokens,
        is_partial=request.num_draft_tokens == 0,
    )


def load_draft_model_engine(
    target: str,
    draft_model: str,
    limits: DraftCacheLimits,
    *,
    dtype: torch.dtype,
    device: str = "cpu",
    kernels: Kernels | None = None,
) -> DraftModelEngine:
    """Load a draft model for a target; of that one only its configuration is read."""
    model = load_target(draft_model, dtype=dtype, device=device)
    return build_draft_model_engine(model, target, limits, kernels)


def build_draft_model_engine(
    model: Target, target: str, limits: DraftCacheLimits, kernels: Kernels | None = None
) -> DraftModelEngine:
    """An engine around a loaded draft model, no longer than its own positions reach."""
    own = getattr(model.text_config, "max_position_embeddings", None) or limits.max_context_tokens
    limits = replace(limits, max_context_tokens=min(limits.max_context_tokens, own))
    vocab_size: int = load_config(target).get_text_config().vocab_size
    return DraftModelEngine(model, limits, vocab_size=vocab_size, kernels=kernels)
