"""What the dashboard shows, row by row; dashboard.py makes Grafana's JSON of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from deployments import measures as m
from deployments.monitoring.expressions import APPLICATION, busy_share, combined, mean, quantile, rate

Unit = Literal["s", "short", "percentunit", "bytes", "Bps", "reqps", "ops"]


@dataclass(frozen=True, slots=True)
class Query:
    """One expression and the name of what it yields, with `{{label}}` for the values of labels."""

    expression: str
    legend: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One graph; an optional one is empty where what it shows is not configured."""

    title: str
    unit: Unit
    queries: tuple[Query, ...]
    text: str = ""
    is_optional: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """Graphs that belong together."""

    title: str
    panels: tuple[Panel, ...]


def _quantiles(metric: m.Metric, *by: str) -> tuple[Query, ...]:
    names = "".join(f" {{{{{label}}}}}" for label in by)
    quantiles = tuple(Query(quantile(share, metric, *by), f"p{share * 100:.0f}{names}") for share in (0.5, 0.95, 0.99))
    return (*quantiles, Query(mean(metric, *by), f"mean{names}"))


ACCEPTANCE = f"{rate(m.ACCEPTED_TOKENS)} / {rate(m.DRAFT_TOKENS)}"
ACCEPTANCE_LENGTH = f"1 + {rate(m.ACCEPTED_TOKENS)} / {rate(m.DRAFTS)}"
WANTED_REPLICAS = f'sum by (deployment) (ray_serve_autoscaling_desired_replicas{{application=~"{APPLICATION}"}})'
OUTSIDE_MODELS = (
    f"({rate(m.ROUND_SECONDS, suffix='_sum')} - {rate(m.ROUND_VERIFY_SECONDS)} - {rate(m.ROUND_DRAFT_SECONDS)})"
    f" / {rate(m.ROUND_SECONDS, suffix='_count')}"
)

