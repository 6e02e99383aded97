"""Reports on their way to every ingress, and what they make together."""

from __future__ import annotations

import mmap
from typing import Any

from deployments import measures, reporting
from deployments.link import Identity
from deployments.messages import Generate, Message, Report, Reports, Role, SamplingParams
from deployments.metering import Meter
from deployments.reporting import Board, Reporter
from tests.support.fake_link import FakeLink


class Silent:
    """A service that remembers what was passed on to it."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def link_opened(self, link: Any) -> None: ...

    def link_closed(self, link: Any) -> None: ...

    def received(self, link: Any, message: Message) -> None:
        self.messages.append(message)


def report(peer: str, number: int, *samples: Any, role: Role = "ingress") -> Report:
    return Report(peer=peer, role=role, number=number, samples=samples)


def tokens(value: float) -> Any:
    return ("generation_tokens", (), (value,))


def running(value: float) -> Any:
    return ("num_requests_running", (), (value,))


def reporter(peer: str, role: Role) -> tuple[Reporter, Meter]:
    meter = Meter()
    return Reporter(Silent(), Identity(peer, role), meter), meter


def test_counters_and_histograms_add_up_and_gauges_combine_as_the_catalogue_says() -> None:
    board = Board()
    lookahead = tuple(float(n) for n in range(len(measures.LOOKAHEAD.buckets) + 2))
    for peer, usage, links in (("v0", 0.25, 2.0), ("v1", 0.75, 1.0)):
        samples = [("kv_cache_usage_perc", (), (usage,)), ("num_verifiers", (), (links,)), tokens(10)]
        board.take(report(peer, 1, *samples, ("lookahead", ("code",), lookahead)))
    totals = board.totals()
    assert totals["kv_cache_usage_perc"][()] == (0.75,)
    assert totals["num_verifiers"][()] == (1,)
    assert totals["generation_tokens"][()] == (20,)
    assert totals["lookahead"]["code",] == tuple(2 * n for n in lookahead)


def test_an_older_report_changes_nothing() -> None:
    board = Board()
    assert board.take(report("i0", 5, tokens(100)))
    assert not board.take(report("i0", 5, tokens(100)))
    assert not board.take(report("i0", 4, tokens(90)))
    assert board.totals()["generation_tokens"][()] == (100,)


def test_what_a_lost_replica_counted_stays_and_what_it_held_does_not() -> None:
    now_s = [0.0]
    board = Board(lambda: now_s[0])
    board.take(report("i0", 1, tokens(100), running(7)))
    now_s[0] = reporting.GONE_AFTER_S + 1
    board.take(report("i1", 1, tokens(5), running(2)))
    assert board.totals() == {"generation_tokens": {(): (105,)}, "num_requests_running": {(): (2,)}}


def test_only_so_many_lost_replicas_are_remembered() -> None:
    now_s = [0.0]
    board = Board(lambda: now_s[0])
    for number in range(3 * reporting.MAX_GONE):
        now_s[0] += 1
        board.take(report(f"i{number}", 1, tokens(1)))
    assert len(board.reports) == reporting.MAX_GONE


def test_samples_of_another_version_are_left_out() -> None:
    board = Board()
    strange = [
        ("no_such_metric", (), (1.0,)),
        ("generation_tokens", ("label",), (1.0,)),
        ("lookahead", ("code",), (1.0,)),
    ]
    board.take(report("i0", 1, *strange, tokens(3)))
    assert board.totals() == {"generation_tokens": {(): (3,)}}


def test_every_ingress_learns_from_a_router_what_the_others_measured() -> None:
    (router, _), (first, first_meter), (second, second_meter) = (
        reporter("r0", "router"),
        reporter("i0", "ingress"),
        reporter("i1", "ingress"),
    )
    first_meter.counter(measures.GENERATION_TOKENS).cell().add(30)
    second_meter.counter(measures.GENERATION_TOKENS).cell().add(12)
    links = {name: FakeLink(name, "ingress") for name in ("i0", "i1")}
    for (name, link), ingress in zip(links.items(), (first, second), strict=True):
        router.link_opened(link)  # type: ignore[arg-type]
        to_router = FakeLink("r0", "router")
        ingress.link_opened(to_router)  # type: ignore[arg-type]
        ingress.tell()
        router.received(link, to_router.take_one(Report))  # type: ignore[arg-type]
        assert name in link.peer
        link.take(Reports)
    router.tell()
    for ingress, link in ((first, links["i0"]), (second, links["i1"])):
        ingress.received(FakeLink("r0", "router"), link.take_one(Reports))  # type: ignore[arg-type]
        totals = ingress.totals()
        assert totals["generation_tokens"][()] == (42,)
        assert totals["replicas"] == {("ingress",): (2,), ("router",): (1,)}


def test_an_ingress_counts_itself_as_of_now_not_as_it_was_heard() -> None:
    ingress, meter = reporter("i0", "ingress")
    cell = meter.counter(measures.GENERATION_TOKENS).cell()
    cell.add(5)
    ingress.received(FakeLink("r0", "router"), Reports(items=(report("i0", 1, tokens(5)),)))  # type: ignore[arg-type]
    cell.add(1)
    assert ingress.totals()["generation_tokens"][()] == (6,)


def test_a_router_tells_each_report_once_and_a_new_ingress_all_of_them() -> None:
    router, _ = reporter("r0", "router")
    early, late = FakeLink("i0", "ingress"), FakeLink("i1", "ingress")
    router.link_opened(early)  # type: ignore[arg-type]
    early.take(Reports)
    router.received(FakeLink("v0", "verifier"), report("v0", 1, role="verifier"))  # type: ignore[arg-type]
    router.tell()
    assert [item.peer for item in early.take_one(Reports).items] == ["v0", "r0"]
    router.tell()
    assert [item.peer for item in early.take_one(Reports).items] == ["r0"]
    router.link_opened(late)  # type: ignore[arg-type]
    assert {item.peer for item in late.take_one(Reports).items} == {"v0", "r0"}


def test_nobody_reports_for_others() -> None:
    router, _ = reporter("r0", "router")
    router.received(FakeLink("i0", "ingress"), report("i1", 1, tokens(10**9)))  # type: ignore[arg-type]
    assert "generation_tokens" not in router.totals()


def test_everything_else_reaches_the_service() -> None:
    service = Silent()
    router = Reporter(service, Identity("r0", "router"), Meter())
    generate = Generate(request="a", tokens=(1,), num_prompt_tokens=1, max_context_tokens=9, params=SamplingParams())
    router.received(FakeLink("i0", "ingress"), generate)  # type: ignore[arg-type]
    router.received(FakeLink("i0", "ingress"), report("i0", 1))  # type: ignore[arg-type]
    assert service.messages == [generate]


def test_bytes_of_links_are_counted_while_they_are_open_and_after() -> None:
    router, meter = reporter("r0", "router")
    link = FakeLink("v0", "verifier")
    router.link_opened(link)  # type: ignore[arg-type]
    link.num_sent_bytes, link.num_received_bytes = 100, 40
    meter.samples()
    link.num_sent_bytes = 150
    router.link_closed(link)  # type: ignore[arg-type]
    found = {(name, labels): values for name, labels, values in meter.samples()}
    assert found["link_sent_bytes", ("router", "verifier")] == (150,)
    assert found["link_received_bytes", ("router", "verifier")] == (40,)
    assert found["links", ("router", "verifier")] == (0,)


def test_an_ingress_knows_how_many_there_are() -> None:
    now_s = [0.0]
    board = Board(lambda: now_s[0])
    ingress = Reporter(Silent(), Identity("i0", "ingress"), Meter(), board)
    assert ingress.num_replicas("ingress") is None
    router = FakeLink("r0", "router")
    ingress.received(router, Reports(items=(report("r0", 1, role="router"), report("i1", 1))))  # type: ignore[arg-type]
    assert (ingress.num_replicas("ingress"), ingress.num_replicas("router")) == (2, 1)
    ingress.received(router, Reports(items=(report("i0", 1), report("i2", 1))))  # type: ignore[arg-type]
    assert ingress.num_replicas("ingress") == 3
    now_s[0] = 11.0
    ingress.received(router, Reports(items=(report("i0", 2), report("i1", 2))))  # type: ignore[arg-type]
    assert ingress.num_replicas("ingress") == 2


def test_a_replica_tells_what_it_holds_in_memory() -> None:
    reporter = Reporter(Silent(), Identity("drafter-0", "drafter"), Meter())
    ((labels, (num_bytes,)),) = reporter.totals()[measures.RESIDENT_MEMORY_BYTES.name].items()
    assert labels == ("drafter",)
    with mmap.mmap(-1, 1 << 26) as held:  # pages of its own, which no allocator has kept from before
        held.write(b"x" * (1 << 26))
        ((_, (num_more,)),) = reporter.totals()[measures.RESIDENT_MEMORY_BYTES.name].items()
    assert num_more - num_bytes > 1 << 25
