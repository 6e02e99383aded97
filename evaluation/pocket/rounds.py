"""How many of four drafted tokens hold: coupled, and under rejection sampling token by token and as a block.

    python -m evaluation.pocket.rounds

The target writes answers to held-out prompts; at every few tokens of them both drafters propose four
tokens, through the very engines that serve, and the target reads them. Under rejection the expected
number that holds is worked out from the distributions of each proposal; coupled ones are counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor

from deployments.decoding.acceptance import accept
from deployments.decoding.drawing import Drawer
from deployments.decoding.rejection import keeping
from deployments.decoding.rows import SamplingRows
from deployments.decoding.sampling import choose, warp
from deployments.distributions import Distribution
from deployments.drafter.engine import Draft, DraftRequest
from deployments.messages import SamplingParams, Token
from deployments.paged.chunk import Chunk
from evaluation.pocket import folders
from evaluation.pocket.acceptance import CLASSES, SEED, Bench, reading
from evaluation.pocket.prompts import held_out
from evaluation.pocket.tables import print_table

LOOKAHEAD, STRIDE = 4, 3
TEMPERATURES = (0.7, 1.0)
DRAFTERS = ("mtp", "draft_model")
KEPT: dict[str, int | None] = {"whole": None, "128": 128}
COLUMNS = ("coupled", *(f"{kept}, {how}" for kept in KEPT for how in ("one by one", "block")))
_COUPLED, _REJECTED = 1, 2


@dataclass(frozen=True, slots=True)
class Asked:
    """What a drafter proposed after the first `context_len` tokens of a text; `kept` None: coupled."""

    drafter: str
    kept: str | None
    context_len: int
    draft: Draft


@torch.inference_mode()
def expected_lengths(target_KV: Tensor, draft_KV: Tensor, draft: Sequence[Token]) -> tuple[float, float]:
    """How many drafted tokens hold on average, token by token and as a block; probabilities in."""
    ratio_K = (target_KV / draft_KV).gather(1, torch.tensor(draft)[:, None]).squeeze(1)
    kept, _ = keeping(target_KV, draft_KV, [draft])
    stops = 1 - torch.tensor(kept, dtype=torch.float64)
    as_block = sum(1 - float(stops[first:].prod()) for first in range(len(draft)))
    return float(ratio_K.clamp_max(1.0).cumprod(0).sum()), as_block


def proposals(
    bench: Bench, prompt: Sequence[Token], params: SamplingParams, count: int
) -> tuple[list[Token], list[Asked]]:
    """The target's answer, and what both drafters proposed on the way."""
    rejected = msgspec.structs.replace(params, acceptance="rejection")
    most = len(prompt) + count + LOOKAHEAD + 1
    bench.verifier.open(_COUPLED, params, most)
    for session, how in ((_COUPLED, params), (_REJECTED, rejected)):
        bench.mtp.attach(session, how)
        bench.draft_model.attach(session, how, most)
    text, unread, found = list(prompt), 0, list[Asked]()
    while len(text) < len(prompt) + count:
        (outcome,) = bench.verifier.step([Chunk(session=_COUPLED, start=unread, tokens=tuple(text[unread:]))])
        text.append(outcome.next_token)
        if outcome.next_token in bench.target.eos_token_ids:
            break
        ranges = bench.verifier.shadow(_COUPLED, unread, len(text) - 1)
        for session in (_COUPLED, _REJECTED):
            bench.mtp.extend(session, ranges)
        unread = len(text) - 1
        if len(text) % STRIDE == 0:
            found += _ask(bench, text)
    bench.verifier.close(_COUPLED)
    for session in (_COUPLED, _REJECTED):
        bench.mtp.detach(session)
        bench.draft_model.detach(session)
    return text, found


