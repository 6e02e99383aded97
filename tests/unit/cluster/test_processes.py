"""Who runs below whom."""

from __future__ import annotations

import os
import subprocess
import time

from cluster.processes import processes, processes_below


def test_descendants_are_found_to_any_depth_and_vanish_when_they_end() -> None:
    # The shell prints its child's number, so that both are known to run.
    shell = subprocess.Popen(["/bin/sh", "-c", "sleep 60 & echo $!; wait"], stdout=subprocess.PIPE, text=True)
    assert shell.stdout is not None
    child = int(shell.stdout.readline())
    below = processes_below(os.getpid())
    assert {shell.pid, child} <= {process.pid for process in below}
    assert child in {process.pid for process in processes_below(shell.pid)}
    assert os.getpid() not in {process.pid for process in below}
    assert below <= processes()
    os.kill(child, 9)
    shell.wait(10)
    shell.stdout.close()
    deadline_s = time.monotonic() + 10
    while {process.pid for process in processes()} & {child} and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert not {process for process in below if process.pid in (shell.pid, child)} & processes()
