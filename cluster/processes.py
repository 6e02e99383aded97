"""The processes of this machine, as /proc tells; none are seen on systems without it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")


class Process(NamedTuple):
    """One process; the start time tells it from a later one with the same number."""

    pid: int
    start_ticks: int


def processes() -> set[Process]:
    """All that run; zombies do not."""
    return set(_parents())


def processes_below(pid: int) -> set[Process]:
    """The descendants of a process."""
    parents = _parents()
    below: set[Process] = set()
    seen = {pid}
    while found := {process for process, parent in parents.items() if parent in seen} - below:
        below |= found
        seen |= {process.pid for process in found}
    return below


def _parents() -> dict[Process, int]:
    parents = {}
    for folder in _PROC.glob("[0-9]*"):
        try:
            # "pid (command) state parent ...", where the command may hold anything, brackets too.
            fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:  # gone by now
            continue
        if fields[0] != "Z":
            parents[Process(int(folder.name), int(fields[19]))] = int(fields[1])
    return parents
