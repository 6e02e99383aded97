"""What the routes need to know: the model's card, its defaults, the limits, and the way to the routers."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

from deployments.checkpoint import end_token_ids, vocab_size
from deployments.grammars import Grammars
from deployments.ingress.exposition import Exposition
from deployments.ingress.generation import GenerationClient
from deployments.ingress.metrics import IngressMetrics
from deployments.ingress.tokenizer import Tokenizer
from deployments.ingress.variants import Variants
from deployments.messages import Acceptance, DrafterName, Token
from deployments.metering import Meter
from deployments.reporting import Totals, totals_of

VERSION = version("outrider")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """The one model that is served, and what its folder says about generating with it.

    The sampling defaults apply where a request names none: those of generation_config.json where it
    has them, else OpenAI's (temperature 1, nothing cut). `paced` tells of each role that only keeps
    the time of named hardware, so that nobody takes its speed for real.
    """

    id: str
    max_model_len: int
    vocab_size: int
    stop_token_ids: tuple[Token, ...] = ()
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    paced: Mapping[str, str] = field(default_factory=dict)
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def system_fingerprint(self) -> str:
        """Changes with the server's version and the model's card, which may change outputs."""
        sampling = (self.temperature, self.top_k, self.top_p, self.min_p, self.repetition_penalty)
        facts = (VERSION, self.id, self.max_model_len, *sampling)
        return "fp_" + hashlib.sha256(repr(facts).encode()).hexdigest()[:10]

    @classmethod
    def load(cls, folder: Path, model_id: str, max_model_len: int | None = None) -> ModelCard:
        """Read config.json and generation_config.json; `max_model_len` may lower the model's own bound."""
        config = _read(folder / "config.json")
        config = {**config, **config.get("text_config", {})}
        generation = _read(folder / "generation_config.json")
        own_len = int(config["max_position_embeddings"])

        def default(name: str, otherwise: float) -> float:
            value = generation.get(name)
            return otherwise if value is None else float(value)

        return cls(
            id=model_id,
            max_model_len=min(own_len, max_model_len or own_len),
            vocab_size=vocab_size(folder),
            stop_token_ids=end_token_ids(folder),
            temperature=default("temperature", 1.0),
            top_k=int(default("top_k", 0)),
            top_p=default("top_p", 1.0),
            min_p=default("min_p", 0.0),
            repetition_penalty=default("repetition_penalty", 1.0),
        )

    def as_json(self) -> dict[str, Any]:
        """An entry of /v1/models."""
        return {
            "id": self.id,
            "object": "model",
            "created": self.created,
            "owned_by": "outrider",
            "root": self.id,
            "parent": None,
            "max_model_len": self.max_model_len,
            **({"paced": dict(self.paced)} if self.paced else {}),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiLimits:
    """Bounds on what a request may ask for. `reports_speculation` is False to leave metrics out of responses.

    `acceptances` are those that are served, first the one of requests that leave it open.
    """

    max_num_speculative_tokens: int = 16
    drafters: tuple[DrafterName, ...] = get_args(DrafterName)
    acceptances: tuple[Acceptance, ...] = get_args(Acceptance)
    max_body_bytes: int = 4 << 20
    max_body_s: float = 30.0
    max_prompt_tokens: int | None = None
    max_output_tokens: int | None = None
    max_request_s: float = 600.0
    max_choices: int = 128
    reports_speculation: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class IngressContext:
    """Everything the routes use, handed in: nothing is global."""

    client: GenerationClient
    tokenizer: Tokenizer
    model: ModelCard
    metrics: IngressMetrics
    exposition: Exposition
    grammars: Grammars | None = None
    limits: ApiLimits = ApiLimits()
    variants: Variants = field(default_factory=Variants)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measuring:
    """Where an ingress counts, and how it learns what all replicas have counted."""

    meter: Meter
    totals: Callable[[], Totals]

    @classmethod
    def alone(cls) -> Measuring:
        """An ingress that hears of no other replica."""
        meter = Meter()
        return cls(meter=meter, totals=lambda: totals_of(meter.samples()))


def load_context(
    folder: Path,
    model_id: str,
    client: GenerationClient,
    *,
    max_model_len: int | None = None,
    limits: ApiLimits | None = None,
    measuring: Measuring | None = None,
) -> IngressContext:
    """The context of the model in a folder; raises ValueError if the folder lacks something."""
    measuring = measuring or Measuring.alone()
    return IngressContext(
        client=client,
        tokenizer=Tokenizer.load(folder),
        grammars=Grammars.load_if_possible(folder),
        model=ModelCard.load(folder, model_id, max_model_len),
        metrics=IngressMetrics(measuring.meter),
        exposition=Exposition(model_id, measuring.totals),
        limits=limits or ApiLimits(),
    )


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        if path.name == "config.json":
            raise ValueError(f"{path.parent} has no config.json: is it a model folder?")
        return {}
    content = json.loads(path.read_text("utf-8"))
    assert isinstance(content, dict)
    return content
