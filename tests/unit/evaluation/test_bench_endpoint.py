from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.ports import free_ports
from evaluation.client import EndpointError
from evaluation.load import endpoint
from evaluation.load.endpoint import EndpointSystem, Served, read_answer, served_model
from evaluation.load.metrics import parse_sums, round_overhead_ms
from evaluation.pocket.records import Example, ask
from tests.support.fake_endpoint import FakeEndpoint, fake_endpoint

EXAMPLES = [ask("structured", f"question {index}", "") for index in range(6)]
RAW = Example(task="code", reference="", raw_prompt="def f(")


def metrics(num_rounds: int, round_s: float, verify_s: float, draft_s: float) -> str:
    """Two routers' sums; the buckets must not be added to them."""
    return f"""# TYPE outrider_round_seconds histogram
outrider_round_seconds_bucket{{router="a",le="+Inf"}} {num_rounds}
outrider_round_seconds_sum{{router="a"}} {round_s / 2}
outrider_round_seconds_count{{router="a"}} {num_rounds}
outrider_round_seconds_sum{{router="b"}} {round_s / 2}
# TYPE outrider_round_verify_seconds counter
outrider_round_verify_seconds_total {verify_s}
# TYPE outrider_round_draft_seconds_total counter
outrider_round_draft_seconds_total{{drafter="a }} b"}} {draft_s} 1700000000
"""


def test_sums_are_added_over_labels() -> None:
    sums = parse_sums(metrics(4, 2.0, 0.5, 0.25))
    assert sums["outrider_round_seconds_sum"] == 2.0
    assert sums["outrider_round_seconds_count"] == 4.0
    assert sums["outrider_round_draft_seconds_total"] == 0.25
    assert not any(name.endswith("_bucket") for name in sums)


def test_overhead_is_what_the_models_leave_of_a_round() -> None:
    before, after = parse_sums(metrics(10, 1.0, 0.5, 0.2)), parse_sums(metrics(30, 3.0, 1.9, 0.78))
    assert round_overhead_ms(before, after) == pytest.approx(1.0)  # (2.0 - 1.4 - 0.58) s over 20 rounds


@pytest.mark.parametrize("after", [{}, {"outrider_round_seconds_count": 10.0}])
def test_overhead_without_rounds_is_unknown(after: dict[str, float]) -> None:
    assert round_overhead_ms({"outrider_round_seconds_count": 10.0}, after) is None


def test_every_example_is_answered_in_order_and_counted() -> None:
    with fake_endpoint(delay_s=0.05) as fake:
        system = EndpointSystem("on", fake.url, served_model(fake.url))
        sample = system.measure([*EXAMPLES, RAW], num_streams=3, max_tokens=64)
    assert sample.texts == (*(f"answer to question {index}" for index in range(6)), "answer to def f(")
    assert (sample.num_tokens, sample.num_rounds, sample.num_accepted_tokens) == (70, 28, 42)
    assert sample.acceptance_length == 2.5
    assert fake.max_in_flight == 3
    assert sample.wall_s >= 3 * 0.05  # seven requests over three streams
    assert sample.tokens_per_s == pytest.approx(70 / sample.wall_s)
    paths = [path for path, _ in fake.requests]
    assert paths.count("/v1/completions") == 1
    assert paths.count("/v1/chat/completions") == 6
    assert all(body["max_tokens"] == 64 and body["temperature"] == 0 for _, body in fake.requests)
    assert all(body["model"] == "pocket" and "speculation" not in body for _, body in fake.requests)


def test_speculation_off_is_asked_for_and_has_no_acceptance_length() -> None:
    with fake_endpoint() as fake:
        sample = EndpointSystem("off", fake.url, Served("pocket"), 0).measure(EXAMPLES[:1], 1, 64)
    assert fake.requests[0][1]["speculation"] == {"num_speculative_tokens": 0}
    assert sample.acceptance_length is None


def salts_of(fake: FakeEndpoint) -> list[str | None]:
    return [body.get("cache_salt") for _, body in fake.requests]


@pytest.mark.parametrize("owner", ["outrider", "vllm"])
def test_whoever_comes_second_finds_no_prompt_read_already(owner: str) -> None:
    with fake_endpoint(owner=owner) as fake:
        off = EndpointSystem("off", fake.url, served_model(fake.url), 0)
        for system in (off, replace(off, num_speculative_tokens=None), off):
            system.measure([*EXAMPLES, RAW], 2, 64)
    salts = salts_of(fake)
    assert len(set(salts)) == len(salts) == 3 * 7
    assert None not in salts


@pytest.mark.parametrize("owner", ["somebody", None])
def test_no_salt_goes_to_an_endpoint_that_might_refuse_it(owner: str | None) -> None:
    with fake_endpoint(owner=owner) as fake:
        EndpointSystem("on", fake.url, served_model(fake.url)).measure(EXAMPLES, 2, 64)
    assert set(salts_of(fake)) == {None}


def test_only_single_streams_are_scraped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "SETTLE_S", 0.0)
    texts = [metrics(10, 1.0, 0.5, 0.2), metrics(30, 3.0, 1.9, 0.78)]
    with fake_endpoint(metrics=texts) as fake:
        system = EndpointSystem("on", fake.url, Served("pocket"), scrapes=True)
        assert system.measure(EXAMPLES, 2, 64).overhead_ms is None
        assert system.measure(EXAMPLES, 1, 64).overhead_ms == pytest.approx(1.0)


def test_an_error_ends_the_run_with_what_the_endpoint_said() -> None:
    with fake_endpoint(status=503) as fake, pytest.raises(EndpointError, match=r"503.*no room"):
        EndpointSystem("on", fake.url, Served("pocket")).measure(EXAMPLES, 2, 64)


def test_nobody_listening_is_an_endpoint_error() -> None:
    url = f"http://127.0.0.1:{free_ports(1)[0]}"
    with pytest.raises(EndpointError, match="names no model"):
        served_model(url)
    with pytest.raises(EndpointError, match="ConnectError"):
        EndpointSystem("on", url, Served("pocket")).measure(EXAMPLES[:1], 1, 64)


def test_something_that_is_no_completion_is_refused() -> None:
    with pytest.raises(EndpointError, match="not a completion"):
        read_answer({"choices": []})


def test_an_answer_without_speculation_metrics_counts_tokens_only() -> None:
    answer = read_answer({"choices": [{"text": "x"}], "usage": {"completion_tokens": 3}})
    assert (answer.num_tokens, answer.num_rounds) == (3, 0)
