"""`outrider top`: figures from two readings, and the picture in what is a terminal and what is none."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from deployments import measures as m
from deployments.cli.main import main
from deployments.cli.top_figures import Reading, sections
from deployments.ingress.exposition import Exposition
from deployments.metering import Meter
from deployments.reporting import totals_of


def text_of(num_seconds: int) -> str:
    """What an endpoint says that has done the same every second."""
    meter = Meter()
    meter.gauge(m.REPLICAS).cell("verifier").set(2)
    meter.gauge(m.KV_USAGE).cell().set(0.42)
    meter.gauge(m.ROUTER_SESSIONS).cell("waiting").set(1)
    meter.gauge(m.ROUTER_SESSIONS).cell("drafting").set(3)
    meter.counter(m.GENERATION_TOKENS).cell().add(120 * num_seconds)
    meter.counter(m.DRAFTS).cell("code", "mtp", "far").add(40 * num_seconds)
    meter.counter(m.DRAFT_TOKENS).cell("code", "mtp", "far").add(100 * num_seconds)
    meter.counter(m.ACCEPTED_TOKENS).cell("code", "mtp", "far").add(80 * num_seconds)
    meter.histogram(m.LOOKAHEAD).cell("code").observe(2, 10 * num_seconds)
    meter.histogram(m.LOOKAHEAD).cell("code").observe(4, 10 * num_seconds)
    meter.histogram(m.STEP_SECONDS).cell().observe(0.025, 20 * num_seconds)
    return Exposition("m", lambda: totals_of(meter.samples())).render().decode()


def figures(before: str, after: str, seconds: float) -> dict[tuple[str, str], str]:
    made = sections(Reading.parse(before, 10.0), Reading.parse(after, 10.0 + seconds))
    return {(section, line.name): line.text for section, lines in made.items() for line in lines}


def test_rates_means_and_shares_are_of_the_time_in_between() -> None:
    shown = figures(text_of(3), text_of(5), 2.0)
    assert shown["ingress", "tokens/s"] == "120.0"
    assert shown["speculation", "acceptance"] == "80 %"
    assert shown["speculation", "acceptance length"] == "3.0"
    assert shown["speculation", "lookahead"] == "3.0"
    assert shown["router", "sessions"] == "4"
    assert shown["router", "waiting"] == "1"
    assert shown["verifier", "replicas"] == "2"
    assert shown["verifier", "step"] == "25.0 ms"
    assert shown["verifier", "busy"] == "25 %"  # half a second of work a second, on two of them
    assert shown["verifier", "KV cache"] == "42 %"


def test_variants_stand_beside_each_other() -> None:
    def both(num_seconds: int) -> str:
        meter = Meter()
        for name, drafted in (("far", 8), ("near", 2), (m.NO_VARIANT, 4)):
            meter.histogram(m.FIRST_TOKEN_SECONDS).cell("code", name).observe(0.1, drafted * num_seconds)
            meter.counter(m.DRAFTS).cell("code", "mtp", name).add(10 * num_seconds)
            meter.counter(m.DRAFT_TOKENS).cell("code", "mtp", name).add(10 * drafted * num_seconds)
            meter.counter(m.ACCEPTED_TOKENS).cell("code", "mtp", name).add(20 * num_seconds)
            meter.histogram(m.PER_TOKEN_SECONDS).cell("code", name).observe(drafted / 1e3, num_seconds)
        return Exposition("m", lambda: totals_of(meter.samples())).render().decode()

    shown = figures(both(1), both(3), 2.0)
    assert shown["variant far", "requests/s"] == "8.0"
    assert shown["variant far", "acceptance"] == "25 %"
    assert shown["variant near", "acceptance"] == "100 %"
    assert shown["variant near", "acceptance length"] == "3.0"
    assert shown["variant near", "per token"] == "2.0 ms"
    assert shown["variant default", "requests/s"] == "4.0"


def test_without_a_split_there_are_no_variants() -> None:
    meter = Meter()
    meter.counter(m.DRAFTS).cell("code", "mtp", m.NO_VARIANT).add(5)
    text = Exposition("m", lambda: totals_of(meter.samples())).render().decode()
    assert not any(section.startswith("variant") for section, _ in figures(text, text, 1.0))


def test_what_did_not_happen_has_no_mean() -> None:
    shown = figures(text_of(3), text_of(3), 2.0)
    assert shown["speculation", "acceptance"] == shown["verifier", "step"] == "-"
    assert shown["ingress", "tokens/s"] == "0.0"


def test_sums_that_began_anew_are_not_negative() -> None:
    assert figures(text_of(9), text_of(1), 1.0)["ingress", "tokens/s"] == "120.0"


@contextmanager
def endpoint(answer: Callable[[str | None], tuple[int, str]]) -> Iterator[str]:
    """A server whose every path gives what `answer` makes of the Authorization header."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, text = answer(self.headers.get("Authorization"))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def test_one_picture_has_every_role(capsys: pytest.CaptureFixture[str]) -> None:
    seconds = itertools.count(1)
    with endpoint(lambda _: (200, text_of(next(seconds)))) as url:
        assert main(["top", "--url", url, "--once", "--interval-s", "0.1"]) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown  # no terminal, no control codes
    for word in ("speculation", "ingress", "router", "verifier", "drafter", "80 %", "25.0 ms", "KV cache"):
        assert word in shown


def test_ctrl_c_ends_it_quietly(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    naps = itertools.count()

    def interrupted(seconds: float) -> None:
        if next(naps) > 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupted)
    monkeypatch.setenv("FORCE_COLOR", "1")  # as in a terminal
    with endpoint(lambda _: (200, text_of(1))) as url:
        assert main(["top", "--url", url]) == 0
    assert "Traceback" not in capsys.readouterr().err


def test_an_endpoint_that_wants_a_key(tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("key") / "key"
    file.write_text("sk-1\n")
    with endpoint(lambda key: (200, text_of(1)) if key == "Bearer sk-1" else (401, "no")) as url:
        command = ["top", "--url", url, "--once", "--interval-s", "0.1"]
        assert main(command) == 1
        assert main([*command, "--key-file", str(file)]) == 0


@pytest.mark.parametrize("text", ["hello", "up 1\n", "{"])
def test_what_is_no_outrider(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with endpoint(lambda _: (200, text)) as url:
        assert main(["top", "--url", url, "--once"]) == 1
    assert "cannot be read" in capsys.readouterr().err
    assert main(["top", "--url", url, "--once"]) == 1
