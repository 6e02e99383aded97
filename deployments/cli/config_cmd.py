"""`outrider config`: the serveConfigV2 of a configuration."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml

from deployments.config import ConfigError, OutriderConfig, load
from deployments.live_config import arguments_of, overrides_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file", nargs="?", type=Path, metavar="FILE", help="configuration; by default the pocket models"
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="the same")
    parser.add_argument(
        "--elsewhere", action="store_true", help="the models are on the cluster's machines: do not look for them here"
    )


def run(args: argparse.Namespace) -> int:
    """Print YAML that `serve deploy` takes."""
    try:
        config = load(args.config or args.file)
        if not args.elsewhere:
            config.resolve()
    except (ConfigError, OSError) as error:
        print(f"outrider config: {error}", file=sys.stderr)
        return 2
    print(yaml.safe_dump(to_serve_config(config), sort_keys=False), end="")
    return 0


def to_serve_config(config: OutriderConfig) -> dict[str, Any]:
    """The fields of a serveConfigV2; the configuration itself travels as the builder's arguments.

    What can be changed without a restart is put beside them: changed arguments would restart every replica.
    """
    overrides = overrides_of(config)
    return {
        "proxy_location": "HeadOnly" if config.streams.is_loopback else "EveryNode",
        "http_options": {"host": config.ingress.host, "port": config.ingress.port},
        "applications": [
            {
                "name": "outrider",
                "route_prefix": "/",
                "import_path": "deployments.app:build",
                "args": arguments_of(config).model_dump(mode="json", exclude_defaults=True),
                **({"deployments": overrides} if overrides else {}),
                **_autoscaling(config),
            }
        ],
    }


def _autoscaling(config: OutriderConfig) -> dict[str, Any]:
    """The application's policy: Serve takes one from its configuration files only, and builds it in its controller."""
    scaling = config.autoscaling
    if not scaling.enabled:
        return {}
    arguments = {"max_sessions": config.verifier.max_sessions, "scaling": scaling.model_dump(exclude_defaults=True)}
    return {
        "autoscaling_policy": {"policy_function": "autoscaling.serve_policy:JointPolicy", "policy_kwargs": arguments}
    }
