"""The ramp's clients: as many as the profile says, and nothing that is lost or changed goes unnoticed."""

from __future__ import annotations

import asyncio

import pytest

from deployments.config import parse
from evaluation.load.ramp import Options, configuration
from evaluation.load.ramp_load import MAX_WAIT_S, Answer, Case, Course, Profile, Ramp, cases_of
from evaluation.load.ramp_plot import binned, states
from tests.support.fake_endpoint import fake_endpoint

SHORT = Profile(peak=3, climb_s=0.2, hold_s=0.6, rest=1, rest_s=0.1, idle_s=0.1)
GOOD = Case(fields={"model": "pocket", "prompt": "x"}, text="answer to x")


@pytest.mark.parametrize(
    ("time_s", "expected"), [(-1, 0), (0, 1), (5, 5), (10, 10), (25, 10), (35, 5), (39.99, 2), (41, 2), (44, 0)]
)
def test_the_profile_climbs_holds_and_falls(time_s: float, expected: int) -> None:
    assert Profile(peak=10, climb_s=10, hold_s=20, rest=2, rest_s=3, idle_s=9).at(time_s) == expected


def test_a_phase_is_drawn_out_until_its_gate_opens() -> None:
    is_open, asked = [False], []

    def gate(phase: str) -> bool:
        asked.append(phase)
        return is_open[0]

    course = Course(Profile(peak=4, climb_s=10, hold_s=10, rest=1, rest_s=5, idle_s=5), gate)
    assert [course.at(float(now_s)) for now_s in (5, 15, 19, 25, 60)] == [5, 15, 19, 19, 19]
    assert set(asked) == {"hold"}
    is_open[0] = True
    assert [course.at(float(now_s)) for now_s in (61, 62)] == [20, 21]
    is_open[0] = False
    assert course.at(90.0) == 21  # 5 s of rest would be over
    assert course.at(90.0 + MAX_WAIT_S + 1) == 21
    assert course.at(90.0 + MAX_WAIT_S + 15) > 34, "not for ever"


def driven(url: str, case: Case) -> Ramp:
    ramp = Ramp(url, SHORT, [case])
    asyncio.run(ramp.run())
    return ramp


def test_the_load_is_what_the_profile_says_and_every_text_is_compared() -> None:
    with fake_endpoint(delay_s=0.05) as fake:
        ramp = driven(fake.url, GOOD)
        assert 1 <= fake.max_in_flight <= 3
    summary = ramp.summary()
    assert summary["num_requests"] == len(fake.requests) > 3
    assert (summary["num_lost"], summary["num_changed"]) == (0, 0)
    assert summary["num_tokens"] == 10 * summary["num_requests"]
    assert max(there for _, _, there in ramp.in_flight) == 3


def test_a_changed_text_is_counted() -> None:
    with fake_endpoint() as fake:
        summary = driven(fake.url, Case(fields=GOOD.fields, text="answer to y")).summary()
    assert summary["num_changed"] == summary["num_requests"] > 0


def test_a_refusal_and_a_stream_without_an_end_are_lost_requests() -> None:
    with fake_endpoint(status=503) as fake:
        summary = driven(fake.url, GOOD).summary()
    assert summary["num_lost"] == summary["num_requests"] > 0
    assert summary["problems"][0].startswith("503: ")
    with fake_endpoint(ends_streams=False) as fake:
        summary = driven(fake.url, GOOD).summary()
    assert summary["num_lost"] == summary["num_requests"] > 0
    assert summary["problems"] == ["the stream ended before its end"]


def test_what_is_expected_is_what_a_request_gets_alone_and_undrafted() -> None:
    with fake_endpoint() as fake:
        cases = asyncio.run(cases_of(fake.url, 5, 32))
        assert all(body["speculation"] == {"num_speculative_tokens": 0} for _, body in fake.requests)
        assert fake.max_in_flight == 1
    assert [case.fields["temperature"] for case in cases] == [0, 0.8, 0, 0.8, 0]
    assert all("speculation" not in case.fields for case in cases)
    assert all(case.text.startswith("answer to ") for case in cases)


def test_the_deployment_is_one_of_paced_roles_on_nodes_of_their_own() -> None:
    config = parse(configuration(Options(max_verifiers=3), 8123))
    assert config.paced == {"verifier": "h100x2-l4-31b", "drafter": "h100x2-l4-31b"}
    assert (config.autoscaling.enabled, config.autoscaling.max_verifiers) == (True, 3)
    assert {config.verifier.node_labels["outrider/group"], config.drafter.node_labels["outrider/group"]} == {
        "verifiers",
        "drafters",
    }


def test_replicas_by_time_and_answers_by_stretches() -> None:
    told = [
        {"time_s": 0.0, "replicas": {"verifier": {"RUNNING": 1, "STARTING": 2}}},
        {"time_s": 1.0, "replicas": {}},
    ]
    assert states(told, "verifier") == ([0.0, 1.0], [1, 0], [3, 0])
    answer = Answer(begun_s=1.0, first_s=2.0, end_s=7.0, num_tokens=50, is_same=True)
    fields = {name: getattr(answer, name) for name in Answer.__dataclass_fields__}
    edges, rates, firsts = binned([fields])
    assert edges == [0.0, 5.0]
    assert rates == pytest.approx([6.0, 4.0])  # three of its five seconds, and two
    assert firsts[0] == 1.0
