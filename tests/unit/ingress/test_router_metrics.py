"""The routers' own figures on the ingress's /metrics, and readiness."""

from __future__ import annotations

import msgspec

from deployments.ingress.generation import RouterClient
from deployments.ingress.metrics import IngressMetrics
from deployments.messages import RouterStatus
from evaluation.load.metrics import parse_sums, round_overhead_ms
from tests.support.fake_link import FakeLink

STATUS = RouterStatus(
    num_verifiers=2,
    num_drafters=1,
    num_sessions=3,
    num_waiting=1,
    kv_usage=0.25,
    num_rounds=10,
    round_seconds_sum=0.2,
    verify_seconds_sum=0.1,
    draft_seconds_sum=0.05,
)


def test_sums_of_all_routers_are_exported_under_both_spellings() -> None:
    busier = msgspec.structs.replace(STATUS, kv_usage=0.75, num_verifiers=1)
    sums = parse_sums(IngressMetrics("m", lambda: [STATUS, busier]).render().decode())
    assert sums["outrider_round_seconds_sum"] == 0.4
    assert sums["outrider_round_seconds_count"] == 20
    assert sums["vllm:kv_cache_usage_perc"] == 0.75
    assert sums["outrider_num_verifiers"] == 1
    assert sums["outrider_router_num_sessions"] == 6


def test_the_bench_finds_the_overhead_of_a_round_in_them() -> None:
    before = parse_sums(IngressMetrics("m").render().decode())
    after = parse_sums(IngressMetrics("m", lambda: [STATUS]).render().decode())
    overhead = round_overhead_ms(before, after)
    assert overhead is not None
    assert abs(overhead - 5.0) < 1e-9


def test_an_ingress_is_ready_once_a_router_has_a_verifier() -> None:
    client, link = RouterClient(), FakeLink("router-0", "router")
    client.link_opened(link)
    assert not client.is_ready
    client.received(link, msgspec.structs.replace(STATUS, num_verifiers=0))
    assert not client.is_ready
    client.received(link, STATUS)
    assert client.is_ready
    client.link_closed(link)
    assert not client.is_ready
