"""Helpers of a team come back, however late they were for the work that woke them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import deployments.kernels

# Jobs that are over before a helper that slept can be there; then one that ends only when both have come.
PROGRAM = r"""
#include <cstdio>
#include "team.h"

using Clock = std::chrono::steady_clock;

int main() {
    constexpr int64_t kEnough = int64_t{1} << 40;
    outrider::Team team(2);
    for (int i = 0; i < 100; i++) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
        team.run(2, kEnough, [](int64_t, int) {});
    }
    std::atomic<bool> has_helped{false};
    const auto deadline = Clock::now() + std::chrono::seconds(60);
    while (!has_helped && Clock::now() < deadline) {
        // Again and again: a team whose helper was late for long goes without it for a while.
        const auto patience = Clock::now() + std::chrono::milliseconds(500);
        team.run(2, kEnough, [&](int64_t, int worker) {
            if (worker > 0) has_helped = true;
            while (worker == 0 && !has_helped && Clock::now() < patience) std::this_thread::yield();
        });
    }
    return has_helped ? 0 : 1;
}
"""


def test_a_helper_that_was_woken_too_late_is_woken_again(tmp_path: Path) -> None:
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    assert compiler is not None, "the kernels' tests need a C++ compiler"
    source, program = tmp_path / "team.cpp", tmp_path / "team"
    source.write_text(PROGRAM)
    headers = Path(deployments.kernels.__file__).parent
    command = [compiler, "-std=c++17", "-O2", "-pthread", f"-I{headers}", "-o", str(program), str(source)]
    subprocess.run(command, check=True, timeout=120)
    assert subprocess.run([program], check=False, timeout=120).returncode == 0
