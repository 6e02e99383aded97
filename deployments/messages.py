"""Wire records: everything that crosses a stream between two roles.

Only the standard library and msgspec are imported here, so the control plane and the policies test without torch and
without ray. Construction does not validate, decoding does: bytes are decoded at the edge (`link.py`).

Positions. `context_len` is the number of tokens that are committed and known to both sides when the message is written,
prompt included; the token at position `context_len - 1` is the last of them and has no KV entry yet. A message whose
(session, epoch, context_len) lies behind its receiver is stale and dropped; one ahead is held, one per session.
"""

from __future__ import annotations

from typing import Literal

from deployments.distributions import Distribution
from deployments.records import Acceptance as Acceptance
from deployments.records import EarlyStop as EarlyStop
from deployments.records import Record as Record
from deployments.records import SamplingParams as SamplingParams
from deployments.records import Token as Token
from deployments.records import TokenLogprobs as TokenLogprobs
from deployments.timing import StepShape, StepTiming

PROTOCOL_VERSION = 1

Role = Literal["ingress", "router", "verifier", "drafter"]
DrafterKind = Literal["mtp", "draft_model"]
"""What a drafter replica holds; the router itself does prompt lookup."""
DrafterName = Literal["auto", "mtp", "draft_model", "prompt_lookup", "none"]
"""What a request may ask for; "auto" leaves it to the router."""
RequestClass = Literal["structured", "code", "prose", "creative", "reasoning"]
Priority = Literal["interactive", "batch"]
PolicyName = Literal["adaptive", "constant", "heuristic"]
FinishReason = Literal["stop", "length"]
FailureCode = Literal["overloaded", "unavailable", "invalid"]
RefusalReason = Literal["unknown_session", "out_of_step", "no_capacity", "invalid"]
LayerType = Literal["sliding_attention", "full_attention"]
SessionId = int
Epoch = tuple[int, int]
"""(router instance, counter): one placement of a session. Later placements have larger counters."""


Sample = tuple[str, tuple[str, ...], tuple[float, ...]]
"""(metric, label values, values): one value, or a histogram's counts per bucket and then its sum; see measures.py."""


class Report(Record):
    """What one replica has measured since it started. `number` grows with each report of the same replica."""

    peer: str
    role: Role
    number: int
    samples: tuple[Sample, ...]


# -- handshake ---------------------------------------------------------------------------------


class Hello(Record):
    """First record of whoever dials: who it is, and the one-time token its lease handed out."""

    protocol_version: int
    token: str
    peer: str
    role: Role


class Welcome(Record):
    """Answer of whoever listens, once the token is found good."""

    protocol_version: int
    peer: str
    role: Role


# -- ingress and router ------------------------------------------------------------------------


class Generate(Record):
    """Start (or, with more tokens than `num_prompt_tokens`, resume) the session of one choice.

    `max_context_tokens` bounds prompt plus output and is absolute, so that it means the same after a resumption.
    `num_speculative_tokens` None leaves the lookahead to the router's policy or to this one, never over
    `max_speculative_tokens` (None: its own bound). `request_class` is a hint; equal beginnings share KV by `salt`.
    """

    request: str
    tokens: tuple[Token, ...]
    num_prompt_tokens: int
    max_context_tokens: int
    params: SamplingParams
    stop_token_ids: tuple[Token, ...] = ()
    num_speculative_tokens: int | None = None
    drafter: DrafterName = "auto"
    max_speculative_tokens: int | None = None
    request_class: RequestClass | None = None
    priority: Priority = "interactive"
    policy: PolicyName | None = None
    salt: str = ""


class Cancel(Record):
    """The reader of this request is gone: free everything it holds."""

    request: str


class SetFlow(Record):
    """The reader of this request is slow (`paused`), or has caught up again."""

    request: str
    paused: bool


