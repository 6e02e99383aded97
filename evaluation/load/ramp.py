"""`python -m evaluation.load.ramp`: a load that climbs and falls again, on an autoscaled deployment of paced roles.

    cluster.trial (nodes, deployment, replicas)  <- streams <-  clients, as many as the profile says
                                                                each text against the one that it had alone, undrafted

Writes ramp.json and ramp.png. Tokens are real, step times are those of a cost table (deployments/pacing.py).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

from cluster.ports import free_ports
from evaluation.load.metrics import parse_sums
from evaluation.load.ramp_load import Case, Profile, Ramp, cases_of
from evaluation.load.server import stop

READY_TIMEOUT_S = 300.0
Gate = Callable[[str, dict[str, int]], bool]
"""(phase, running replicas by role) -> whether the phase may end."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """A ramp: hardware to keep the time of, nodes, and sessions of one verifier."""

    hardware: str = "h100x2-l4-31b"
    lookahead: int = 4
    max_verifiers: int = 3
    max_drafters: int = 3
    max_sessions: int = 8
    peak: int = 16
    climb_s: float = 50.0
    hold_s: float = 50.0
    rest: int = 3
    rest_s: float = 30.0
    idle_s: float = 40.0
    max_tokens: int = 96
    num_cases: int = 24
    scaling: dict[str, float] = field(
        default_factory=lambda: {
            "period_s": 1.0,
            "look_back_s": 4.0,
            "up_delay_s": 3.0,
            "up_cooldown_s": 10.0,
            "down_delay_s": 12.0,
            "down_cooldown_s": 10.0,
        }
    )


def configuration(options: Options, port: int) -> dict[str, Any]:
    """Outrider's configuration: every role on nodes of its own, both models paced."""

    def on(group: str, num_cpus: float, **more: Any) -> dict[str, Any]:
        return {"node_labels": {"outrider/group": group}, "num_cpus": num_cpus, "num_threads": 1, **more}

    return {
        "speculation": {"num_speculative_tokens": options.lookahead, "policy": "constant"},
        "ingress": on("control", 0.5, port=port),
        "router": on("control", 0.5),
        "verifier": on("verifiers", 1.0, paced=options.hardware, max_sessions=options.max_sessions),
        "drafter": on("drafters", 1.0, paced=options.hardware),
        "autoscaling": {
            "enabled": True,
            "max_verifiers": options.max_verifiers,
            "max_drafters": options.max_drafters,
            **options.scaling,
        },
    }


