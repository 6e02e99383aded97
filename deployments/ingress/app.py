"""The REST service: create_app(context) -> FastAPI.

Routes parse their own bodies, so that every error has one shape.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import HTMLResponse, JSONResponse, Response

from deployments.ingress import errors, tokenizing
from deployments.ingress.access import Access
from deployments.ingress.admission import Admission, AdmissionLimits
from deployments.ingress.answer import Answer, Piece, pieces
from deployments.ingress.body import read_body
from deployments.ingress.context import VERSION, IngressContext
from deployments.ingress.deadline import within
from deployments.ingress.errors import ApiError
from deployments.ingress.exposition import CONTENT_TYPE
from deployments.ingress.front_door import FrontDoor, ticket_of
from deployments.ingress.merging import merged
from deployments.ingress.middleware import RequestIdMiddleware
from deployments.ingress.planning import PlannedChoice, check, plan
from deployments.ingress.responses import ChatWriter, CompletionWriter, ResponseWriter, WriterOptions, joined
from deployments.ingress.schemas import ChatRequest, CompletionRequest, parse_chat, parse_completion
from deployments.ingress.sse import CLIENT_CLOSED_REQUEST, ClientGone, Event, EventStream, until_disconnect
from deployments.logs import about

logger = logging.getLogger("outrider.ingress")

_NOTHING_HERE = (
    "There is nothing at this path; answers are at /v1/chat/completions and /v1/completions, models at /v1/models."
)
_PAGE = Path(__file__).with_name("page.html")


def create_app(
    context: IngressContext,
    *,
    access: Access | None = None,
    admission: Admission | None = None,
    allowed_origins: Sequence[str] = (),
    has_proxy: bool = False,
) -> FastAPI:
    """The OpenAI-compatible service over a way to the routers; runs on that client's event loop.

    Pages of `allowed_origins` ("*" for all) may ask from a browser. With `has_proxy` the x-request-id of requests and
    responses is the proxy's business.
    """
    app = FastAPI(title="Outrider", version=VERSION, docs_url=None, redoc_url=None, openapi_url=None)
    routes = _Routes(context)
    for path, route in (
        ("/v1/chat/completions", routes.chat),
        ("/v1/completions", routes.completion),
        ("/tokenize", routes.tokenize),
        ("/detokenize", routes.detokenize),
    ):
        app.add_api_route(path, route, methods=["POST"], response_model=None)
    for path, read in (
        ("/v1/models", routes.models),
        ("/v1/models/{model_id:path}", routes.model),
        ("/tokenizer_info", routes.tokenizer_info),
        ("/health", routes.health),
        ("/ready", routes.ready),
        ("/metrics", routes.metrics),
        ("/version", routes.version),
        ("/", routes.page),
    ):
        app.add_api_route(path, read, methods=["GET"], response_model=None)
    app.add_exception_handler(ApiError, partial(_on_error, context))
    app.add_exception_handler(HTTPException, partial(_on_error, context))
    app.add_middleware(
        FrontDoor,
        access=access or Access(),
        admission=admission or Admission(AdmissionLimits()),
        max_body_bytes=context.limits.max_body_bytes,
    )
    app.add_middleware(RequestIdMiddleware, on_crash=partial(_to_response, context), has_proxy=has_proxy)
    if allowed_origins:  # around all else: a page can read a refusal only with these headers
        app.add_middleware(
            CORSMiddleware,
            allow_origins=allowed_origins,
            allow_methods=("GET", "POST"),
            allow_headers=("*",),
            expose_headers=("x-request-id", "retry-after"),
        )
    return app


class _Routes:
    def __init__(self, context: IngressContext) -> None:
        self._context = context

    async def chat(self, request: Request) -> Response:
        return await self._generate(request, parse_chat, ChatWriter)

    async def completion(self, request: Request) -> Response:
        return await self._generate(request, parse_completion, CompletionWriter)

    async def _generate(
        self,
        request: Request,
        parse: Callable[[bytes], ChatRequest | CompletionRequest],
        to_writer: type[ResponseWriter],
    ) -> Response:
        ticket = ticket_of(request)
        body = parse(await read_body(request, self._context.limits))
        asked = check(self._context, body, ticket.tenant)
        try:
            if not ticket.start_at_once(asked.num_choices):
                with self._context.metrics.counted_as_waiting():
                    await until_disconnect(request.receive, ticket.start(asked.priority, asked.num_choices))
            planned = await plan(self._context, body, asked)
            answers = [self._answer(body, choice, ticket.waited_s) for choice in planned.choices]
            ticket.charge(
                planned.num_prompt_tokens, planned.num_likely_tokens, lambda: sum(a.num_tokens for a in answers)
            )
            writer = to_writer(self._context, planned.id, answers, body.n, _options(body))
            if body.stream:
                return EventStream(self._events(body, answers, writer), partial(_to_api_error, self._context))
            return JSONResponse(await until_disconnect(request.receive, self._whole(answers, writer)))
        except ClientGone:
            return Response(status_code=CLIENT_CLOSED_REQUEST)

    def _answer(self, body: ChatRequest | CompletionRequest, choice: PlannedChoice, waited_s: float) -> Answer:
        tokenizer = self._context.tokenizer
        return Answer(
            choice.request,
            tokenizer if body.skip_special_tokens else tokenizer.verbatim,
            body.stops,
            named_stop_token_ids=body.stop_token_ids,
            min_tokens=body.min_tokens,
            includes_stop=body.include_stop_str_in_output,
            prompt_text=choice.prompt_text,
            scores_echo=body.scores_echo,
            prompt_only=body.wanted_tokens == 0,
            waited_s=waited_s,
        )

    def _pieces(self, answers: Sequence[Answer]) -> AsyncGenerator[tuple[int, Piece], None]:
        parts = merged([pieces(self._context.client, answer, self._context.metrics) for answer in answers])
        return within(self._context.limits.max_request_s, parts)

    async def _whole(self, answers: Sequence[Answer], writer: ResponseWriter) -> dict[str, Any]:
        choices: list[list[Piece]] = [[] for _ in answers]
        async with aclosing(self._pieces(answers)) as parts:
            async for index, piece in parts:
                choices[index].append(piece)
        return writer.whole([joined(choice) for choice in choices])

    async def _events(
        self, body: ChatRequest | CompletionRequest, answers: Sequence[Answer], writer: ResponseWriter
    ) -> AsyncGenerator[Event, None]:
        """The stream's events; the first waits for the first commit, so that a refusal gets its status."""
        opened: set[int] = set()
        async with aclosing(self._pieces(answers)) as parts:
            async for index, piece in parts:
                if index not in opened and (opening := writer.opening(index)) is not None:
                    yield opening
                opened.add(index)
                if (chunk := writer.chunk(index, piece)) is not None:
                    yield chunk
        if body.includes_usage:
            yield writer.closing()

    async def tokenize(self, request: Request) -> Response:
        body = await read_body(request, self._context.limits)
        return JSONResponse(await tokenizing.tokenize(self._context, body))

    async def detokenize(self, request: Request) -> Response:
        body = await read_body(request, self._context.limits)
        return JSONResponse(await tokenizing.detokenize(self._context, body))

    async def tokenizer_info(self) -> Response:
        return JSONResponse(tokenizing.tokenizer_info(self._context))

    async def models(self) -> Response:
        return JSONResponse({"object": "list", "data": [self._context.model.as_json()]})

    async def model(self, model_id: str) -> Response:
        if model_id != self._context.model.id:
            message = f"The model {model_id!r} does not exist; this service has {self._context.model.id!r}."
            raise ApiError(404, message, param="model", code="model_not_found")
        return JSONResponse(self._context.model.as_json())

    async def health(self) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(self) -> Response:
        if not self._context.client.is_ready:
            return errors.unavailable("no router is connected", 1.0).response()  # a probe is no request that has failed
        return JSONResponse({"status": "ready"})

    async def metrics(self) -> Response:
        return Response(self._context.exposition.render(), headers={"content-type": CONTENT_TYPE})

    async def version(self) -> Response:
        return JSONResponse({"version": VERSION})

    async def page(self) -> Response:
        return HTMLResponse(_PAGE.read_text("utf-8"))


