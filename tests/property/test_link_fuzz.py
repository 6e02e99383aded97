"""Whatever arrives on a stream, it is either the record that was sent or the end of that stream."""

from __future__ import annotations

import asyncio

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.link import Identity, Link, LinkSettings, TokenBook
from deployments.link_frames import to_frame
from deployments.link_stream import Stream
from deployments.messages import (
    Cancel,
    Delta,
    DeltaItem,
    EarlyStop,
    Generate,
    KvRange,
    Message,
    Open,
    Record,
    SamplingParams,
    SetFlow,
    Verify,
    VerifyItem,
)
from deployments.traffic import TRAFFIC

U64 = st.integers(0, 2**64 - 1)
SMALL = st.integers(0, 2**31)
PARAMS = st.builds(SamplingParams, temperature=st.floats(0, 2), top_k=SMALL, seed=U64)
REQUESTS = st.one_of(
    st.builds(Cancel, request=st.text(max_size=40)),
    st.builds(SetFlow, request=st.text(max_size=40), paused=st.booleans()),
    st.builds(
        Generate,
        request=st.text(max_size=40),
        tokens=st.lists(SMALL, max_size=300).map(tuple),
        num_prompt_tokens=SMALL,
        max_context_tokens=SMALL,
        params=PARAMS,
    ),
)
RANGES = st.builds(
    KvRange,
    layer_type=st.sampled_from(["sliding_attention", "full_attention"]),
    start=SMALL,
    stop=SMALL,
    keys=st.binary(max_size=200),
    values=st.binary(max_size=200),
)
COSTS = st.floats(0, allow_nan=False)
EARLY_STOPS = st.none() | st.builds(
    EarlyStop,
    value=COSTS,
    token_cost=COSTS,
    step_cost=COSTS,
    chances=st.binary(max_size=9),
    nexts=st.binary(max_size=9),
)
ROUNDS = st.one_of(
    st.builds(
        Open,
        session=U64,
        epoch=st.tuples(SMALL, SMALL),
        tokens=st.lists(SMALL, max_size=30).map(tuple),
        max_context_tokens=SMALL,
        params=PARAMS,
        early_stop=EARLY_STOPS,
    ),
    st.builds(
        Verify,
        items=st.lists(
            st.builds(
                VerifyItem,
                session=U64,
                epoch=st.tuples(SMALL, SMALL),
                context_len=SMALL,
                tokens=st.lists(SMALL, max_size=9).map(tuple),
                lookahead=SMALL,
                early_stop=EARLY_STOPS,
            ),
            max_size=4,
        ).map(tuple),
    ),
)
DELTAS = st.builds(
    Delta,
    items=st.lists(
        st.builds(
            DeltaItem,
            session=U64,
            epoch=st.tuples(SMALL, SMALL),
            context_len=SMALL,
            last_token=SMALL,
            lookahead=SMALL,
            ranges=st.lists(RANGES, max_size=2).map(tuple),
            hidden=st.binary(max_size=64),
            early_stop=EARLY_STOPS,
        ),
        max_size=4,
    ).map(tuple),
)


class Wire(asyncio.Transport):
    """A transport into the void."""

    def __init__(self) -> None:
        super().__init__()
        self.is_aborted = False

    def is_closing(self) -> bool:
        return self.is_aborted

    def abort(self) -> None:
        self.is_aborted = True