class Trial:
    """The cluster's process, and what it has told of replicas."""

    def __init__(self, options: Options, folder: Path) -> None:
        (self.port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{self.port}"
        self.replicas: list[dict[str, Any]] = []
        (folder / "outrider.yaml").write_text(yaml.safe_dump(configuration(options, self.port)))
        outrider = Path(sys.executable).with_name("outrider")
        made = subprocess.run(
            [str(outrider), "config", str(folder / "outrider.yaml")], capture_output=True, text=True, check=True
        )
        (folder / "serve.yaml").write_text(made.stdout)
        groups = ["control=1:1", f"verifiers={options.max_verifiers}:1", f"drafters={options.max_drafters}:1"]
        self._log = (folder / "trial.log").open("w")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cluster.trial", str(folder / "serve.yaml"), *groups],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            start_new_session=True,
        )
        self._listening = threading.Thread(target=self._listen, daemon=True)
        self._listening.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with suppress(ValueError):
                self.replicas.append(json.loads(line))

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Return once it answers and every role runs; RuntimeError if it does not come up."""
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s:
            if self.process.poll() is not None:
                break
            running = self.running()
            has_all = bool(running) and all(running.values())
            with suppress(httpx.TransportError):
                if has_all and httpx.get(f"{self.url}/ready", timeout=5).status_code == httpx.codes.OK:
                    return
            time.sleep(0.5)
        told = Path(self._log.name).read_text(errors="replace")[-4000:]
        raise RuntimeError(f"the trial's cluster did not come up; replicas: {self.replicas[-1:]}\n{told}")

    def running(self) -> dict[str, int]:
        """By role, how many replicas ran when it was told last."""
        told = self.replicas[-1]["replicas"] if self.replicas else {}
        return {role: int(found.get("RUNNING", 0)) for role, found in told.items()}

    def close(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(60)
        stop(self.process)  # type: ignore[arg-type]
        self._listening.join(10)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._log.close()


def run(options: Options, folder: Path, cases: list[Case] | None = None, gate: Gate | None = None) -> dict[str, Any]:
    """The whole ramp; the record that ramp.json gets. `cases` bring their own expected texts, or get them first.

    `gate` draws a phase out until the replicas are where they shall be, for a while.
    """
    trial = Trial(options, folder)
    try:
        trial.wait_ready()
        chosen = cases or asyncio.run(cases_of(trial.url, options.num_cases, options.max_tokens))
        profile = Profile(
            peak=options.peak,
            climb_s=options.climb_s,
            hold_s=options.hold_s,
            rest=options.rest,
            rest_s=options.rest_s,
            idle_s=options.idle_s,
        )
        before = parse_sums(httpx.get(f"{trial.url}/metrics", timeout=30).text)
        ramp = Ramp(trial.url, profile, chosen, lambda phase: gate is None or gate(phase, trial.running()))
        begun_s = time.time()
        asyncio.run(ramp.run())
        after = parse_sums(httpx.get(f"{trial.url}/metrics", timeout=30).text)
        lines = httpx.get(f"{trial.url}/metrics", timeout=30).text
    finally:
        trial.close()
    grown = {name: after[name] - before.get(name, 0.0) for name in after if name.endswith(("_total", "_sum", "_count"))}
    return {
        "options": asdict(options),
        "summary": {**ramp.summary(), **_summary(grown, lines)},
        "answers": [asdict(answer) for answer in ramp.answers],
        "in_flight": ramp.in_flight,
        "replicas": [
            {"time_s": one["time_s"] - begun_s, "replicas": one["replicas"]}
            for one in trial.replicas
            if one["time_s"] >= begun_s - 1
        ],
    }


def _summary(grown: dict[str, float], metrics: str) -> dict[str, float]:
    paced = [line for line in metrics.splitlines() if line.startswith("outrider_paced_steps_total")]
    late = sum(float(line.rpartition(" ")[2]) for line in paced if 'outcome="late"' in line)
    steps = max(1.0, grown.get("outrider_verify_step_seconds_count", 0.0))
    batches = max(1.0, grown.get("outrider_draft_queue_seconds_count", 0.0))
    step_ms = 1e3 * grown.get("outrider_verify_step_seconds_sum", 0.0) / steps
    queue_ms = 1e3 * grown.get("outrider_draft_queue_seconds_sum", 0.0) / batches
    return {
        "verify_step_ms": round(step_ms, 3),
        "draft_queue_ms": round(queue_ms, 3),
        "draft_queue_share": round(queue_ms / step_ms, 4) if step_ms else 0.0,
        "drain_s": round(
            grown.get("outrider_drain_seconds_sum", 0.0) / max(1.0, grown.get("outrider_drain_seconds_count", 0.0)), 3
        ),
        "sessions_moved": sum(n for name, n in grown.items() if name == "outrider_epoch_changes_total"),
        "late_paced_steps": late / max(1.0, grown.get("outrider_paced_steps_total", 0.0)),
    }


def main() -> int:
    """Run it, write the record and the plot, print the summary."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.load.ramp", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("ramp"), help="folder to write to (%(default)s)")
    parser.add_argument("--hardware", default=Options.hardware, help="whose time to keep (%(default)s)")
    for name in ("lookahead", "peak", "rest", "max_verifiers", "max_drafters", "max_sessions"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(Options, name))
    for name in ("climb_s", "hold_s", "rest_s", "idle_s"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=getattr(Options, name))
    args = vars(parser.parse_args())
    out: Path = args.pop("out")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        record = run(Options(**args), Path(folder))
    (out / "ramp.json").write_text(json.dumps(record, indent=1))
    from evaluation.load.ramp_plot import plot

    plot(record, out / "ramp.png")
    print(json.dumps(record["summary"], indent=1))
    return 0 if record["summary"]["num_lost"] == record["summary"]["num_changed"] == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
