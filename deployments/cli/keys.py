"""`outrider keys`: make, list and revoke API keys in a keys file. A key is printed once; the file has its hash."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import yaml
from pydantic import ValidationError

from deployments.cli.arguments import days
from deployments.ingress.tenants import ApiKey, Tenant, Tenants, hash_of, new_key, read_tenants


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    new = actions.add_parser("new", help="print a new key of a tenant, and keep its hash")
    new.add_argument("tenant", help="whose key; a tenant that is not there yet is added, without bounds")
    new.add_argument("--days", type=days, help="how long it is good; by default until it is revoked")
    listing = actions.add_parser("list", help="print tenants and the ids of their keys")
    revoke = actions.add_parser("revoke", help="remove a key")
    revoke.add_argument("id", help="as `list` prints it, or as much of the hash as tells it from the others")
    for action in (new, listing, revoke):
        action.add_argument("--file", type=Path, default=Path("keys.yaml"), help="default keys.yaml")


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    actions: dict[str, Callable[[argparse.Namespace], None]] = {"new": _new, "list": _list, "revoke": _revoke}
    try:
        actions[args.action](args)
    except BrokenPipeError:  # of the output; main knows what that means
        raise
    except (OSError, ValueError) as error:
        print(f"outrider keys: {error}", file=sys.stderr)
        return 1
    return 0


def _new(args: argparse.Namespace) -> None:
    tenants = read_tenants(args.file) if args.file.exists() and args.file.stat().st_size else Tenants()
    key, now = new_key(), datetime.now(UTC).replace(microsecond=0)
    expires = None if args.days is None else now + timedelta(days=args.days)
    added = ApiKey(sha256=hash_of(key), created=now, expires=expires)
    if all(tenant.name != args.tenant for tenant in tenants.tenants):
        tenants = Tenants(tenants=(*tenants.tenants, _new_tenant(args.tenant)))
    _write(args.file, _with_keys(tenants, lambda t: (*t.keys, added) if t.name == args.tenant else t.keys))
    print(key)
    print(f"{args.tenant}'s key {added.id}; it is not shown again", file=sys.stderr)


def _new_tenant(name: str) -> Tenant:
    try:
        return Tenant(name=name)
    except ValidationError:
        rule = "letters, digits, '.', '_' and '-', 64 at most, the first a letter or digit"
        raise ValueError(f"{name!r} is no name of a tenant ({rule})") from None


def _list(args: argparse.Namespace) -> None:
    for tenant in read_tenants(args.file).tenants:
        print(tenant.name)
        for key in tenant.keys:
            created = "" if key.created is None else f"  created {key.created:%Y-%m-%d}"
            expires = "" if key.expires is None else f"  expires {key.expires:%Y-%m-%d %H:%M}"
            print(f"  {key.id}{created}{expires}")


def _revoke(args: argparse.Namespace) -> None:
    tenants = read_tenants(args.file)
    found = [key for tenant in tenants.tenants for key in tenant.keys if args.id and key.sha256.startswith(args.id)]
    if len(found) != 1:
        raise ValueError(f"{len(found)} keys begin with {args.id!r}; `outrider keys list` prints their ids")
    _write(args.file, _with_keys(tenants, lambda t: tuple(key for key in t.keys if key != found[0])))
    print(f"{found[0].id} is revoked")


def _with_keys(tenants: Tenants, keys_of: Callable[[Tenant], tuple[ApiKey, ...]]) -> Tenants:
    return Tenants(tenants=tuple(tenant.model_copy(update={"keys": keys_of(tenant)}) for tenant in tenants.tenants))


def _write(file: Path, tenants: Tenants) -> None:
    """Replace the file in one step: a server that reads it sees the old one or the new one."""
    text = yaml.safe_dump(tenants.model_dump(mode="json", exclude_defaults=True), sort_keys=False)
    target = file.resolve()
    written = target.with_name(f".{target.name}.new")
    written.unlink(missing_ok=True)
    with os.fdopen(os.open(written, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(text)
    written.replace(target)
