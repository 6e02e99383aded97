"""What Serve changes without a restart is no part of the arguments, and no field is lost by that."""

from __future__ import annotations

from typing import Any

import pytest

from deployments.cli.config_cmd import to_serve_config
from deployments.config import ConfigError, parse
from deployments.live_config import config_of, parse_user_config

VARIANTS = {"near": {"num_speculative_tokens": 1}}


def application(fields: dict[str, Any]) -> dict[str, Any]:
    (made,) = to_serve_config(parse(fields))["applications"]
    assert isinstance(made, dict)
    return made


@pytest.mark.parametrize(
    "live",
    [
        {"verifier": {"num_replicas": 2}},
        {"drafter": {"num_replicas": 3}, "router": {"num_replicas": 2}},
        {"verifier": {"num_replicas": 5}, "speculation": {"variants": VARIANTS}},
    ],
)
def test_more_replicas_change_no_argument_and_so_replace_nobody(live: dict[str, Any]) -> None:
    one, more = application({}), application(live)
    assert more["args"] == one["args"] == {}
    assert "deployments" not in one
    assert config_of(more) == parse(live)


def test_the_ingress_lets_run_what_the_replicas_have_sessions_for() -> None:
    fields = {"verifier": {"num_replicas": 3, "max_sessions": 200}, "router": {"num_replicas": 4}}
    made, config = application(fields), parse(fields)
    ingress, *others = made["deployments"]
    assert others == [{"name": "router", "num_replicas": 4}, {"name": "verifier", "num_replicas": 3}]
    assert (ingress["name"], ingress["max_ongoing_requests"]) == ("ingress", config.max_ongoing_requests)
    built = parse(made["args"])
    assert built.max_running_requests == 200
    assert parse_user_config(ingress["user_config"], built).max_running_requests == config.max_running_requests == 600
    # As the ingress has it: what was "auto" is a number by then.
    settled = built.with_changes(ingress={"max_running_requests": 200, "max_ongoing_requests": 520})
    assert parse_user_config(ingress["user_config"], settled).max_running_requests == 600
    assert parse_user_config({}, settled).max_running_requests == 200


def test_replicas_that_share_bounds_or_start_a_policy_are_arguments() -> None:
    scaled = {"autoscaling": {"enabled": True}, "verifier": {"num_replicas": 2}, "router": {"num_replicas": 2}}
    made = application({**scaled, "ingress": {"num_replicas": 2}})
    assert made["args"]["ingress"] == {"num_replicas": 2}
    assert made["args"]["verifier"] == {"num_replicas": 2}
    assert "router" not in made["args"]


def test_what_was_asked_to_run_stays_what_it_is() -> None:
    fields = {"ingress": {"max_running_requests": 5}, "verifier": {"num_replicas": 2}}
    (ingress, _) = application(fields)["deployments"]
    assert ingress["user_config"]["max_running_requests"] == 5
    with pytest.raises(ConfigError, match="max_running_requests"):
        parse_user_config({"max_running_requests": 0}, parse({}))
