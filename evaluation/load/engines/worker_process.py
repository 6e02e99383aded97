"""The outside of a worker: an engine in a process of its own, kept loaded, idle while another is on turn."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import evaluation

LOAD_TIMEOUT_S = 600.0
ANSWER_TIMEOUT_S = 900.0
GRACE_S = 10.0
LOG_TAIL_BYTES = 4000


class WorkerError(RuntimeError):
    """An engine did not load, did not answer in time, or answered with an error."""


class Worker:
    """One engine's process. `python` None runs it in this environment, else in that interpreter's own."""

    def __init__(
        self, module: str, arguments: Sequence[str], *, python: Path | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        self.name = module.rpartition(".")[2]
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the process)
        # A peer's environment shall see this package and nothing else of ours: a folder that links to it alone.
        self._path = tempfile.TemporaryDirectory()
        (Path(self._path.name) / "evaluation").symlink_to(Path(next(iter(evaluation.__path__))).resolve())
        own_path = {"PYTHONPATH": self._path.name} if python is not None else {}
        self._process = subprocess.Popen(
            [str(python or sys.executable), "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={**os.environ, **own_path, **(env or {})},
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_until_ready(self) -> dict[str, str]:
        """The versions of what the worker has loaded."""
        versions: dict[str, str] = self._receive(LOAD_TIMEOUT_S)["ready"]
        return versions

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Send one request and wait for its answer. Raises WorkerError, and then the worker is of no more use."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._failure(f"takes no request: {error}") from error
        return self._receive(ANSWER_TIMEOUT_S)

    def close(self) -> None:
        """End the process: by the end of its input, and by force if that does not do. Idempotent."""
        if self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()
        try:
            self._process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(GRACE_S)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._path.cleanup()
        self._log.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def _receive(self, timeout_s: float) -> dict[str, Any]:
        try:
            line = self._lines.get(timeout=timeout_s)
        except queue.Empty:
            raise self._failure(f"gave no answer within {timeout_s:.0f} s") from None
        if not line:
            raise self._failure(f"ended with exit status {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise self._failure(str(answer["error"]))
        return answer

    def _failure(self, what: str) -> WorkerError:
        self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, self._log.tell() - LOG_TAIL_BYTES))
        return WorkerError(f"{self.name} {what}\n{self._log.read().decode(errors='replace')}")
