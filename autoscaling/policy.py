"""How many verifiers and drafters there should be: one pure decision for all roles.

    signals -> trouble? -> what is too much for a replica (learnt) -> what is needed -> steady wishes -> counts

A verifier is busy with one session nearly as much as with thirty: the batch shares a step. So busy shares tell little
of how many are needed, and the policy learns instead how many sessions a verifier holds within the objectives. Where
one is missed, the load that missed it, less a tenth, is the most that a verifier gets, until that is forgotten.
Drafters likewise: a ratio of drafters to verifiers at which sessions queued is not gone back to.

Nothing flaps: a wish has to stand for a delay; a change is followed by a cool-down in which nothing is learnt; replicas
are taken away one at a time, and only if a tenth more load would not need them back; what was learnt in doing so is
remembered.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

from autoscaling.fleet import Drafters, Fleet
from deployments.config_parts import AutoscalingConfig

_MARGIN = 1.1
_MIN_LATE_REQUESTS = 2.0
"""One late request is an accident."""
_FULL_STEP = 0.9
_MAX_QUEUED_STEPS = 3.0
"""A verifier that waits for proposals does so for up to two steps, on purpose."""
_MAX_DRAFTERS_PER_VERIFIER = 2
"""More than that do not shorten a queue: a verifier's sessions come in two groups at most."""
_EPSILON = 1e-9


