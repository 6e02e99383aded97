"""What is read from files that may be replaced while this process runs: mounted Secrets, renewed certificates."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

logger = logging.getLogger("outrider.files")
T = TypeVar("T")

_Signature = tuple[tuple[int, int, int] | None, ...]


class Watched(Generic[T]):
    """The value that `read` makes of some files, made anew once one of them has changed.

    The files are looked at no more than once in `period_s`. The first reading raises what `read`
    raises (OSError, ValueError); a later one that fails is logged and leaves the value as it was,
    so that a file caught half written shuts nobody out.
    """

    def __init__(
        self,
        files: Sequence[Path],
        read: Callable[[], T],
        *,
        period_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._files = files
        self._read = read
        self._period_s = period_s
        self._clock = clock
        self._signature = self._look()
        self._looked_at_s = clock()
        self._value = read()

    def value(self) -> T:
        """The value of the files as they are now, or were less than a period ago."""
        now_s = self._clock()
        if now_s - self._looked_at_s < self._period_s:
            return self._value
        self._looked_at_s = now_s
        # Looked at before reading: what changes in between is read again next time.
        if (signature := self._look()) != self._signature:
            self._signature = signature
            names = ", ".join(map(str, self._files))
            try:
                self._value = self._read()
                logger.info("read anew: %s", names)
            except (OSError, ValueError) as error:
                logger.error("%s cannot be used, what was read before stays in force: %s", names, error)
        return self._value

    def _look(self) -> _Signature:
        return tuple(_signature_of(file) for file in self._files)


def _signature_of(file: Path) -> tuple[int, int, int] | None:
    try:
        status = file.stat()  # follows links: Kubernetes replaces a mounted Secret by turning one
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size
