"""A router that speaks the ingress's stream without any model behind it; stands in for the real one in tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from deployments.link import Link
from deployments.messages import Cancel, Commit, Commits, Failure, Generate, Message, RouterStatus, SetFlow, Token

Reply = Callable[[Generate], Sequence[Token]]


_STATUS = RouterStatus(num_verifiers=1)


@dataclass(slots=True)
class FakeRouter:
    """Answers every Generate with the tokens of `reply`, in commits of `tokens_per_commit`; an Endpoint.

    `reply` gives the whole output of a request; a resumed one gets what its tokens still lack. Each
    commit but the first pretends that `lookahead` tokens were drafted. `refusal`, if set, is
    called for every Generate and may answer it with a Failure. What arrived is kept for assertions.
    """

    reply: Reply
    tokens_per_commit: int = 3
    lookahead: int = 4
    step_s: float = 0.0
    refusal: Callable[[Generate], Failure | None] = lambda generate: None
    generates: list[Generate] = field(default_factory=list)
    cancels: list[str] = field(default_factory=list)
    flows: list[SetFlow] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    _running: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _unpaused: dict[str, asyncio.Event] = field(default_factory=dict)

    @property
    def num_sessions(self) -> int:
        """How many requests are under way."""
        return len(self._running)

    def link_opened(self, link: Link) -> None:
        """An ingress is there: it is told of a verifier."""
        self.links.append(link)
        link.send(_STATUS)

    def link_closed(self, link: Link) -> None:
        """An ingress is gone, and its requests with it."""
        self.links.remove(link)
        for request in list(self._running):
            self._end(request)

    def received(self, link: Link, message: Message) -> None:
        """Begin, end or pause a request."""
        if isinstance(message, Generate):
            self.generates.append(message)
            if (failure := self.refusal(message)) is not None:
                link.send(failure)
                return
            self._unpaused[message.request] = unpaused = asyncio.Event()
            unpaused.set()
            self._running[message.request] = asyncio.ensure_future(self._run(link, message))
        elif isinstance(message, Cancel):
            self.cancels.append(message.request)
            self._end(message.request)
        elif isinstance(message, SetFlow):
            self.flows.append(message)
            if (event := self._unpaused.get(message.request)) is not None:
                event.clear() if message.paused else event.set()

    async def _run(self, link: Link, generate: Generate) -> None:
        num_known = len(generate.tokens) - generate.num_prompt_tokens
        reply = list(self.reply(generate))
        room = generate.max_context_tokens - generate.num_prompt_tokens
        limit = min(len(reply), room)
        is_first = True
        while num_known < limit:
            await self._unpaused[generate.request].wait()
            await asyncio.sleep(self.step_s)
            stop = min(limit, num_known + (1 if is_first else self.tokens_per_commit))
            finish_reason = ("stop" if limit == len(reply) else "length") if stop == limit else None
            if link.is_closed:
                return
            commit = Commit(
                request=generate.request,
                context_len=generate.num_prompt_tokens + num_known,
                tokens=tuple(reply[num_known:stop]),
                num_drafted=0 if is_first else self.lookahead,
                num_accepted=0 if is_first else min(self.lookahead, stop - num_known - 1),
                finish_reason=finish_reason,  # type: ignore[arg-type]
            )
            link.send(Commits(items=(commit,)))
            num_known, is_first = stop, False
        self._running.pop(generate.request, None)
        self._unpaused.pop(generate.request, None)

    def _end(self, request: str) -> None:
        if (task := self._running.pop(request, None)) is not None:
            task.cancel()
        self._unpaused.pop(request, None)
