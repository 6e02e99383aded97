"""Programs that Python's packages do not bring: found on the PATH or, as root on Debian, installed."""

from __future__ import annotations

import os
import shutil
import subprocess

# Together below pytest's faulthandler_timeout, which would end the whole run without saying why.
_UPDATE_LIMIT_S, _INSTALL_LIMIT_S = 60, 200


def require_program(program: str, package: str) -> str:
    """The program's path. Raises RuntimeError if it is not there and cannot be installed."""
    if (found := shutil.which(program)) is not None:
        return found
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        raise RuntimeError(f"needs {program!r} on the PATH; on Debian: apt-get install {package}")
    lock = "DPkg::Lock::Timeout=30"
    _apt_get(_UPDATE_LIMIT_S, "-o", lock, "update")
    _apt_get(_INSTALL_LIMIT_S, "-o", lock, "install", "--yes", "--no-install-recommends", package)
    if (found := shutil.which(program)) is None:
        raise RuntimeError(f"apt-get installed {package}, but there is no {program!r} on the PATH")
    return found


def _apt_get(limit_s: float, *arguments: str) -> None:
    command = ["apt-get", *arguments]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=limit_s)
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"{command} took more than {limit_s} s") from error
    if done.returncode != 0:
        raise RuntimeError(f"{command} failed: {done.stderr[-2000:]}")
