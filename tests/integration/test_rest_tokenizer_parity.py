"""The ingress's own tokenizer gives the ids and texts that transformers gives."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from deployments.ingress.chat_template import Rendering
from deployments.ingress.tokenizer import Tokenizer
from tests.support.tiny_tokenizer import write_model_folder

POCKET = Path(str(files("deployments.models"))) / "pocket" / "target"
CONVERSATIONS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "hello"}],
    [
        {"role": "system", "content": "You are brief. 🙂"},
        {"role": "user", "content": "  two  spaces,\n\na line and <html> & 'quotes' "},
        {"role": "assistant", "content": "日本語"},
        {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": " two"}]},
    ],
    [{"role": "user", "content": "a special token in the text: <turn|> <eos>"}],
]
TRICKY_TEMPLATE = """\
{%- for message in messages %}
    {%- if loop.first and tools is none and documents is none %}{{ bos_token }}{% endif %}
    {%- set ns = namespace(text='') %}
    {%- generation %}{% set ns.text = message | tojson %}{{ ns.text }}{% endgeneration %}
    {%- if message.role == 'skip' %}{% continue %}{% endif %}
  {{ message['role'] }}:{{ message['content'] }}{{ eos_token }}
{% endfor %}
{%- if add_generation_prompt %}ANSWER {% endif %}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_model_folder(tmp_path)


@pytest.mark.parametrize("conversation", CONVERSATIONS, ids=["short", "long", "special"])
@pytest.mark.parametrize("template", [None, TRICKY_TEMPLATE], ids=["gemma-style", "tricky"])
def test_chat_ids_equal_those_of_transformers(
    folder: Path, conversation: list[dict[str, Any]], template: str | None
) -> None:
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
        conversation = [turn for turn in conversation if isinstance(turn["content"], str)]
    theirs = AutoTokenizer.from_pretrained(folder).apply_chat_template(conversation, add_generation_prompt=True)
    assert Tokenizer.load(folder).encode_chat(conversation) == theirs["input_ids"]


@pytest.mark.parametrize("conversation", CONVERSATIONS, ids=["short", "long", "special"])
def test_the_pocket_model_is_prompted_as_by_transformers(conversation: list[dict[str, Any]]) -> None:
    theirs = AutoTokenizer.from_pretrained(POCKET).apply_chat_template(conversation, add_generation_prompt=True)
    assert Tokenizer.load(POCKET).encode_chat(conversation) == theirs["input_ids"]


@pytest.mark.parametrize("template", [None, TRICKY_TEMPLATE], ids=["gemma-style", "tricky"])
@pytest.mark.parametrize("content", ["the", "  two  spaces \n", "the the", [{"type": "text", "text": "the price "}]])
def test_a_message_is_gone_on_with_where_transformers_goes_on(folder: Path, template: str | None, content: Any) -> None:
    if template is not None:
        (folder / "chat_template.jinja").write_text(template.replace("message | tojson", "message.role"))
        content = content if isinstance(content, str) else content[0]["text"]
    conversation = [{"role": "user", "content": "the"}, {"role": "assistant", "content": content}]
    theirs = AutoTokenizer.from_pretrained(folder).apply_chat_template(conversation, continue_final_message=True)
    rendering = Rendering(adds_generation_prompt=False, continues_final=True)
    assert Tokenizer.load(folder).encode_chat(conversation, rendering) == theirs["input_ids"]


def test_variables_of_a_template_are_those_of_transformers(folder: Path) -> None:
    thinking = "{% if enable_thinking is defined and enable_thinking %}think: {% endif %}{{ messages[0].content }}"
    (folder / "chat_template.jinja").write_text(thinking)
    theirs, ours = AutoTokenizer.from_pretrained(folder), Tokenizer.load(folder)
    conversation = [{"role": "user", "content": "the"}]
    for variables in ({}, {"enable_thinking": True}, {"enable_thinking": False}):
        expected = theirs.apply_chat_template(conversation, add_generation_prompt=True, **variables)["input_ids"]
        assert ours.encode_chat(conversation, Rendering(variables=variables)) == expected
    thought = ours.encode_chat(conversation, Rendering(variables={"enable_thinking": True}))
    assert thought != ours.encode_chat(conversation)


@pytest.mark.parametrize("text", ["", "hello", "  hé 🙂\n", "x <turn|> y"])
def test_plain_ids_and_texts_equal_those_of_transformers(folder: Path, text: str) -> None:
    theirs, ours = AutoTokenizer.from_pretrained(folder), Tokenizer.load(folder)
    ids = ours.encode(text)
    assert ids == theirs(text)["input_ids"]
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


def test_a_template_in_the_tokenizer_config_is_found(folder: Path) -> None:
    config = folder / "tokenizer_config.json"
    (folder / "chat_template.jinja").unlink()
    assert not Tokenizer.load(folder).has_chat_template
    config.write_text('{"chat_template": "{{ messages[0].content }}", "bos_token": {"content": "<bos>"}}')
    assert Tokenizer.load(folder).encode_chat([{"role": "user", "content": "the"}])
    config.write_text('{"chat_template": [{"name": "default", "template": "x"}, {"name": "rag", "template": "y"}]}')
    assert Tokenizer.load(folder).has_chat_template
