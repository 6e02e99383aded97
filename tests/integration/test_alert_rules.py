"""Every alert fires on what it is about and on nothing less, as Prometheus' own promtool sees it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.monitoring import rules
from tests.support.debian import require_program

pytestmark = pytest.mark.system

INTERVAL_S = 15
NUM_POINTS = 240  # an hour
Case = dict[str, str]


def gauge(value: float) -> str:
    return f"{value}x{NUM_POINTS}"


def per_s(rate: float) -> str:
    """A counter that grows by so much a second."""
    return f"0+{rate * INTERVAL_S:g}x{NUM_POINTS}"


def named(**series: str) -> Case:
    return {f"ray_outrider_{name}": values for name, values in series.items()}


def failures(status: str, rate: float) -> Case:
    return {f'ray_outrider_request_failure_total{{status="{status}"}}': per_s(rate)}


def waits(metric: str, bound: str, above: str, rate: float, slow: float) -> Case:
    """A histogram of which the share `slow` lies between two bounds, the rest below the first."""
    return {
        f'ray_outrider_{metric}_bucket{{le="{bound}"}}': per_s(rate * (1 - slow)),
        f'ray_outrider_{metric}_bucket{{le="{above}"}}': per_s(rate),
        f'ray_outrider_{metric}_bucket{{le="+Inf"}}': per_s(rate),
    }


def queueing(wait_s: float) -> Case:
    """Ten batches and steps a second; steps take 20 ms."""
    batches = named(draft_queue_seconds_count=per_s(10), draft_queue_seconds_sum=per_s(10 * wait_s))
    return batches | named(verify_step_seconds_count=per_s(10), verify_step_seconds_sum=per_s(0.2))


def bypasses(values: str) -> Case:
    """Of one class; nothing is left aside for the other."""
    series = "ray_outrider_drafter_bypasses_total"
    return {
        f'{series}{{request_class="code",drafter="mtp"}}': values,
        f'{series}{{request_class="prose",drafter="mtp"}}': gauge(0),
    }


def bypassed(share: float) -> Case:
    """Ten rounds a second, of which this share was given nothing to draft."""
    rounds = {'ray_outrider_lookahead_bucket{le="0.0",request_class="code"}': per_s(10 * share)}
    return rounds | named(lookahead_count=per_s(10), num_drafters=gauge(1))


def verifiers(running: int, linked: int) -> Case:
    links = {
        'ray_outrider_num_verifiers{replica="r0"}': gauge(linked),
        'ray_outrider_num_verifiers{replica="r1"}': gauge(9),
    }
    return {'ray_outrider_replicas{role="verifier"}': gauge(running), **links}


FINISHED = named(request_success_total=per_s(10))
CASES: dict[str, tuple[Case, Case]] = {
    # by alert: what makes it fire, and the nearest thing that does not
    "OutriderNotSeen": (named(num_verifiers=gauge(1)), named(replicas=gauge(1))),
    "OutriderVerifierMissing": (named(num_verifiers=gauge(0)), named(num_verifiers=gauge(1))),
    "OutriderDrafterMissing": (named(num_drafters=f"1x100 0x{NUM_POINTS - 100}"), named(num_drafters=gauge(0))),
    "OutriderAcceptanceLow": (
        named(spec_decode_num_accepted_tokens_total=per_s(5.9), spec_decode_num_draft_tokens_total=per_s(10)),
        named(spec_decode_num_accepted_tokens_total=per_s(6.1), spec_decode_num_draft_tokens_total=per_s(10)),
    ),
    "OutriderDrafterBypassed": (bypasses("0x190 1x5 2x50"), bypasses(gauge(3))),
    "OutriderDraftingDoesNotPay": (bypassed(0.95), bypassed(0.85)),
    "OutriderKvPressure": (
        named(kv_cache_usage_perc=gauge(0.99), verifier_num_waiting=gauge(2)),
        named(kv_cache_usage_perc=gauge(0.99), verifier_num_waiting=gauge(0)),
    ),
    "OutriderSessionsMakeWay": (
        FINISHED | named(num_preemptions_total=per_s(6)),
        FINISHED | named(num_preemptions_total=per_s(4)),
    ),
    "OutriderDrainDoesNotEnd": (named(drains_open=gauge(1)), named(drains_open="0x20 1x7 0x200")),
    "OutriderVerifierUnlinked": (verifiers(3, 2), verifiers(3, 3)),
    "OutriderErrors": (FINISHED | failures("500", 0.2), FINISHED | failures("500", 0.05) | failures("400", 5)),
    "OutriderOverloaded": (FINISHED | failures("429", 0.6), FINISHED | failures("429", 0.4)),
    "OutriderFirstTokenSlow": (
        waits("time_to_first_token_seconds", "2.5", "5.0", 10, 0.1),
        waits("time_to_first_token_seconds", "2.5", "5.0", 10, 0.04),
    ),
    "OutriderTokensSlow": (
        waits("request_time_per_output_token_seconds", "0.1", "0.15", 10, 0.1),
        waits("request_time_per_output_token_seconds", "0.1", "0.15", 10, 0.04),
    ),
    "OutriderProposalsLate": (
        named(proposal_misses_total=per_s(6), lookahead_count=per_s(100)),
        named(proposal_misses_total=per_s(4), lookahead_count=per_s(100)),
    ),
    "OutriderDrafterQueues": (queueing(0.0012), queueing(0.0008)),
    "OutriderSessionsMove": (
        {'ray_outrider_epoch_changes_total{reason="verifier_silent"}': per_s(0.3)},
        {'ray_outrider_epoch_changes_total{reason="drafter_came"}': per_s(0.3)},
    ),
}

SAID: dict[str, dict[str, str]] = {"OutriderDrafterBypassed": {"request_class": "code", "drafter": "mtp"}}
"""Labels that tell what an alert is about, where it is not the whole application."""


def rule_test(series: Case, alert: rules.Alert, *, fires: bool) -> dict[str, Any]:
    """One of promtool's tests, at the end of the hour."""
    rule = next(rule for rule in rules.build()["groups"][1]["rules"] if rule["alert"] == alert.name)
    expected = {"exp_labels": rule["labels"] | SAID.get(alert.name, {})}
    return {
        "name": f"{alert.name} {'fires' if fires else 'does not fire'}",
        "interval": f"{INTERVAL_S}s",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": [
            {"eval_time": "50m", "alertname": alert.name, "exp_alerts": [expected] if fires else []},
        ],
    }


