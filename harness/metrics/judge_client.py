"""Ask a judge, as a vision-language model, about pictures: a command, or an OpenAI-compatible address.

It is asked only where an option names it. Answers are kept in the cache folder, by all that could change them, so that
no question is paid for twice. Every wait and every answer has a bound.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Annotated, Any
from urllib.parse import SplitResult, urlsplit

from pydantic import Field, model_validator

from harness.contracts import Availability, Json, Options
from harness.errors import PluginFault, StorageError, shown
from harness.system import files, video
from harness.system.digests import canonical, digest, file_sha256
from harness.system.guarded import Guarded

LARGEST_ANSWER = 1 << 20
LARGEST_KEPT = 8 * LARGEST_ANSWER
"""Of a file that keeps an answer, whose letters JSON may write as six each."""
ATTEMPTS, LONGEST_WAIT_S = 3, 30.0
"""Tries of an address that is busy or away, and the longest wait between two of them."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
_PLAIN = re.compile(r"[!-~]*")
_KEY = re.compile(r"[ -~\xa0-\xff]+")
"""What a line of a request and a header may hold: ASCII that is seen, and printable Latin-1."""


class JudgeOptions(Options):
    """Who judges, and what it sees.

    Attributes:
        command: a program and its arguments. It reads one JSON object from its standard input, `text` and `pictures`
            (JPEG, base64), and writes its answer.
        address: of an OpenAI-compatible service instead, as in `http://127.0.0.1:8000/v1`.
        model: as the service calls it. key_variable: the environment variable that holds its key; none unless given.
        instruction: what it is told, with `{frames}`, `{prompt}` and `{questions}` filled in; a text of the harness
            unless given.
        frames: of a clip, evenly spread, first and last included. width: of a picture; wider ones are made smaller.
        timeout_s: longest wait for an answer.
    """

    command: list[str] = Field(default_factory=list)
    address: str = ""
    model: str = ""
    key_variable: str = ""
    instruction: str = ""
    frames: Annotated[int, Field(ge=1, le=64)] = 8
    width: Annotated[int, Field(ge=16, le=2048)] = 512
    timeout_s: Annotated[float, Field(gt=0, le=3600)] = 120.0

    @model_validator(mode="after")
    def _one_judge(self) -> JudgeOptions:
        if self.command and self.address:
            raise ValueError("give either a command or an address")
        parts = urlsplit(self.address)
        if self.address and (parts.scheme not in ("http", "https") or not parts.hostname or parts.username):
            raise ValueError("the address must be http://HOST or https://HOST, without a name or key in it")
        if not _PLAIN.fullmatch(parts.path) or not _PLAIN.fullmatch(_host(parts)) or parts.port == 0:
            raise ValueError("the address has a host, port or path that no request can name")
        if self.key_variable and parts.scheme == "http" and parts.hostname not in LOOPBACK:
            raise ValueError("a key is sent by https, or to this machine alone")
        return self


def _host(parts: SplitResult) -> str:
    """The host as a request names it, in ASCII. Raises `ValueError` for a name that has no such form."""
    try:
        return (parts.hostname or "").encode("idna").decode()
    except UnicodeError:
        raise ValueError(f"the address has a host that is none: {shown(parts.hostname or '', 60)!r}") from None


def available(options: JudgeOptions) -> Availability:
    """Whether a judge is named, and its key is there and can be sent."""
    if not options.command and not options.address:
        return Availability(False, "no judge is named", "give the option command or address")
    variable = options.key_variable
    key = os.environ.get(variable, "") if variable else ""
    if variable and not key:
        return Availability(False, f"${variable} is not set", f"export {variable}=...")
    if variable and not _KEY.fullmatch(key):
        return Availability(False, f"${variable} holds letters that no key has", f"export {variable}=... anew")
    return Availability(True)


def identity(options: JudgeOptions) -> dict[str, Json]:
    """SHA-256 of every file that the command names."""
    # An argument may be a program's text, which is too long for a name.
    named = (Path(argument) for argument in options.command if os.path.isfile(argument))
    return {path.name: file_sha256(path) for path in named}


def pictures(path: Path, frames: int, options: JudgeOptions) -> list[bytes]:
    """JPEGs of a clip of so many `frames`. Raises `ClipError`."""
    count = min(options.frames, frames)
    places = {round(number * (frames - 1) / max(1, count - 1)) for number in range(count)}
    seen = []
    for _, pixels in video.frames_at(path, places):
        height, width = pixels.shape[:2]
        if width > options.width:
            pixels = video.scaled(pixels, max(2, round(height * options.width / width)), options.width)
        seen.append(video.jpeg(pixels))
    return seen


def ask(options: JudgeOptions, text: str, images: Sequence[bytes]) -> str:
    """What the judge says to `text` and JPEG `images`. Raises `PluginFault` where it says nothing."""
    body: dict[str, Json] = {
        "asked": [options.command, options.address, options.model, text],
        "files": identity(options),
        "pictures": [digest(image) for image in images],
    }
    name = digest(canonical(body))
    kept = files.cache_folder() / "judge" / name[:2] / f"{name}.json"
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        earlier = json.loads(files.read_limited(kept, LARGEST_KEPT))["reply"]
        if isinstance(earlier, str):
            return earlier
    reply = _command(options, text, images) if options.command else _service(options, text, images)
    with suppress(StorageError):
        files.write_atomic(kept, json.dumps({"reply": reply}))
    return reply


