"""Throughput by class and variant: lengths that are fixed, variants in turn, and what the figures say."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from deployments.cli.main import main
from evaluation.client import EndpointError
from evaluation.load.metrics import RESIDENT_BYTES, by_label
from evaluation.load.sweep_records import Trace
from evaluation.load.throughput import Measurement, Runs, Target, by_position
from evaluation.load.throughput_prompts import Prompts, TaskClass, built_in_class, class_of_suite, fixed
from evaluation.load.throughput_records import Lengths, kept
from evaluation.quality.variants import OFF, Variant
from tests.support.scripted_endpoint import Reply, ScriptedEndpoint, refusal, scripted_endpoint

MTP = Variant(name="mtp", speculation={"drafter": "mtp"})
CLASS = TaskClass("greetings", "chat", tuple({"messages": [{"role": "user", "content": f"hi {i}"}]} for i in range(3)))
SHORT = Lengths(prompt_tokens=10, output_tokens=6, streams=(2,), num_waves=2, num_repeats=2)


def streamed(*events: dict[str, Any] | str) -> Reply:
    texts = [event if isinstance(event, str) else json.dumps(event) for event in events]
    return Reply("".join(f"data: {text}\n\n" for text in texts).encode())


def answer(body: dict[str, Any]) -> Reply:
    """Six tokens in three chunks; with drafts two rounds of two and none accepted, without drafts none."""
    is_drafted = body.get("speculation") == MTP.speculation
    chunks = [
        {"choices": [{"text": "ab"}], "usage": {"completion_tokens": number, "prompt_tokens": len(body["prompt"])}}
        for number in (2, 4, 6)
    ]
    counts = {
        "num_spec_steps": 2,
        "num_draft_tokens": 4,
        "num_accepted_draft_tokens": 2,
        "acceptance_histogram": [1, 0, 1],
    }
    metrics = {"speculative_decoding": counts if is_drafted else {"num_spec_steps": 6, "num_draft_tokens": 0}}
    return streamed(*chunks, {"choices": [], "metrics": metrics}, "[DONE]")


def tokenising(path: str, body: dict[str, Any]) -> Reply:
    if path == "/tokenize":
        number = int(body["messages"][0]["content"].split()[-1])
        return Reply({"tokens": [1, *range(100 * number, 100 * number + 5)]})
    return answer(body)


def measured(endpoint: ScriptedEndpoint, lengths: Lengths = SHORT) -> Measurement:
    measurement = Measurement(Target(url=endpoint.url), [CLASS], [OFF, MTP], lengths)
    asyncio.run(measurement.run(lambda done, of: None))
    return measurement


def test_every_prompt_and_answer_has_the_length_asked_for() -> None:
    with scripted_endpoint(tokenising) as endpoint:
        measurement = measured(endpoint)
    asked = [body for path, body, _ in endpoint.requests if path == "/v1/completions"]
    assert len(asked) == 2 * 2 * 2 * 3  # repeats, variants, streams, waves with the untimed one
    assert all(len(body["prompt"]) == 10 and body["prompt"][0] == 1 for body in asked)
    assert all((body["max_tokens"], body["ignore_eos"], body["temperature"]) == (6, True, 0) for body in asked)
    beginnings = {tuple(body["prompt"][1:5]) for body in asked}
    assert len(beginnings) > len(asked) / 2  # no prefix cache helps one that comes later
    assert measurement.has_fixed_prompts
    (base, mtp) = measurement.cells()
    assert (base.variant, base.prompt_tokens, base.output_tokens) == ("base", 10, 6)
    assert (base.acceptance_length, base.by_position, base.speed_up) == (None, (), None)
    assert (mtp.acceptance_length, mtp.by_position) == (2.0, (0.5, 0.5))
    assert mtp.speed_up is not None


def test_so_many_streams_are_kept_in_flight() -> None:
    together = threading.Barrier(2, timeout=30)

    def paired(path: str, body: dict[str, Any]) -> Reply:
        if path != "/tokenize":
            together.wait()  # for ever, were there but one at a time
        return tokenising(path, body)

    with scripted_endpoint(paired) as endpoint:
        measured(endpoint)
    assert endpoint.most_in_flight == 2


def test_variants_take_turns_in_beginning() -> None:
    with scripted_endpoint(tokenising) as endpoint:
        measured(endpoint)
    bodies = [body for path, body, _ in endpoint.requests if path == "/v1/completions"]
    order = ["mtp" if body["speculation"] == MTP.speculation else "base" for body in bodies]
    assert order == ["base"] * 6 + ["mtp"] * 12 + ["base"] * 6


def test_an_endpoint_that_does_not_tokenise_is_asked_the_texts() -> None:
    def plain(path: str, body: dict[str, Any]) -> Reply:
        return refusal(404) if path == "/tokenize" else answer({**body, "prompt": "x"})

    with scripted_endpoint(plain) as endpoint:
        assert not measured(endpoint).has_fixed_prompts
    asked = [body["messages"][0]["content"] for path, body, _ in endpoint.requests if path == "/v1/chat/completions"]
    assert len(asked) == 24
    by_variant = [{text.partition(") ")[2] for text in asked[start : start + 6]} for start in (0, 6)]
    assert by_variant[0] == by_variant[1]  # what is compared has the same texts
    assert {text.partition(") ")[2] for text in asked} == {"hi 0", "hi 1", "hi 2"}
    assert len(set(asked)) == 24


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (refusal(503), "no room for 2 streams"),
        (refusal(400, "what is ignore_eos"), "400.*what is ignore_eos"),
        (streamed({"error": {"message": "lost"}}), "lost"),
        (streamed({"choices": [{"text": "a"}]}), "without .DONE."),
    ],
)
def test_no_failed_request_counts_as_a_fast_one(reply: Reply, told: str) -> None:
    def failing(path: str, body: dict[str, Any]) -> Reply:
        return tokenising(path, body) if path == "/tokenize" else reply

    with scripted_endpoint(failing) as endpoint, pytest.raises(EndpointError, match=told):
        measured(endpoint)


COUNTERS = """# HELP vllm:spec_decode_num_drafts_total Number of spec decoding drafts.
vllm:spec_decode_num_drafts_total{{engine="0",model_name="m"}} {rounds}.0
vllm:spec_decode_num_draft_tokens_total{{engine="0",model_name="m"}} {drafted}.0
vllm:spec_decode_num_accepted_tokens_total{{engine="0",model_name="m"}} {accepted}.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{{engine="0",model_name="m",position="0"}} {first}.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{{engine="0",model_name="m",position="1"}} {second}.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{{engine="0",model_name="m",position="2"}} 0.0
"""


def test_where_answers_are_silent_the_endpoints_counters_tell_of_acceptance() -> None:
    """As with vLLM: 1,000 rounds before us; then an answer is four rounds, which accept two, two, one and none."""
    num_answers = 0

    def silent(path: str, body: dict[str, Any]) -> Reply:
        nonlocal num_answers
        if path == "/tokenize":
            return tokenising(path, body)
        num_answers += 1
        chunks = [{"choices": [{"text": "ab"}], "usage": {"completion_tokens": 2}}]
        return streamed(*chunks, "[DONE]")

    def counters() -> str:
        rounds = 1000 + 4 * num_answers
        return COUNTERS.format(
            rounds=rounds,
            drafted=3 * rounds,
            accepted=7 + 5 * num_answers,
            first=3 * num_answers,
            second=2 * num_answers,
        )

    with scripted_endpoint(silent) as endpoint:
        endpoint.metrics = counters
        measurement = Measurement(Target(url=endpoint.url), [CLASS], [OFF], SHORT)
        measurement.settle_s = 0.0
        asyncio.run(measurement.run(lambda done, of: None))
    (cell,) = measurement.cells()
    assert cell.acceptance_length == 1 + 5 / 4
    assert cell.by_position == (3 / 4, 2 / 4)


def test_answers_that_tell_are_believed_over_counters() -> None:
    with scripted_endpoint(tokenising) as endpoint:
        endpoint.metrics = lambda: COUNTERS.format(rounds=time.monotonic_ns(), drafted=9, accepted=9, first=9, second=9)
        base, mtp = measured(endpoint).cells()
    assert (base.acceptance_length, base.by_position) == (None, ())
    assert (mtp.acceptance_length, mtp.by_position) == (2.0, (0.5, 0.5))


def test_texts_are_cut_at_the_beginning_and_made_longer_with_others() -> None:
    ids = [(1, 10, 11, 12), (1, 20, 21), (1, 30)]
    assert fixed(ids, 0, 3) == [1, 11, 12]
    assert fixed(ids, 0, 4) == [1, 10, 11, 12]
    assert fixed(ids, 0, 8) == [1, 12, 30, 20, 21, 10, 11, 12]
    prompts = Prompts(CLASS, tuple(ids), 8)
    assert prompts.request(0, "a") == prompts.request(0, "a")
    assert prompts.request(0, "a") != prompts.request(0, "b")


def traced(rounds: dict[int, int]) -> Trace:
    return Trace(0.0, histogram=rounds, chunks=[(0.1, 1), (0.3, 3)], is_done=True)


def test_positions_and_paired_ratios() -> None:
    assert by_position([traced({0: 1, 1: 1}), traced({3: 2})]) == (0.75, 0.5, 0.5)
    assert by_position([traced({})]) == ()
    measurement = Measurement(Target(url="http://x"), [CLASS], [OFF, MTP], SHORT)
    measurement.runs = {
        ("greetings", 2, "base"): Runs([10.0, 20.0], [traced({})]),
        ("greetings", 2, "mtp"): Runs([30.0, 30.0], [traced({})]),
    }
    base, mtp = measurement.cells()
    assert mtp.speed_up is not None
    assert (mtp.speed_up.low, mtp.speed_up.median, mtp.speed_up.high) == (1.5, 2.25, 3.0)
    assert base.ttft_ms_p50 == pytest.approx(100)
    assert base.tpot_ms_p99 == base.itl_ms_p50 / 2 == pytest.approx(100)  # type: ignore[operator]


def test_memory_is_what_the_endpoint_tells_of_its_roles() -> None:
    text = """# HELP outrider_resident_memory_bytes x