class Sink:
    """An endpoint that keeps what it gets."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def link_opened(self, link: Link) -> None: ...

    def received(self, link: Link, message: Message) -> None:
        self.messages.append(message)

    def link_closed(self, link: Link) -> None: ...


class OpenStream(Stream):
    """A stream past its handshake."""

    def __init__(self, sink: Sink, wire: Wire, me: Identity, peer: Identity) -> None:
        super().__init__(sink, me, LinkSettings(max_frame_bytes=1 << 16))
        self._transport = self._wire = wire
        self._open(peer)


def feed(me: str, peer: str, pieces: list[bytes]) -> tuple[list[Message], bool]:
    """What an endpoint gets of these bytes, and whether its link is still open."""

    async def run() -> tuple[list[Message], bool]:
        sink, wire = Sink(), Wire()
        stream = OpenStream(sink, wire, Identity("me", me), Identity("peer", peer))  # type: ignore[arg-type]
        for piece in pieces:
            if not wire.is_aborted:
                stream.feed(piece)
        return sink.messages, not wire.is_aborted

    return asyncio.run(run())


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """The bytes in pieces, as a network may bring them."""
    stops = sorted({place % (len(data) + 1) for place in places} | {len(data)})
    return [data[start:stop] for start, stop in zip([0, *stops], stops, strict=False)]


@settings(deadline=None)
@given(st.lists(REQUESTS, max_size=8), st.lists(SMALL, max_size=6))
def test_records_survive_any_fragmentation(records: list[Message], places: list[int]) -> None:
    data = b"".join(bytes(to_frame(record, 1 << 16)) for record in records)
    assert feed("router", "ingress", cut(data, places)) == (records, True)


@settings(deadline=None)
@given(DELTAS, st.lists(SMALL, max_size=4))
def test_tensor_bytes_arrive_as_they_left(delta: Delta, places: list[int]) -> None:
    messages, is_open = feed("drafter", "verifier", cut(bytes(to_frame(delta, 1 << 16)), places))
    assert (messages, is_open) == ([delta], True)


@settings(deadline=None)
@given(ROUNDS, st.lists(SMALL, max_size=4))
def test_what_a_router_asks_of_a_verifier_arrives_as_it_left(asked: Open | Verify, places: list[int]) -> None:
    messages, is_open = feed("verifier", "router", cut(bytes(to_frame(asked, 1 << 16)), places))
    assert (messages, is_open) == ([asked], True)


@settings(deadline=None)
@given(st.binary(max_size=400), st.lists(SMALL, max_size=4))
def test_noise_yields_no_record_that_was_not_valid(noise: bytes, places: list[int]) -> None:
    messages, _ = feed("router", "ingress", cut(noise, places))
    for message in messages:  # by sheer luck
        assert isinstance(message, Cancel | SetFlow | Generate)


@settings(deadline=None)
@given(REQUESTS, REQUESTS, SMALL, st.integers(1, 255))
def test_a_damaged_frame_is_another_valid_record_or_the_end(
    record: Message, after: Message, place: int, damage: int
) -> None:
    body = bytearray(msgspec.msgpack.encode(record))
    body[place % len(body)] ^= damage
    frame = len(body).to_bytes(4, "little") + bytes(body)
    messages, is_open = feed("router", "ingress", [frame + bytes(to_frame(after, 1 << 16))])
    if is_open:
        assert len(messages) == 2
        assert messages[1] == after
        assert isinstance(messages[0], Cancel | SetFlow | Generate)
    else:
        assert messages == []


@settings(deadline=None)
@given(DELTAS, st.sampled_from(sorted(TRAFFIC)))
def test_a_record_travels_only_where_it_belongs(delta: Delta, direction: tuple[str, str]) -> None:
    sender, receiver = direction
    messages, is_open = feed(receiver, sender, [bytes(to_frame(delta, 1 << 16))])
    assert is_open == (direction == ("verifier", "drafter"))
    assert messages == ([delta] if is_open else [])


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.integers(0, 40)), max_size=16))
def test_a_token_opens_one_door_once(steps: list[tuple[int, bool, int]]) -> None:
    now = 0.0
    book = TokenBook(lifetime_s=10, clock=lambda: now)
    issued: list[tuple[Identity, str, float]] = []
    for peer, is_issue, which in steps:
        now += which / 8
        identity = Identity(f"peer-{peer}", "router")
        if is_issue or not issued:
            issued.append((identity, book.issue(identity), now + 10))
            continue
        owner, token, expiry = issued[which % len(issued)]
        # Others are refused, and that does not use the token up.
        if owner != identity:
            assert not book.redeem(identity, token)
        else:
            issued.remove((owner, token, expiry))
            assert book.redeem(owner, token) == (now < expiry)
            assert not book.redeem(owner, token)


def test_every_record_has_a_direction() -> None:
    def leaves(kind: type[Record]) -> set[str]:
        return {kind.__name__} if not kind.__subclasses__() else set().union(*map(leaves, kind.__subclasses__()))

    travelling = {
        record.__name__ for records in TRAFFIC.values() for record in getattr(records, "__args__", (records,))
    }
    named = {record.__name__ for record in Message.__args__}
    assert travelling == named - {"Hello", "Welcome"}
    assert travelling <= leaves(Record)
