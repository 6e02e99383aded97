"""Which drafter a session has: of those that are there, the one that promises the most tokens per ms.

    survival, offers, exposed time -> goodput of each -> the best, if it is worth the change

A drafter is known by what it drafted; prompt lookup also by what it would have proposed, since the committed tokens
judge that for nothing. Everything is deterministic and counts in rounds and ms that it is given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from deployments.messages import Token
from deployments.policy.regression import Regression

_LOOK_EVERY = 4
"""Rounds between two looks at the options."""
_MARGIN = 1.04
"""How much better another drafter must promise to be; so two that are alike do not take turns."""
_HORIZON_TOKENS = 256
"""Over so many tokens at most a change must pay: most answers end before their bound."""
_PROBE_EVERY, _PROBE_AT_MOST_EVERY, _PROBE_ROUNDS = 64, 512, 2
_EXPLORE_EVERY, _ENOUGH_ROUNDS = 16, 256
"""One in so many sessions begins with a drafter of which fewer rounds than this are known."""
_OFFER_PRIOR, _OFFER_DOUBT, _OFFER_FADING = 0.15, 12.0, 0.95
_CLASS_OFFER_DOUBT, _CLASS_OFFER_FADING = 32.0, 0.995


class Option(NamedTuple):
    """A drafter that a session could have.

    `survival` is that of its proposals, of which a round has one with the chance `offer`; `away_ms` is the time
    between two steps for which 0, 1, … tokens were drafted; `switch_ms` passes until it is ready to draft. With
    `is_watched` it need not draft to be known.
    """

    name: str
    survival: Sequence[float]
    away_ms: Sequence[float]
    offer: float = 1.0
    switch_ms: float = 0.0
    is_watched: bool = False


class Outlook(NamedTuple):
    """What all options of a session have in common.

    `step_ms` is the time of a step by this session's drafted tokens, 0 and up. `lookahead` None leaves that to the
    search for the best.
    """

    step_ms: Sequence[float]
    remaining_tokens: int = _HORIZON_TOKENS
    lookahead: int | None = None


def goodput(option: Option, outlook: Outlook) -> float:
    """Expected tokens per ms at the best lookahead that the option has, or at the one that is asked for.

    A round without a proposal is a plain one: one token, a step of one token, no draft.
    """
    offer, step_ms, away_ms = option.offer, outlook.step_ms, option.away_ms
    plain_ms = step_ms[0] + away_ms[0]
    best, gain = 1.0 / plain_ms, 1.0
    if outlook.lookahead == 0:
        return best
    deepest = min(len(option.survival), len(step_ms) - 1, len(away_ms) - 1)
    for k in range(1, deepest + 1):
        gain += offer * option.survival[k - 1]
        rate = gain / (offer * (step_ms[k] + away_ms[k]) + (1.0 - offer) * plain_ms)
        if k == outlook.lookahead:
            return rate
        best = max(best, rate)
    # The lookahead that was asked for is deeper than what is known: the deepest known stands for it.
    return best if outlook.lookahead is None or not deepest else rate


def best_option(options: Sequence[Option], current: str, outlook: Outlook) -> str:
    """The name of the option to have: the present one, unless another pays for its change and is clearly better.

    Until a new drafter is ready the session goes on with plain rounds, no faster than now. "" if there is no option.
    """
    rates = {option.name: goodput(option, outlook) for option in options}
    if current not in rates:
        return max(rates, key=rates.__getitem__, default="")
    remaining = min(outlook.remaining_tokens, _HORIZON_TOKENS)
    best, best_ms = current, remaining / rates[current]
    for option in options:
        if option.name == current:
            continue
        meanwhile = min(rates[current], 1.0 / (outlook.step_ms[0] + option.away_ms[0]))
        later = max(0.0, remaining - option.switch_ms * meanwhile)
        needed_ms = option.switch_ms + later / rates[option.name]
        if needed_ms * (_MARGIN if best == current else 1.0) < best_ms:
            best, best_ms = option.name, needed_ms
    return best


@dataclass(slots=True)
class Choice:
    """One session's drafter. `name` is what drafts for its next round."""

    name: str = ""
    num_changes: int = 0
    _settled: str = ""
    _to_look: int = 0
    _to_probe: int = _PROBE_EVERY
    _probe_every: int = _PROBE_EVERY

    def begin(self, name: str) -> None:
        """The session starts, or starts anew, with this one."""
        self.name = self._settled = name
        self._to_look = _LOOK_EVERY

    def is_due(self) -> bool:
        """Count a round; whether the options are to be looked at before the next."""
        self._to_look -= 1
        self._to_probe -= 1
        return self._to_look <= 0

    def decide(self, options: Sequence[Option], outlook: Outlook) -> str:
        """Look at the options: the best, or for two rounds one of which nothing has been seen for long."""
        self._to_look = _LOOK_EVERY
        before = self._settled
        self.name = self._settled = best_option(options, self._settled, outlook)
        if self._settled != before:
            self.num_changes += 1
            self._to_probe = self._probe_every = _PROBE_EVERY
        elif self._to_probe <= 0:
            self._probe_every = min(2 * self._probe_every, _PROBE_AT_MOST_EVERY)
            self._to_probe = self._probe_every
            self._probe(options, outlook)
        return self.name

    def _probe(self, options: Sequence[Option], outlook: Outlook) -> None:
        """One that is at hand, as readying another would cost more than two rounds can tell."""
        plain_ms = outlook.step_ms[0]
        for option in options:
            if option.name != self._settled and not option.is_watched and option.switch_ms <= plain_ms:
                self.name, self._to_look = option.name, _PROBE_ROUNDS
                return


