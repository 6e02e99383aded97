"""What an endpoint's own counters say of speculation, where its answers do not: vLLM's, by their names."""

from __future__ import annotations

from dataclasses import dataclass, field

import httpx

from evaluation.load.metrics import by_label, parse_sums

_PREFIX = "vllm:spec_decode_num_"
_DRAFTS = f"{_PREFIX}drafts_total"
_ACCEPTED = f"{_PREFIX}accepted_tokens_total"
_PER_POSITION = f"{_PREFIX}accepted_tokens_per_pos_total"
TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Counts:
    """Rounds that had a proposal, drafted tokens accepted, and rounds that accepted each position, counted from 0."""

    num_rounds: float = 0.0
    num_accepted_tokens: float = 0.0
    by_position: dict[int, float] = field(default_factory=dict)

    def __add__(self, other: Counts) -> Counts:
        return self._with(other, 1)

    def __sub__(self, other: Counts) -> Counts:
        return self._with(other, -1)

    def _with(self, other: Counts, sign: int) -> Counts:
        places = sorted({*self.by_position, *other.by_position})
        return Counts(
            self.num_rounds + sign * other.num_rounds,
            self.num_accepted_tokens + sign * other.num_accepted_tokens,
            {place: self.by_position.get(place, 0.0) + sign * other.by_position.get(place, 0.0) for place in places},
        )

    @property
    def rates(self) -> tuple[float, ...]:
        """The share of rounds that accepted each position, as far as one did."""
        last = max((place for place, count in self.by_position.items() if count > 0), default=-1)
        return tuple(self.by_position.get(place, 0.0) / self.num_rounds for place in range(last + 1))


def counts_in(text: str) -> Counts:
    """The counters in a /metrics text, all models and engines together; zeros where there are none."""
    sums = parse_sums(text)
    by_position = by_label(text, _PER_POSITION, "position")
    return Counts(
        sums.get(_DRAFTS, 0.0),
        sums.get(_ACCEPTED, 0.0),
        {int(place): count for place, count in by_position.items()},
    )


async def metrics_text(client: httpx.AsyncClient, url: str) -> str:
    """The endpoint's /metrics, empty where it does not tell."""
    try:
        response = await client.get(f"{url}/metrics", timeout=TIMEOUT_S)
    except httpx.TransportError:
        return ""
    return response.text if response.status_code == httpx.codes.OK else ""
