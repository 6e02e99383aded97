"""Requests on their way to a router and back: RouterClient.generate(request) yields commits.

    place on a router -> Generate -> Commits ... -> last Commit
          ^                            |
          +---- the router is lost, or gives up

Whatever happens to a router, the reader sees every position once, in order: the tokens received
so far are resubmitted with the same seed and the same absolute limits, and the output is a
function of these (DESIGN.md 4). Everything here runs on one event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Protocol

from deployments import measures
from deployments.ingress import errors
from deployments.link import Link, LinkClosed
from deployments.logs import about
from deployments.messages import (
    Cancel,
    Commit,
    Commits,
    DrafterName,
    Failure,
    Generate,
    Message,
    PolicyName,
    Priority,
    RequestClass,
    RouterStatus,
    SamplingParams,
    SetFlow,
    Token,
)
from deployments.metering import Meter

logger = logging.getLogger("outrider.ingress")


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    """One choice to generate. `id` is unique; `max_context_tokens` counts the prompt too."""

    id: str
    prompt: tuple[Token, ...]
    max_context_tokens: int
    params: SamplingParams
    stop_token_ids: tuple[Token, ...] = ()
    num_speculative_tokens: int | None = None
    drafter: DrafterName = "auto"
    max_speculative_tokens: int | None = None
    request_class: RequestClass | None = None
    priority: Priority = "interactive"
    policy: PolicyName | None = None
    variant: str = measures.NO_VARIANT
    salt: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowLimits:
    """Bounds of one request's buffer and of every wait.

    A reader that leaves more than `high_water_tokens` unread pauses its session until it has read
    down to `low_water_tokens`. `recovery_timeout_s` bounds how long a request may be without a
    router that makes progress, `silence_timeout_s` how long one router may say nothing.
    """

    high_water_tokens: int = 256
    low_water_tokens: int = 64
    recovery_timeout_s: float = 30.0
    silence_timeout_s: float = 120.0
    retry_after_s: float = 1.0
    first_backoff_s: float = 0.02
    max_backoff_s: float = 1.0


class GenerationClient(Protocol):
    """What the REST routes need of the way to the routers."""

    @property
    def is_ready(self) -> bool:
        """Whether a request sent now would find a router that has a verifier."""

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Commit, None]:
        """The request's commits, in order and without gaps; raises ApiError. Closing it cancels the request."""


@dataclass(slots=True, eq=False)
class _Stream:
    """One request under way: what is known of its output, and what its reader has not taken yet."""

    request: GenerateRequest
    tokens: list[Token]
    wire_id: str = ""
    link: Link | None = None
    unread: deque[Commit] = field(default_factory=deque)
    num_unread_tokens: int = 0
    is_paused: bool = False
    is_finished: bool = False
    failure: Failure | None = None
    progress: asyncio.Event = field(default_factory=asyncio.Event)
    lost_at_s: float | None = None
    num_losses: int = 0

    @property
    def has_output(self) -> bool:
        return len(self.tokens) > len(self.request.prompt)


