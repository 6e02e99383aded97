"""The peer that everyone has: transformers' `generate`, with and without its assisted generation.

Shapes: B prompts, S prompt tokens (padded on the left), T prompt and generated tokens.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma4AssistantForCausalLM
from transformers.utils.logging import disable_progress_bar

from evaluation.load.samples import Sample
from evaluation.pocket.records import Example


class ForwardCounter:
    """Notes when each of a model's forward passes starts, by a hook."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.starts_s: list[float] = []
        model.register_forward_pre_hook(self._note)

    def _note(self, module: torch.nn.Module, inputs: tuple[object, ...]) -> None:
        self.starts_s.append(time.perf_counter())


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A target with its tokenizer, where it is, and the count of its forward passes."""

    model: Any
    tokenizer: Any
    counter: ForwardCounter
    device: str = "cpu"


def load_model(target: Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Any:
    """Load a target from an ordinary checkpoint folder."""
    disable_progress_bar()
    return AutoModelForCausalLM.from_pretrained(target, dtype=dtype).to(device).eval()


def load_checkpoint(target: Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Checkpoint:
    """Load a target and its tokenizer."""
    model = load_model(target, device=device, dtype=dtype)
    tokenizer = AutoTokenizer.from_pretrained(target)
    return Checkpoint(model=model, tokenizer=tokenizer, counter=ForwardCounter(model), device=device)


def load_assistant(folder: Path, lookahead: int, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Any:
    """Load a Gemma 4 assistant that drafts `lookahead` tokens per round.

    transformers takes the number from the assistant's own generation configuration, and has no adaptive mode for it.
    """
    assistant = Gemma4AssistantForCausalLM.from_pretrained(folder, dtype=dtype).to(device).eval()
    assistant.generation_config.num_assistant_tokens = lookahead
    return assistant


@dataclass(frozen=True, slots=True, kw_only=True)
class HfSystem:
    """`generate` on a checkpoint, in padded batches; with an assistant one prompt at a time: it cannot do more."""

    name: str
    checkpoint: Checkpoint
    assistant: Any = None

    @property
    def max_streams(self) -> int:
        return 1 if self.assistant is not None else 64

    def measure(self, examples: Sequence[Example], num_streams: int, max_tokens: int) -> Sample:
        """Answer the examples in batches of `num_streams`, one batch after another."""
        self.checkpoint.counter.starts_s.clear()
        started = time.perf_counter()
        batches = [
            self._generate(examples[start : start + num_streams], max_tokens)
            for start in range(0, len(examples), num_streams)
        ]
        wall_s = time.perf_counter() - started
        answers = [answer for batch in batches for answer in batch]
        num_tokens = sum(len(answer) for answer in answers)
        # The first forward pass of an answer is its prefill: it yields a token and verifies nothing.
        num_rounds = len(self.checkpoint.counter.starts_s) - len(answers) if self.assistant is not None else 0
        return Sample(
            num_tokens=num_tokens,
            wall_s=wall_s,
            num_rounds=num_rounds,
            num_accepted_tokens=num_tokens - len(answers) - num_rounds if num_rounds else 0,
            texts=tuple(self.checkpoint.tokenizer.decode(answer, skip_special_tokens=True) for answer in answers),
        )

    def _generate(self, examples: Sequence[Example], max_tokens: int) -> list[list[int]]:
        inputs = self.checkpoint.tokenizer(
            [example.chat for example in examples],
            add_special_tokens=False,
            padding=True,
            padding_side="left",
            return_tensors="pt",
        )
        ids_BS, mask_BS = (inputs[name].to(self.checkpoint.device) for name in ("input_ids", "attention_mask"))
        return generate(self.checkpoint.model, ids_BS, mask_BS, max_tokens, self.assistant)


def generate(
    model: Any, ids_BS: torch.Tensor, mask_BS: torch.Tensor, max_tokens: int, assistant: Any
) -> list[list[int]]:
    """Generate greedily for one padded batch; each answer ends with its end token, if it came to one."""
    options = {} if assistant is None else {"assistant_model": assistant}
    with torch.inference_mode():
        output_BT = model.generate(
            input_ids=ids_BS, attention_mask=mask_BS, max_new_tokens=max_tokens, do_sample=False, **options
        )
    return [until_end(row, end_tokens(model)) for row in output_BT[:, ids_BS.shape[1] :].tolist()]


def end_tokens(model: Any) -> frozenset[int]:
    """The ids that end a model's answers."""
    found = model.generation_config.eos_token_id
    return frozenset(found if isinstance(found, list) else [found])


def until_end(tokens: Sequence[int], ends: frozenset[int]) -> list[int]:
    """Cut a row after its first end token: what follows is padding."""
    for index, token in enumerate(tokens):
        if token in ends:
            return list(tokens[: index + 1])
    return list(tokens)
