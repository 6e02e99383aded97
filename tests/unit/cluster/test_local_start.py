"""Starting Ray: a machine too busy for Ray's own deadline gets further attempts, from scratch."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest

from cluster import local


class FakeRay(ModuleType):
    """Stands in for ray: its first `num_failures` starts time out."""

    def __init__(self, num_failures: int) -> None:
        super().__init__("ray")
        self.num_failures = num_failures
        self.calls: list[str] = []

    def init(self, **options: Any) -> None:
        self.calls.append("init")
        if self.calls.count("init") <= self.num_failures:
            raise Exception("The current node timed out during startup.")

    def shutdown(self) -> None:
        self.calls.append("shutdown")


@pytest.fixture
def fake_ray(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay(request.param)
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.setattr(local, "processes_below", lambda pid: set())  # those below pytest are other tests'
    for name in (
        "RAY_USAGE_STATS_ENABLED",
        "RAY_AUTH_MODE",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO",
        "RAY_worker_niceness",
        "RAY_SERVE_ENABLE_HA_PROXY",
    ):
        monkeypatch.setenv(name, "")  # restored afterwards, whatever `start` sets
    return fake


@pytest.mark.parametrize("fake_ray", [2], indirect=True)
def test_a_start_that_timed_out_is_tried_again_from_scratch(fake_ray: FakeRay) -> None:
    local.start(dashboard_port=1)
    assert fake_ray.calls == ["init", "shutdown", "init", "shutdown", "init"]


@pytest.mark.parametrize("fake_ray", [9], indirect=True)
def test_a_machine_on_which_ray_never_starts_is_told_why(fake_ray: FakeRay) -> None:
    with pytest.raises(local.ClusterFailed, match="timed out during startup"):
        local.start(dashboard_port=1)
    assert fake_ray.calls == ["init", "shutdown"] * 3
