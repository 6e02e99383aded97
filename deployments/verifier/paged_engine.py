"""The verifier engine: chunks in, decided tokens out, over one target and its paged KV cache.

Shapes: R rows that decide a token, V vocabulary, H hidden size, P positions.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING

import torch

from deployments.decoding.adjustments import Adjuster, RowGroup, adjust, adjuster_for
from deployments.decoding.logprobs import logprobs
from deployments.decoding.rejection import verify
from deployments.decoding.rows import SamplingRows
from deployments.distributions import Distribution
from deployments.kernels.library import Kernels
from deployments.memory import MemoryUse
from deployments.messages import KvRange, SamplingParams, SessionId, Token, TokenLogprobs
from deployments.models.loading import ShadowSpec, Target, shadow_spec
from deployments.paged.build import build_forward
from deployments.paged.compiled_forward import CompiledForward
from deployments.paged.footprint import num_own_layers, sliding_layers
from deployments.paged.forward import Output
from deployments.paged.fresh_copies import MAX_ENTRIES, Fresh, FreshCopies
from deployments.paged.kv_cache import BlockTables, KvPools, SlidingLayers
from deployments.paged.prefix_index import BlockHash, Prefix, PrefixTrail
from deployments.paged.sliding_tables import SlidingShape
from deployments.verifier.engine import Chunk, Outcome

if TYPE_CHECKING:
    from deployments.grammars import Grammars


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheLimits:
    """How much the engine holds at once. `num_kv_tokens` entries are shared by all open sessions.

    Layers that see a window have a pool of their own, for every session's window and twice `max_step_tokens`: more than
    that no step may hold.
    """

    max_context_tokens: int
    num_kv_tokens: int
    max_sessions: int = 64
    max_lookahead: int = 16
    block_size: int = 16
    max_step_tokens: int = 512

    @property
    def num_blocks(self) -> int:
        """Blocks of the layers that see everything."""
        return -(-self.num_kv_tokens // self.block_size)

    def num_window_blocks(self, window: int) -> int:
        """Blocks of layers that see so many entries: enough for all sessions' windows and any step."""
        per_session = -(-(window + self.max_lookahead) // self.block_size) + 2
        return self.max_sessions * per_session + -(-2 * self.max_step_tokens // self.block_size)

    def sliding(self, window: int) -> SlidingShape:
        """The pool of layers that see so many entries: never empty, and never more than the others have.

        A session holds no more blocks there than of the others', and shares there what it shares of those.
        """
        num_blocks = min(self.num_blocks, self.num_window_blocks(window))
        return SlidingShape(window=window, max_rollback=self.max_lookahead, num_blocks=num_blocks)


@dataclass(slots=True)
class _Session:
    params: SamplingParams
    trail: PrefixTrail | None
    adjuster: Adjuster | None  # of a session whose logits are adjusted
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)
    hidden_H: torch.Tensor | None = None
    hidden_len: int = 0  # the computed length that hidden_H belongs to


class PagedEngine:
    """Implements `VerifierEngine`; single-threaded, `step` blocks until it is done. `grammars` may be left out."""

    def __init__(
        self,
        target: Target,
        limits: CacheLimits,
        kernels: Kernels | None = None,
    ) -> None:
        _check(limits, target)
        self.grammars: Grammars | None = None
        model, text_config = target.model, target.text_config
        device = str(model.device)
        self._limits = limits
        self._vocab_size: int = text_config.vocab_size
        self._tables = BlockTables(
            num_blocks=limits.num_blocks,
            block_size=limits.block_size,
            max_sessions=limits.max_sessions,
            max_session_tokens=limits.max_context_tokens + limits.max_lookahead,
        )
        sliding = None
        if layers := sliding_layers(text_config):
            shape = limits.sliding(text_config.sliding_window)
            self._tables.slide(shape)
            sliding = SlidingLayers(layers, (shape.num_blocks + 1) * limits.block_size)
        self._pools = KvPools(
            layer_shapes={layer: target.kv_shape(layer) for layer in range(num_own_layers(text_config))},
            num_slots=(limits.num_blocks + 1) * limits.block_size,
            dtype=model.dtype,
            device=device,
            sliding=sliding,
        )
        self._forward = build_forward(target, self._tables, self._pools, kernels or Kernels())
        self._spec: ShadowSpec | None = None
        self._config = text_config
        self._dtype = model.dtype
        self._sessions: dict[SessionId, _Session] = {}
        self._is_on_device = model.device.type != "cpu"
        self._fresh: FreshCopies | None = None
        self.memory = MemoryUse(cache_bytes=self._pools.num_bytes)

    @property
    def vocab_size(self) -> int:
        """Token ids are in [0, vocab_size)."""
        return self._vocab_size

    @property
    def follows_grammars(self) -> bool:
        """Whether sessions may ask for a grammar."""
        return self.grammars is not None

    @property
    def is_compiled(self) -> bool:
        """Whether the target runs on the compiled kernels, not on the library's layers."""
        return isinstance(self._forward, CompiledForward)

    @property
    def max_context_tokens(self) -> int:
        """The longest context a single session may have."""
        return self._limits.max_context_tokens

    @property
    def num_kv_tokens(self) -> int:
        """How many entries the KV cache holds."""
        return self._limits.num_kv_tokens

    @property
    def kv_usage(self) -> float:
        """Share of the KV cache that open sessions hold, 0 to 1."""
        return self._tables.usage

    def can_open(self, num_tokens: int, prefix: Prefix | None = None, num_growing: int = 0) -> bool:
        """Whether a session with room for `num_tokens` fits, and leaves a block for each of those that may grow."""
        hashes = self._trail_of(prefix)[1]
        return num_tokens <= self._tables.max_session_tokens and self._tables.has_room(num_tokens, hashes, num_growing)

    def open(self, session: SessionId, params: SamplingParams, num_tokens: int, prefix: Prefix | None = None) -> int:
        """Begin a session with room for `num_tokens`; returns its computed length. ValueError when there is no room."""
        if num_tokens > self._tables.max_session_tokens:
            raise ValueError(
                f"a session of {num_tokens} tokens is over this verifier's {self._tables.max_session_tokens}; "
                "ask for fewer, or raise max_context_tokens"
            )
        trail, hashes = self._trail_of(prefix)
        if params.scores_prompt:  # what is reused has no logits to score with
            hashes = []
        num_reused = self._tables.reserve(session, num_tokens, hashes)
        adjuster = adjuster_for(params, self.grammars)
        if adjuster is not None and prefix is not None:
            adjuster.extend(0, prefix.tokens[:num_reused])
        self._sessions[session] = _Session(params, trail, adjuster)
        return num_reused

    def grow(self, session: SessionId, num_tokens: int) -> int:
        """Ask for room for `num_tokens`; returns what the session has room for."""
        self._tables.grow(session, num_tokens)
        return self._tables.capacity(session)

    def close(self, session: SessionId) -> None:
        """Free a session's room. Idempotent."""
        self._sessions.pop(session, None)
        if self._fresh is not None:
            self._fresh.forget(session)
        self._tables.release(session)

    def rollback(self, session: SessionId, computed_len: int) -> None:
        """Forget cache entries from `computed_len` on. Idempotent."""
        if computed_len < self._tables.computed_len(session):
            self._tables.withdraw(session, computed_len)
            self._tables.set_computed_len(session, computed_len)
            if (adjuster := self._sessions[session].adjuster) is not None:
                adjuster.truncate(computed_len)

    def step(self, chunks: Sequence[Chunk]) -> list[Outcome]:
        """Run one forward pass over the packed chunks; one outcome per chunk that is not partial, in order."""
        self._check_chunks(chunks)
        for chunk in chunks:
            self._tables.prepare(chunk.session, chunk.start + len(chunk.tokens))
        output = self._forward.forward(chunks)
        self._take_known(chunks, output)
        deciding = [chunk for chunk in chunks if not chunk.is_partial]
        outcomes = self._decide(deciding, output)
        self._commit(chunks, outcomes, output)
        if self._is_on_device:
            self._fresh = self._fresh_copies(chunks)
        return list(outcomes)

    def shadow(self, session: SessionId, start: int, stop: int) -> tuple[KvRange, ...]:
        """Entries [start, stop) of the shadow layers; the sliding layer's begin at its window before `stop`."""
        assert 0 <= start <= stop <= self._tables.computed_len(session), "a shadow ends at the computed length"
        tables, ranges = self._tables, []
        spec = self._shadow_spec()
        for layer in spec.layers.values():
            if layer.layer_type == "sliding_attention":
                # What has been let go of is not missed: nobody drafts before he has the last window.
                first = min(stop, max(start, stop - spec.sliding_window, tables.first_sliding(session)))
                places = tables.sliding_spans(session, first, stop)
            else:
                first, places = start, tables.spans(session, start, stop)
            found = self._fresh.read(layer.index, session, first, stop) if self._fresh is not None else None
            keys, values = found or self._pools.read(layer.index, places)
            ranges.append(KvRange(layer_type=layer.layer_type, start=first, stop=stop, keys=keys, values=values))
        return tuple(ranges)

    def hidden(self, session: SessionId) -> bytes:
        """The target's state after the final norm at the last computed position, shape (H,), as raw bytes."""
        state = self._sessions[session]
        assert state.hidden_H is not None, f"session {session} has computed nothing yet"
        assert state.hidden_len == self._tables.computed_len(session), "a rollback since the last step took the state"
        found = self._fresh.hidden(session, state.hidden_len) if self._fresh is not None else None
        return found or _to_bytes(state.hidden_H)

    def check_integrity(self) -> None:
        """Assert that the cache's books balance; for tests and idle moments, as it reads whole tables."""
        assert all(session in self._tables for session in self._sessions)
        self._tables.check_integrity()
        self._pools.check_integrity(self._limits.block_size)

    def _trail_of(self, prefix: Prefix | None) -> tuple[PrefixTrail | None, list[BlockHash]]:
        """A session's trail, and the hashes of the full blocks that it begins with."""
        if prefix is None:
            return None, []
        trail = PrefixTrail(prefix.salt, self._limits.block_size)
        # One token at least is left to compute: its logits decide the next one.
        return trail, [found for _, found in trail.write(0, prefix.tokens[:-1])]

    def _fresh_copies(self, chunks: Sequence[Chunk]) -> FreshCopies | None:
        """What drafters may ask for of this step; None where it is much, or nobody has ever asked."""
        if self._spec is None or sum(len(chunk.tokens) for chunk in chunks) > MAX_ENTRIES:
            return None
        tables, fresh = self._tables, []
        for chunk in chunks:
            state, stop = self._sessions[chunk.session], self._tables.computed_len(chunk.session)
            if state.hidden_H is not None and tables.first_sliding(chunk.session) <= chunk.start < stop:
                fresh.append(Fresh(session=chunk.session, start=chunk.start, stop=stop, hidden_H=state.hidden_H))
        layers = {
            layer.index: (
                self._pools.whole(layer.index),
                tables.sliding_spans if layer.layer_type == "sliding_attention" else tables.spans,
            )
            for layer in self._spec.layers.values()
        }
        return FreshCopies(fresh, layers)

    def _shadow_spec(self) -> ShadowSpec:
        if self._spec is None:
            self._spec = shadow_spec(self._config, dtype=self._dtype)
        return self._spec

    def _check_chunks(self, chunks: Sequence[Chunk]) -> None:
        assert chunks, "a step has at least one chunk"
        assert len({chunk.session for chunk in chunks}) == len(chunks), "one chunk per session and step"
        for chunk in chunks:
            assert chunk.start == self._tables.computed_len(chunk.session), "a chunk starts at the computed length"
            assert 0 <= chunk.num_drafted < len(chunk.tokens), "a chunk brings a token besides its proposal"
            assert not (chunk.is_partial and chunk.num_drafted), "a partial chunk carries no proposal"
            assert chunk.num_drafted <= self._limits.max_lookahead, "a proposal is longer than max_lookahead"

    def _decide(self, chunks: Sequence[Chunk], output: Output) -> Sequence[Outcome]:
        if not chunks:
            return []
        rows: list[tuple[SamplingParams, int]] = []
        drafts: list[tuple[Token, ...]] = []
        distributions: list[tuple[Distribution, ...] | None] = []
        for chunk in chunks:
            params = self._sessions[chunk.session].params
            stop = chunk.start + len(chunk.tokens)
            rows.extend((params, position) for position in range(stop - chunk.num_drafted, stop + 1))
            drafts.append(chunk.tokens[len(chunk.tokens) - chunk.num_drafted :])
            distributions.append(chunk.distributions if params.draws_to_reject else None)
        sampling_rows = SamplingRows.build(rows, output.logits_RV.device)
        logits_RV = self._adjusted(chunks, output.logits_RV)
        accepted = verify(logits_RV, sampling_rows, drafts, distributions, self._forward.choose)
        outcomes = [
            Outcome(session=chunk.session, num_accepted=num_accepted, next_token=next_token)
            for chunk, (num_accepted, next_token) in zip(chunks, accepted, strict=True)
        ]
        return self._reported(chunks, outcomes, output.logits_RV)

    def _take_known(self, chunks: Sequence[Chunk], output: Output) -> None:
        """Count the chunks' known tokens where counts are needed, and score those whose scores are wanted."""
        first_row = 0
        for chunk in chunks:
            state = self._sessions[chunk.session]
            if state.adjuster is not None:
                state.adjuster.extend(chunk.start, chunk.tokens[: len(chunk.tokens) - chunk.num_drafted])
            if chunk.scored:
                rows_RV = output.scored_RV[first_row : first_row + len(chunk.scored)]
                nums_top = [state.params.num_logprobs or 0] * len(chunk.scored)
                state.prompt_logprobs += logprobs(rows_RV, chunk.scored, nums_top)
                first_row += len(chunk.scored)

    def _adjusted(self, chunks: Sequence[Chunk], logits_RV: torch.Tensor) -> torch.Tensor:
        """The logits to choose from: the target's own, unless a session asks for something else."""
        groups: list[RowGroup] = []
        first_row = 0
        for chunk in chunks:
            num_rows, stop = 1 + chunk.num_drafted, chunk.start + len(chunk.tokens)
            if (adjuster := self._sessions[chunk.session].adjuster) is not None:
                drafted = chunk.tokens[len(chunk.tokens) - chunk.num_drafted :]
                groups.append(RowGroup(adjuster, first_row, num_rows, stop - chunk.num_drafted, drafted))
            first_row += num_rows
        return adjust(logits_RV, groups) if groups else logits_RV

    def _reported(
        self, chunks: Sequence[Chunk], outcomes: Sequence[Outcome], logits_RV: torch.Tensor
    ) -> Sequence[Outcome]:
        """The outcomes with the log-probabilities that their sessions ask for."""
        wanted: list[tuple[int, list[Token], int]] = []
        rows: list[int] = []
        first_row = 0
        for i, (chunk, outcome) in enumerate(zip(chunks, outcomes, strict=True)):
            if (num_top := self._sessions[chunk.session].params.num_logprobs) is not None:
                first_drafted = len(chunk.tokens) - chunk.num_drafted
                drafted = chunk.tokens[first_drafted : first_drafted + outcome.num_accepted]
                wanted.append((i, [*drafted, outcome.next_token], num_top))
                rows.extend(range(first_row, first_row + outcome.num_accepted + 1))
            first_row += 1 + chunk.num_drafted
        if not wanted:
            return outcomes
        tokens = [token for _, tokens, _ in wanted for token in tokens]
        nums_top = [num_top for _, tokens, num_top in wanted for _ in tokens]
        found = iter(logprobs(logits_RV[rows], tokens, nums_top))
        reported = list(outcomes)
        for i, tokens, _ in wanted:
            state = self._sessions[reported[i].session]
            reported[i] = replace(
                reported[i],
                logprobs=tuple(islice(found, len(tokens))),
                prompt_logprobs=tuple(state.prompt_logprobs),
            )
            state.prompt_logprobs = []
        return reported

    def _commit(self, chunks: Sequence[Chunk], outcomes: Sequence[Outcome], output: Output) -> None:
        """Move every session's computed length and last hidden state to what the pass has decided."""
        decided = iter(outcomes)
        row = partial_row = 0
        for chunk in chunks:
            computed_len = chunk.start + len(chunk.tokens)
            state = self._sessions[chunk.session]
            if chunk.is_partial:
                state.hidden_H = output.partial_hidden_CH[partial_row]
                partial_row += 1
            else:
                num_accepted = next(decided).num_accepted
                computed_len -= chunk.num_drafted - num_accepted
                if state.adjuster is not None and num_accepted:
                    first = len(chunk.tokens) - chunk.num_drafted
                    state.adjuster.extend(chunk.start + first, chunk.tokens[first : first + num_accepted])
                state.hidden_H = output.hidden_RH[row + num_accepted]
                row += 1 + chunk.num_drafted
            state.hidden_len = computed_len
            if state.trail is not None:
                for index, block_hash in state.trail.write(chunk.start, chunk.tokens[: computed_len - chunk.start]):
                    self._tables.publish(chunk.session, index, block_hash)
            self._tables.set_computed_len(chunk.session, computed_len)


def _check(limits: CacheLimits, target: Target) -> None:
    most = getattr(target.text_config, "max_position_embeddings", None)
    if most is not None and limits.max_context_tokens > most:
        raise ValueError(f"max_context_tokens is {limits.max_context_tokens}, the target ends at {most}; lower it")
    needed = limits.max_context_tokens + limits.max_lookahead
    if limits.num_kv_tokens < needed:
        raise ValueError(
            f"num_kv_tokens is {limits.num_kv_tokens}, but one session of max_context_tokens plus max_lookahead "
            f"needs {needed}; raise the first or lower max_context_tokens"
        )


def _to_bytes(tensor: torch.Tensor) -> bytes:
    here = tensor.contiguous().cpu()
    # Where it lies: some kilobytes, and every further operation of torch's takes longer than to copy them.
    return ctypes.string_at(here.data_ptr(), here.nbytes)
