"""How often one drafted token of the pocket models holds, by drafter, acceptance mode, class and temperature.

    python -m evaluation.pocket.acceptance

The target writes answers to held-out prompts, sampled at each temperature. At every token of them the
drafters say what they would draw from, through the very engines that serve; each mode's chance of
acceptance is then computed, not sampled, but for coupled sampling, which is averaged over noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from deployments.decoding.drawing import Drawn
from deployments.decoding.rows import SamplingRows
from deployments.decoding.sampling import Choose, choose, warp
from deployments.drafter.draft_model_engine import DraftCacheLimits, load_draft_model_engine
from deployments.drafter.engine import DraftRequest
from deployments.drafter.mtp_engine import load_mtp_engine
from deployments.drafter.token_engine import ReadRequest
from deployments.messages import SamplingParams, SessionId, Token
from deployments.models.loading import load_target
from deployments.paged.chunk import Chunk
from deployments.verifier.paged_engine import CacheLimits, PagedEngine
from evaluation.pocket import folders
from evaluation.pocket.prompts import held_out
from evaluation.pocket.records import Task
from evaluation.pocket.tables import print_table

CLASSES: tuple[Task, ...] = ("structured", "code", "prose")
TEMPERATURES = (0.0, 0.7, 1.0)
MODES = ("coupled", "whole", "128", "32", "one-hot")
NUM_SEEDS = 16
SEED = 20_261_125
SESSION = 1


@dataclass(slots=True)
class Tape:
    """Draws the likeliest token and keeps the logits that it was asked with."""

    logits: list[Tensor] = field(default_factory=list)

    def __call__(
        self, logits_RV: Tensor, rows: SamplingRows, salts: Sequence[int | None], choose: Choose = choose
    ) -> Drawn:
        """The likeliest token of the only row."""
        self.logits.append(logits_RV[0].clone())
        return Drawn(logits_RV.argmax(-1), torch.ones(len(logits_RV)))


class Bench:
    """The engines of the pocket models, without a router between them."""

    def __init__(self, root: Path, context: int = 1024) -> None:
        names = {name: str(root / name) for name in ("target", "assistant", "draft_model")}
        self.target = load_target(names["target"], dtype=torch.float32, device="cpu")
        served = load_target(names["target"], dtype=torch.float32, device="cpu")
        self.verifier = PagedEngine(served, CacheLimits(max_context_tokens=context, num_kv_tokens=2 * context))
        self.mtp = load_mtp_engine(names["target"], names["assistant"], dtype=torch.float32, shadow_bytes=1 << 28)
        limits = DraftCacheLimits(max_context_tokens=context, num_kv_tokens=2 * context)
        self.draft_model = load_draft_model_engine(names["target"], names["draft_model"], limits, dtype=torch.float32)

    def write(self, prompt: Sequence[Token], params: SamplingParams, count: int) -> tuple[list[Token], dict[str, Tape]]:
        """The target's answer, and what each drafter would draw its tokens from, the first one aside."""
        tapes = {"mtp": Tape(), "draft_model": Tape()}
        self.mtp.draw, self.draft_model.draw = tapes["mtp"], tapes["draft_model"]
        most = len(prompt) + count + 1
        self.verifier.open(SESSION, params, most)
        self.mtp.attach(SESSION, params)
        self.draft_model.attach(SESSION, params, most)
        text, unread = list(prompt), 0
        while len(text) < len(prompt) + count:
            (outcome,) = self.verifier.step([Chunk(session=SESSION, start=unread, tokens=tuple(text[unread:]))])
            text.append(outcome.next_token)
            if outcome.next_token in self.target.eos_token_ids:
                break
            self._draft(text, unread)
            unread = len(text) - 1
        self.verifier.close(SESSION)
        self.mtp.detach(SESSION)
        self.draft_model.detach(SESSION)
        return text, tapes

    def _draft(self, text: Sequence[Token], start: int) -> None:
        self.mtp.extend(SESSION, self.verifier.shadow(SESSION, start, len(text) - 1))
        request = DraftRequest(
            session=SESSION,
            context_len=len(text),
            last_token=text[-1],
            lookahead=1,
            hidden=self.verifier.hidden(SESSION),
        )
        self.mtp.draft([request])
        read = self.draft_model.computed_len(SESSION)
        self.draft_model.draft([reading(SESSION, text, read, 1)])


