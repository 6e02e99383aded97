"""The kernels as a shared library, compiled once for this machine and kept on disk.

A warm start compiles nothing: the file's name is a hash of the sources, the compiler, its flags and the
processor. Nothing of Python or torch is compiled in, so the library is called through ctypes, which
lets other threads run meanwhile.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

logger = logging.getLogger(__name__)

_SOURCES = Path(__file__).parent
_COMPILERS = ("c++", "g++", "clang++")
# No -ffast-math: sums keep their order. Contraction into fused multiply-adds is the same everywhere.
_FLAGS = ("-std=c++17", "-O3", "-ffp-contract=fast", "-Wno-psabi", "-fPIC", "-shared", "-pthread")
_COMPILE_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernels:
    """How an engine computes on a CPU.

    `compiled` allows the compiled kernels where a model's layers are of the classes they know.
    `cache_folder` keeps the compiled library (None: the user's cache folder). `num_threads` is what the
    kernels share a step among. `architecture` is the compiler's `-march`: by default this very processor.
    """

    compiled: bool = True
    cache_folder: Path | None = None
    num_threads: int = 1
    architecture: str = "native"

    def library(self) -> ctypes.CDLL | None:
        """The compiled kernels; None when they are not wanted or, with a warning, cannot be built here."""
        return _load(self.cache_folder or default_cache_folder(), self.architecture) if self.compiled else None


def default_cache_folder() -> Path:
    """Where compiled kernels are kept unless the configuration says otherwise."""
    return Path.home() / ".cache" / "outrider"


def usable_cores() -> int:
    """Cores that this process may run on, at most 16: the kernels' units are too few for more."""
    has_affinity = hasattr(os, "sched_getaffinity")
    return min(len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1, 16)


@lru_cache(maxsize=4)
def _load(folder: Path, architecture: str) -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(str(_built(folder, (*_FLAGS, f"-march={architecture}"))))
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        logger.warning("no compiled kernels, the models run on the library's layers, several times slower: %s", error)
        return None
    library.outrider_open.restype = ctypes.c_void_p
    return library


def _built(folder: Path, flags: Sequence[str]) -> Path:
    """The library's file, compiled now if this machine has not done so before."""
    compiler = next((path for name in _COMPILERS if (path := shutil.which(name))), None)
    if compiler is None:
        raise ValueError(f"there is no C++ compiler here (tried {', '.join(_COMPILERS)}); install one to have them")
    sources = sorted(_SOURCES.glob("*.h")) + sorted(_SOURCES.glob("*.cpp"))
    file = folder / f"kernels-{_fingerprint(compiler, flags, sources)}.so"
    if file.is_file():
        return file
    folder.mkdir(parents=True, exist_ok=True)
    started_s = time.monotonic()
    units = [str(source) for source in sources if source.suffix == ".cpp"]
    # Several replicas may start at once: each builds its own file, and the last to finish puts it in place.
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        output = Path(scratch) / file.name
        command = [compiler, *flags, "-o", str(output), *units]
        result = subprocess.run(command, capture_output=True, text=True, timeout=_COMPILE_TIMEOUT_S, check=False)
        if result.returncode != 0:
            raise ValueError(f"{compiler} failed: {result.stderr.strip()[-2000:]}")
        os.replace(output, file)
    logger.info("compiled the kernels in %.1f s into %s", time.monotonic() - started_s, file)
    return file


def _fingerprint(compiler: str, flags: Sequence[str], sources: list[Path]) -> str:
    """Names everything that the compiled code depends on."""
    version = subprocess.run([compiler, "--version"], capture_output=True, timeout=10.0, check=True).stdout
    digest = hashlib.sha256(version + " ".join(flags).encode() + _processor().encode())
    for source in sources:
        digest.update(source.name.encode() + source.read_bytes())
    return digest.hexdigest()[:16]


def _processor() -> str:
    """What `-march=native` looks at: the folder may be shared by machines that differ."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(dict.fromkeys(line for line in lines if line.startswith(wanted)))
