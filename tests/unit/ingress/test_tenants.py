"""The keys file: what is in it, what is wrong with it, and that nothing of it is repeated."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from deployments.ingress.tenants import KeyRing, Tenants, hash_of, new_key, read_tenants
from deployments.watched import Watched

KEY, OTHER = new_key(), new_key()


def write(folder: Path, text: str) -> Path:
    (folder / "keys.yaml").write_text(text)
    return folder / "keys.yaml"


@pytest.mark.parametrize(
    "text",
    [
        f"tenants:\n- name: a\n  keys:\n  - sha256: {hash_of(KEY)}\n    created: 2026-11-25T10:00:00Z\n",
        f'{{"tenants": [{{"name": "a", "keys": [{{"sha256": "{hash_of(KEY)}"}}]}}]}}',
    ],
    ids=["yaml", "json"],
)
def test_a_key_is_known_by_its_hash(tmp_path: Path, text: str) -> None:
    ring = KeyRing(read_tenants(write(tmp_path, text)))
    tenant = ring.tenant_of(KEY)
    assert tenant is not None
    assert tenant.name == "a"
    for wrong in (OTHER, "", hash_of(KEY), KEY + " ", KEY[:-1], "ключ", "\udcff"):
        assert ring.tenant_of(wrong) is None


def test_keys_are_long_random_and_recognisable() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(key.startswith("outrider-") and len(key) == 9 + 43 for key in keys)


def test_an_expired_key_is_nobodys() -> None:
    fields = {"tenants": [{"name": "a", "keys": [{"sha256": hash_of(KEY), "expires": "2026-01-01T00:00:00Z"}]}]}
    ring = KeyRing(Tenants.model_validate(fields))
    assert ring.tenant_of(KEY, datetime(2025, 12, 31, tzinfo=UTC)) is not None
    assert ring.tenant_of(KEY, datetime(2026, 1, 1, tzinfo=UTC)) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tenants: [", "no YAML at line"),
        ("- a", "valid dictionary"),
        ("tenant: []", r"tenant: Extra inputs"),
        ("tenants: [{name: a, limit: 3}]", r"tenants\.0\.limit"),
        ("tenants: [{name: 'a b'}]", r"tenants\.0\.name"),
        ("tenants: [{name: a}, {name: a}]", "the name a is there twice"),
        ("tenants: [{name: a, tokens_per_minute: 0}]", r"tenants\.0\.tokens_per_minute"),
        ("tenants: [{name: a, drafters: [eagle]}]", r"tenants\.0\.drafters\.0"),
        ("tenants: [{name: a, drafters: []}]", r"tenants\.0\.drafters"),
        (f"tenants: [{{name: a, keys: [{{sha256: {KEY}}}]}}]", r"tenants\.0\.keys\.0\.sha256"),
        (f"tenants: [{{name: a, keys: [{{sha256: {hash_of(KEY)}}}, {{sha256: {hash_of(KEY)}}}]}}]", "twice"),
        (f"tenants: [{{name: a, keys: [{{sha256: {hash_of(KEY)}, expires: 2026-01-01}}]}}]", "expires"),
    ],
)
def test_what_is_wrong_is_named_and_not_repeated(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as wrong:
        read_tenants(write(tmp_path, text))
    assert "keys.yaml" in str(wrong.value)
    assert KEY not in str(wrong.value)
    assert hash_of(KEY) not in str(wrong.value)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="larger than"):
        read_tenants(write(tmp_path, "#" * (1 << 20) + "\n"))


@pytest.mark.parametrize("text", ["# nobody yet\n", "tenants: []\n", "{}\n"])
def test_a_file_may_say_that_there_are_no_tenants(tmp_path: Path, text: str) -> None:
    assert read_tenants(write(tmp_path, text)) == Tenants()


@pytest.mark.parametrize("text", ["", "\n"])
def test_an_empty_file_says_nothing(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match=r"keys\.yaml: is empty"):
        read_tenants(write(tmp_path, text))


def test_a_file_that_is_just_being_written_shuts_nobody_out(tmp_path: Path) -> None:
    text = f"tenants: [{{name: a, keys: [{{sha256: {hash_of(KEY)}}}]}}]\n"
    file, now_s = write(tmp_path, text), [0.0]
    keys = Watched([file], lambda: KeyRing(read_tenants(file)), clock=lambda: now_s[0])
    file.write_text("")  # as a shell leaves it between opening and writing
    now_s[0] = 1.0
    assert keys.value().tenant_of(KEY) is not None
    write(tmp_path, text.replace(hash_of(KEY), hash_of(OTHER)))
    now_s[0] = 2.0
    assert keys.value().tenant_of(KEY) is None
    assert keys.value().tenant_of(OTHER) is not None


def test_a_bound_that_replicas_cannot_share_is_refused() -> None:
    tenants = Tenants.model_validate({"tenants": [{"name": "a", "max_concurrent_requests": 2}]})
    KeyRing(tenants, num_replicas=2)
    with pytest.raises(ValueError, match=r"tenant a: max_concurrent_requests 2 .*raise it"):
        KeyRing(tenants, num_replicas=3)
