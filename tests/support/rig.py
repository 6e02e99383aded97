"""The whole round without ray: ingress, routers, verifiers and drafters over real streams on loopback, in one loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from deployments.colocation import ColocatedService
from deployments.distributions import DistributionStore
from deployments.drafter.engine import DrafterEngine
from deployments.drafter.service import DrafterService, DrafterSettings
from deployments.drafter.token_engine import TokenDrafterEngine
from deployments.drafter.token_service import TokenDrafterService, TokenDrafterSettings
from deployments.ingress.generation import GenerateRequest, RouterClient
from deployments.link import Endpoint, Identity, Invitation, Link, LinkSettings, Listener, TokenBook, dial, listen
from deployments.messages import DrafterKind, Message, Role
from deployments.router.service import RouterService, RouterSettings
from deployments.verifier.engine import VerifierEngine
from deployments.verifier.service import VerifierService, VerifierSettings

AnyDrafter = DrafterService | TokenDrafterService
PORTS = range(23000, 24000)


class Tap:
    """An Endpoint that passes everything on and remembers what came, by kind and peer; tests may bend what comes."""

    def __init__(self, inner: Endpoint) -> None:
        self.inner = inner
        self.messages: list[tuple[str, Message]] = []
        self.bend: Callable[[Link, Message], Message | None] | None = None

    def link_opened(self, link: Link) -> None:
        self.inner.link_opened(link)

    def received(self, link: Link, message: Message) -> None:
        bent = self.bend(link, message) if self.bend else message
        if bent is not None:
            self.messages.append((link.peer, bent))
            self.inner.received(link, bent)

    def link_closed(self, link: Link) -> None:
        self.inner.link_closed(link)

    def count(self, kind: type) -> int:
        return sum(isinstance(message, kind) for _, message in self.messages)


@dataclass
class Node:
    """One running service: what it is called, what it does, and how to reach or kill it."""

    identity: Identity
    service: RouterService | VerifierService | AnyDrafter | RouterClient
    tap: Tap
    tokens: TokenBook = field(default_factory=TokenBook)
    listener: Listener | None = None
    task: asyncio.Task[None] | None = None
    links: list[Link] = field(default_factory=list)

    def kill(self) -> None:
        """Stop at once, as a killed process would: no goodbye to anyone."""
        if self.task is not None:
            self.task.cancel()
        if self.listener is not None:
            self.listener.close()
        for link in self.links:
            link.close()


class Rig:
    """Starts nodes and links each new one to those it has business with."""

    def __init__(self, links: LinkSettings | None = None) -> None:
        self.links = links
        self.nodes: list[Node] = []
        self.client = RouterClient()
        self.ingress = Node(Identity("ingress-0", "ingress"), self.client, Tap(self.client))
        self.nodes.append(self.ingress)

    async def add_router(self, **settings: object) -> Node:
        index = len(self.of("router"))
        # A toy step takes no time, so that any policy but this one would rightly not speculate.
        fields = {"policy": "constant", **settings}
        service = RouterService(RouterSettings(**fields), instance=index + 1)  # type: ignore[arg-type]
        return await self._add("router", service)

    async def add_verifier(
        self,
        engine: VerifierEngine,
        inside: dict[DrafterKind, AnyDrafter] | None = None,
        store: DistributionStore | None = None,
        **settings: object,
    ) -> Node:
        """A verifier, with drafters in its process if `inside` has any."""
        service = VerifierService(engine, VerifierSettings(**settings), store=store)  # type: ignore[arg-type]
        return await self._add("verifier", service, inside or {})

    async def add_drafter(self, engine: DrafterEngine, **settings: object) -> Node:
        return await self._add("drafter", DrafterService(engine, DrafterSettings(**settings)))  # type: ignore[arg-type]

    async def add_token_drafter(self, engine: TokenDrafterEngine, **settings: object) -> Node:
        service = TokenDrafterService(engine, TokenDrafterSettings(**settings))  # type: ignore[arg-type]
        return await self._add("drafter", service)

    def of(self, role: Role) -> list[Node]:
        return [node for node in self.nodes if node.identity.role == role]

    async def generate(self, request: GenerateRequest) -> list[int]:
        """All tokens of one request."""
        return [token async for commit in self.client.generate(request) for token in commit.tokens]

    async def _add(
        self,
        role: Role,
        service: RouterService | VerifierService | AnyDrafter,
        inside: dict[DrafterKind, AnyDrafter] | None = None,
    ) -> Node:
        identity = Identity(f"{role}-{sum(n.identity.role == role for n in self.nodes)}", role)
        whole = ColocatedService(identity, service, inside) if inside else service
        node = Node(identity, service, Tap(whole))
        node.listener = await listen(node.tap, node.identity, node.tokens, "127.0.0.1", PORTS, self.links)
        node.task = asyncio.create_task(whole.run())
        existing = list(self.nodes)
        self.nodes.append(node)
        for other in existing:
            if _dials(other.identity.role, role):
                await self._link(other, node)
            if _dials(role, other.identity.role):
                await self._link(node, other)
        return node

    async def _link(self, left: Node, right: Node) -> None:
        if right.listener is None or (right.task is not None and right.task.done()):
            return
        token = right.tokens.issue(left.identity)
        invitation = Invitation(right.identity, "127.0.0.1", right.listener.port, token)
        left.links.append(await dial(left.tap, left.identity, invitation, timeout_s=5.0, settings=self.links))

    async def close(self) -> None:
        for node in self.nodes:
            node.kill()
        tasks = [node.task for node in self.nodes if node.task is not None]
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result


@contextlib.asynccontextmanager
async def running_rig(
    *,
    verifiers: Sequence[VerifierEngine],
    drafters: Sequence[DrafterEngine] = (),
    token_drafters: Sequence[TokenDrafterEngine] = (),
    inside: Callable[[], dict[DrafterKind, AnyDrafter]] = dict,
    store: DistributionStore | None = None,
    num_routers: int = 1,
    router: dict[str, object] | None = None,
    verifier: dict[str, object] | None = None,
    links: LinkSettings | None = None,
) -> AsyncIterator[Rig]:
    """A rig with these engines, linked and running."""
    rig = Rig(links)
    try:
        for drafter_engine in drafters:
            await rig.add_drafter(drafter_engine)
        for token_engine in token_drafters:
            await rig.add_token_drafter(token_engine)
        for verifier_engine in verifiers:
            await rig.add_verifier(verifier_engine, inside(), store, **(verifier or {}))
        for _ in range(num_routers):
            await rig.add_router(**(router or {}))
        yield rig
    finally:
        await rig.close()


def _dials(left: Role, right: Role) -> bool:
    return (left, right) in {
        ("ingress", "router"),
        ("router", "verifier"),
        ("router", "drafter"),
        ("verifier", "drafter"),
    }
