"""Every link between documents leads to a file, and to a heading, that is there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    path for folder in (".", "docs", "docs/adr", "docs/measurements", "k8s") for path in (ROOT / folder).glob("*.md")
)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def anchors(text: str) -> set[str]:
    """As GitHub names headings: lower case, words joined by hyphens, all other signs left out."""
    headings = HEADING.findall(FENCED.sub("", text))
    return {re.sub(r"[^\w\- ]", "", heading.strip()).lower().replace(" ", "-") for heading in headings}


def lost_links(path: Path) -> Iterator[str]:
    for target in LINK.findall(FENCED.sub("", path.read_text("utf-8"))):
        name, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        there = (path.parent / name).resolve() if name else path
        if not there.exists() or (anchor and there.suffix == ".md" and anchor not in anchors(there.read_text("utf-8"))):
            yield target


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    assert not list(lost_links(path))


def test_a_lost_link_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# A heading: `with` signs\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](there.md) [b](there.md#a-heading-with-signs) [c](#own) [d](gone.md) [e](there.md#gone) [f](https://x.y/z)\n"
        "# Own\n```\n# Not a heading\n[g](gone.md)\n```\n"
    )
    assert list(lost_links(page)) == ["gone.md", "there.md#gone"]


def test_there_are_documents() -> None:
    assert len(DOCUMENTS) > 20
