"""The tokenizer of a model folder: text to ids and back, without transformers (see chat_template.py)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tokenizers import Tokenizer as FastTokenizer

from deployments.ingress.chat_template import AS_USUAL, ChatMessage, ChatTemplate, Rendering, TemplateRefusal
from deployments.ingress.token_texts import TokenTexts, Verbatim
from deployments.messages import Token


class Tokenizer:
    """Encodes prompts and decodes outputs with the ids that transformers' AutoTokenizer would use."""

    def __init__(
        self,
        fast: FastTokenizer,
        chat_template: ChatTemplate | None,
        named_tokens: Mapping[str, str] = MappingProxyType({}),
        class_name: str | None = None,
    ) -> None:
        # A saved tokenizer may carry the truncation or padding of its last batch.
        fast.no_truncation()
        fast.no_padding()
        self._fast = fast
        self._chat_template = chat_template
        self._named_tokens = dict(named_tokens)
        self._class_name = class_name
        added = fast.get_added_tokens_decoder()
        self.special_ids = frozenset(token_id for token_id, token in added.items() if token.special)

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Read tokenizer.json, tokenizer_config.json and chat_template.jinja; raises ValueError without the first."""
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise ValueError(f"{folder} has no tokenizer.json: save the model's tokenizer there (save_pretrained does)")
        config_path = folder / "tokenizer_config.json"
        config = json.loads(config_path.read_text("utf-8")) if config_path.is_file() else {}
        source = _template_source(folder, config)
        named = _special_tokens(config)
        template = ChatTemplate(source, named) if source is not None else None
        return cls(FastTokenizer.from_file(str(path)), template, named, config.get("tokenizer_class"))

    @property
    def has_chat_template(self) -> bool:
        """Whether chat requests can be served."""
        return self._chat_template is not None

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[Token]:
        """The ids of a plain prompt, with the special tokens that the model expects around one."""
        return list(self._fast.encode(text, add_special_tokens=add_special_tokens).ids)

    def encode_chat(
        self,
        messages: Sequence[ChatMessage],
        rendering: Rendering = AS_USUAL,
        *,
        add_special_tokens: bool = False,
    ) -> list[Token]:
        """The ids of a conversation up to where the answer begins or goes on; raises TemplateRefusal."""
        if self._chat_template is None:
            raise TemplateRefusal("this model has no chat template; use /v1/completions")
        text = self._chat_template.render(messages, rendering)
        return list(self._fast.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(self, token_ids: Sequence[Token]) -> str:
        """The text of the ids, special tokens left out; bytes that form no character become U+FFFD."""
        return self._fast.decode(token_ids, skip_special_tokens=True)

    @cached_property
    def verbatim(self) -> Verbatim:
        """A decoder that shows special tokens."""
        return Verbatim(self._fast)

    @cached_property
    def token_texts(self) -> TokenTexts:
        """The text of each token by itself."""
        return TokenTexts(self._fast)

    def info(self) -> dict[str, Any]:
        """What a client needs to render and end prompts as this tokenizer does: named tokens and the chat template.

        And the class that the model's folder names.
        """
        template = self._chat_template
        chat_template = None if template is None else template.source
        return {**self._named_tokens, "tokenizer_class": self._class_name, "chat_template": chat_template}


def _template_source(folder: Path, config: dict[str, Any]) -> str | None:
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text("utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    return template


def _special_tokens(config: dict[str, Any]) -> dict[str, str]:
    """What templates may refer to by name: bos_token, eos_token, and the model's own."""
    extra = config.get("extra_special_tokens")
    named = {**config, **extra} if isinstance(extra, dict) else config
    texts = {
        name: value["content"] if isinstance(value, dict) else value
        for name, value in named.items()
        if name.endswith("_token")
    }
    return {name: text for name, text in texts.items() if isinstance(text, str)}
