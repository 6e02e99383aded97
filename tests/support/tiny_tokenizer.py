"""Small tokenizers made on the spot, and a model folder around one: no download, no weights."""

from __future__ import annotations

import functools
import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, processors, trainers
from tokenizers.pre_tokenizers import ByteLevel

BOS, EOS, TURN, END_OF_TURN = "<bos>", "<eos>", "<|turn>", "<turn|>"
SPECIAL_TOKENS = [BOS, EOS, TURN, END_OF_TURN]
END_OF_TURN_ID = 3
TEMPLATE = (
    "{{- bos_token -}}{%- for message in messages -%}"
    "{%- if message['content'] is string -%}{%- set content = message['content'] -%}"
    "{%- else -%}{%- set content = message['content'] | selectattr('type', 'equalto', 'text')"
    " | map(attribute='text') | join -%}{%- endif -%}"
    "{%- if message['role'] == 'critic' -%}{{ raise_exception('no critics, please') }}{%- endif -%}"
    "{{- '<|turn>' + message['role'] + '\\n' + content | trim + '<turn|>\\n' -}}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|turn>model\\n' -}}{%- endif -%}"
)
_CORPUS = [
    "the quick brown fox jumps over the lazy dog. the contract names the parties and the price.",
    'def add(left: int, right: int) -> int:\n    return left + right\n{"name": "value", "price": 12}',
    "grüße aus köln, 日本語のテキスト, emoji 🙂 and 👩‍👩‍👧 families; the end.",
]


@functools.cache
def byte_level_tokenizer(vocab_size: int = 400) -> Tokenizer:
    """A byte-level BPE: characters outside its merges come as several tokens of one byte each."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 0)])
    return tokenizer


def byte_fallback_tokenizer() -> Tokenizer:
    """In the manner of sentencepiece: words begin with ▁, the first space is dropped, unknown characters are bytes."""
    vocab = {token: i for i, token in enumerate([*SPECIAL_TOKENS, "<unk>"])}
    for token in (*(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcdefghijklmnopqrstuvwxyz.,ü"):
        vocab[token] = len(vocab)
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(SPECIAL_TOKENS)
    return tokenizer


def write_model_folder(
    folder: Path,
    *,
    max_model_len: int = 512,
    generation: dict[str, object] | None = None,
    chat_template: str = TEMPLATE,
) -> Path:
    """Everything of a model but its weights."""
    tokenizer = byte_level_tokenizer()
    (folder / "tokenizer.json").write_text(tokenizer.to_str())
    config = {"max_position_embeddings": max_model_len, "vocab_size": tokenizer.get_vocab_size()}
    named = {"bos_token": BOS, "eos_token": EOS, "tokenizer_class": "TokenizersBackend"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(
        json.dumps({"eos_token_id": [1, END_OF_TURN_ID], **(generation or {})})
    )
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
    (folder / "chat_template.jinja").write_text(chat_template)
    return folder
