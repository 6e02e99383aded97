"""The policy within Ray Serve's own wrapper: contexts in, bounded counts and kept state out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from autoscaling.serve_policy import JointPolicy
from deployments.config import OutriderConfig, parse
from deployments.config_parts import AutoscalingConfig
from tests.support.ray_modules import ray_module

SCALING = {"max_verifiers": 5, "up_delay_s": 2, "up_cooldown_s": 4, "down_delay_s": 3, "down_cooldown_s": 3}


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Application:
    """Deployments as Serve's autoscaler has them: targets, signals, state."""

    def __init__(self, **targets: int) -> None:
        common, config = ray_module("ray.serve._private.common"), ray_module("ray.serve.config")
        wrap = ray_module("ray.serve.autoscaling_policy")._apply_app_level_autoscaling_config
        self.clock = Clock()
        policy = JointPolicy(max_sessions=10, scaling=SCALING, clock=self.clock)
        self._policy = wrap(policy)
        self._context = config.AutoscalingContext
        delays = {"upscale_delay_s": 0, "downscale_delay_s": 0}
        self._config = config.AutoscalingConfig(min_replicas=1, max_replicas=9, **delays)
        self.ids = {name: common.DeploymentID(name=name, app_name="outrider") for name in targets}
        self.targets = dict(targets)
        self.signals: dict[str, list[dict[str, float]]] = {}
        self.state: dict[Any, dict[str, Any]] = {}

    def tick(self, seconds: float = 1.0) -> dict[str, int]:
        self.clock.now_s += seconds
        contexts = {self.ids[name]: self._made(name) for name in self.targets}
        counts, self.state = self._policy(contexts)
        self.targets |= {key.name: num for key, num in counts.items()}
        return {key.name: num for key, num in counts.items()}

    def _made(self, name: str) -> Any:
        told = self.signals.get(name, [])
        metrics = {
            signal: {index: fields[signal] for index, fields in enumerate(told) if signal in fields}
            for signal in {signal for fields in told for signal in fields}
        }
        return self._context(
            deployment_id=self.ids[name],
            deployment_name=name,
            app_name="outrider",
            current_num_replicas=self.targets[name],
            target_num_replicas=self.targets[name],
            running_replicas=[],
            total_num_requests=0.0,
            total_queued_requests=0.0,
            aggregated_metrics=lambda: metrics,
            raw_metrics=None,
            capacity_adjusted_min_replicas=1,
            capacity_adjusted_max_replicas=9,
            policy_state=self.state.get(self.ids[name], {}),
            last_scale_up_time=None,
            last_scale_down_time=None,
            current_time=self.clock(),
            config=self._config,
        )


def test_verifiers_follow_their_sessions_up_and_down_and_roles_without_a_policy_are_left_alone() -> None:
    application = Application(ingress=2, router=1, verifier=1, drafter=1)
    application.signals = {"verifier": [{"sessions": 24.0, "step_ms": 12.0, "running_requests": 3.0}]}
    seen = [application.tick() for _ in range(4)]
    assert [counts["verifier"] for counts in seen] == [1, 1, 3, 3]
    assert {name for counts in seen for name in counts} == {"verifier", "drafter"}
    application.signals = {"verifier": [{"sessions": 1.0}] * 3}
    assert [application.tick()["verifier"] for _ in range(9)] == [3, 3, 3, 2, 2, 2, 2, 1, 1]
    assert application.targets == {"ingress": 2, "router": 1, "verifier": 1, "drafter": 1}


def test_drafters_follow_their_queue() -> None:
    application = Application(router=1, verifier=2, drafter=1)
    application.signals = {
        "verifier": [{"sessions": 8.0, "step_ms": 12.0}] * 2,
        "drafter": [{"busy_share": 0.5, "batch_ms": 12.0, "queue_ms": 3.0}],
    }
    assert [application.tick()["drafter"] for _ in range(4)] == [1, 1, 2, 2]


def test_nothing_moves_before_a_verifier_has_told_anything() -> None:
    application = Application(ingress=1, verifier=3, drafter=2)
    application.signals = {"ingress": [{"requests": 500.0}]}
    for _ in range(30):
        assert application.tick() == {"verifier": 3, "drafter": 2}


def test_serve_asks_ten_times_a_second_and_is_answered_from_memory() -> None:
    application = Application(verifier=1, drafter=1)
    application.signals = {"verifier": [{"sessions": 24.0}]}
    application.tick()
    state = application.state
    for _ in range(9):
        assert application.tick(0.1) == {"verifier": 1, "drafter": 1}
        assert application.state == state


def test_an_application_without_verifiers_is_not_ours() -> None:
    context = SimpleNamespace(deployment_name="other")
    assert JointPolicy(max_sessions=4, scaling={})({"other": context}) == ({}, {})  # type: ignore[dict-item]


def test_what_the_command_prints_is_what_serve_builds_the_policy_from() -> None:
    from deployments.cli.config_cmd import to_serve_config

    config = parse({"autoscaling": {"enabled": True, "max_verifiers": 3}, "verifier": {"max_sessions": 12}})
    schema = ray_module("ray.serve.schema").ServeDeploySchema.model_validate(to_serve_config(config))
    (application,) = schema.applications
    found = ray_module("ray.serve.config").AutoscalingPolicy(**application.autoscaling_policy)
    policy = ray_module("ray.serve._private.autoscaling_state")._resolve_policy_callable(found)
    assert type(policy).__name__ == "JointPolicy"
    assert policy._rules.max_sessions == 12
    assert policy._rules.scaling == AutoscalingConfig(enabled=True, max_verifiers=3)
    assert "autoscaling_policy" not in to_serve_config(OutriderConfig())["applications"][0]


def test_every_deployment_tells_its_signals_and_only_two_roles_have_room_to_move() -> None:
    from deployments.app import _replicas
    from deployments.roles import roles_of

    config = parse(
        {
            "autoscaling": {"enabled": True, "max_verifiers": 3, "min_drafters": 2, "period_s": 1.5},
            "ingress": {"num_replicas": 2},
            "verifier": {"num_replicas": 9},
        }
    )
    made = {name: _replicas(name, config)["autoscaling_config"] for name in roles_of(config)}
    bounds = {name: (one.min_replicas, one.initial_replicas, one.max_replicas) for name, one in made.items()}
    assert bounds == {"ingress": (2, 2, 2), "router": (1, 1, 1), "verifier": (1, 3, 3), "drafter": (2, 2, 8)}
    assert {one.metrics_interval_s for one in made.values()} == {1.5}
    assert _replicas("verifier", parse({"verifier": {"num_replicas": 3}})) == {"num_replicas": 3}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"min_verifiers": 5}, r"autoscaling\.min_verifiers: 5 is over autoscaling\.max_verifiers 4"),
        ({"min_drafters": 9}, r"autoscaling\.min_drafters: 9 is over"),
        ({"look_back_s": 2}, r"autoscaling\.look_back_s: 2 holds no two readings"),
        ({"max_verifiers": 300, "enabled": True}, r"streams\.port_range: 200 ports for 309 replicas"),
    ],
)
def test_what_does_not_fit_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse({"autoscaling": fields})


def test_the_front_door_admits_what_the_most_verifiers_hold() -> None:
    scaled = parse({"autoscaling": {"enabled": True, "max_verifiers": 3}, "verifier": {"max_sessions": 16}})
    assert scaled.max_running_requests == 48