class Learnt(msgspec.Struct, frozen=True):
    """Something that was too much, or too little, and when that was seen last."""

    value: float
    seen_s: float


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """For how long a role has wished to grow, to shrink, or been in trouble, and when it was changed last."""

    up_since_s: float | None = None
    down_since_s: float | None = None
    trouble_since_s: float | None = None
    changed_s: float | None = None

    def has_settled(self, cooldown_s: float, now_s: float) -> bool:
        """Whether the last change lies so far back."""
        return self.changed_s is None or now_s - self.changed_s >= cooldown_s - _EPSILON


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What the policy remembers. `too_full`: sessions of one verifier; `too_few`: drafters per verifier, by kind."""

    verifiers: Wish = Wish()
    drafters: Mapping[str, Wish] = {}
    too_full: Learnt | None = None
    too_few: Mapping[str, Learnt] = {}


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """How many replicas to have, and why, for the log."""

    num_verifiers: int
    num_drafters: Mapping[str, int]
    reason: str = ""


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """The configuration, and the sessions that one verifier has room for."""

    scaling: AutoscalingConfig
    max_sessions: int


def decide(state: State, fleet: Fleet, rules: Rules, now_s: float) -> tuple[State, Decision]:
    """The next counts, and the state to hand in next time; `now_s` never goes back."""
    state = _forgotten(state, rules, now_s)
    state = _learnt_of_verifiers(state, fleet, rules, now_s)
    needed, spare = _verifiers_needed(state, fleet, rules), _verifiers_needed(state, fleet, rules, _MARGIN)
    num_verifiers, wish = _steady(state.verifiers, fleet.verifiers.target, needed, spare, rules.scaling, now_s)
    counts: dict[str, int] = {}
    wishes: dict[str, Wish] = {}
    too_few = dict(state.too_few)
    for kind, drafters in fleet.drafters.items():
        before = state.drafters.get(kind, Wish())
        before, learnt = _learnt_of_drafters(before, too_few.get(kind), drafters, fleet, rules, now_s)
        if learnt is not None:
            too_few[kind] = learnt
        bounds = _drafters_needed(learnt, drafters, fleet, rules, num_verifiers)
        counts[kind], wishes[kind] = _steady(before, drafters.target, *bounds, rules.scaling, now_s)
    after = State(verifiers=wish, drafters=wishes, too_full=state.too_full, too_few=too_few)
    return after, Decision(num_verifiers=num_verifiers, num_drafters=counts, reason=_reason(fleet, rules, state))


# -- verifiers -----------------------------------------------------------------------------------


def trouble_of(fleet: Fleet, rules: Rules) -> str:
    """Which objective verifiers miss, "" for none."""
    scaling = rules.scaling
    if fleet.num_sessions < 1:
        return ""
    if any(one.token_share >= _FULL_STEP for one in fleet.verifiers.signals):
        return "steps are full"
    if any(one.queue_ms > _MAX_QUEUED_STEPS * one.step_ms > 0 for one in fleet.verifiers.signals):
        return "sessions wait for steps"
    ingresses = fleet.ingresses
    first = sum(one.first_token_rate for one in ingresses), sum(one.late_first_token_rate for one in ingresses)
    if _is_missed(*first, scaling):
        return "first tokens are late"
    answers = sum(one.answer_rate for one in ingresses), sum(one.late_answer_rate for one in ingresses)
    if _is_missed(*answers, scaling) or any(one.token_ms > 1e3 * scaling.token_s for one in ingresses):
        # Drafters that queue make tokens late as well; more of them are the smaller cure.
        return "" if _drafters_queue(fleet, rules) else "tokens are late"
    return ""


def _is_missed(rate: float, late_rate: float, scaling: AutoscalingConfig) -> bool:
    return late_rate > scaling.tolerance * rate and late_rate * scaling.look_back_s >= _MIN_LATE_REQUESTS


def _learnt_of_verifiers(state: State, fleet: Fleet, rules: Rules, now_s: float) -> State:
    """Lasting trouble says that the fullest verifier is too full."""
    scaling, wish, verifiers = rules.scaling, state.verifiers, fleet.verifiers
    can_tell = wish.has_settled(scaling.up_cooldown_s, now_s) and not verifiers.is_starting
    if not can_tell or not trouble_of(fleet, rules):
        return msgspec.structs.replace(state, verifiers=msgspec.structs.replace(wish, trouble_since_s=None))
    since_s = now_s if wish.trouble_since_s is None else wish.trouble_since_s
    if now_s - since_s < scaling.up_delay_s - _EPSILON:
        return msgspec.structs.replace(state, verifiers=msgspec.structs.replace(wish, trouble_since_s=since_s))
    most = max(1.0, verifiers.fullest / _MARGIN)
    if state.too_full is not None:
        most = min(most, state.too_full.value)
    # The delay has passed once: what was learnt counts at once, and the next lesson takes its own time.
    wish = msgspec.structs.replace(wish, trouble_since_s=None, up_since_s=since_s)
    return msgspec.structs.replace(state, verifiers=wish, too_full=Learnt(most, now_s))


def _verifiers_needed(state: State, fleet: Fleet, rules: Rules, factor: float = 1.0) -> int:
    """For the load there is, times `factor`."""
    scaling, sessions = rules.scaling, fleet.num_sessions * factor
    needed = max(
        sessions / (rules.max_sessions * scaling.target_load),
        fleet.kv_usage * factor / scaling.target_load,
        sessions / state.too_full.value if state.too_full is not None else 0.0,
    )
    return _within(math.ceil(needed - _EPSILON), scaling.min_verifiers, scaling.max_verifiers)


# -- drafters ------------------------------------------------------------------------------------


def _drafters_queue(fleet: Fleet, rules: Rules) -> bool:
    return any(
        _queue_share(drafters, fleet) > rules.scaling.drafter_queue_share and drafters.target < _most(fleet, rules)
        for drafters in fleet.drafters.values()
    )


def _most(fleet: Fleet, rules: Rules, num_verifiers: int | None = None) -> int:
    num_verifiers = fleet.verifiers.target if num_verifiers is None else num_verifiers
    useful = max(rules.scaling.min_drafters, _MAX_DRAFTERS_PER_VERIFIER * num_verifiers)
    return min(rules.scaling.max_drafters, useful)


def _queue_share(drafters: Drafters, fleet: Fleet) -> float:
    step_ms = fleet.verifiers.step_ms
    return drafters.queue_ms / step_ms if step_ms > 0 else 0.0


def _learnt_of_drafters(
    wish: Wish, known: Learnt | None, drafters: Drafters, fleet: Fleet, rules: Rules, now_s: float
) -> tuple[Wish, Learnt | None]:
    """Lasting queues say that there are too few for so many verifiers."""
    scaling = rules.scaling
    can_tell = wish.has_settled(scaling.up_cooldown_s, now_s) and not drafters.is_starting
    if not can_tell or _queue_share(drafters, fleet) <= scaling.drafter_queue_share:
        return msgspec.structs.replace(wish, trouble_since_s=None), known
    since_s = now_s if wish.trouble_since_s is None else wish.trouble_since_s
    if now_s - since_s < scaling.up_delay_s - _EPSILON:
        return msgspec.structs.replace(wish, trouble_since_s=since_s), known
    ratio = drafters.running / max(1, fleet.verifiers.running)
    wish = msgspec.structs.replace(wish, trouble_since_s=None, up_since_s=since_s)
    return wish, Learnt(max(ratio, known.value if known is not None else 0.0), now_s)


def _drafters_needed(
    too_few: Learnt | None, drafters: Drafters, fleet: Fleet, rules: Rules, num_verifiers: int
) -> tuple[int, int]:
    """What is needed, and what would still do if one went."""
    scaling = rules.scaling
    if fleet.num_sessions < 1:  # nothing queues, whatever ratio did
        return scaling.min_drafters, scaling.min_drafters
    most = _most(fleet, rules, num_verifiers)
    needed = math.floor(too_few.value * num_verifiers + _EPSILON) + 1 if too_few is not None else 0
    needed = _within(needed, scaling.min_drafters, most)
    fewer = drafters.target - 1
    step_ms = fleet.verifiers.step_ms
    queue_ms = drafters.queue_ms if fewer >= num_verifiers else drafters.shared_queue_ms
    would_queue = step_ms > 0 and queue_ms * _MARGIN > scaling.drafter_queue_share * step_ms
    return needed, drafters.target if would_queue and fewer >= scaling.min_drafters else needed


# -- wishes --------------------------------------------------------------------------------------


def _steady(
    wish: Wish, target: int, needed: int, spare: int, scaling: AutoscalingConfig, now_s: float
) -> tuple[int, Wish]:
    """The count of a role that needs `needed`, and with some more load `spare`: up at once, down one by one."""
    if needed > target:
        since_s = now_s if wish.up_since_s is None else wish.up_since_s
        if now_s - since_s >= scaling.up_delay_s - _EPSILON and wish.has_settled(scaling.up_cooldown_s, now_s):
            return needed, Wish(changed_s=now_s)
        return target, msgspec.structs.replace(wish, up_since_s=since_s, down_since_s=None)
    if spare < target:
        since_s = now_s if wish.down_since_s is None else wish.down_since_s
        if now_s - since_s >= scaling.down_delay_s - _EPSILON and wish.has_settled(scaling.down_cooldown_s, now_s):
            return target - 1, Wish(changed_s=now_s)
        return target, msgspec.structs.replace(wish, up_since_s=None, down_since_s=since_s)
    return target, msgspec.structs.replace(wish, up_since_s=None, down_since_s=None)


def _forgotten(state: State, rules: Rules, now_s: float) -> State:
    """Drop what was learnt too long ago: models, texts and clients change."""

    def is_fresh(learnt: Learnt) -> bool:
        return now_s - learnt.seen_s < rules.scaling.memory_s

    return msgspec.structs.replace(
        state,
        too_full=state.too_full if state.too_full is not None and is_fresh(state.too_full) else None,
        too_few={kind: learnt for kind, learnt in state.too_few.items() if is_fresh(learnt)},
    )


def _within(num: int, least: int, most: int) -> int:
    return max(least, min(most, num))


def _reason(fleet: Fleet, rules: Rules, state: State) -> str:
    most = "any number of" if state.too_full is None else f"{state.too_full.value:.0f}"
    queues = {kind: round(_queue_share(drafters, fleet), 3) for kind, drafters in fleet.drafters.items()}
    return (
        f"{fleet.num_sessions:.0f} sessions, {most} to a verifier, {fleet.kv_usage:.2f} caches full; "
        f"drafters queue for {queues} of a step; {trouble_of(fleet, rules) or 'no trouble'}"
    )
