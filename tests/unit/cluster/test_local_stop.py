"""What a stop leaves behind when it is interrupted."""

from __future__ import annotations

import subprocess
import sys

INTERRUPTED = """
import subprocess, sys
import ray
from cluster import local

def interrupted():
    raise KeyboardInterrupt

ray.shutdown = interrupted
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
try:
    local.stop()
except KeyboardInterrupt:
    print("interrupted", child.wait(timeout=60))
"""


def test_a_second_ctrl_c_ends_everything_below_at_once() -> None:
    # A process of its own: the stop ends whatever is below.
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["interrupted", "-9"], done.stderr
