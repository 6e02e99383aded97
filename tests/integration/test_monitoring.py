"""A real Prometheus scrapes a running deployment, and every panel and every rule has data while requests come in."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from deployments.cli.main import main
from deployments.monitoring import rules
from deployments.monitoring.expressions import filled
from deployments.monitoring.panels import ROWS
from tests.support.prometheus import Prometheus, ray_job, run_prometheus
from tests.support.serve_process import Server, start_server

pytestmark = pytest.mark.system

TIMEOUT_S = 240.0
NUM_CLIENTS = 3
PROMPTS = ("Finish the code below.\n\ndef mean(values):\n", "Write a story about a fox.")
MISTAKES: tuple[dict[str, Any], ...] = ({"model": "no-such-model"}, {"temperature": -1})


def asked(number: int) -> dict[str, Any]:
    """A request: of fixed and chosen lookahead by turns, and now and then a wrong one."""
    body: dict[str, Any] = {"model": "pocket", "messages": [{"role": "user", "content": PROMPTS[number % 2]}]}
    body |= {"max_tokens": 48, "temperature": 0}
    if number % 2 == 0:
        body["speculation"] = {"num_speculative_tokens": 4}
    return body | (MISTAKES[number % 2] if number % 10 >= 8 else {})


@contextmanager
def load_on(server: Server) -> Iterator[None]:
    """A few clients on loopback, one request after another, until left."""
    is_over = threading.Event()

    def ask() -> None:
        number = 0
        while not is_over.is_set():
            httpx.post(f"{server.url}/v1/chat/completions", json=asked(number), timeout=TIMEOUT_S)
            number += 1
            is_over.wait(0.1)

    clients = [threading.Thread(target=ask) for _ in range(NUM_CLIENTS)]
    for client in clients:
        client.start()
    try:
        yield
    finally:
        is_over.set()
        for client in clients:
            client.join(TIMEOUT_S)


def wait_until_empty(left: Callable[[], list[str]], what: str) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while found := left():
        assert time.monotonic() < deadline_s, f"{what}: {found}"
        time.sleep(2.0)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = start_server(tmp_path_factory.mktemp("serve"), {"ingress": {"num_replicas": 2}})
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def prometheus(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    jobs = [ray_job(server), {"job_name": "outrider", "static_configs": [{"targets": [f"127.0.0.1:{server.port}"]}]}]
    with run_prometheus(tmp_path_factory.mktemp("prometheus"), jobs, rules.build()) as prometheus:
        yield prometheus


def test_every_panel_and_rule_has_data_under_load(server: Server, prometheus: Prometheus) -> None:
    expressions = {
        f"{row.title}/{p.title}/{q.legend}": q.expression
        for row in ROWS
        for p in row.panels
        for q in p.queries
        if not p.is_optional
    }
    expressions |= rules.RECORDED
    is_quiet = [alert for alert in rules.ALERTS if alert.value.startswith("absent(")]
    expressions |= {alert.name: alert.value for alert in rules.ALERTS if alert not in is_quiet}
    expressions |= {name: name for name in rules.RECORDED}  # as recorded

    def misfits() -> list[str]:
        empty = [name for name, e in expressions.items() if not prometheus.values(filled(e, "outrider", "1m"))]
        return empty + [alert.name for alert in is_quiet if prometheus.values(alert.value)]

    with load_on(server):
        wait_until_empty(misfits, "without data, or absent")
    found = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    assert len(found) == len(rules.RECORDED) + len(rules.ALERTS)
    assert {rule["health"] for rule in found} == {"ok"}
    assert not [rule["name"] for rule in found if rule.get("state") == "firing"]


def test_both_ingresses_tell_of_each_other_what_ray_tells_of_both(server: Server, prometheus: Prometheus) -> None:
    """The load is over; whichever ingress is asked, and Ray, in the end agree to the token."""
    through_ray = "sum(ray_outrider_{name})"
    of_endpoint = "sum(outrider_{name})"
    of_each_ingress = 'ray_outrider_request_success_total{deployment="ingress",finished_reason="length"}'
    names = ("generation_tokens_total", "request_failure_total", "round_seconds_count", "verify_step_seconds_count")

    def disagreeing() -> list[str]:
        return [
            f"{name}: {ray}, {own}"
            for name in names
            if (ray := prometheus.values(through_ray.format(name=name)))
            != (own := prometheus.values(of_endpoint.format(name=name)))
        ]

    def unserved() -> list[str]:
        served = prometheus.values(of_each_ingress)
        return [] if len(served) == 2 and all(served) else [str(served)]

    def differing() -> list[str]:
        seen = [httpx.get(f"{server.url}/metrics", timeout=TIMEOUT_S).text for _ in range(12)]
        lines = {line for text in seen for line in text.splitlines() if line.startswith("vllm:generation_tokens_total")}
        return sorted(lines) if len(lines) > 1 else []

    wait_until_empty(unserved, "not both ingresses have served")
    wait_until_empty(disagreeing, "Ray and the endpoint disagree")
    wait_until_empty(differing, "the ingresses disagree")


def test_the_picture_in_a_terminal_is_of_this_deployment(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    with load_on(server):
        time.sleep(2.0)
        assert main(["top", "--url", server.url, "--once", "--interval-s", "3"]) == 0
    shown = capsys.readouterr().out
    assert "speculation" in shown
    assert [line for line in shown.splitlines() if "replicas" in line and " 2 " in line], shown
