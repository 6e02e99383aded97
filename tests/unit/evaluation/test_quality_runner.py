"""Having a suite answered: what is asked, how often, and what an interruption leaves."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from evaluation.client import EndpointError, Patience, RefusedError
from evaluation.quality.answers import AnswerError, AnswerFile
from evaluation.quality.runner import ANSWERS, Plan, ResumeError, Runner, Settings, open_folder
from evaluation.quality.suite import Case, ChatMessage, DomainEvalSuite, Generation, ScorerSpec
from evaluation.quality.variants import ALONE, OFF, Variant
from tests.support.scripted_endpoint import Reply, ScriptedEndpoint, chat, prompt_of, refusal, scripted_endpoint

MTP = Variant(name="mtp", speculation={"drafter": "mtp"})
NO_WAIT = Patience(timeout_s=5, num_attempts=4, sleep=lambda _: asyncio.sleep(0))


def suite_of(num_cases: int, **fields: Any) -> DomainEvalSuite:
    cases = tuple(Case(id=f"c{i}", input=f"question {i}", expected=f"{i}") for i in range(num_cases))
    scorers = (ScorerSpec(name="exact_match"),)
    return DomainEvalSuite(**{"name": "s", "cases": cases, "scorers": scorers, **fields})


def ask(
    suite: DomainEvalSuite, url: str, folder: Path, variants: tuple[Variant, ...] = (ALONE,), **settings: Any
) -> tuple[AnswerFile, list[tuple[int, int]]]:
    plan = Plan(suite=suite.name, digest=suite.digest(), url=url, model=None, variants=variants)
    answers = open_folder(folder, plan, suite)
    told: list[tuple[int, int]] = []
    chosen = Settings(**{"patience": NO_WAIT, **settings})
    asyncio.run(Runner(suite, plan, chosen, answers).run(lambda done, of: told.append((done, of))))
    return answers, told


def echo(path: str, body: dict[str, Any]) -> Reply:
    return chat(prompt_of(body))


def test_every_case_is_asked_once_and_kept_as_it_came(tmp_path: Path) -> None:
    with scripted_endpoint(echo) as endpoint:
        _, told = ask(suite_of(5), endpoint.url + "/v1/", tmp_path, api_key="k")
    assert told[0] == (0, 5)
    assert told[-1] == (5, 5)
    lines = [json.loads(line) for line in (tmp_path / ANSWERS).read_text().splitlines()]
    assert {line["case"] for line in lines} == {f"c{i}" for i in range(5)}
    assert all(line["body"]["choices"][0]["finish_reason"] == "stop" for line in lines)
    path, body, headers = endpoint.requests[0]
    assert path == "/v1/chat/completions"
    # Nothing that only some endpoints know.
    assert set(body) == {"model", "messages", "max_tokens", "temperature", "seed"}
    assert body["model"] == "scripted"
    assert headers["authorization"] == "Bearer k"
    assert "k" not in (tmp_path / "run.json").read_text().split('"')


def test_conversations_completions_and_parameters(tmp_path: Path) -> None:
    messages = (ChatMessage(role="system", content="be brief"), ChatMessage(role="user", content="hi"))
    generation = Generation(max_tokens=7, top_p=0.5, stop=("x",), extra={"ignore_eos": True})
    with scripted_endpoint(echo) as endpoint:
        ask(suite_of(0, cases=(Case(id="a", input=messages),), generation=generation), endpoint.url, tmp_path / "chat")
    assert [message["role"] for message in endpoint.requests[0][1]["messages"]] == ["system", "user"]
    wanted = {"max_tokens": 7, "top_p": 0.5, "stop": ["x"], "ignore_eos": True}
    assert wanted.items() <= endpoint.requests[0][1].items()
    with scripted_endpoint(lambda path, body: Reply({"choices": [{"text": "t"}]})) as endpoint:
        ask(suite_of(1, api="completions"), endpoint.url, tmp_path / "completions")
    assert endpoint.requests[0][0] == "/v1/completions"
    assert endpoint.requests[0][1]["prompt"] == "question 0"


def test_no_more_requests_in_flight_than_asked_for(tmp_path: Path) -> None:
    def slow(path: str, body: dict[str, Any]) -> Reply:
        time.sleep(0.05)
        return chat("x")

    with scripted_endpoint(slow) as endpoint:
        ask(suite_of(12), endpoint.url, tmp_path, concurrency=3)
    assert endpoint.most_in_flight == 3


def test_a_rerun_asks_only_for_what_is_missing(tmp_path: Path) -> None:
    num_before = 3

    def failing(path: str, body: dict[str, Any]) -> Reply:
        return chat("x") if len(endpoint.requests) <= num_before else refusal(503)

    with scripted_endpoint(failing) as endpoint:
        with pytest.raises(EndpointError, match=r"503: no \(after 4 attempts\)"):
            ask(suite_of(6), endpoint.url, tmp_path, concurrency=1)
        url = endpoint.url
    file = tmp_path / ANSWERS
    assert len(file.read_text().splitlines()) == num_before
    with file.open("a") as torn:
        torn.write('{"case": "c3", "varia')  # as a kill in the middle of a write leaves it
    with scripted_endpoint(echo) as endpoint:
        suite = suite_of(6)
        plan = Plan(suite="s", digest=suite.digest(), url=url, model=None, variants=(ALONE,))
        answers = open_folder(tmp_path, plan, suite)
        moved = msgspec.structs.replace(plan, url=endpoint.url)
        asyncio.run(Runner(suite, moved, Settings(patience=NO_WAIT), answers).run(lambda done, of: None))
    assert sorted(prompt_of(body) for _, body, _ in endpoint.requests) == [f"question {i}" for i in (3, 4, 5)]
    assert len(AnswerFile(file).answers) == 6


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    with scripted_endpoint(echo) as endpoint:
        ask(suite_of(2), endpoint.url, tmp_path)
        changed = suite_of(2, generation=Generation(max_tokens=3))
        with pytest.raises(ResumeError, match="differs in the suite's cases or generation parameters"):
            ask(changed, endpoint.url, tmp_path)
        with pytest.raises(ResumeError, match="differs in variants"):
            ask(suite_of(2), endpoint.url, tmp_path, (OFF, MTP))
        num_asked = len(endpoint.requests)
        other_scorer = suite_of(2, scorers=(ScorerSpec(name="json_valid"),))
        ask(other_scorer, endpoint.url, tmp_path)  # kept answers can be scored anew
        assert len(endpoint.requests) == num_asked
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "thesis.txt").write_text("precious")
    with pytest.raises(ResumeError, match="holds no run"):
        ask(suite_of(1), "http://127.0.0.1:1", tmp_path / "own")


def test_a_damaged_line_is_told(tmp_path: Path) -> None:
    file = tmp_path / ANSWERS
    file.write_text('{"case": "a", "variant": "base"}\n{"case": 3}\n')
    with pytest.raises(AnswerError, match=r"answers.jsonl:2"):
        AnswerFile(file)


def test_a_busy_endpoint_is_asked_again_when_it_says(tmp_path: Path) -> None:
    waits: list[float] = []

    async def sleep(wait_s: float) -> None:
        waits.append(wait_s)

    replies = [refusal(429, Retry_After="7"), refusal(503, Retry_After="9999"), refusal(503), chat("x")]
    with scripted_endpoint(lambda path, body: replies.pop(0)) as endpoint:
        ask(suite_of(1), endpoint.url, tmp_path, patience=replace(NO_WAIT, sleep=sleep))
    assert waits == [7.0, 60.0, 2.0]


def test_an_endpoint_that_hangs_is_given_up(tmp_path: Path) -> None:
    released = threading.Event()

    def hanging(path: str, body: dict[str, Any]) -> Reply:
        released.wait(30)
        return chat("x")

    patience = Patience(timeout_s=0.5, num_attempts=2, sleep=NO_WAIT.sleep)
    given_up = pytest.raises(EndpointError, match=r"no answer within 0.5 s \(after 2 attempts\)|ReadTimeout.*after 2")
    suite = suite_of(1)
    with scripted_endpoint(hanging) as endpoint:
        plan = Plan(suite="s", digest="d", url=endpoint.url, model="known", variants=(ALONE,))
        runner = Runner(suite, plan, Settings(patience=patience), open_folder(tmp_path, plan, suite))
        with given_up:
            asyncio.run(runner.run(lambda done, of: None))
        released.set()


def test_a_refused_case_is_kept_and_a_refused_key_ends_the_run(tmp_path: Path) -> None:
    def picky(path: str, body: dict[str, Any]) -> Reply:
        return refusal(400, "too long") if prompt_of(body) == "question 1" else chat("x")

    with scripted_endpoint(picky) as endpoint:
        answers, _ = ask(suite_of(3), endpoint.url, tmp_path / "a")
    assert answers.answers["c1", "base"].refused == "400: too long"
    assert answers.answers["c0", "base"].refused is None
    with scripted_endpoint(lambda path, body: refusal(401, "who?")) as endpoint:
        with pytest.raises(RefusedError, match="401: who"):
            ask(suite_of(3), endpoint.url, tmp_path / "b", concurrency=1)
        assert len(endpoint.requests) == 1


@pytest.mark.parametrize("body", [{"choices": []}, [1], b"<html>"])
def test_what_is_no_completion_is_not_kept(tmp_path: Path, body: Any) -> None:
    told = pytest.raises((AnswerError, EndpointError), match=r"not a completion|not an object|not JSON")
    with scripted_endpoint(lambda path, asked: Reply(body)) as endpoint, told:
        ask(suite_of(1), endpoint.url, tmp_path)
    assert not (tmp_path / ANSWERS).exists()


@pytest.mark.parametrize("url", ["ftp://x", "localhost:8000", "http://"])
def test_an_address_that_is_none_is_told(tmp_path: Path, url: str) -> None:
    with pytest.raises(EndpointError, match="not an"):
        ask(suite_of(1), url, tmp_path)


def variants_asked(endpoint: ScriptedEndpoint) -> list[str]:
    """The variant of every real request; probes ask for one token."""
    bodies = [body for _, body, _ in endpoint.requests if body["max_tokens"] > 1]
    return ["mtp" if body.get("speculation") == {"drafter": "mtp"} else "base" for body in bodies]


def test_variants_take_turns_and_say_what_tells_tokens_apart(tmp_path: Path) -> None:
    with scripted_endpoint(echo) as endpoint:
        answers, _ = ask(suite_of(4), endpoint.url, tmp_path, (OFF, MTP), concurrency=1)
    assert variants_asked(endpoint) == ["base", "mtp", "mtp", "base", "base", "mtp", "mtp", "base"]
    body = endpoint.requests[-1][1]
    assert body["return_token_ids"] is True
    assert body["logprobs"] is True
    assert body["speculation"] == {"num_speculative_tokens": 0}
    assert len(answers.answers) == 8


def test_a_case_has_one_seed_under_all_variants_and_no_other_case_has_it(tmp_path: Path) -> None:
    asked: dict[int, list[dict[str, int]]] = {}
    for seed in (0, 1):
        with scripted_endpoint(echo) as endpoint:
            suite = suite_of(6, generation=Generation(temperature=1.0, seed=seed))
            ask(suite, endpoint.url, tmp_path / str(seed), (OFF, MTP))
        bodies = [body for _, body, _ in endpoint.requests if body["max_tokens"] > 1]
        for speculation in (OFF.speculation, MTP.speculation):
            seeds = {prompt_of(body): body["seed"] for body in bodies if body["speculation"] == speculation}
            asked.setdefault(seed, []).append(seeds)
        assert asked[seed][0] == asked[seed][1]
        assert len(set(asked[seed][0].values())) == 6
        assert all(0 <= value < 2**31 for value in asked[seed][0].values())
    assert not set(asked[0][0].values()) & set(asked[1][0].values())


def test_an_endpoint_that_knows_no_extras_is_not_asked_for_them(tmp_path: Path) -> None:
    def plain(path: str, body: dict[str, Any]) -> Reply:
        unknown = set(body) - {"model", "messages", "max_tokens", "temperature", "seed", "logprobs", "top_logprobs"}
        return refusal(400, f"unknown {unknown}") if unknown else chat("x")

    with scripted_endpoint(plain) as peer, scripted_endpoint(echo) as ours:
        base = Variant(name="base", url=peer.url, model="theirs")
        ask(suite_of(2), ours.url, tmp_path, (base, MTP))
    real = [body for _, body, _ in peer.requests if body["max_tokens"] > 1]
    assert len(real) == 2
    assert all("return_token_ids" not in body and body["top_logprobs"] == 2 for body in real)
    assert {body["model"] for body in real} == {"theirs"}
    assert len(variants_asked(ours)) == 2
