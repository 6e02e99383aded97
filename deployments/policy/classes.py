"""What kind of text a request asks for, as far as that tells how well it can be drafted."""

from __future__ import annotations

from typing import get_args

from deployments.messages import RequestClass

REQUEST_CLASSES: tuple[RequestClass, ...] = get_args(RequestClass)
