"""`outrider chat`: talk to an endpoint from the terminal, with tokens coloured by where they came from.

An API key is taken from OUTRIDER_API_KEY.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TextIO

import httpx

from deployments.cli.arguments import count, number, positive
from evaluation.client import EndpointError, base_url, headers

HELP = "stream an answer to the terminal"
_DEFAULT_URL = "http://127.0.0.1:8000"
_COLOURS = {"accepted": "\x1b[32m", "recovered": "\x1b[33m", "bonus": "\x1b[34m", "plain": ""}
_RESET = "\x1b[0m"
# Connecting is quick or hopeless; an answer may take its time.
_TIMEOUT = httpx.Timeout(5.0, read=300.0)


class ChatError(Exception):
    """The answer failed; the text is for the user."""


@dataclass(slots=True)
class ChatSession:
    """A conversation with one endpoint; `ask` prints an answer as it comes, and remembers it."""

    client: httpx.Client
    args: argparse.Namespace
    out: TextIO
    model: str
    messages: list[dict[str, str]]

    def ask(self, prompt: str) -> None:
        """Print the answer to a prompt, then acceptance length and tokens/s; raises ChatError."""
        asked = [*self.messages, {"role": "user", "content": prompt}]
        begun_s = time.perf_counter()
        first_s = begun_s
        text, last = "", {}
        for chunk in self._chunks(asked):
            for piece, kind in _pieces(chunk):
                first_s = first_s if text else time.perf_counter()
                text += piece
                self._print(piece, kind)
            last = chunk
        ended_s = time.perf_counter()
        self.messages = [*asked, {"role": "assistant", "content": text}]
        print(f"\n{self._summary(last, first_s - begun_s, ended_s - first_s)}", file=self.out)

    def _chunks(self, messages: list[dict[str, str]]) -> Iterator[dict[str, Any]]:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": messages,
            "stream": True,
            "stream_options": {"include_usage": True, "include_token_kinds": True},
        }
        if self.args.num_speculative_tokens is not None:
            body["speculation"] = {"num_speculative_tokens": self.args.num_speculative_tokens}
        for name in ("temperature", "seed", "max_tokens"):
            if (value := getattr(self.args, name)) is not None:
                body[name] = value
        with self.client.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.is_error:
                raise ChatError(_error_text(response))
            for line in response.iter_lines():
                if line == "data: [DONE]":
                    return
                if line.startswith("data: "):
                    chunk = json.loads(line.removeprefix("data: "))
                    if "error" in chunk:
                        raise ChatError(chunk["error"]["message"])
                    yield chunk
        raise ChatError("the connection ended in the middle of the answer")

    def _print(self, text: str, kind: str) -> None:
        colour = _COLOURS.get(kind, "") if _has_colours(self.out) else ""
        self.out.write(f"{colour}{text}{_RESET}" if colour else text)
        self.out.flush()

    def _summary(self, last: dict[str, Any], first_s: float, rest_s: float) -> str:
        num_tokens = (last.get("usage") or {}).get("completion_tokens", 0)
        rate = (num_tokens - 1) / rest_s if num_tokens > 1 and rest_s > 0 else 0.0
        speculation = (last.get("metrics") or {}).get("speculative_decoding") or {}
        mean = speculation.get("mean_acceptance_length")
        length = "" if mean is None else f"acceptance length {mean:.2f}, "
        line = f"[{length}{rate:.1f} tokens/s, {num_tokens} tokens, first after {1000 * first_s:.0f} ms]"
        if not _has_colours(self.out):
            return line
        names = {"accepted": "drafted and accepted", "recovered": "recovered", "bonus": "bonus"}
        return line + "\n" + " ".join(f"{_COLOURS[kind]}{name}{_RESET}" for kind, name in names.items())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.add_argument("prompt", nargs="?", help="what to ask; without it, a conversation begins")
    parser.add_argument("--url", default=_DEFAULT_URL, help=f"the endpoint (default {_DEFAULT_URL})")
    parser.add_argument("--temperature", type=number, help="0 for the most likely text; by default the model's own")
    parser.add_argument("--seed", type=int, help="repeats the same answer")
    parser.add_argument("--max-tokens", type=positive, help="bound on each answer")
    parser.add_argument("--num-speculative-tokens", type=count, help="lookahead; by default the service decides")


def run(args: argparse.Namespace) -> int:
    """Chat, and return the exit status: 0, or 1 if the service cannot be reached or refuses."""
    # Terminals differ in what they can show; an answer must not end with an encoding error.
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    try:
        # From the environment, since every process on the machine can read a command line.
        key = os.environ.get("OUTRIDER_API_KEY")
        with httpx.Client(base_url=base_url(args.url), timeout=_TIMEOUT, headers=headers(key)) as client:
            session = ChatSession(client, args, sys.stdout, _find_model(client), [])
            if args.prompt is None:
                return _converse(session)
            session.ask(args.prompt)
            return 0
    except httpx.ConnectError as error:
        detail = f"nothing answers at {args.url} ({error}); `make serve` starts an endpoint on this machine"
        print(f"outrider chat: {detail}", file=sys.stderr)
    except httpx.HTTPError as error:
        print(f"outrider chat: the connection to {args.url} failed: {error}", file=sys.stderr)
    except (ChatError, EndpointError) as error:
        print(f"outrider chat: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print(_RESET if _has_colours(sys.stdout) else "", file=sys.stdout)
        return 130
    return 1


def _converse(session: ChatSession) -> int:
    """Prompt after prompt. Ctrl-C ends an answer, or the conversation at the prompt; Ctrl-D ends it too."""
    print(f"{session.model} at {session.args.url}; Ctrl-D ends.", file=session.out)
    while True:
        try:
            prompt = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            print(file=session.out)
            return 0
        if not prompt:
            continue
        try:
            session.ask(prompt)
        except KeyboardInterrupt:  # leaving the stream cancels the request
            print(_RESET if _has_colours(session.out) else "", file=session.out)
        except ChatError as error:
            print(f"\n{error}", file=session.out)


def _find_model(client: httpx.Client) -> str:
    response = client.get("/v1/models")
    if response.is_error:
        raise ChatError(_error_text(response))
    try:
        return str(response.json()["data"][0]["id"])
    except (ValueError, LookupError, TypeError) as error:
        raise ChatError(f"{client.base_url} is not an OpenAI-compatible endpoint") from error


def _pieces(chunk: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The text of a chunk and where it came from; another server's says nothing of that."""
    if "outrider" in chunk:
        for segment in chunk["outrider"]["segments"]:
            yield segment["text"], segment["kind"]
        return
    for choice in chunk.get("choices") or ():
        if text := (choice.get("delta") or {}).get("content"):
            yield text, "plain"


def _error_text(response: httpx.Response) -> str:
    response.read()
    try:
        return f"{response.json()['error']['message']} (HTTP {response.status_code})"
    except (ValueError, LookupError, TypeError):
        return f"the service answered with HTTP {response.status_code}"


def _has_colours(out: TextIO) -> bool:
    return out.isatty() and "NO_COLOR" not in os.environ