def reading(session: SessionId, text: Sequence[Token], start: int, lookahead: int) -> ReadRequest:
    """Read a text from `start` on, then draft."""
    return ReadRequest(
        session=session, start=start, tokens=tuple(text[start:]), num_draft_tokens=lookahead, context_len=len(text)
    )


@torch.inference_mode()
def chances(target_TV: Tensor, draft_TV: Tensor, temperature: float, first: int) -> dict[str, float]:
    """The sum over positions of each mode's chance that a drafted token holds; logits in, `first` is a position."""
    params = [SamplingParams(temperature=temperature, seed=seed) for seed in range(NUM_SEEDS)]
    if temperature == 0:
        same = float((target_TV.argmax(-1) == draft_TV.argmax(-1)).sum())
        return dict.fromkeys(MODES, same)
    positions = range(first, first + len(target_TV))
    rows = SamplingRows.build([(params[0], position) for position in positions])
    target_scores_TV, draft_scores_TV = warp(target_TV, rows), warp(draft_TV, rows)
    target_TV_, found = target_scores_TV.softmax(-1), {}
    agree = 0.0
    for each in params:
        drawn = SamplingRows.build([(each, position) for position in positions])
        choices = [choose(logits, drawn, with_confidences=False).tokens_R for logits in (target_TV, draft_TV)]
        agree += float((choices[0] == choices[1]).sum()) / NUM_SEEDS
    found["coupled"] = agree
    for mode, kept in (("whole", draft_TV.shape[1]), ("128", 128), ("32", 32)):
        head = draft_scores_TV.topk(kept)
        found[mode] = float(torch.minimum(target_TV_.gather(1, head.indices), head.values.softmax(-1)).sum())
    found["one-hot"] = float(target_TV_.gather(1, draft_TV.argmax(-1, keepdim=True)).sum())
    return found


def measure(root: Path, num_prompts: int, num_tokens: int) -> Iterator[str]:
    """Yield the lines of a Markdown table."""
    bench, tokenizer = Bench(root), folders.load_tokenizer(root)
    yield "| drafter, class, temperature | coupled | rejection, whole | 128 tokens | 32 tokens | one-hot | positions |"
    yield "|---|---|---|---|---|---|---|"
    for task in CLASSES:
        prompts = [tokenizer.encode(each.chat, add_special_tokens=False) for each in held_out(task, num_prompts, SEED)]
        for temperature in TEMPERATURES:
            sums = {name: dict.fromkeys(MODES, 0.0) for name in ("mtp", "draft_model")}
            num_positions = 0
            for seed, prompt in enumerate(prompts):
                params = SamplingParams(temperature=temperature, seed=SEED + seed)
                text, tapes = bench.write(prompt, params, num_tokens)
                first, count = len(prompt) + 1, len(tapes["mtp"].logits)
                num_positions += count
                if count == 0:
                    continue
                with torch.inference_mode():
                    logits_TV = bench.target.model(torch.tensor([text])).logits[0]
                for name, tape in tapes.items():
                    target_TV = logits_TV[first - 1 : first - 1 + count]
                    for mode, chance in chances(target_TV, torch.stack(tape.logits), temperature, first).items():
                        sums[name][mode] += chance
            for name, by_mode in sums.items():
                cells = " | ".join(f"{by_mode[mode] / max(1, num_positions):.2f}" for mode in MODES)
                yield f"| {name}, {task}, {temperature} | {cells} | {num_positions} |"


if __name__ == "__main__":
    print_table(__doc__, measure)
