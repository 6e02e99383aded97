"""What replicas tell the autoscaler about themselves; Serve carries each as plain numbers by name.

Shares are 0 to 1, rates per second, both over the time since the last reading; sessions and cache as of now.
"""

from __future__ import annotations

import msgspec


class VerifierSignals(msgspec.Struct, frozen=True, kw_only=True):
    """One verifier. A session queues from its question until a step takes it; `token_share` is of a step's bound."""

    busy_share: float = 0.0
    step_ms: float = 0.0
    queue_ms: float = 0.0
    step_sessions: float = 0.0
    token_share: float = 0.0
    sessions: float = 0.0
    waiting: float = 0.0
    kv_usage: float = 0.0


class DrafterSignals(msgspec.Struct, frozen=True, kw_only=True):
    """One drafter. A session queues from its go-ahead until a batch takes it."""

    busy_share: float = 0.0
    batch_ms: float = 0.0
    queue_ms: float = 0.0
    batch_sessions: float = 0.0
    sessions: float = 0.0


class RouterSignals(msgspec.Struct, frozen=True, kw_only=True):
    """One router: its sessions, and those of them that wait for a verifier."""

    sessions: float = 0.0
    waiting: float = 0.0


class IngressSignals(msgspec.Struct, frozen=True, kw_only=True):
    """One ingress. Late is what came after its objective; `token_ms` is a token's mean time, of answers under way."""

    requests: float = 0.0
    first_token_rate: float = 0.0
    late_first_token_rate: float = 0.0
    answer_rate: float = 0.0
    late_answer_rate: float = 0.0
    token_ms: float = 0.0


Signals = VerifierSignals | DrafterSignals | RouterSignals | IngressSignals