def answers(reply: str) -> Mapping[str, Any]:
    """The JSON object in a reply, which may have words around it. Raises `PluginFault`."""
    decoder = json.JSONDecoder()
    for place, letter in enumerate(reply):
        if letter == "{":
            with suppress(ValueError, RecursionError):
                body, _ = decoder.raw_decode(reply[place:])
                if isinstance(body, dict):
                    return body
    raise PluginFault(f"the judge's answer holds no JSON object: {shown(reply, 200)!r}")


# --------------------------------------------------------------------------------------------- a command


def _command(options: JudgeOptions, text: str, images: Sequence[bytes]) -> str:
    question = json.dumps({"text": text, "pictures": [base64.b64encode(image).decode() for image in images]})
    name = options.command[0]
    try:
        judge = Guarded(options.command, variables=dict(os.environ), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise PluginFault(f"the judge {name!r} cannot be started: {reason}") from error
    process = judge.popen
    assert process.stdin is not None
    assert process.stdout is not None
    answer: list[bytes] = []
    reader = threading.Thread(target=_read, args=(process.stdout, answer), daemon=True)
    writer = threading.Thread(target=_write, args=(process.stdin, question.encode()), daemon=True)
    deadline = time.monotonic() + options.timeout_s
    for thread in (reader, writer):
        thread.start()
    reader.join(options.timeout_s)
    code = None
    if answer and len(answer[0]) <= LARGEST_ANSWER:
        with suppress(subprocess.TimeoutExpired):
            code = process.wait(max(0.0, deadline - time.monotonic()))
    judge.end()
    for thread in (reader, writer):
        thread.join(5)
    process.stdout.close()
    said = _text(b"".join(answer), name)
    if code is None:
        raise PluginFault(f"the judge {name!r} gave no answer within {options.timeout_s:g} s")
    if code:
        raise PluginFault(f"the judge {name!r} ended with exit status {code}")
    return said


def _read(pipe: IO[bytes], answer: list[bytes]) -> None:
    with suppress(OSError, ValueError):
        answer.append(pipe.read(LARGEST_ANSWER + 1))


def _write(pipe: IO[bytes], question: bytes) -> None:
    with suppress(OSError, ValueError), pipe:
        pipe.write(question)


def _text(content: bytes, name: str) -> str:
    if len(content) > LARGEST_ANSWER:
        raise PluginFault(f"the judge {name!r} said more than {LARGEST_ANSWER:,} bytes")
    return content.decode("utf-8", "replace")


# -------------------------------------------------------------------------------------------- an address


class _Busy(Exception):
    """A service that may answer later; `wait` is what it asks for, in seconds."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


def _service(options: JudgeOptions, text: str, images: Sequence[bytes]) -> str:
    addresses = [f"data:image/jpeg;base64,{base64.b64encode(image).decode()}" for image in images]
    content: list[Json] = [{"type": "text", "text": text}]
    content += [{"type": "image_url", "image_url": {"url": address}} for address in addresses]
    body = json.dumps(
        {"model": options.model, "messages": [{"role": "user", "content": content}], "temperature": 0, "seed": 0}
    )
    reason = ""
    for attempt in range(ATTEMPTS):
        try:
            return _reply(_post(options, body.encode()))
        except _Busy as busy:
            reason = str(busy)
            if attempt + 1 < ATTEMPTS:
                time.sleep(min(LONGEST_WAIT_S, busy.wait or 2.0**attempt))
    raise PluginFault(f"the judge at {urlsplit(options.address).netloc} gave no answer: {reason}")


def _post(options: JudgeOptions, body: bytes) -> bytes:
    """The body of the answer. Redirections are not followed: they would lead the key elsewhere."""
    parts = urlsplit(options.address)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(_host(parts), parts.port, timeout=options.timeout_s)
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    if options.key_variable:
        headers["Authorization"] = f"Bearer {os.environ.get(options.key_variable, '')}"
    cut = threading.Event()
    opened: list[socket.socket] = []

    def end() -> None:
        cut.set()
        for each in opened:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    # The timeout of a socket starts anew with every byte; this one does not.
    timer = threading.Timer(options.timeout_s, end)
    timer.daemon = True
    timer.start()
    try:
        connection.connect()
        # The connection forgets its socket before its answer is read.
        opened.append(connection.sock)
        connection.request("POST", f"{parts.path.rstrip('/')}/chat/completions", body, headers)
        answer = connection.getresponse()
        content = answer.read(LARGEST_ANSWER + 1)
    except (OSError, http.client.HTTPException) as error:
        raise _Busy(
            f"not within {options.timeout_s:g} s" if cut.is_set() else str(error) or type(error).__name__
        ) from (error)
    except ValueError as error:
        # Its text may hold the key.
        raise PluginFault(f"the judge at {parts.netloc} cannot be asked: {type(error).__name__}") from None
    finally:
        timer.cancel()
        connection.close()
    if cut.is_set():
        raise _Busy(f"not within {options.timeout_s:g} s")
    if answer.status == 429 or answer.status >= 500:
        wait = answer.getheader("Retry-After", "")
        raise _Busy(f"HTTP status {answer.status}", float(wait) if wait.isdecimal() and len(wait) < 5 else 0.0)
    if answer.status != 200:
        said = shown(content.decode("utf-8", "replace"), 200)
        raise PluginFault(f"the judge at {parts.netloc} refused: HTTP status {answer.status}: {said}")
    if len(content) > LARGEST_ANSWER:
        raise PluginFault(f"the judge at {parts.netloc} said more than {LARGEST_ANSWER:,} bytes")
    return content


def _reply(content: bytes) -> str:
    try:
        reply = json.loads(content)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        raise PluginFault("the judge's answer is not that of an OpenAI-compatible service") from error
    if not isinstance(reply, str):
        raise PluginFault("the judge's answer holds no text")
    return reply
