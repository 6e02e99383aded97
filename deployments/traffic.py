"""Which records may follow the handshake, by direction."""

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
)

TRAFFIC: dict[tuple[Role, Role], UnionType | type[Record]] = {
    ("ingress", "router"): Generate | Cancel | SetFlow | Report,
    ("router", "ingress"): Commits | Failure | RouterStatus | Reports,
    ("router", "verifier"): Open | Close | Verify,
    ("verifier", "router"): Verdict | Refusal | Load | Costs | Report,
    ("verifier", "drafter"): Delta,
    ("drafter", "verifier"): Need,
    ("router", "drafter"): Attach | Detach | Draft,
    ("drafter", "router"): Introduce | Need | Proposal | Report,
}
"""What may follow the handshake, by (sender, receiver): a link decodes these records and no others."""