def _options(body: ChatRequest | CompletionRequest) -> WriterOptions:
    return WriterOptions(
        with_kinds=body.includes_token_kinds,
        with_usage=body.includes_usage,
        with_usage_so_far=body.includes_usage_so_far,
        with_token_ids=body.return_token_ids,
        num_logprobs=body.num_logprobs,
        num_prompt_logprobs=body.prompt_logprobs,
        tokens_as_ids=body.return_tokens_as_token_ids,
    )


def _to_api_error(context: IngressContext, error: Exception) -> ApiError:
    api_error = _shaped(error)
    context.metrics.count_failure(api_error.status)
    whose = {"request_id": errors.current_request_id.get()}
    logger.info(
        "request refused", extra=about(**whose, status=api_error.status, code=api_error.code, param=api_error.param)
    )
    return api_error


def _shaped(error: Exception) -> ApiError:
    if not isinstance(error, HTTPException):
        return errors.as_api_error(error)
    if error.status_code == 404:
        return ApiError(404, _NOTHING_HERE, code="not_found")
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        return ApiError(405, f"This path does not take this method; use {allowed}.", code="method_not_allowed")
    return ApiError(error.status_code, error.detail)


def _to_response(context: IngressContext, error: Exception) -> Response:
    response = _to_api_error(context, error).response()
    if isinstance(error, HTTPException):
        response.headers.update(error.headers or {})
    return response


async def _on_error(context: IngressContext, request: Request, error: Exception) -> Response:
    return _to_response(context, error)