def promtool(folder: Path, tests: list[dict[str, Any]]) -> subprocess.CompletedProcess[str]:
    """Run tests against the rules, whose annotations are none of promtool's business here."""
    content = rules.build()
    for rule in content["groups"][1]["rules"]:
        del rule["annotations"]
    (folder / "rules.yaml").write_text(yaml.safe_dump(content))
    (folder / "tests.yaml").write_text(yaml.safe_dump({"rule_files": ["rules.yaml"], "tests": tests}))
    command = [require_program("promtool", "prometheus"), "test", "rules", "tests.yaml"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def test_every_alert_has_its_case() -> None:
    assert set(CASES) == {alert.name for alert in rules.ALERTS}


@pytest.mark.parametrize("alert", rules.ALERTS, ids=lambda alert: alert.name)
def test_an_alert_fires_and_does_not(alert: rules.Alert, tmp_path: Path) -> None:
    firing, quiet = CASES[alert.name]
    tests = [rule_test(firing, alert, fires=True), rule_test(quiet, alert, fires=False)]
    result = promtool(tmp_path, tests)
    assert result.returncode == 0, result.stdout + result.stderr


def test_promtool_notices_an_alert_that_does_not_fire(tmp_path: Path) -> None:
    alert = next(alert for alert in rules.ALERTS if alert.name == "OutriderKvPressure")
    assert promtool(tmp_path, [rule_test(CASES[alert.name][1], alert, fires=True)]).returncode != 0


def test_promtool_takes_the_files_that_are_shipped(tmp_path: Path) -> None:
    shipped = Path(__file__).resolve().parents[2] / "k8s" / "monitoring"
    operators = yaml.safe_load((shipped / "prometheus-rule.yaml").read_text("utf-8"))
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(operators["spec"]))
    for file in (shipped / "rules.yaml", tmp_path / "spec.yaml"):
        command = [require_program("promtool", "prometheus"), "check", "rules", str(file)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert result.returncode == 0, result.stdout + result.stderr