def _ask(bench: Bench, text: Sequence[Token]) -> Iterator[Asked]:
    for kept in (None, *KEPT):
        session = _COUPLED if kept is None else _REJECTED
        bench.mtp.draw = bench.draft_model.draw = Drawer(KEPT[kept] if kept else None)
        go_ahead = DraftRequest(
            session=session,
            context_len=len(text),
            last_token=text[-1],
            lookahead=LOOKAHEAD,
            hidden=bench.verifier.hidden(_COUPLED),
        )
        yield Asked("mtp", kept, len(text), bench.mtp.draft([go_ahead])[0])
        start = min(bench.draft_model.computed_len(session), len(text) - 1)
        (draft,) = bench.draft_model.draft([reading(session, text, start, LOOKAHEAD)])
        yield Asked("draft_model", kept, len(text), draft)


@torch.inference_mode()
def lengths(bench: Bench, text: Sequence[Token], asked: Sequence[Asked], params: SamplingParams) -> Iterator[float]:
    """How many tokens of each proposal hold: counted if it is coupled, else expected, one by one and as a block."""
    longest = max(one.context_len for one in asked) + LOOKAHEAD
    ids = torch.zeros(len(asked), longest, dtype=torch.int64)
    for row, one in enumerate(asked):
        known = [*text[: one.context_len], *one.draft.tokens]
        ids[row, : len(known)] = torch.tensor(known)
    logits_BTV = bench.target.model(ids).logits
    for row, one in enumerate(asked):
        logits_RV = logits_BTV[row, one.context_len - 1 : one.context_len + LOOKAHEAD]
        rows = SamplingRows.build([(params, one.context_len + step) for step in range(LOOKAHEAD + 1)])
        if one.kept is None:
            yield accept(choose(logits_RV, rows).tokens_R, [one.draft.tokens])[0][0]
            continue
        target_KV = warp(logits_RV, rows)[:-1].softmax(-1)
        draft_KV = torch.stack([_dense(each, target_KV.shape[1]) for each in one.draft.distributions])
        yield from expected_lengths(target_KV, draft_KV, one.draft.tokens)


def _dense(given: Distribution, vocab_size: int) -> Tensor:
    weights = torch.from_numpy(np.frombuffer(given.probabilities, np.float32).copy())
    if not given.token_ids:
        return weights
    ids = torch.from_numpy(np.frombuffer(given.token_ids, np.int32).astype(np.int64))
    return torch.zeros(vocab_size).index_copy_(0, ids, weights)


def measure(root: Path, num_prompts: int, num_tokens: int) -> Iterator[str]:
    """Yield the lines of a Markdown table."""
    bench, tokenizer = Bench(root), folders.load_tokenizer(root)
    yield f"| drafter, class, temperature | {' | '.join(COLUMNS)} | proposals |"
    yield "|---" * (len(COLUMNS) + 2) + "|"
    for task in CLASSES:
        prompts = [tokenizer.encode(each.chat, add_special_tokens=False) for each in held_out(task, num_prompts, SEED)]
        for temperature in TEMPERATURES:
            sums = {drafter: np.zeros(len(COLUMNS)) for drafter in DRAFTERS}
            num_proposals = 0
            for seed, prompt in enumerate(prompts):
                params = SamplingParams(temperature=temperature, seed=SEED + seed)
                text, asked = proposals(bench, prompt, params, num_tokens)
                for drafter in DRAFTERS:
                    if mine := [one for one in asked if one.drafter == drafter]:
                        found = np.array(list(lengths(bench, text, mine, params)))
                        sums[drafter] += found.reshape(-1, len(COLUMNS)).sum(0)
                num_proposals += len(asked) // (len(DRAFTERS) * (1 + len(KEPT)))
            for drafter, total in sums.items():
                cells = " | ".join(f"{1 + value / max(1, num_proposals):.3f}" for value in total)
                yield f"| {drafter}, {task}, {temperature} | {cells} | {num_proposals} |"


if __name__ == "__main__":
    print_table(__doc__, measure)
