"""Every metric there is: its name, what it counts, its labels. docs/observability.md lists the same; a test compares.

Names are without prefix and, for counters, without `_total`: exporters add both. Times are seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PREFIX = "outrider_"

_STEP_S = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.1, 0.2, 0.5, 1, 5)
_FIRST_TOKEN_S = (0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
_TOKEN_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5)
_REQUEST_S = (0.05, 0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 60, 120, 240, 480)
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000)
_LOOKAHEAD = (0, 1, 2, 3, 4, 5, 6, 8, 12, 16, 32)
_BATCH_TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
_BATCH_SESSIONS = (1, 2, 4, 8, 16, 32, 64, 128, 256)

Kind = Literal["counter", "gauge", "histogram"]
UNKNOWN_CLASS = "unknown"
"""The request_class of a request whose class nobody has told."""
NO_VARIANT = "default"
"""The variant of a request that takes no part in a split."""
EpochReason = Literal[
    "verifier_lost", "verifier_silent", "verifier_refused", "drafter_lost", "drafter_came", "drafter_chosen"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One family. `combine` says what the values of several replicas make together, where they are gauges."""

    name: str
    kind: Kind
    text: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    combine: Literal["sum", "max", "min"] = "sum"

    @property
    def is_vllm(self) -> bool:
        """Whether vLLM has the same metric under its own prefix."""
        return self.name in _VLLM


_VLLM = {
    "num_requests_running",
    "num_requests_waiting",
    "kv_cache_usage_perc",
    "num_preemptions",
    "prefix_cache_queries",
    "prefix_cache_hits",
    "prompt_tokens",
    "generation_tokens",
    "request_success",
    "time_to_first_token_seconds",
    "inter_token_latency_seconds",
    "request_time_per_output_token_seconds",
    "e2e_request_latency_seconds",
    "request_prompt_tokens",
    "request_generation_tokens",
    "spec_decode_num_drafts",
    "spec_decode_num_draft_tokens",
    "spec_decode_num_accepted_tokens",
    "spec_decode_num_accepted_tokens_per_pos",
}
CATALOGUE: dict[str, Metric] = {}


def _add(metric: Metric) -> Metric:
    assert metric.name not in CATALOGUE
    CATALOGUE[metric.name] = metric
    return metric


def _counter(name: str, text: str, *labels: str) -> Metric:
    return _add(Metric(name=name, kind="counter", text=text, labels=labels))


def _gauge(name: str, text: str, *labels: str, combine: Literal["sum", "max", "min"] = "sum") -> Metric:
    return _add(Metric(name=name, kind="gauge", text=text, labels=labels, combine=combine))


def _histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Metric:
    return _add(Metric(name=name, kind="histogram", text=text, labels=labels, buckets=buckets))


# -- every role ----------------------------------------------------------------------------------

REPLICAS = _gauge("replicas", "Replicas that report.", "role")
RESIDENT_MEMORY_BYTES = _gauge("resident_memory_bytes", "Resident memory of the replicas, not a GPU's.", "role")
LINKS = _gauge("links", "Open streams, counted at both ends.", "role", "peer_role")
LINK_SENT_BYTES = _counter("link_sent_bytes", "Bytes given to streams.", "role", "peer_role")
LINK_RECEIVED_BYTES = _counter("link_received_bytes", "Bytes read from streams.", "role", "peer_role")
MEMORY_BYTES = _gauge(
    "memory_bytes", "Bytes that an engine has loaded as weights, and its cache and workspace at most.", "engine", "part"
)
DRAINS_OPEN = _gauge("drains_open", "Peers that have left membership and are not parted from yet.", "role")
DRAIN_SECONDS = _histogram(
    "drain_seconds", "From a peer's leaving membership until its lease is given back.", _REQUEST_S, "role"
)
PACED_STEPS = _counter(
    "paced_steps",
    "Steps and batches that were drawn out to last as on other hardware; late: they took longer here.",
    "role",
    "hardware",
    "outcome",
)

# -- ingress -------------------------------------------------------------------------------------

RUNNING = _gauge("num_requests_running", "Requests that have their first token and not their last.")
WAITING = _gauge("num_requests_waiting", "Requests that wait for their first token.")
PROMPT_TOKENS = _counter("prompt_tokens", "Prompt tokens of requests that began.")
GENERATION_TOKENS = _counter("generation_tokens", "Tokens received from the routers.")
_SPECULATION = ("request_class", "drafter", "variant")
DRAFTS = _counter("spec_decode_num_drafts", "Verification steps that had a proposal.", *_SPECULATION)
DRAFT_TOKENS = _counter("spec_decode_num_draft_tokens", "Drafted tokens that were verified.", *_SPECULATION)
ACCEPTED_TOKENS = _counter("spec_decode_num_accepted_tokens", "Drafted tokens that were accepted.", *_SPECULATION)
ACCEPTED_PER_POSITION = _counter(
    "spec_decode_num_accepted_tokens_per_pos",
    "Drafted tokens that were accepted, by their position in the proposal.",
    "request_class",
    "drafter",
    "position",
)
REQUEST_SUCCESS = _counter("request_success", "Finished requests.", "finished_reason")
REQUEST_FAILURE = _counter("request_failure", "Refused and failed requests, by HTTP status.", "status")
REQUEST_MOVES = _counter("request_moves", "Requests that were resubmitted to another router.")
FIRST_TOKEN_SECONDS = _histogram(
    "time_to_first_token_seconds", "From the request to its first tokens.", _FIRST_TOKEN_S, "request_class", "variant"
)
INTER_TOKEN_SECONDS = _histogram(
    "inter_token_latency_seconds",
    "Between commits: one of several tokens counts once.",
    _TOKEN_S,
    "request_class",
    "variant",
)
PER_TOKEN_SECONDS = _histogram(
    "request_time_per_output_token_seconds",
    "Mean time per token after a request's first commit.",
    _TOKEN_S,
    "request_class",
    "variant",
)
REQUEST_SECONDS = _histogram("e2e_request_latency_seconds", "From the request to its end.", _REQUEST_S)
REQUEST_PROMPT_TOKENS = _histogram("request_prompt_tokens", "Prompt tokens per request.", _TOKENS)
REQUEST_GENERATION_TOKENS = _histogram("request_generation_tokens", "Generated tokens per request.", _TOKENS)

