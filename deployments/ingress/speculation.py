"""What speculation did for one request: token kinds, and the counts behind `metrics.speculative_decoding`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from deployments.messages import Commit

TokenKind = Literal["accepted", "recovered", "bonus", "plain"]


def kinds_of(commit: Commit) -> list[TokenKind]:
    """The kind of each token of a commit.

    `accepted` was drafted; `recovered` replaced a rejected draft; `bonus` followed a proposal that
    was accepted whole; `plain` came from a step without a proposal.
    """
    is_whole = commit.num_accepted == commit.num_drafted
    own: TokenKind = "plain" if commit.num_drafted == 0 else "bonus" if is_whole else "recovered"
    return ["accepted" if i < commit.num_accepted else own for i in range(len(commit.tokens))]


@dataclass(slots=True)
class SpeculationStats:
    """Counts over the verification steps of one request.

    A step counts if it had a proposal (lookahead >= 1): prompt steps and plain ones do not.
    `acceptance_histogram[i]` is the number of steps of which exactly i drafted tokens were
    accepted; its last entry is not zero. The token that the verifier adds is never counted as accepted.
    """

    acceptance_histogram: list[int] = field(default_factory=list)
    num_draft_tokens: int = 0

    @classmethod
    def total(cls, parts: Iterable[SpeculationStats]) -> SpeculationStats:
        """The counts of several choices together."""
        whole = cls()
        for part in parts:
            whole.num_draft_tokens += part.num_draft_tokens
            missing = len(part.acceptance_histogram) - len(whole.acceptance_histogram)
            whole.acceptance_histogram.extend([0] * missing)
            for i, num_steps in enumerate(part.acceptance_histogram):
                whole.acceptance_histogram[i] += num_steps
        return whole

    def add(self, commit: Commit) -> None:
        """Count one commit."""
        if commit.num_drafted == 0:
            return
        missing = commit.num_accepted + 1 - len(self.acceptance_histogram)
        self.acceptance_histogram.extend([0] * missing)
        self.acceptance_histogram[commit.num_accepted] += 1
        self.num_draft_tokens += commit.num_drafted

    @property
    def num_spec_steps(self) -> int:
        return sum(self.acceptance_histogram)

    @property
    def num_accepted_draft_tokens(self) -> int:
        return sum(i * num_steps for i, num_steps in enumerate(self.acceptance_histogram))

    def as_json(self) -> dict[str, Any]:
        """The public object, with vLLM's fields and meanings.

        `mean_acceptance_length` is accepted tokens per step plus the verifier's own one, 1 without
        any step; `draft_acceptance_rate` is accepted over drafted tokens, 0 without any.
        """
        num_accepted, num_steps = self.num_accepted_draft_tokens, self.num_spec_steps
        return {
            "mean_acceptance_length": 1 + num_accepted / num_steps if num_steps else 1.0,
            "draft_acceptance_rate": num_accepted / self.num_draft_tokens if self.num_draft_tokens else 0.0,
            "acceptance_histogram": list(self.acceptance_histogram),
            "num_spec_steps": num_steps,
            "num_draft_tokens": self.num_draft_tokens,
            "num_accepted_draft_tokens": num_accepted,
        }
