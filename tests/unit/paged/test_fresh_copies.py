"""What a step left, read from one copy, is what the pools hold."""

from __future__ import annotations

import torch

from deployments.paged.fresh_copies import Fresh, FreshCopies
from deployments.paged.kv_cache import BlockTables, KvPools

LENGTHS = {1: (3, 9), 2: (0, 21), 5: (30, 31)}


def test_entries_and_states_are_those_of_the_pools() -> None:
    torch.manual_seed(0)
    tables = BlockTables(num_blocks=20, block_size=8, max_sessions=3, max_session_tokens=40)
    shapes = {0: (2, 4), 3: (1, 8)}
    pools = KvPools(layer_shapes=shapes, num_slots=21 * 8, dtype=torch.float32, device="cpu")
    for layer in shapes:
        for pool in pools.whole(layer):
            pool.normal_()
    for session in LENGTHS:
        tables.reserve(session, 35)
    states = {session: torch.randn(16) for session in LENGTHS}
    fresh = [
        Fresh(session=session, start=start, stop=stop, hidden_H=states[session])
        for session, (start, stop) in LENGTHS.items()
    ]
    copies = FreshCopies(fresh, {layer: (pools.whole(layer), tables.spans) for layer in shapes})

    for session, (start, stop) in LENGTHS.items():
        for first in (start, stop - 1):
            for layer in shapes:
                expected = pools.read(layer, tables.spans(session, first, stop))
                assert copies.read(layer, session, first, stop) == expected
        assert copies.hidden(session, stop) == states[session].numpy().tobytes()
        assert copies.hidden(session, stop - 1) is None, "a rollback took the state"
    assert copies.read(0, 1, 2, 9) is None, "older than the step"
    assert copies.read(0, 7, 0, 1) is None
    copies.forget(2)
    assert copies.read(0, 2, 0, 21) is None
    assert copies.hidden(2, 21) is None
