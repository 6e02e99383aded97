"""Which drafted tokens hold: the equality rule of coupled sampling (Daliri et al. 2024, arXiv 2408.07978)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def accept(chosen_R: Sequence[int] | Tensor, drafts: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """One (number of accepted tokens, next token) per proposal.

    Proposal i owns 1 + len(drafts[i]) consecutive rows; row j of them holds the verifier's own choice
    after the first j drafted tokens. A drafted token is accepted while it and all before it equal those
    choices; the next token is the choice at the first difference (recovered), or after the whole proposal
    (bonus). So the committed tokens are the verifier's own, whatever was drafted: an empty proposal
    commits one token, a wholly accepted one of k commits k + 1.
    """
    chosen: Sequence[int] = chosen_R.tolist() if isinstance(chosen_R, Tensor) else chosen_R
    num_rows = sum(len(draft) + 1 for draft in drafts)
    if len(chosen) != num_rows:
        raise ValueError(
            f"{len(drafts)} proposals need {num_rows} chosen tokens, one after each, but got {len(chosen)}"
        )
    outcomes = []
    first_row = 0
    for draft in drafts:
        num_accepted = 0
        while num_accepted < len(draft) and draft[num_accepted] == chosen[first_row + num_accepted]:
            num_accepted += 1
        outcomes.append((num_accepted, chosen[first_row + num_accepted]))
        first_row += len(draft) + 1
    return outcomes