class Explorer:
    """Where new sessions begin."""

    def __init__(self) -> None:
        self._num_sessions = 0

    def first(self, options: Sequence[Option], outlook: Outlook, num_rounds: Mapping[str, int]) -> str:
        """The best by what is known; one session in sixteen takes a drafter of which little is. "" without any."""
        self._num_sessions += 1
        unknown = [one for one in options if not one.is_watched and num_rounds.get(one.name, 0) < _ENOUGH_ROUNDS]
        if unknown and self._num_sessions % _EXPLORE_EVERY == 0:
            return min(unknown, key=lambda one: num_rounds.get(one.name, 0)).name
        return best_option(options, "", outlook)


class Offers:
    """How often prompt lookup finds something to propose, by request class."""

    def __init__(self) -> None:
        self._counts: dict[str, tuple[float, float]] = {}

    def observe(self, request_class: str, has_offer: bool) -> None:
        """Take a round of a session of this class."""
        offers, rounds = self._counts.get(request_class, (0.0, 0.0))
        fading = _CLASS_OFFER_FADING
        self._counts[request_class] = (fading * offers + has_offer, fading * rounds + 1.0)

    def rate(self, request_class: str) -> float:
        """Of sessions of this class."""
        offers, rounds = self._counts.get(request_class, (0.0, 0.0))
        return (offers + _CLASS_OFFER_DOUBT * _OFFER_PRIOR) / (rounds + _CLASS_OFFER_DOUBT)


@dataclass(slots=True)
class LookupWatch:
    """What prompt lookup would have proposed for one session, while others draft for it.

    A proposal is held until the committed tokens have decided it: the committed text is the target's own, so this
    is what a verification would have said.
    """

    _offers: float = 0.0
    _rounds: float = 0.0
    _start: int = 0
    _tokens: tuple[Token, ...] = ()

    @property
    def is_open(self) -> bool:
        """Whether a proposal waits to be decided."""
        return bool(self._tokens)

    def hold(self, context_len: int, tokens: tuple[Token, ...]) -> None:
        """Proposed for position `context_len` onwards; () if nothing was found."""
        self._start, self._tokens = context_len, tokens

    def drop(self) -> None:
        """Prompt lookup drafts for the session itself."""
        self._tokens = ()

    def judged(self, committed: Sequence[Token]) -> tuple[int, int] | None:
        """(held, looked at) of the held proposal, given all tokens so far; None while they do not decide it."""
        start, tokens = self._start, self._tokens
        known = min(len(tokens), len(committed) - start)
        for j in range(known):
            if committed[start + j] != tokens[j]:
                self._tokens = ()
                return j, j + 1
        if known < len(tokens):
            return None
        self._tokens = ()
        return known, known

    def count(self, has_offer: bool) -> None:
        """Take a round in which the text was searched."""
        self._offers = _OFFER_FADING * self._offers + has_offer
        self._rounds = _OFFER_FADING * self._rounds + 1.0

    def offer(self, prior: float) -> float:
        """The chance that the next round has a proposal, `prior` being that of its class."""
        return (self._offers + _OFFER_DOUBT * prior) / (self._rounds + _OFFER_DOUBT)


class CatchUp:
    """How long a drafter takes to be ready for a session in its midst, by the tokens that it must be given."""

    def __init__(self) -> None:
        self._line = Regression((5.0, 5.0), (20.0, 20.0), memory=64)

    def observe(self, num_tokens: int, ready_ms: float) -> None:
        """From the attachment to the first proposal."""
        if ready_ms > 0.0:
            self._line.observe((1.0, num_tokens / 1024), ready_ms)

    def predict(self, num_tokens: int) -> float:
        """In ms."""
        return max(0.0, self._line.predict((1.0, num_tokens / 1024)))
