"""Prometheus' rules: sums worth recording, and the alerts that docs/observability.md explains one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from deployments import measures as m
from deployments.monitoring.expressions import RAY_PREFIX, combined, filled, mean, quantile, rate
from deployments.monitoring.panels import ACCEPTANCE

Severity = Literal["critical", "warning", "info"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """Fires when `value` has stood to `bound` as `operator` says for `lasting`, while `only_if` yields anything.

    `summary` may name the bound as `{bound}` or `{percent}`, so that it stays true where bounds.py changes it.
    """

    name: str
    value: str
    operator: Literal["<", ">", "=="]
    bound: float
    lasting: str
    severity: Severity
    summary: str
    only_if: str = ""

    @property
    def text(self) -> str:
        """The summary with the bound in it."""
        return self.summary.format(bound=f"{self.bound:g}", percent=f"{100 * self.bound:g} %")

    @property
    def expression(self) -> str:
        """The alert as PromQL."""
        condition = f"{filled(self.value)} {self.operator} {self.bound:g}"
        return f"({condition}) and on () ({filled(self.only_if)})" if self.only_if else condition


_FAILED = rate(m.REQUEST_FAILURE, status="5..")
_TURNED_AWAY = rate(m.REQUEST_FAILURE, status="429|503")
_FINISHED = rate(m.REQUEST_SUCCESS)


def _share(part: str, rest: str) -> str:
    """What part makes of part and rest together; a part that never occurred is 0."""
    return f"({part} or vector(0)) / (({part} or vector(0)) + {rest})"


RECORDED: dict[str, str] = {
    "outrider:acceptance_rate": ACCEPTANCE,
    "outrider:acceptance_length": f"1 + {rate(m.ACCEPTED_TOKENS)} / {rate(m.DRAFTS)}",
    "outrider:generation_tokens:rate": rate(m.GENERATION_TOKENS),
    "outrider:lookahead:mean": mean(m.LOOKAHEAD),
    "outrider:verify_step_seconds:mean": mean(m.STEP_SECONDS),
    "outrider:time_to_first_token_seconds:p95": quantile(0.95, m.FIRST_TOKEN_SECONDS),
    "outrider:request_failures:share": _share(_FAILED, _FINISHED),
}

ALERTS: tuple[Alert, ...] = (
    Alert(
        name="OutriderNotSeen",
        value=f"absent({RAY_PREFIX}replicas)",
        operator="==",
        bound=1,
        lasting="5m",
        severity="critical",
        summary="No replica exports metrics: nothing is deployed, or Prometheus does not reach Ray's agents.",
    ),
    Alert(
        name="OutriderVerifierMissing",
        value=combined("min", m.NUM_VERIFIERS),
        operator="<",
        bound=1,
        lasting="1m",
        severity="critical",
        summary="A router has no verifier: its requests wait, then fail with a 503.",
    ),
    Alert(
        name="OutriderDrafterMissing",
        value=combined("min", m.NUM_DRAFTERS),
        operator="<",
        bound=1,
        lasting="5m",
        severity="warning",
        summary="A router has lost its drafters: answers are the same, and slower.",
        only_if=f"max(max_over_time({RAY_PREFIX}num_drafters[1h])) > 0",
    ),
    Alert(
        name="OutriderAcceptanceLow",
        value=ACCEPTANCE,
        operator="<",
        bound=0.6,
        lasting="10m",
        severity="warning",
        summary="Fewer than {percent} of drafted tokens are accepted: drafter and target may not belong together.",
    ),
    Alert(
        name="OutriderDrafterBypassed",
        value=rate(m.DRAFTER_BYPASSES, "request_class", "drafter"),
        operator=">",
        bound=0,
        lasting="1m",
        severity="warning",
        summary="A router leaves a drafter aside for a class of requests, as nothing that it drafts for them holds.",
    ),
    Alert(
        name="OutriderDraftingDoesNotPay",
        value=f"{rate(m.LOOKAHEAD, suffix='_bucket', le='0.0')} / {rate(m.LOOKAHEAD, suffix='_count')}",
        operator=">",
        bound=0.9,
        lasting="15m",
        severity="info",
        summary="Over {percent} of rounds go without drafting though drafters are there: it would not pay.",
        only_if=f"{combined('min', m.NUM_DRAFTERS)} > 0",
    ),
    Alert(
        name="OutriderKvPressure",
        value=combined("max", m.KV_USAGE),
        operator=">",
        bound=0.9,
        lasting="5m",
        severity="warning",
        summary="A verifier's KV cache is over {percent} full and sessions wait: add verifiers or lower the limits.",
        only_if=f"{combined('sum', m.VERIFIER_WAITING)} > 0",
    ),
    Alert(
        name="OutriderSessionsMakeWay",
        value=f"{rate(m.PREEMPTIONS)} / {rate(m.REQUEST_SUCCESS)}",
        operator=">",
        bound=0.5,
        lasting="10m",
        severity="warning",
        summary="Per request, over {bound} sessions give their KV blocks up and are computed again: too small a cache.",
    ),
    Alert(
        name="OutriderDrainDoesNotEnd",
        value=combined("max", m.DRAINS_OPEN),
        operator=">",
        bound=0,
        lasting="2m",
        severity="warning",
        summary="A peer has left membership, and whoever was linked to it has not parted from it.",
    ),
    Alert(
        name="OutriderVerifierUnlinked",
        value=f"{combined('sum', m.REPLICAS, role='verifier')} - {combined('min', m.NUM_VERIFIERS)}",
        operator=">",
        bound=0,
        lasting="5m",
        severity="warning",
        summary="A verifier runs that a router is not linked to: a drain without end, or a network in between.",
    ),
    Alert(
        name="OutriderErrors",
        value=_share(_FAILED, _FINISHED),
        operator=">",
        bound=0.01,
        lasting="5m",
        severity="critical",
        summary="More than {percent} of requests fail with a 5xx.",
    ),
    Alert(
        name="OutriderOverloaded",
        value=_share(_TURNED_AWAY, _FINISHED),
        operator=">",
        bound=0.05,
        lasting="10m",
        severity="warning",
        summary="More than {percent} of requests are turned away (429, 503).",
    ),
    Alert(
        name="OutriderFirstTokenSlow",
        value=quantile(0.95, m.FIRST_TOKEN_SECONDS),
        operator=">",
        bound=2.5,
        lasting="10m",
        severity="warning",
        summary="One request in twenty waits longer than {bound} s for its first token.",
    ),
    Alert(
        name="OutriderTokensSlow",
        value=quantile(0.95, m.PER_TOKEN_SECONDS),
        operator=">",
        bound=0.1,
        lasting="10m",
        severity="warning",
        summary="One request in twenty takes over {bound} s for each token.",
    ),
    Alert(
        name="OutriderProposalsLate",
        value=f"{rate(m.PROPOSAL_MISSES)} / {rate(m.LOOKAHEAD, suffix='_count')}",
        operator=">",
        bound=0.05,
        lasting="10m",
        severity="warning",
        summary="More than {percent} of rounds go ahead because no proposal came in time.",
    ),
    Alert(
        name="OutriderDrafterQueues",
        value=f"({mean(m.QUEUE_SECONDS)}) / ({mean(m.STEP_SECONDS)})",
        operator=">",
        bound=0.05,
        lasting="15m",
        severity="info",
        summary="Sessions wait at drafters for more than {percent} of a verifier's step: add drafters.",
    ),
    Alert(
        name="OutriderSessionsMove",
        value=rate(m.EPOCH_CHANGES, reason="verifier_.*"),
        operator=">",
        bound=0.2,
        lasting="10m",
        severity="warning",
        summary="Sessions keep moving between verifiers, and prefill anew each time.",
    ),
)


def build(alerts: Sequence[Alert] = ALERTS) -> dict[str, Any]:
    """The content of a Prometheus rule file; other bounds than ours come from bounds.py."""
    return {
        "groups": [
            {
                "name": "outrider-records",
                "rules": [{"record": name, "expr": filled(expression)} for name, expression in RECORDED.items()],
            },
            {"name": "outrider-alerts", "rules": [_rule(alert) for alert in alerts]},
        ]
    }


def build_resource(alerts: Sequence[Alert] = ALERTS) -> dict[str, Any]:
    """The same as the Prometheus operator takes it."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "outrider", "labels": {"app.kubernetes.io/name": "outrider"}},
        "spec": build(alerts),
    }


def _rule(alert: Alert) -> dict[str, Any]:
    return {
        "alert": alert.name,
        "expr": alert.expression,
        "for": alert.lasting,
        "labels": {"severity": alert.severity},
        "annotations": {
            "summary": alert.text,
            "value": "{{ $value }}",
            "runbook": f"docs/observability.md#{alert.name.lower()}",
        },
    }
