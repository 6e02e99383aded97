"""The trial's command line, and a Serve that takes its time."""

from __future__ import annotations

import argparse
import os

import pytest

from cluster import trial


def test_a_group_is_a_name_nodes_and_cpus() -> None:
    assert trial._group("verifiers=3:2") == ("verifiers", 3, 2)


@pytest.mark.parametrize("text", ["verifiers", "verifiers=3", "verifiers=three:1", "=:"])
def test_what_is_no_group_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"write NAME=NODES:CPUS"):
        trial._group(text)


@pytest.mark.parametrize(("num_failures", "num_starts"), [(0, 1), (2, 3)])
def test_serve_gets_further_attempts(monkeypatch: pytest.MonkeyPatch, num_failures: int, num_starts: int) -> None:
    starts: list[tuple[str, int]] = []

    def start(*, host: str, port: int) -> None:
        starts.append((host, port))
        if len(starts) <= num_failures:
            raise trial.application.ServeFailed("the proxy")

    monkeypatch.setattr(trial.application, "start_serve", start)
    trial._start_serve({"host": "127.0.0.1", "port": 8123})
    assert starts == [("127.0.0.1", 8123)] * num_starts


def test_a_serve_that_never_starts_is_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*, host: str, port: int) -> None:
        raise trial.application.ServeFailed("the proxy")

    monkeypatch.setattr(trial.application, "start_serve", start)
    with pytest.raises(trial.application.ServeFailed):
        trial._start_serve({"host": "127.0.0.1", "port": 8123})


def test_it_goes_on_until_its_input_ends() -> None:
    reading, writing = os.pipe()
    with open(reading) as stream:
        assert not trial._has_ended(stream, 0.0)
        os.write(writing, b"a line\n")
        assert not trial._has_ended(stream, 5.0)
        os.close(writing)
        assert trial._has_ended(stream, 5.0)
