"""docs/configuration.md has every field of the configuration, with its default."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deployments.config import OutriderConfig

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"
ROLES = ("ingress", "router", "verifier", "drafter", "draft_model")


def documented() -> dict[str, Any]:
    """Defaults by field, `*` written out for each role."""
    found: dict[str, Any] = {}
    for name, default in re.findall(r"^\| `([\w.*]+)` \| `(.*?)` \|", DOCUMENT.read_text("utf-8"), flags=re.MULTILINE):
        roles = ROLES if name.startswith("*.") else ("*",)
        found |= {name.replace("*", role): json.loads(default) for role in roles}
    return found


def actual(fields: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in fields.items():
        if isinstance(value, dict) and value:
            yield from actual(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def test_every_field_is_documented_with_its_default() -> None:
    assert documented() == dict(actual(OutriderConfig().model_dump(mode="json")))
