"""Which records may follow the handshake, by direction, and who they come from where two share a link."""

from __future__ import annotations

from types import UnionType

from deployments.messages import (
    Attach,
    Cancel,
    Close,
    Commits,
    Costs,
    Delta,
    Detach,
    Draft,
    DrafterKind,
    Failure,
    Generate,
    Introduce,
    Load,
    Need,
    Open,
    Proposal,
    Record,
    Refusal,
    Report,
    Reports,
    Role,
    RouterStatus,
    SetFlow,
    Verdict,
    Verify,
    Wait,
)

TRAFFIC: dict[tuple[Role, Role], UnionType | type[Record]] = {
    ("ingress", "router"): Generate | Cancel | SetFlow | Report,
    ("router", "ingress"): Commits | Failure | RouterStatus | Reports,
    ("router", "verifier"): Open | Close | Verify | Attach | Detach | Draft,
    ("verifier", "router"): Verdict | Wait | Refusal | Load | Costs | Report | Introduce | Need | Proposal,
    ("verifier", "drafter"): Delta,
    ("drafter", "verifier"): Need,
    ("router", "drafter"): Attach | Detach | Draft,
    ("drafter", "router"): Introduce | Need | Proposal | Load | Report,
}
"""What may follow the handshake, by (sender, receiver): a link decodes these records and no others."""


def colocated_name(verifier: str, kind: DrafterKind) -> str:
    """What a router and a verifier call the drafter of a kind inside that verifier."""
    return f"{verifier}/{kind}"