class RouterClient:
    """The ingress's end of its streams to the routers; an Endpoint of link.py.

    A request goes to the router with the fewest requests of this ingress. It is moved to another
    one when its router is lost, gives it up, contradicts itself or stays silent.
    """

    def __init__(self, limits: FlowLimits | None = None, meter: Meter | None = None) -> None:
        self._limits = limits or FlowLimits()
        self._moves = (meter or Meter()).counter(measures.REQUEST_MOVES).cell()
        self._streams: dict[str, _Stream] = {}
        self._routers: dict[Link, set[_Stream]] = {}
        self._statuses: dict[Link, RouterStatus] = {}
        self._router_came = asyncio.Event()
        self._wire_ids = itertools.count()

    @property
    def is_ready(self) -> bool:
        """Whether a request sent now would find a router that has a verifier."""
        return any(status.num_verifiers > 0 and not link.is_closed for link, status in self._statuses.items())

    @property
    def num_requests(self) -> int:
        """How many requests are under way."""
        return len(self._streams)

    # -- Endpoint -----------------------------------------------------------------------------

    def link_opened(self, link: Link) -> None:
        """A router is there: it takes new requests, and those that wait for one."""
        self._routers[link] = set()
        self._router_came.set()

    def received(self, link: Link, message: Message) -> None:
        """Commits, Failures and a router's status; what belongs to no request any more is dropped."""
        if isinstance(message, Commits):
            for commit in message.items:
                if (stream := self._streams.get(commit.request)) is not None:
                    self._take(stream, commit)
        elif isinstance(message, RouterStatus):
            self._statuses[link] = message
        elif isinstance(message, Failure) and (stream := self._streams.get(message.request)) is not None:
            self._leave(stream)  # the router holds nothing of it any more: there is nothing to cancel
            self._lose(stream, message)

    def link_closed(self, link: Link) -> None:
        """A router is gone: its requests look for another one."""
        self._statuses.pop(link, None)
        for stream in self._routers.pop(link, set()).copy():
            detail = f"the router {link.peer} is gone"
            self._lose(stream, Failure(request=stream.wire_id, code="unavailable", detail=detail))

    # -- the reader's side --------------------------------------------------------------------

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Commit, None]:
        """The request's commits, in order and without gaps; raises ApiError. Closing it cancels the request.

        Losing a router is invisible, but for the time it takes: the commits go on where they stood.
        """
        stream = _Stream(request=request, tokens=list(request.prompt))
        if not self._submit(stream):
            raise errors.unavailable("no router is connected", self._limits.retry_after_s)
        try:
            while True:
                while stream.unread:
                    yield self._read(stream)
                if stream.is_finished:
                    return
                if stream.failure is not None:
                    await self._recover(stream, stream.failure)
                await self._wait(stream)
        finally:
            self._withdraw(stream, has_reader=False)

    def _read(self, stream: _Stream) -> Commit:
        commit = stream.unread.popleft()
        stream.num_unread_tokens -= len(commit.tokens)
        if stream.is_paused and stream.num_unread_tokens <= self._limits.low_water_tokens:
            self._set_flow(stream, paused=False)
        return commit

    async def _wait(self, stream: _Stream) -> None:
        """Until the request has made progress or has failed; a router silent for too long has failed."""
        stream.progress.clear()
        if stream.unread or stream.failure is not None or stream.is_finished:
            return
        try:
            async with asyncio.timeout(self._limits.silence_timeout_s):
                await stream.progress.wait()
        except TimeoutError:
            detail = f"nothing was generated for {self._limits.silence_timeout_s} s"
            self._lose(stream, Failure(request=stream.wire_id, code="unavailable", detail=detail))

    # -- placing, losing, moving --------------------------------------------------------------

    def _submit(self, stream: _Stream, avoid: Link | None = None) -> bool:
        """Send what is known of a request to the least busy router; False if there is none."""
        links = sorted(self._routers, key=lambda link: (link is avoid, len(self._routers[link])))
        for link in links:
            stream.wire_id = f"{stream.request.id}.{next(self._wire_ids)}"
            try:
                link.send(self._to_generate(stream))
            except LinkClosed:  # its link_closed is on the way
                continue
            stream.link, stream.failure, stream.is_paused = link, None, False
            self._routers[link].add(stream)
            self._streams[stream.wire_id] = stream
            return True
        return False

    @staticmethod
    def _to_generate(stream: _Stream) -> Generate:
        request = stream.request
        return Generate(
            request=stream.wire_id,
            tokens=tuple(stream.tokens),
            num_prompt_tokens=len(request.prompt),
            max_context_tokens=request.max_context_tokens,
            params=request.params,
            stop_token_ids=request.stop_token_ids,
            num_speculative_tokens=request.num_speculative_tokens,
            drafter=request.drafter,
            max_speculative_tokens=request.max_speculative_tokens,
            request_class=request.request_class,
            priority=request.priority,
            policy=request.policy,
            salt=request.salt,
        )

    def _take(self, stream: _Stream, commit: Commit) -> None:
        """Append what a commit adds to the tokens known; positions known already are left out."""
        num_known = len(stream.tokens) - commit.context_len
        if num_known < 0:
            detail = f"the commit at {commit.context_len} does not follow the {len(stream.tokens)} tokens known"
            self._lose(stream, Failure(request=stream.wire_id, code="unavailable", detail=detail))
            return
        if num_known > 0:
            commit = _without_first(commit, num_known)
        if not commit.tokens and commit.finish_reason is None:
            return
        stream.tokens.extend(commit.tokens)
        stream.unread.append(commit)
        stream.num_unread_tokens += len(commit.tokens)
        stream.lost_at_s, stream.num_losses = None, 0
        stream.progress.set()
        if commit.finish_reason is not None:
            stream.is_finished = True
            self._leave(stream)
        elif not stream.is_paused and stream.num_unread_tokens > self._limits.high_water_tokens:
            self._set_flow(stream, paused=True)

    def _set_flow(self, stream: _Stream, *, paused: bool) -> None:
        stream.is_paused = paused
        self._tell(stream, SetFlow(request=stream.wire_id, paused=paused))

    def _lose(self, stream: _Stream, failure: Failure) -> None:
        """Take a request away from its router; its reader decides what follows."""
        if failure.code == "unavailable":
            logger.warning("the request has lost its router: %s", failure.detail, extra=about(request=stream.wire_id))
        previous = stream.link
        self._withdraw(stream, has_reader=True)
        stream.link = previous  # the one to avoid
        stream.failure = failure
        stream.num_losses += 1
        stream.progress.set()

    async def _recover(self, stream: _Stream, failure: Failure) -> None:
        """Place a request anew, or raise ApiError if that is hopeless or takes too long."""
        if failure.code == "invalid":
            raise errors.invalid(None, failure.detail)
        if failure.code == "overloaded" and not stream.has_output:
            raise errors.overloaded(failure.detail, self._limits.retry_after_s)
        loop = asyncio.get_running_loop()
        if stream.lost_at_s is None:  # counted from here, as a slow reader may come long after the loss
            stream.lost_at_s = loop.time()
        deadline_s = stream.lost_at_s + self._limits.recovery_timeout_s
        # The first move is immediate; only a request that fails again and again waits.
        pause_s = min(self._limits.max_backoff_s, self._limits.first_backoff_s * 2 ** (stream.num_losses - 2))
        if stream.num_losses > 1:
            await asyncio.sleep(min(pause_s, max(0.0, deadline_s - loop.time())))
        while loop.time() < deadline_s:
            self._router_came.clear()
            if self._submit(stream, avoid=stream.link):
                self._moves.add()
                return
            try:
                async with asyncio.timeout_at(deadline_s):
                    await self._router_came.wait()
            except TimeoutError:
                break
        raise errors.unavailable(failure.detail, self._limits.retry_after_s)

    def _withdraw(self, stream: _Stream, *, has_reader: bool) -> None:
        """End a request at its router, if it still runs there. Idempotent."""
        if self._streams.get(stream.wire_id) is stream:
            if not stream.is_finished:
                self._tell(stream, Cancel(request=stream.wire_id))
            self._leave(stream)
        if not has_reader:
            stream.unread.clear()

    def _leave(self, stream: _Stream) -> None:
        self._streams.pop(stream.wire_id, None)
        if stream.link in self._routers:
            self._routers[stream.link].discard(stream)

    def _tell(self, stream: _Stream, message: Cancel | SetFlow) -> None:
        assert stream.link is not None
        if not stream.link.is_closed:
            with contextlib.suppress(LinkClosed):
                stream.link.send(message)


def _without_first(commit: Commit, num_tokens: int) -> Commit:
    """The commit without its first tokens, all of which were drafted as far as `num_accepted` goes."""
    num_tokens = min(num_tokens, len(commit.tokens))
    return Commit(
        request=commit.request,
        context_len=commit.context_len + num_tokens,
        tokens=commit.tokens[num_tokens:],
        num_drafted=max(0, commit.num_drafted - num_tokens),
        num_accepted=max(0, commit.num_accepted - num_tokens),
        finish_reason=commit.finish_reason,
        logprobs=commit.logprobs[num_tokens:],
        drafter=commit.drafter,
    )
