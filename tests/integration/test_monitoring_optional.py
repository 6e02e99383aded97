"""The panels that are empty without a draft model, autoscaling or paced roles, on a deployment that has all three."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import pytest

from deployments.monitoring import rules
from deployments.monitoring.expressions import filled
from deployments.monitoring.panels import ROWS
from tests.support.prometheus import Prometheus, ray_job, run_prometheus
from tests.support.serve_process import Server, running_server

pytestmark = pytest.mark.system

TIMEOUT_S = 240.0
PAIR = "h100x2-l4-31b"
SETTINGS: dict[str, object] = {
    "speculation": {"drafter": "auto", "drafters": ["mtp", "draft_model"]},
    "verifier": {"paced": PAIR},
    "drafter": {"paced": PAIR},
    "ingress": {"max_running_requests": 64},
    "autoscaling": {"enabled": True, "max_verifiers": 1, "max_drafters": 1},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    yield from running_server(tmp_path_factory.mktemp("serve"), SETTINGS)


@pytest.fixture(scope="module")
def prometheus(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    with run_prometheus(tmp_path_factory.mktemp("prometheus"), [ray_job(server)], rules.build()) as prometheus:
        yield prometheus


def ask(server: Server, drafter: str) -> None:
    body = {"model": "pocket", "prompt": "def mean(values):\n", "max_tokens": 48, "temperature": 0}
    body |= {"speculation": {"drafter": drafter, "num_speculative_tokens": 4}}
    httpx.post(f"{server.url}/v1/completions", json=body, timeout=TIMEOUT_S).raise_for_status()


def test_every_optional_panel_has_data_where_its_part_is_configured(server: Server, prometheus: Prometheus) -> None:
    expressions = {
        f"{panel.title}/{query.legend}": filled(query.expression, "outrider", "1m")
        for row in ROWS
        for panel in row.panels
        if panel.is_optional
        for query in panel.queries
    }
    assert any("ray_serve_autoscaling_desired_replicas" in expression for expression in expressions.values())
    deadline_s = time.monotonic() + TIMEOUT_S
    while empty := [name for name, expression in expressions.items() if not prometheus.values(expression)]:
        assert time.monotonic() < deadline_s, f"no data: {empty}"
        for drafter in ("mtp", "draft_model"):
            ask(server, drafter)
        time.sleep(1.0)
