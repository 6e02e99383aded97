"""What the generators produce, and the rule that keeps held-out texts out of training."""

import hashlib
from dataclasses import dataclass
from typing import Literal, TypedDict

Task = Literal["structured", "code", "prose", "summary"]

TASKS: tuple[Task, ...] = ("structured", "code", "prose", "summary")

HELD_OUT_PERCENT = 5


class Message(TypedDict):
    role: str
    content: str


@dataclass(frozen=True, kw_only=True)
class Example:
    """A prompt and what follows it; `prompt_messages` is empty for a raw completion, whose text is `raw_prompt`."""

    task: Task
    reference: str
    prompt_messages: tuple[Message, ...] = ()
    raw_prompt: str = ""

    @property
    def chat(self) -> str:
        """The prompt as one string with its special tokens, equal to the tokenizer's rendered chat template."""
        return render(self.prompt_messages) if self.prompt_messages else "<bos>" + self.raw_prompt

    @property
    def text(self) -> str:
        """The whole document as the models are trained on it."""
        return self.chat + self.reference + ("<turn|>" if self.prompt_messages else "<eos>")


def render(messages: tuple[Message, ...]) -> str:
    """Write a conversation in Gemma 4's turn format, opening the model's next turn."""
    turns = "".join(f"<|turn>{message['role']}\n{message['content'].strip()}<turn|>\n" for message in messages)
    return f"<bos>{turns}<|turn>model\n"


def ask(task: Task, request: str, reference: str, system: str = "") -> Example:
    """Make a single-turn chat example, with a system turn where one is given."""
    head: tuple[Message, ...] = ({"role": "system", "content": system},) if system else ()
    return Example(task=task, reference=reference, prompt_messages=(*head, {"role": "user", "content": request}))


def is_held_out(key: str) -> bool:
    """Say by hash, for good, whether a text with this key belongs to evaluation; training skips those."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % 100 < HELD_OUT_PERCENT


def words(text: str) -> tuple[str, ...]:
    return tuple(text.split())