class Commit(Record):
    """Tokens that became part of one request's output, at positions `context_len` onwards.

    Of `num_drafted`, by `drafter`, the first `num_accepted` hold. `num_cached` before a first commit were in the cache.
    """

    request: str
    context_len: int
    tokens: tuple[Token, ...]
    num_drafted: int
    num_accepted: int
    finish_reason: FinishReason | None = None
    num_cached: int = 0
    logprobs: tuple[TokenLogprobs, ...] = ()
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    drafter: DrafterName = "none"


class Commits(Record):
    """What one verifier step committed for the requests of one ingress."""

    items: tuple[Commit, ...]


class Failure(Record):
    """A request that cannot go on, as far as this router is concerned."""

    request: str
    code: FailureCode
    detail: str


class RouterStatus(Record):
    """What a router tells its ingresses about itself: on every new link, on a change of peers, and once a second."""

    num_verifiers: int


class Reports(Record):
    """What a router has heard, itself included: reports that are new to the ingress. Once a second."""

    items: tuple[Report, ...]


# -- router and verifier -----------------------------------------------------------------------


class Open(Record):
    """Place a session on a verifier: it prefills `tokens` and answers with a first Verdict.

    `drafter` ("" for none) shall draft `lookahead` tokens after it; `request` is for the log, `salt` and `priority` as
    in Generate.
    """

    session: SessionId
    epoch: Epoch
    tokens: tuple[Token, ...]
    max_context_tokens: int
    params: SamplingParams
    stop_token_ids: tuple[Token, ...] = ()
    drafter: str = ""
    lookahead: int = 0
    request: str = ""
    salt: str = ""
    priority: Priority = "interactive"
    early_stop: EarlyStop | None = None


class Close(Record):
    """Forget a session and free what it holds. Idempotent."""

    session: SessionId
    epoch: Epoch


class VerifyItem(Record):
    """One session's part of a Verify: its drafted `tokens` for positions `context_len` onwards.

    `lookahead`, `drafter` and `early_stop` are those of the next round, so that the verifier can pass the
    go-ahead straight to the drafter. Given `survival_percent`, it may leave out the last tokens.
    """

    session: SessionId
    epoch: Epoch
    context_len: int
    tokens: tuple[Token, ...]
    lookahead: int = 0
    drafter: str = ""
    survival_percent: tuple[int, ...] = ()
    distributions: tuple[Distribution, ...] = ()
    early_stop: EarlyStop | None = None


class Verify(Record):
    """All the sessions of one router that are ready for the verifier's next step."""

    items: tuple[VerifyItem, ...]


class VerdictItem(Record):
    """One session's outcome: of `num_drafted` tokens `num_accepted` hold, then comes `next_token`.

    The session's context is `context_len + num_accepted + 1` then; without `has_go_ahead` no proposal will come.
    `logprobs` and `prompt_logprobs` are those of Commit.
    """

    session: SessionId
    epoch: Epoch
    context_len: int
    num_accepted: int
    next_token: Token
    has_go_ahead: bool = False
    num_drafted: int = 0
    num_cached: int = 0
    logprobs: tuple[TokenLogprobs, ...] = ()
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()


class Verdict(Record):
    """What one step decided for the sessions of one router, with the verifier's timing.

    `shape` is the whole step's; before it the verifier stood still for `idle_ms`. A repeated verdict took no time.
    """

    items: tuple[VerdictItem, ...]
    step_ms: float
    shape: StepShape
    idle_ms: float = 0.0


class Costs(Record):
    """First word of a verifier: its steps' times and most tokens, if groups take turns, how much of texts it keeps."""

    timings: tuple[StepTiming, ...]
    max_step_tokens: int
    can_split: bool = True
    num_prefix_tokens: int = 0


class Wait(Record):
    """A session's answer comes, but not with the next step: it waits for room, or was asked for again too early."""

    session: SessionId
    epoch: Epoch


