"""Serve a study to its raters: the page, the clips, and one transaction for each vote.

Starlette and uvicorn, which the extra `study` brings. Nothing of the study but a rater's own tasks leaves it.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import socket
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import HarnessError, NotAvailable, StorageError
from harness.study import page
from harness.study.design import MEDIA, Study
from harness.study.votes import Ballots, NotAgreed, Refused, check

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
LARGEST_BODY = 16_384
"""Bytes of a request; the answers to fifty questions are fewer."""
READ_S = 10.0
"""Longest that a request may take to arrive."""
VOTES_A_MINUTE, REQUESTS_A_MINUTE, GUESSES_A_MINUTE = 60.0, 600.0, 20.0
"""Of a rater; of an address, clips aside; and of an address with tokens that are none."""
MOST_CONNECTIONS = 500
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_MEDIA = re.compile(r"[0-9a-f]{32}\.mp4")


@dataclass(slots=True)
class Buckets:
    """A rate for each of many keys: `rate` a minute, and a third of that at once. Forgets the keys of longest ago."""

    rate: float
    most: int = 10_000
    clock: Callable[[], float] = time.monotonic
    _levels: OrderedDict[object, tuple[float, float]] = field(default_factory=OrderedDict)

    def wait(self, key: object) -> float:
        """Seconds until `key` may act; 0 takes one act from its bucket."""
        now, size = self.clock(), max(1.0, self.rate / 3)
        level, then = self._levels.pop(key, (size, now))
        level = min(size, level + (now - then) * self.rate / 60)
        allowed = level >= 1
        self._levels[key] = (level - allowed, now)
        while len(self._levels) > self.most:
            self._levels.popitem(last=False)
        return 0.0 if allowed else (1 - level) * 60 / self.rate


def application(
    folder: Path,
    study: Study,
    ballots: Ballots,
    *,
    hosts: Sequence[str] = LOOPBACK,
    votes_a_minute: float = VOTES_A_MINUTE,
) -> Any:
    """The ASGI application of the study in `folder`.

    Args:
        hosts: names by which requests may call it; `*` for any.

    Raises `NotAvailable` without Starlette.
    """
    try:
        from starlette.applications import Starlette
        from starlette.routing import Route
    except ImportError as error:
        raise _missing() from error
    desk = _Desk(folder, study, ballots, tuple(hosts), votes_a_minute)
    routes = [
        Route("/", desk.page),
        Route(f"/{MEDIA}/{{name}}", desk.media),
        Route("/session", desk.guarded(desk.session)),
        Route("/consent", desk.guarded(desk.consent), methods=["POST"]),
        Route("/vote", desk.guarded(desk.vote), methods=["POST"]),
    ]
    return desk.limited(Starlette(routes=routes))


def _missing() -> NotAvailable:
    return NotAvailable("Starlette or uvicorn is not installed", "pip install -c constraints.txt '.[study]'")


class _Desk:
    """Answers requests."""

    def __init__(self, folder: Path, study: Study, ballots: Ballots, hosts: Sequence[str], rate: float) -> None:
        self.folder, self.study, self.ballots, self.hosts = folder, study, ballots, hosts
        self.html, policy = page.render(study, served=True)
        self.headers = {"Content-Security-Policy": f"{policy}; frame-ancestors 'none'", "Cache-Control": "no-store"}
        self.votes = Buckets(rate)
        self.requests = Buckets(REQUESTS_A_MINUTE)
        self.guesses = Buckets(GUESSES_A_MINUTE)

    def limited(self, inner: Any) -> Any:
        """`inner` for requests that call this host by its name, and not more of them than an address may send."""

        async def outer(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                refusal = self._refusal(scope)
                if refusal is not None:
                    await refusal(scope, receive, send)
                    return
            await inner(scope, receive, send)

        return outer

    def _refusal(self, scope: Any) -> Any:
        host = dict(scope["headers"]).get(b"host", b"").decode("latin-1").lower()
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        # Another site may let its name lead to this address; its pages must not read this one.
        if "*" not in self.hosts and name not in self.hosts:
            return _answer({"error": "unknown host"}, 403)
        # Clips come in many parts, and to a whole room by one address; only who has a task knows their names.
        if scope["path"].startswith(f"/{MEDIA}/"):
            return None
        if wait := self.requests.wait((scope.get("client") or ("",))[0]):
            return _answer({"error": "too many requests"}, 429, wait)
        return None

    async def page(self, request: Any) -> Any:
        """The page; it holds nothing of any rater."""
        from starlette.responses import HTMLResponse

        return HTMLResponse(self.html, headers={**HEADERS, **self.headers})

    async def media(self, request: Any) -> Any:
        """A clip, whole or in part. Its name is a secret of its own."""
        from starlette.responses import FileResponse

        name = request.path_params["name"]
        path = self.folder / MEDIA / name
        if not _MEDIA.fullmatch(name) or not path.is_file():
            return _answer({"error": "no such clip"}, 404)
        return FileResponse(path, media_type="video/mp4", headers={**HEADERS, "Cache-Control": "private, max-age=3600"})

    def guarded(self, inner: Callable[[Any, int], Awaitable[Any]]) -> Callable[[Any], Awaitable[Any]]:
        """`inner` for who has a token of this study; what the database refuses becomes an answer."""

        async def outer(request: Any) -> Any:
            scheme, _, token = request.headers.get("authorization", "").partition(" ")
            rater = self.study.rater(token.strip()) if scheme.lower() == "bearer" else None
            if rater is None:
                wait = self.guesses.wait(request.client.host if request.client else "")
                return _answer({"error": "no such token"}, 429 if wait else 401, wait)
            try:
                return await inner(request, rater)
            except Refused as error:
                return _answer({"error": error.message}, 403 if isinstance(error, NotAgreed) else 409)
            except StorageError:
                return _answer({"error": "not kept: the disk does not take it"}, 503, 5)

        return outer

    async def session(self, request: Any, rater: int) -> Any:
        """The tasks of a rater, and which are done."""
        from starlette.concurrency import run_in_threadpool

        agreed, done = await run_in_threadpool(self.ballots.of, rater)
        return _answer({"agreed": agreed, "done": done, "tasks": page.tasks(self.study, rater)})

    async def consent(self, request: Any, rater: int) -> Any:
        """Keep that a rater has agreed."""
        from starlette.concurrency import run_in_threadpool

        await run_in_threadpool(self.ballots.consent, rater)
        return _answer({"agreed": True})

    async def vote(self, request: Any, rater: int) -> Any:
        """Keep a vote, and say so when it is on the disk."""
        from starlette.concurrency import run_in_threadpool

        if wait := self.votes.wait(rater):
            return _answer({"error": "too many votes"}, 429, wait)
        try:
            body = await asyncio.wait_for(_body(request), READ_S)
        except TimeoutError:
            return _answer({"error": "the request did not arrive"}, 408)
        except ValueError as error:
            return _answer({"error": str(error)}, 400)
        try:
            vote = check(self.study, rater, body.get("task"), body.get("answers"), body.get("seconds"))
        except Refused as error:
            return _answer({"error": error.message}, 400)
        new = await run_in_threadpool(self.ballots.keep, vote)
        return _answer({"kept": True, "new": new})


async def _body(request: Any) -> Mapping[str, Any]:
    """The JSON object of a request. Raises `ValueError`."""
    content = b""
    async for part in request.stream():
        content += part
        if len(content) > LARGEST_BODY:
            raise ValueError("the request is too large")
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        raise ValueError("the request is no JSON") from None
    if not isinstance(body, dict):
        raise ValueError("the request is no object")
    return body


def _answer(body: Mapping[str, Any], status: int = 200, wait: float = 0) -> Any:
    from starlette.responses import JSONResponse

    headers = {**HEADERS, "Cache-Control": "no-store"}
    if wait:
        headers["Retry-After"] = str(max(1, math.ceil(wait)))
    return JSONResponse(body, status, headers)


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens on an address. Raises `HarnessError` where it cannot."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as opened:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            opened.bind((host, port))
            opened.listen(256)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise HarnessError(
                f"{host}:{port} cannot be served: {reason}", "name another with --host and --port"
            ) from (error)
        yield opened


def run(app: Any, opened: socket.socket) -> None:
    """Serve `app` on a socket until the process is told to stop."""
    try:
        import uvicorn
    except ImportError as error:
        raise _missing() from error
    config = uvicorn.Config(
        app,
        log_level="error",
        access_log=False,
        server_header=False,
        ws="none",
        lifespan="off",
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=5,
        h11_max_incomplete_event_size=32_768,
    )
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[opened])