# -- router --------------------------------------------------------------------------------------

NUM_VERIFIERS = _gauge("num_verifiers", "Verifiers that a router is linked to, at least.", combine="min")
NUM_DRAFTERS = _gauge("num_drafters", "Drafters that a router is linked to, at least.", combine="min")
ROUTER_SESSIONS = _gauge("router_num_sessions", "Sessions under way, by what they wait for.", "phase")
ROUND_SECONDS = _histogram("round_seconds", "Rounds that had a proposal, from verdict to verdict.", _STEP_S)
ROUND_VERIFY_SECONDS = _counter("round_verify_seconds", "Of these rounds, the verifier's step.")
ROUND_DRAFT_SECONDS = _counter("round_draft_seconds", "Of these rounds, the drafter's batch.")
EXPOSED_DRAFT_SECONDS = _histogram(
    "exposed_draft_seconds", "From a verdict to the proposal that its session waits for.", _STEP_S
)
LOOKAHEAD = _histogram("lookahead", "Tokens that were drafted for a round.", _LOOKAHEAD, "request_class")
PROPOSAL_MISSES = _counter("proposal_misses", "Rounds that went ahead because no proposal came in time.")
DRAFTER_BYPASSES = _counter(
    "drafter_bypasses",
    "Drafters that were left for a while, by a class of requests for which nothing of theirs held.",
    "request_class",
    "drafter",
)
STEP_PREDICTION_ERROR = _gauge(
    "step_prediction_error", "Median relative error of the latest steps' predicted times; the worst.", combine="max"
)
VERIFY_RESENDS = _counter("verify_resends", "Questions repeated to a verifier that did not answer in time.")
EPOCH_CHANGES = _counter("epoch_changes", "Placements of sessions after their first, by reason.", "reason")
REFUSALS = _counter("verifier_refusals", "Sessions that a verifier refused, by reason.", "reason")

# -- verifier ------------------------------------------------------------------------------------

STEP_SECONDS = _histogram("verify_step_seconds", "Steps of a verifier; their sum is the time it was busy.", _STEP_S)
VERIFY_QUEUE_SECONDS = _histogram(
    "verify_queue_seconds", "From a session's question to the start of the step that takes it.", _STEP_S
)
STEP_TOKENS = _histogram("verify_step_tokens", "Tokens per step: prompts, proposals and last tokens.", _BATCH_TOKENS)
STEP_SESSIONS = _histogram("verify_step_sessions", "Sessions per step.", _BATCH_SESSIONS)
STEP_PROMPT_TOKENS = _counter(
    "verify_prompt_tokens", "Prompt tokens that were computed, repeats after a move included."
)
PREFIX_QUERIES = _counter("prefix_cache_queries", "Tokens that sessions brought when they were placed on a verifier.")
PREFIX_HITS = _counter("prefix_cache_hits", "Of these, tokens whose KV entries were there already.")
VERIFIER_SESSIONS = _gauge("verifier_num_sessions", "Sessions open on the verifiers.")
VERIFIER_WAITING = _gauge("verifier_num_waiting", "Sessions that wait for room in a KV cache.")
KV_USAGE = _gauge("kv_cache_usage_perc", "Share of a KV cache that sessions hold, 0 to 1; the fullest.", combine="max")
PREEMPTIONS = _counter(
    "num_preemptions", "Sessions that gave their KV blocks to others, and were computed again when there was room."
)

# -- drafter -------------------------------------------------------------------------------------

BATCH_SECONDS = _histogram("draft_batch_seconds", "Batches of a drafter; their sum is the time it was busy.", _STEP_S)
BATCH_SESSIONS = _histogram("draft_batch_sessions", "Sessions per batch of a drafter.", _BATCH_SESSIONS)
QUEUE_SECONDS = _histogram("draft_queue_seconds", "From a session's go-ahead to the start of its batch.", _STEP_S)
DRAFTED_TOKENS = _counter("drafted_tokens", "Tokens drafted, whether they were used or not.")
DRAFT_ANSWERS = _counter("draft_answers", "Questions of routers that a draft model has answered.")
DRAFT_ANSWERS_AHEAD = _counter("draft_answers_ahead", "Those whose answer was there before the question.")
DRAFT_HIDDEN_SECONDS = _counter("draft_hidden_seconds", "Drafting time behind answers that nobody waited for.")
DRAFTER_SESSIONS = _gauge("drafter_num_sessions", "Sessions attached to the drafters.")
SHADOW_GAPS = _counter("shadow_gaps", "Deltas that did not follow on their shadow, so that it was asked for again.")
BAD_DELTAS = _counter("bad_deltas", "Deltas that did not fit the model, and were dropped.")