class Refusal(Record):
    """A session the verifier cannot serve: it does not know it, has no room for it, or its tokens are no tokens."""

    session: SessionId
    epoch: Epoch
    reason: RefusalReason
    detail: str = ""


class Load(Record):
    """How many sessions a verifier (or, with its `kind`, a drafter) has of all routers; some may wait for room."""

    num_sessions: int
    num_waiting: int = 0
    kind: DrafterKind | None = None


# -- verifier and drafter ----------------------------------------------------------------------


class KvRange(Record):
    """Entries [start, stop) of one shadow layer.

    `keys` and `values` are the raw bytes of tensors of shape (stop - start, kv heads, head dim)
    in the model's dtype, C order, host byte order (little endian).
    """

    layer_type: LayerType
    start: int
    stop: int
    keys: bytes
    values: bytes


class DeltaItem(Record):
    """What a drafter lacks to draft `lookahead` tokens after `last_token` at `context_len - 1`.

    The ranges bring the shadow to entries 0 .. context_len - 2 (sliding layer: the last window of them), `tokens` are
    those at the positions added (none if the session does not need them), `hidden` the target's state after the final
    norm at position `context_len - 2`. With `lookahead` 0 the item only fills the shadow and `hidden` is empty.
    """

    session: SessionId
    epoch: Epoch
    context_len: int
    last_token: Token
    lookahead: int
    ranges: tuple[KvRange, ...]
    hidden: bytes
    tokens: tuple[Token, ...] = ()
    early_stop: EarlyStop | None = None


class Delta(Record):
    """One step's deltas for the sessions of one drafter; carries their go-ahead."""

    items: tuple[DeltaItem, ...]


class Need(Record):
    """A drafter has a gap in this session: it holds shadow entries, or tokens, [0, have_len) only."""

    session: SessionId
    epoch: Epoch
    have_len: int


# -- router and drafter ------------------------------------------------------------------------


class Attach(Record):
    """The drafter of this kind shall draft for a session of this router; `request` is for the log alone."""

    kind: DrafterKind
    session: SessionId
    epoch: Epoch
    params: SamplingParams
    max_context_tokens: int
    request: str = ""


class Detach(Record):
    """Drop a session's shadow. Idempotent."""

    session: SessionId
    epoch: Epoch


class DraftItem(Record):
    """Read the committed `tokens` at positions `start` .. `context_len` - 1, then draft `lookahead` ones (0: none)."""

    session: SessionId
    epoch: Epoch
    context_len: int
    start: int
    tokens: tuple[Token, ...]
    lookahead: int


class Draft(Record):
    """What a drafter that works from tokens alone shall draft, for the sessions of one router."""

    items: tuple[DraftItem, ...]


class Introduce(Record):
    """First word of a drafter to a router: what it drafts with. Sessions are attached to it from then on.

    From a verifier it introduces a drafter in its own process, called `colocated_name`.
    """

    kind: DrafterKind


class ProposalItem(Record):
    """Drafted `tokens` for positions `context_len` onwards, with the drafter's probability of each."""

    session: SessionId
    epoch: Epoch
    context_len: int
    tokens: tuple[Token, ...]
    confidences: tuple[float, ...] = ()
    distributions: tuple[Distribution, ...] = ()


class Proposal(Record):
    """All proposals of one drafter batch that belong to one router. The batch took `draft_ms` for `num_tokens`, with
    `longest` the most for one session; `lookahead`, where drafts may end early, is the most that was asked for.
    """

    items: tuple[ProposalItem, ...]
    draft_ms: float
    longest: int = 0
    num_tokens: int = 0
    lookahead: int = 0


_ToRouters = Generate | Cancel | SetFlow | Verdict | Wait | Refusal | Load | Costs | Introduce | Proposal
_FromRouters = Commits | Failure | RouterStatus | Reports | Open | Close | Verify | Attach | Detach | Draft
Message = Hello | Welcome | _ToRouters | _FromRouters | Delta | Need | Report