_OVERVIEW = Row(
    "Overview",
    (
        Panel(
            "Requests",
            "short",
            (Query(combined("sum", m.RUNNING), "running"), Query(combined("sum", m.WAITING), "waiting")),
        ),
        Panel("Tokens per second", "ops", (Query(rate(m.GENERATION_TOKENS), "generated"),)),
        Panel(
            "Answers by finish reason",
            "reqps",
            (Query(rate(m.REQUEST_SUCCESS, "finished_reason"), "{{finished_reason}}"),),
        ),
        Panel("Errors by status", "reqps", (Query(rate(m.REQUEST_FAILURE, "status"), "{{status}}"),), "4xx and 5xx."),
    ),
)
_SPECULATION = Row(
    "Speculation",
    (
        Panel(
            "Acceptance rate",
            "percentunit",
            (
                Query(ACCEPTANCE, "all"),
                Query(
                    f"{rate(m.ACCEPTED_TOKENS, 'request_class', 'drafter')} / "
                    f"{rate(m.DRAFT_TOKENS, 'request_class', 'drafter')}",
                    "{{request_class}}, {{drafter}}",
                ),
            ),
            "Accepted of drafted tokens, by request class and drafter.",
        ),
        Panel(
            "Acceptance length", "short", (Query(ACCEPTANCE_LENGTH, "tokens per round"),), "Rounds that had a proposal."
        ),
        Panel(
            "Acceptance by position",
            "percentunit",
            (
                Query(
                    f"{rate(m.ACCEPTED_PER_POSITION, 'position')} / on () group_left () {rate(m.DRAFTS)}",
                    "{{position}}",
                ),
            ),
            "Of rounds that had a proposal, those whose token at this position was accepted.",
        ),
        Panel("Lookahead chosen", "short", _quantiles(m.LOOKAHEAD), "0 where drafting would not pay."),
        Panel(
            "Lookahead chosen, by class",
            "short",
            (Query(mean(m.LOOKAHEAD, "request_class"), "{{request_class}}"),),
            "Means.",
        ),
        Panel("Exposed draft time", "s", _quantiles(m.EXPOSED_DRAFT_SECONDS), m.EXPOSED_DRAFT_SECONDS.text),
        Panel(
            "Where a round's time goes",
            "s",
            (
                Query(f"{rate(m.ROUND_VERIFY_SECONDS)} / {rate(m.ROUND_SECONDS, suffix='_count')}", "verifier's step"),
                Query(f"{rate(m.ROUND_DRAFT_SECONDS)} / {rate(m.ROUND_SECONDS, suffix='_count')}", "drafter's batch"),
                Query(OUTSIDE_MODELS, "outside the models"),
            ),
        ),
    ),
)
_LATENCY = Row(
    "Latency",
    (
        Panel("Time to first token", "s", _quantiles(m.FIRST_TOKEN_SECONDS)),
        Panel("Time per output token", "s", _quantiles(m.PER_TOKEN_SECONDS)),
        Panel(
            "Time per output token, by class",
            "s",
            (Query(mean(m.PER_TOKEN_SECONDS, "request_class"), "{{request_class}}"),),
            "Means.",
        ),
        Panel("Inter-token latency", "s", _quantiles(m.INTER_TOKEN_SECONDS), m.INTER_TOKEN_SECONDS.text),
        Panel("Whole request", "s", _quantiles(m.REQUEST_SECONDS)),
        Panel("Prompt tokens per request", "short", _quantiles(m.REQUEST_PROMPT_TOKENS)),
        Panel("Generated tokens per request", "short", _quantiles(m.REQUEST_GENERATION_TOKENS)),
    ),
)
_VERIFIER = Row(
    "Verifier",
    (
        Panel("Step time", "s", _quantiles(m.STEP_SECONDS)),
        Panel("Busy share", "percentunit", (Query(busy_share(m.STEP_SECONDS), "{{replica}}"),)),
        Panel("Wait for a step", "s", _quantiles(m.VERIFY_QUEUE_SECONDS), m.VERIFY_QUEUE_SECONDS.text),
        Panel("Sessions per step", "short", _quantiles(m.STEP_SESSIONS)),
        Panel("Tokens per step", "short", _quantiles(m.STEP_TOKENS)),
        Panel("KV cache in use", "percentunit", (Query(combined("max", m.KV_USAGE, "replica"), "{{replica}}"),)),
        Panel(
            "Sessions",
            "short",
            (
                Query(combined("sum", m.VERIFIER_SESSIONS), "open"),
                Query(combined("sum", m.VERIFIER_WAITING), "waiting for room"),
            ),
        ),
        Panel(
            "Sessions that made way",
            "ops",
            (Query(rate(m.PREEMPTIONS), "of the KV cache, computed again"),),
            m.PREEMPTIONS.text,
        ),
        Panel(
            "Error of predicted step times",
            "percentunit",
            (Query(combined("max", m.STEP_PREDICTION_ERROR), "median of the worst router"),),
            m.STEP_PREDICTION_ERROR.text,
        ),
        Panel(
            "Prompts found in the cache",
            "percentunit",
            (Query(f"{rate(m.PREFIX_HITS)} / {rate(m.PREFIX_QUERIES)}", "of their tokens"),),
        ),
        Panel("Prompt tokens computed", "ops", (Query(rate(m.STEP_PROMPT_TOKENS), "tokens"),)),
    ),
)
_DRAFTER = Row(
    "Drafter",
    (
        Panel("Batch time", "s", _quantiles(m.BATCH_SECONDS)),
        Panel("Queueing", "s", _quantiles(m.QUEUE_SECONDS), m.QUEUE_SECONDS.text),
        Panel("Busy share", "percentunit", (Query(busy_share(m.BATCH_SECONDS), "{{replica}}"),)),
        Panel("Sessions per batch", "short", _quantiles(m.BATCH_SESSIONS)),
        Panel("Sessions attached", "short", (Query(combined("sum", m.DRAFTER_SESSIONS), "sessions"),)),
        Panel("Tokens drafted", "ops", (Query(rate(m.DRAFTED_TOKENS), "tokens"),)),
        Panel(
            "Drafted ahead",
            "percentunit",
            (
                Query(f"{rate(m.DRAFT_ANSWERS_AHEAD)} / {rate(m.DRAFT_ANSWERS)}", "of answers"),
                Query(f"{rate(m.DRAFT_HIDDEN_SECONDS)} / {rate(m.BATCH_SECONDS, suffix='_sum')}", "of drafting time"),
            ),
            "What a draft model had guessed before it was asked, and how much of its time that hid.",
            is_optional=True,
        ),
        Panel(
            "Deltas that were no use",
            "ops",
            (Query(rate(m.SHADOW_GAPS), "asked for again"), Query(rate(m.BAD_DELTAS), "dropped")),
        ),
    ),
)
_ROUTER = Row(
    "Router",
    (
        Panel(
            "Sessions by what they wait for",
            "short",
            (Query(combined("sum", m.ROUTER_SESSIONS, "phase"), "{{phase}}"),),
        ),
        Panel(
            "Rounds that went wrong",
            "ops",
            (
                Query(rate(m.PROPOSAL_MISSES), "no proposal in time"),
                Query(rate(m.VERIFY_RESENDS), "verifier asked again"),
                Query(
                    rate(m.DRAFTER_BYPASSES, "drafter", "request_class"), "{{drafter}} left aside for {{request_class}}"
                ),
                Query(rate(m.REQUEST_MOVES), "moved to another router"),
            ),
        ),
        Panel("Placements after the first", "ops", (Query(rate(m.EPOCH_CHANGES, "reason"), "{{reason}}"),)),
        Panel("Refused by verifiers", "ops", (Query(rate(m.REFUSALS, "reason"), "{{reason}}"),)),
    ),
)
_FLEET = Row(
    "Fleet",
    (
        Panel("Replicas", "short", (Query(combined("sum", m.REPLICAS, "role"), "{{role}}"),)),
        Panel(
            "Linked, as the worst router sees it",
            "short",
            (Query(combined("min", m.NUM_VERIFIERS), "verifiers"), Query(combined("min", m.NUM_DRAFTERS), "drafters")),
        ),
        Panel("Resident memory", "bytes", (Query(combined("sum", m.RESIDENT_MEMORY_BYTES, "role"), "{{role}}"),)),
        Panel("Drains under way", "short", (Query(combined("sum", m.DRAINS_OPEN, "role"), "seen by a {{role}}"),)),
        Panel(
            "Drains that ended", "ops", (Query(rate(m.DRAIN_SECONDS, "role", suffix="_count"), "seen by a {{role}}"),)
        ),
        Panel(
            "Memory of engines",
            "bytes",
            (Query(combined("sum", m.MEMORY_BYTES, "engine", "part"), "{{engine}}: {{part}}"),),
            m.MEMORY_BYTES.text,
        ),
        Panel("Streams", "short", (Query(combined("sum", m.LINKS, "role", "peer_role"), "{{role}} to {{peer_role}}"),)),
        Panel(
            "Sent on streams",
            "Bps",
            (Query(rate(m.LINK_SENT_BYTES, "role", "peer_role"), "{{role}} to {{peer_role}}"),),
        ),
        Panel(
            "Received on streams",
            "Bps",
            (Query(rate(m.LINK_RECEIVED_BYTES, "role", "peer_role"), "{{peer_role}} to {{role}}"),),
        ),
        Panel(
            "Replicas wanted by autoscaling",
            "short",
            (Query(WANTED_REPLICAS, "{{deployment}}"),),
            "As Serve has it from the policy, before bounds; empty without autoscaling.",
            is_optional=True,
        ),
        Panel(
            "Paced steps",
            "ops",
            (Query(rate(m.PACED_STEPS, "role", "hardware", "outcome"), "{{role}} as on {{hardware}}, {{outcome}}"),),
            "Speeds are those of a cost table wherever this is not empty.",
            is_optional=True,
        ),
        Panel("Prompt tokens received", "ops", (Query(rate(m.PROMPT_TOKENS), "tokens"),)),
    ),
)
ROWS = (_OVERVIEW, _SPECULATION, _LATENCY, _VERIFIER, _DRAFTER, _ROUTER, _FLEET)
