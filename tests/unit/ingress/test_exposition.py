"""The text of /metrics, and readiness."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from deployments import measures
from deployments.ingress.exposition import Exposition
from deployments.ingress.generation import RouterClient
from deployments.ingress.metrics import IngressMetrics, RequestTimer
from deployments.messages import Commit, RouterStatus
from deployments.metering import Meter
from deployments.reporting import totals_of
from evaluation.load.metrics import parse_sums, round_overhead_ms
from tests.support.fake_link import FakeLink


def render(meter: Meter) -> str:
    return Exposition("m", lambda: totals_of(meter.samples())).render().decode()


def test_a_request_is_seen_under_both_spellings() -> None:
    meter, now_s = Meter(), iter((0.0, 0.25, 0.75, 1.0, 1.0))
    timer = RequestTimer(IngressMetrics(meter), num_prompt_tokens=7, request_class="code", clock=lambda: next(now_s))
    for at, num_accepted in ((7, 0), (8, 2), (11, 1)):
        tokens = (1,) * (num_accepted + 1)
        num_drafted = 3 if at > 7 else 0
        timer.commit(
            Commit(
                request="a",
                context_len=at,
                tokens=tokens,
                num_drafted=num_drafted,
                num_accepted=num_accepted,
                drafter="mtp",
            )
        )
    timer.end("stop")
    text = render(meter)
    sums = parse_sums(text)
    for prefix in ("outrider_", "vllm:"):
        assert sums[f"{prefix}time_to_first_token_seconds_sum"] == 0.25
        assert sums[f"{prefix}time_to_first_token_seconds_count"] == 1
        assert sums[f"{prefix}request_time_per_output_token_seconds_sum"] == 0.75 / 5
        assert sums[f"{prefix}spec_decode_num_drafts_total"] == 2
        assert sums[f"{prefix}spec_decode_num_accepted_tokens_total"] == 3
        labels = '{drafter="mtp",model_name="m",position="0",request_class="code"}'
        assert f"{prefix}spec_decode_num_accepted_tokens_per_pos_total{labels} 2.0" in text
        whose = 'model_name="m",request_class="code",variant="default"'
        assert f'{prefix}time_to_first_token_seconds_bucket{{le="0.1",{whose}}} 0.0' in text
        assert f'{prefix}time_to_first_token_seconds_bucket{{le="0.25",{whose}}} 1.0' in text


def test_what_vllm_does_not_have_is_not_said_in_its_name() -> None:
    meter = Meter()
    meter.histogram(measures.ROUND_SECONDS)
    assert "outrider_round_seconds_sum" in parse_sums(render(meter))
    assert "vllm:round_seconds_sum" not in parse_sums(render(meter))


def test_prometheus_can_read_it() -> None:
    meter = Meter()
    IngressMetrics(meter)
    families = {family.name: family for family in text_string_to_metric_families(render(meter))}
    assert families["outrider_time_to_first_token_seconds"].type == "histogram"
    assert families["outrider_prompt_tokens"].type == "counter"
    assert families["outrider_num_requests_running"].type == "gauge"
    assert set(measures.CATALOGUE) <= {name.removeprefix("outrider_") for name in families}


def test_the_bench_finds_the_overhead_of_a_round_in_it() -> None:
    meter = Meter()
    rounds = meter.histogram(measures.ROUND_SECONDS).cell()
    verify, draft = (meter.counter(m).cell() for m in (measures.ROUND_VERIFY_SECONDS, measures.ROUND_DRAFT_SECONDS))
    before = parse_sums(render(meter))
    for _ in range(10):
        rounds.observe(0.02)
        verify.add(0.01)
        draft.add(0.005)
    overhead = round_overhead_ms(before, parse_sums(render(meter)))
    assert overhead is not None
    assert abs(overhead - 5.0) < 1e-9


def test_an_ingress_is_ready_once_a_router_has_a_verifier() -> None:
    client, link = RouterClient(), FakeLink("router-0", "router")

    def status(num_verifiers: int) -> RouterStatus:
        return RouterStatus(num_verifiers=num_verifiers)

    client.link_opened(link)  # type: ignore[arg-type]
    assert not client.is_ready
    client.received(link, status(0))  # type: ignore[arg-type]
    assert not client.is_ready
    client.received(link, status(2))  # type: ignore[arg-type]
    assert client.is_ready
    client.link_closed(link)  # type: ignore[arg-type]
    assert not client.is_ready
