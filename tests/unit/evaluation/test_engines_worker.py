"""A worker's process: answers are its alone, failures are told with its log, and it ends when it is closed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import evaluation
from evaluation.load.engines import worker_process
from evaluation.load.engines.worker_options import WorkerOptions, parse_options
from evaluation.load.engines.worker_process import Worker, WorkerError

STUB = "tests.support.stub_worker"


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker(STUB, [])
    yield worker
    worker.close()


def test_what_libraries_print_does_not_disturb_the_answers(worker: Worker) -> None:
    assert worker.wait_until_ready() == {"stub": "1.0"}
    for word in ("one", "two"):
        assert worker.ask({"do": word})["echo"] == word


def test_an_error_is_told_and_the_worker_goes_on(worker: Worker) -> None:
    worker.wait_until_ready()
    with pytest.raises(WorkerError, match="stub_worker ValueError: no such prompt"):
        worker.ask({"do": "fail"})
    assert worker.ask({"do": "more"})["echo"] == "more"


def test_an_end_is_told_with_the_log(worker: Worker) -> None:
    worker.wait_until_ready()
    with pytest.raises(WorkerError, match=r"exit status 7\n(?s:.*)last words"):
        worker.ask({"do": "leave"})
    with pytest.raises(WorkerError):
        worker.ask({"do": "more"})


def test_waiting_has_an_end(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    worker.wait_until_ready()
    monkeypatch.setattr(worker_process, "ANSWER_TIMEOUT_S", 0.2)
    monkeypatch.setattr(worker_process, "GRACE_S", 0.2)
    with pytest.raises(WorkerError, match="gave no answer"):
        worker.ask({"do": "sleep"})
    worker.close()
    worker.close()
    assert worker._process.returncode == -9


def test_another_interpreter_sees_the_evaluation_and_nothing_else_of_ours() -> None:
    worker = Worker("evaluation.load.engines.vllm_worker", ["--help"], python=Path(sys.executable))
    link = Path(worker._path.name) / "evaluation"
    assert link.resolve() == Path(evaluation.__path__[0]).resolve()
    assert [path.name for path in link.parent.iterdir()] == ["evaluation"]
    with pytest.raises(WorkerError, match="exit status 0"):  # --help needs no vLLM: its imports come later
        worker.wait_until_ready()
    worker.close()
    assert not link.exists()


def test_options_survive_the_command_line() -> None:
    options = WorkerOptions(
        pair=Path("/a b/c"),
        max_streams=4,
        max_context_tokens=99,
        threads=2,
        lookahead=3,
        device="cuda",
        dtype="bfloat16",
    )
    assert parse_options(options.as_arguments()) == options
