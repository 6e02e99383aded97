"""Watched files: read once, read anew when they change, kept when they cannot be read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deployments.watched import Watched


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def watch(file: Path, clock: Clock) -> tuple[Watched[int], list[int]]:
    seen: list[int] = []

    def read() -> int:
        seen.append(int(file.read_text()))
        return seen[-1]

    return Watched([file], read, clock=clock), seen


def test_a_change_is_seen_after_the_period_and_read_once(tmp_path: Path) -> None:
    clock, file = Clock(), tmp_path / "n"
    file.write_text("1")
    watched, seen = watch(file, clock)
    file.write_text("22")
    assert watched.value() == 1
    clock.now_s = 1.0
    assert watched.value() == 22
    clock.now_s = 2.0
    assert watched.value() == 22
    assert seen == [1, 22]


def test_what_cannot_be_read_leaves_the_value_as_it_was(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock, file = Clock(), tmp_path / "n"
    file.write_text("1")
    watched, _ = watch(file, clock)
    for now_s, content in ((1.0, "x"), (2.0, None)):
        clock.now_s = now_s
        file.write_text(content) if content else file.unlink()
        assert watched.value() == 1
    assert caplog.text.count("stays in force") == 2
    clock.now_s = 3.0
    file.write_text("3")
    assert watched.value() == 3


def test_a_mounted_secret_changes_by_the_turn_of_a_link(tmp_path: Path) -> None:
    clock = Clock()
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "n").write_text("1" if name == "old" else "2")
        os.utime(tmp_path / name / "n", (5, 5))
    (tmp_path / "..data").symlink_to("old")
    (tmp_path / "n").symlink_to("..data/n")
    watched, _ = watch(tmp_path / "n", clock)
    (tmp_path / "turned").symlink_to("new")
    (tmp_path / "turned").replace(tmp_path / "..data")
    clock.now_s = 1.0
    assert watched.value() == 2


def test_the_first_reading_raises(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        watch(tmp_path / "nowhere", Clock())
