"""One request on a real cluster, followed through the log files of all four roles."""

from __future__ import annotations

import json
import time

import httpx

from tests.support.replica_logs import replica_lines
from tests.support.serve_process import Server

TIMEOUT_S = 300.0
PROMPT = "the contract names the parties"


def test_a_request_is_followed_from_its_id_through_all_roles(server: Server) -> None:
    body = {"model": "tiny", "prompt": PROMPT, "max_tokens": 24, "temperature": 0.8, "seed": 7}
    headers = {"x-request-id": "follow-me-1"}
    answer = httpx.post(f"{server.url}/v1/completions", json=body, headers=headers, timeout=TIMEOUT_S).json()
    deadline_s = time.monotonic() + TIMEOUT_S
    while True:
        lines = replica_lines(server)
        about_it = [line for line in lines if str(line.get("request", "")).startswith(answer["id"])]
        ends = {line["message"] for line in about_it}
        if ends >= {"session ends", "session closes", "session detached"}:
            break
        assert time.monotonic() < deadline_s, about_it
        time.sleep(0.2)

    (begins,) = (line for line in about_it if line["message"] == "request begins")
    assert (begins["role"], begins["request_id"]) == ("ingress", "follow-me-1")
    by_role = {role: [line for line in about_it if line["role"] == role] for role in ("router", "verifier", "drafter")}
    (session,) = {line["session"] for found in by_role.values() for line in found}
    assert [line["message"] for line in by_role["router"]] == ["session opens", "session placed", "session ends"]
    assert [line["message"] for line in by_role["verifier"]] == ["session opens", "session closes"]
    assert [line["message"] for line in by_role["drafter"]] == ["session attached", "session detached"]
    assert by_role["verifier"][-1]["round"] == by_role["router"][-1]["round"] > 0
    assert int(session, 16) > 0


def test_lines_name_their_replica_and_neither_prompt_nor_output(server: Server) -> None:
    body = {"model": "tiny", "prompt": PROMPT, "max_tokens": 24, "temperature": 0.8, "seed": 7}
    answer = httpx.post(f"{server.url}/v1/completions", json=body, timeout=TIMEOUT_S).json()
    text = answer["choices"][0]["text"].strip()
    assert len(text) > 3
    lines = replica_lines(server)
    assert {line["role"] for line in lines} == {"ingress", "router", "verifier", "drafter"}
    assert all(line["replica"] and line["rank"] == 0 for line in lines)
    written = json.dumps(lines, ensure_ascii=False)
    assert PROMPT not in written
    assert text not in written
