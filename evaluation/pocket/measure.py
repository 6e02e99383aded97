"""Measures stored checkpoints on held-out prompts: exact match, loss and acceptance length."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import Gemma4AssistantForCausalLM, Gemma4ForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from evaluation.pocket import folders, reference_loop
from evaluation.pocket.contracts import VARIANTS
from evaluation.pocket.prompts import held_out, held_out_contracts, held_out_raw
from evaluation.pocket.records import TASKS, Example, Task
from evaluation.pocket.train_target import exact_match

LOOKAHEAD = 5
MAX_NEW_TOKENS = 96
SEED = 20_261_122
GATES = {"structured": 4.5, "code": 3.0, "prose": 2.2}
EXACT_MATCH_GATE = 0.9
RAW_TASKS: tuple[Task, ...] = ("code", "prose")


@dataclass(kw_only=True)
class Tally:
    """Committed tokens and verify steps over some prompts; the prompt's own pass and its token are left out."""

    num_tokens: int = 0
    num_steps: int = 0

    @property
    def acceptance_length(self) -> float:
        return self.num_tokens / max(1, self.num_steps)


@contextmanager
def counted_calls(model: PreTrainedModel) -> Iterator[list[int]]:
    """Count the forward passes of a model."""
    calls = [0]

    def count(*_: Any) -> None:
        calls[0] += 1

    handle = model.register_forward_pre_hook(count)
    yield calls
    handle.remove()


def transformers_acceptance(
    target: Gemma4ForCausalLM, drafter: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, examples: list[Example]
) -> Tally:
    """Let `generate(assistant_model=...)` decode greedily with five drafted tokens a round."""
    settings = drafter.generation_config
    settings.num_assistant_tokens = LOOKAHEAD
    settings.num_assistant_tokens_schedule = "constant"
    settings.assistant_confidence_threshold = 0.0
    tally = Tally()
    is_mtp = isinstance(drafter, Gemma4AssistantForCausalLM)
    for example in examples:
        inputs = tokenizer(example.chat, add_special_tokens=False, return_tensors="pt")
        with counted_calls(target) as calls:
            output = target.generate(**inputs, assistant_model=drafter, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
        num_new = output.shape[1] - inputs["input_ids"].shape[1]
        # MTP needs the prompt's own pass first, which yields one token; a draft model drafts before it.
        tally.num_tokens += num_new - is_mtp
        tally.num_steps += calls[0] - is_mtp
    return tally


def reference_acceptance(
    target: Gemma4ForCausalLM,
    assistant: Gemma4AssistantForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    examples: list[Example],
) -> Tally:
    tally = Tally()
    for example in examples:
        prompt = tokenizer.encode(example.chat, add_special_tokens=False)
        done = reference_loop.generate(target, assistant, prompt, LOOKAHEAD, MAX_NEW_TOKENS)
        tally.num_tokens += done.num_committed_tokens
        tally.num_steps += done.num_rounds
    return tally


def measure(root: Path, num_prompts: int = 16, num_contracts: int = 100) -> Iterator[str]:
    """Yield the lines of figures that the model card prints."""
    tokenizer, target = folders.load_tokenizer(root), folders.load_target(root)
    yield from matches(target, tokenizer, num_contracts)
    assistant, draft_model = folders.load_assistant(root), folders.load_draft_model(root)
    prompts: dict[str, list[Example]] = {task: held_out(task, num_prompts, SEED) for task in TASKS}
    prompts |= {f"{task}, raw": held_out_raw(task, num_prompts, SEED) for task in RAW_TASKS}
    for name, examples in prompts.items():
        mtp = transformers_acceptance(target, assistant, tokenizer, examples).acceptance_length
        own = reference_acceptance(target, assistant, tokenizer, examples).acceptance_length
        drafted = transformers_acceptance(target, draft_model, tokenizer, examples).acceptance_length
        wanted = f" (wanted {GATES[name]})" if name in GATES else ""
        yield (
            f"acceptance length, {name}, {len(examples)} prompts: MTP {mtp:.2f}{wanted}, "
            f"by the reference loop {own:.2f}; draft model {drafted:.2f}"
        )


def matches(target: Gemma4ForCausalLM, tokenizer: PreTrainedTokenizerFast, count: int) -> Iterator[str]:
    """Yield how often the target's greedy answer is the reference, to the character."""
    for variant in VARIANTS:
        share = exact_match(target, tokenizer, held_out_contracts(variant, count, SEED))
        wanted = f" (wanted {EXACT_MATCH_GATE})" if variant == "standard" else ""
        yield f"exact match, contracts, {variant}: {share:.2f} of {count}{wanted}"
    yield f"exact match, summaries: {exact_match(target, tokenizer, held_out('summary', count, SEED)):.2f} of {count}"
