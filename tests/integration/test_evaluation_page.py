"""A report with quality, families and throughput in a real browser: whole, readable, and nothing is fetched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deployments.cli.main import main
from evaluation.load.throughput_records import Cell, Lengths, Throughput, keep, span
from evaluation.quality.variants import OFF, Variant
from evaluation.report.writing import write_report
from tests.support.browser import Page, open_page, require_chromium, run_chromium
from tests.support.scripted_endpoint import Reply, chat, prompt_of, scripted_endpoint

pytestmark = pytest.mark.system

SHIPPED = Path(__file__).resolve().parents[2] / "docs" / "evaluation-pocket.html"
MTP = 'mtp={"speculation": {"drafter": "mtp"}}'
HOSTILE = '<img src="http://127.0.0.1:9/x" onerror="document.title=1"> grüße & 🙂 ' + "long" * 200


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with run_chromium(require_chromium(), tmp_path_factory.mktemp("chromium")) as address:
        yield address


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a variant and a family, and a throughput measurement beside it."""
    folder = tmp_path_factory.mktemp("report")
    cases = "".join(
        f"  - {{id: c{i}, input: 'Say the number {i} now.', expected: it is {i}, metadata: {{k: {'ab'[i % 2]}}}}}\n"
        for i in range(12)
    )
    suite = folder / "suite.yaml"
    suite.write_text(f"name: numbers\nscorers: [exact_match, rouge_l]\ncases:\n{cases}")

    def answer(path: str, body: dict[str, Any]) -> Reply:
        number = next(word for word in prompt_of(body).split() if word.isdigit())
        is_off = body["speculation"] == {"num_speculative_tokens": 0}
        return chat(f"it is {number}" if is_off or int(number) % 2 else HOSTILE)

    with scripted_endpoint(answer) as endpoint:
        command = ["eval", "run", str(suite), "--url", endpoint.url, "--out", str(folder / "out"), "--variant", MTP]
        assert main([*command, "--families", "all"]) == 0
    keep(folder / "out", throughput())
    write_report(folder / "out")
    return folder / "out"


def throughput() -> Throughput:
    def cell(task_class: str, variant: str, num_streams: int, rate: float) -> Cell:
        is_base = variant == "base"
        return Cell(
            task_class=task_class,
            variant=variant,
            num_streams=num_streams,
            prompt_tokens=128,
            output_tokens=64,
            tokens_per_s=span([rate, rate + 1]),
            ttft_ms_p50=10,
            ttft_ms_p99=20,
            tpot_ms_p50=1000 / rate,
            tpot_ms_p99=2000 / rate,
            itl_ms_p50=5,
            itl_ms_p99=9,
            acceptance_length=None if is_base else 2.5,
            by_position=() if is_base else (0.9, 0.5),
            speed_up=None if is_base else span([rate / 100]),
        )

    return Throughput(
        url="http://x",
        model="pocket",
        hardware="one abacus",
        environment={"date": "2026-11-25"},
        lengths=Lengths(),
        variants=(OFF, Variant(name="mtp", speculation={"drafter": "mtp"})),
        has_fixed_prompts=True,
        memory_bytes={"verifier": 5e8, "drafter": 2e8},
        cells=(
            cell("code", "base", 1, 100),
            cell("code", "mtp", 1, 150),
            cell("prose", "base", 1, 100),
            cell("prose", "mtp", 1, 70),
        ),
    )


async def texts(page: Page, selector: str) -> list[str]:
    found: list[str] = await page.evaluate(
        f"[...document.querySelectorAll('{selector}')].map((one) => one.textContent)"
    )
    return found


async def test_the_report_is_whole_and_fetches_nothing(browser: str, folder: Path) -> None:
    async with open_page(browser, (folder / "report.html").as_uri()) as page:
        assert page.errors == []
        assert page.requested == [(folder / "report.html").as_uri()]
        assert await page.evaluate("document.title") == "Evaluation: numbers"
        titles = await texts(page, "h2")
        wanted = ["Quality", "Against base", "Tokens against base", "Adversarial families", "Throughput", "Latency"]
        assert [title for title in titles if title in wanted] == wanted
        assert titles == await texts(page, "nav a")
        # Every diagram is drawn, with what it shows in words.
        sizes = await page.evaluate(
            "[...document.querySelectorAll('svg')].map((one) => [one.clientWidth, one.clientHeight])"
        )
        assert len(sizes) == 3
        assert all(width > 300 and height > 100 for width, height in sizes)
        drawn = " ".join(await texts(page, "svg text"))
        assert all(word in drawn for word in ("exact_match", "mtp", "code", "prose", "tokens/s", "position"))
        assert "worse" in await texts(page, "td.worse")
        short = " ".join(await texts(page, ".short li"))
        assert "mtp against base: worse: exact_match" in short
        assert "pays: code at 1 (1.50x); does not pay: prose at 1 (0.70x)" in short
        # What the model wrote is text, and no long word makes the page wider than its window.
        assert any("<img src=" in text for text in await texts(page, "td"))
        assert await page.evaluate("document.querySelectorAll('td img').length") == 0
        assert await page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


async def test_the_page_leads_to_its_parts(browser: str, folder: Path) -> None:
    async with open_page(browser, (folder / "report.html").as_uri()) as page:
        place = "[...document.querySelectorAll('h2')].find((one) => one.textContent === 'Latency')"
        assert await page.evaluate(f"{place}.getBoundingClientRect().top > innerHeight")
        await page.evaluate(
            "[...document.querySelectorAll('nav a')].find((one) => one.textContent === 'Latency').click()"
        )
        await page.until(f"{place}.getBoundingClientRect().top < innerHeight / 2")


async def test_the_report_that_docs_has_is_whole_and_answers_what_it_is_asked(browser: str) -> None:
    async with open_page(browser, SHIPPED.as_uri()) as page:
        assert page.errors == []
        assert page.requested == [SHIPPED.as_uri()]
        titles = await texts(page, "h2")
        for suite in ("extraction", "code", "open_ended", "adversarial", "notes_sampled"):
            for title in ("Quality", "Against base", "Tokens against base", "Configuration of the quality run"):
                assert f"{suite}: {title}" in titles
        assert "adversarial: Adversarial families" in titles
        for title in ("Throughput", "Latency", "Acceptance by position", "Memory"):
            assert f"throughput: {title}" in titles
        short = " ".join(await texts(page, ".short li"))
        assert all(
            word in short for word in ("against base: same", "650 of 650 answers identical", "Speed of auto", "pays")
        )
        sizes = await page.evaluate(
            "[...document.querySelectorAll('svg')].map((one) => [one.clientWidth, one.clientHeight])"
        )
        assert len(sizes) == 7
        assert all(width > 300 and height > 100 for width, height in sizes)
        assert await page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_the_report_that_docs_has_is_small() -> None:
    assert SHIPPED.stat().st_size < 2 << 20
