"""A whole run: rates of the device, products, the library's own steps, verify steps, drafts, and a cost table.

What reads the model's weights comes before the engine that takes the model over.
"""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from deployments.verifier.paged_engine import PagedEngine
from evaluation.load.accelerator.checkpoints import RandomPair, random_pair
from evaluation.load.accelerator.cost_table import cost_table
from evaluation.load.accelerator.drafting import Drafting
from evaluation.load.accelerator.hardware import Hardware, measure_hardware
from evaluation.load.accelerator.library import LibrarySteps
from evaluation.load.accelerator.profiling import profile_table
from evaluation.load.accelerator.published import SHAPES
from evaluation.load.accelerator.records import (
    SECTIONS,
    Budget,
    DraftRow,
    LibraryRow,
    Plan,
    PromptRow,
    StepRow,
    measured,
)
from evaluation.load.accelerator.report import row_text, spread_text
from evaluation.load.accelerator.verifying import Beside, Verifying, cache_limits, session_bytes
from evaluation.load.accelerator.weights import Products, WeightBytes, weight_bytes
from evaluation.load.engine_step import Steps
from evaluation.load.samples import spread


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What to measure, where. `reserve_bytes` of a GPU's free memory are left to what a step works on."""

    shape: str
    device: str
    dtype: str
    plan: Plan
    sections: tuple[str, ...] = SECTIONS
    reserve_bytes: int = 6 << 30
    profile: bool = False