outrider_resident_memory_bytes{model_name="m",role="drafter"} 2.5e+08
outrider_resident_memory_bytes{model_name="m",role="verifier"} 5e+08
outrider_resident_memory_bytes{model_name="n",role="drafter"} 1
outrider_links{role="drafter",peer_role="x"} 7
up 1
"""
    assert by_label(text, RESIDENT_BYTES, "role") == {"drafter": 2.5e8 + 1, "verifier": 5e8}
    assert by_label("", RESIDENT_BYTES, "role") == {}


def test_classes_are_held_out_texts_or_a_suite_of_ones_own(tmp_path: Path) -> None:
    assert len(built_in_class("prose", 0).prompts) > 8
    with pytest.raises(ValueError, match="unknown class 'verse'"):
        built_in_class("verse", 0)
    file = tmp_path / "own.yaml"
    file.write_text("name: own\napi: completions\nscorers: [json_valid]\ncases: [{id: a, input: hello}]\n")
    assert class_of_suite(str(file)) == TaskClass("own", "completions", ({"prompt": "hello"},))


def test_the_command_writes_figures_and_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("name: own\nscorers: [json_valid]\ncases: [{id: a, input: hi 1}]\n")
    command = [
        "eval",
        "load",
        "--out",
        str(tmp_path / "out"),
        "--classes",
        "",
        "--suite",
        str(file),
        "--streams",
        "1,2",
    ]
    command += ["--variant", 'mtp={"speculation": {"drafter": "mtp"}}', "--prompt-tokens", "10", "--output-tokens", "6"]
    with scripted_endpoint(tokenising) as endpoint:
        assert main([*command, "--url", endpoint.url, "--hardware", "one abacus"]) == 0
    printed = capsys.readouterr().out
    assert "| own | 2 | mtp |" in printed
    assert "| hardware | one abacus |" in printed
    assert "| own | 1 | mtp | 0.50 | 0.50 |" in printed
    assert "| not told by the endpoint |" in printed
    assert "Speed of mtp over base, by class and streams: " in printed
    found = kept(tmp_path / "out")
    assert found is not None
    assert (found.model, len(found.cells), found.has_fixed_prompts) == ("scripted", 4, True)
    assert (tmp_path / "out" / "report.html").read_text().count("<svg") == 2


def test_nothing_to_measure_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "load", "--url", "http://127.0.0.1:9", "--classes", "", "--out", str(tmp_path)]) == 1
    assert "give --classes or --suite" in capsys.readouterr().err
