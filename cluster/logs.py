"""Where a replica's lines go: the log file that Serve keeps for it, which Ray's dashboard shows."""

from __future__ import annotations

import logging

from ray import serve


def replica_handlers() -> list[logging.Handler]:
    """The handlers of this replica's log file, `replica_<application>_<role>_<replica>.log`."""
    return [handler for handler in logging.getLogger("ray.serve").handlers if hasattr(handler, "target")]


def own_rank() -> int:
    """This replica's rank among those of its deployment; its successor inherits it."""
    return int(serve.get_replica_context().rank.rank)