@dataclass(slots=True)
class Findings:
    """What has been measured so far."""

    hardware: Hardware | None = None
    weights: WeightBytes | None = None
    assistant_bytes: int = 0
    products_ms: dict[int, float] = field(default_factory=dict)
    steps: list[StepRow] = field(default_factory=list)
    prompts: list[PromptRow] = field(default_factory=list)
    library: list[LibraryRow] = field(default_factory=list)
    drafts: list[DraftRow] = field(default_factory=list)
    cost_table: dict[str, Any] | None = None
    failures: list[str] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Run:
    """Measures section after section into `findings`; `save` is called after each, `say` with every line."""

    options: Options
    budget: Budget
    say: Callable[[str], None]
    save: Callable[[dict[str, Any]], None]
    findings: Findings = field(default_factory=Findings)

    def run(self) -> Findings:
        """Everything that was asked for and fits into the budget."""
        options = self.options
        dtype = getattr(torch, options.dtype)
        if "hardware" in options.sections:
            self.findings.hardware = measure_hardware(options.device, dtype, options.plan.repeats)
            for name, rate in asdict(self.findings.hardware).items():
                self.say(f"{name} {spread_text(rate)}")
            _collect()
        pair = random_pair(SHAPES[options.shape], device=options.device, dtype=dtype)
        self.findings.weights = weight_bytes(pair.model)
        self.findings.assistant_bytes = weight_bytes(pair.assistant).dense
        self._tell_weights()
        sections = {
            "products": self._products,
            "library": self._library,
            "verifier": self._verifier,
            "drafter": self._drafter,
        }
        for name, section in sections.items():
            if name in options.sections:
                self._attempt(name, section, pair)
                self.save(asdict(self.findings))
        return self.findings

    def _attempt(self, name: str, section: Callable[[RandomPair], None], pair: RandomPair) -> None:
        """A section that fails is told of, and leaves the others their turn: time on a GPU is dear."""
        try:
            section(pair)
        except Exception as error:
            self.findings.failures.append(f"{name}: {type(error).__name__}: {error}")
            self.say(f"{name} failed\n{traceback.format_exc()}")
        _collect()

    def conclude(self, description: str, source: str) -> None:
        """Fit the cost table to what there is."""
        found = self.findings
        found.cost_table = cost_table(found.steps, found.prompts, found.drafts, description=description, source=source)
        self.save(asdict(found))

    def _tell_weights(self) -> None:
        weights, hardware = self.findings.weights, self.findings.hardware
        assert weights is not None
        self.say(
            f"weights {weights.dense / 1e9:.2f} GB, experts {weights.experts / 1e9:.2f} GB, "
            f"assistant {self.findings.assistant_bytes / 1e9:.3f} GB; {self.budget.left_s:.0f} s left"
        )
        if hardware is not None:
            self.say(f"floor of one token: {hardware.read_ms(weights.read_by(1)):.3f} ms")

    def _products(self, pair: RandomPair) -> None:
        products, plan = Products(pair.model), self.options.plan
        cells = [*((n, k) for n in plan.sessions for k in plan.lookaheads)]
        for rows in sorted({n * (1 + k) for n, k in cells}):
            if not self.budget.is_spent:
                times = spread(products.times_ms(rows, plan.repeats))
                self.findings.products_ms[rows] = times.median
                self.say(f"products of {rows:4} rows: {spread_text(times)} ms")

    def _library(self, pair: RandomPair) -> None:
        plan, steps = self.options.plan, LibrarySteps(pair.model)
        steps.open(plan.context, plan.prompt_tokens)
        for lookahead in (0, 4):
            if not self.budget.is_spent:
                times = measured(lambda lookahead=lookahead: steps.step_ms(lookahead), plan.repeats)  # type: ignore[misc]
                self.findings.library.append(LibraryRow(lookahead=lookahead, context=plan.context, step_ms=times))
                self.say(row_text(self.findings.library[-1]))

    def _verifier(self, pair: RandomPair) -> None:
        options = self.options
        target = pair.take_target()
        limits = cache_limits(target, options.plan, self._free_bytes())
        self.say(f"cache of {limits.num_kv_tokens} tokens; {self.budget.left_s:.0f} s left")
        reads = session_bytes(target)
        engine = PagedEngine(target, limits)
        del target
        _collect()
        beside = Beside(products_ms=self.findings.products_ms, floor_ms=self._floor_ms, session_bytes=reads)
        verifying = Verifying(engine=engine, limits=limits, plan=options.plan, budget=self.budget, beside=beside)
        for row in verifying.rows():
            if isinstance(row, StepRow):
                self.findings.steps.append(row)
            else:
                self.findings.prompts.append(row)
            self.say(row_text(row))
        if options.profile:
            self._profile(engine)

    def _profile(self, engine: PagedEngine) -> None:
        plan = self.options.plan
        steps = Steps(engine, plan.prompt_tokens)
        steps.open(1, plan.context)
        measured(lambda: steps.step_ms(1, plan.context, 4), 1)
        self.say(profile_table(lambda: steps.step_ms(1, plan.context, 4)))
        steps.close(1)

    def _drafter(self, pair: RandomPair) -> None:
        pair.target = None
        _collect()
        drafting = Drafting(
            pair=pair,
            device=self.options.device,
            plan=self.options.plan,
            budget=self.budget,
            floor_ms=self._draft_floor_ms,
        )
        for row in drafting.rows():
            self.findings.drafts.append(row)
            self.say(row_text(row))

    def _draft_floor_ms(self, lookahead: int) -> float | None:
        """Reading the assistant once for every token."""
        hardware = self.findings.hardware
        return None if hardware is None else lookahead * hardware.read_ms(self.findings.assistant_bytes)

    def _floor_ms(self, num_tokens: int, num_cache_bytes: int) -> float | None:
        """Reading once the weights that so many tokens use, and so much of the cache."""
        hardware, weights = self.findings.hardware, self.findings.weights
        assert weights is not None
        return None if hardware is None else hardware.read_ms(weights.read_by(num_tokens) + num_cache_bytes)

    def _free_bytes(self) -> int | None:
        if self.options.device != "cuda":
            return None
        _collect()
        return int(torch.cuda.mem_get_info()[0]) - self.options.reserve_bytes


def _collect() -> None:
    """Give back what nothing refers to any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
