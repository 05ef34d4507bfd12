"""A judge behind a command and behind an address of our own: what it is asked, what it may say, and that waits end."""

from __future__ import annotations

import base64
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.contracts import Clip
from harness.contracts.registry import metrics
from harness.errors import HarnessError, OptionError, PluginFault
from harness.metrics import judge_client
from harness.metrics.judge import INSTRUCTION, Judge, filled
from harness.system import video

GOOD = {"adherence": 4, "coherence": 5, "dynamics": 2.5, "overall": 1}


class Service(ThreadingHTTPServer):
    """An OpenAI-compatible service that answers as it is told."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.reply: Any = json.dumps(GOOD)
        self.statuses: list[int] = []
        self.raw: bytes | None = None
        self.drip = 0.0
        self.seen: list[tuple[str, dict[str, str], Any]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: Service

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, dict(self.headers), body))
        status = self.server.statuses.pop(0) if self.server.statuses else 200
        answer = {"choices": [{"message": {"role": "assistant", "content": self.server.reply}}]}
        content = self.server.raw if self.server.raw is not None else json.dumps(answer).encode()
        self.send_response(status)
        if status == 302:
            self.send_header("Location", f"http://localhost:{self.server.server_port}/elsewhere")
        self.send_header("Retry-After", "0")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        try:
            for place in range(0, len(content), 1 if self.server.drip else len(content)):
                self.wfile.write(content[place : place + (1 if self.server.drip else len(content))])
                time.sleep(self.server.drip)
        except OSError:
            pass

    def log_message(self, format: str, *args: Any) -> None:
        return


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDEOMLA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(judge_client, "LONGEST_WAIT_S", 0.01)


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as opened:
        threading.Thread(target=opened.serve_forever, daemon=True).start()
        yield opened
        opened.shutdown()


@pytest.fixture
def clip(tmp_path: Path) -> Clip:
    frames = np.repeat(np.arange(0, 240, 20, dtype=np.uint8), 32 * 48 * 3).reshape(12, 32, 48, 3)
    path = tmp_path / "clip.mp4"
    video.write(path, [frames], 12.0, 8, "veryfast")
    prompt = "a {questions} </script> dog"
    return Clip(path, prompt, 0, 0, 12, 32, 48, 12.0, "d", lambda: frames, ((6, "a cat"),))


def judge(**options: Any) -> Judge:
    made = metrics.create("judge", options)
    assert isinstance(made, Judge)
    return made


def test_nobody_is_asked_unless_named(clip: Clip) -> None:
    state = judge().available()
    assert not state.ready
    assert "no judge is named" in state.reason


def test_a_service_sees_frames_and_questions_and_its_ratings_count(
    service: Service, clip: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUR_KEY", "secret-key")
    metric = judge(address=service.address, model="m", key_variable="OUR_KEY", frames=3, width=24)
    assert metric.available().ready
    assert metric.score(clip) == GOOD
    (path, headers, body) = service.seen[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer secret-key"
    assert (body["model"], body["temperature"]) == ("m", 0)
    text, *images = body["messages"][0]["content"]
    assert "a {questions} </script> dog\nFrom frame 6 on: a cat" in text["text"]
    assert "adherence: How well does the video fit the description?" in text["text"]
    assert len(images) == 3
    picture = base64.b64decode(images[0]["image_url"]["url"].removeprefix("data:image/jpeg;base64,"))
    assert picture.startswith(b"\xff\xd8")
    assert "secret-key" not in json.dumps([metric.identity(), metric.notes(), metric.options.model_dump()])
    assert metric.notes()["reply"] == json.dumps(GOOD)


def test_an_answer_is_asked_for_once(service: Service, clip: Clip) -> None:
    for _ in range(2):
        assert judge(address=service.address, model="m").score(clip) == GOOD
    assert len(service.seen) == 1
    for changes in ({"model": "n"}, {"instruction": "Look. {prompt}"}, {"frames": 2}, {"width": 20}):
        judge(**{"address": service.address, "model": "m", **changes}).score(clip)
    assert len(service.seen) == 5


def test_an_answer_that_cannot_be_read_back_is_asked_for_again(service: Service, clip: Clip, tmp_path: Path) -> None:
    def kept() -> Path:
        (path,) = (tmp_path / "cache" / "judge").glob("*/*.json")
        return path

    assert judge(address=service.address).score(clip) == GOOD
    whole = kept().read_text()
    for content in ("[" * 100_000, whole + " " * 9 * judge_client.LARGEST_ANSWER, '{"reply": {"adherence": 4}}', "\0"):
        kept().write_text(content)
        asked = len(service.seen)
        assert judge(address=service.address).score(clip) == GOOD
        assert len(service.seen) == asked + 1
        assert kept().read_text() == whole
    path = kept()
    path.unlink()
    os.mkfifo(path)
    assert judge(address=service.address).score(clip) == GOOD


def test_the_instruction_is_part_of_the_identity() -> None:
    own, other = (judge(command=["x"], instruction=text).identity() for text in ("", "Look."))
    assert own["instruction"] == INSTRUCTION
    assert own != other
    assert filled("{frames} {prompt} {questions}", 2, "{frames}", {"a": "b?"}) == "2 {frames} a: b?"


@pytest.mark.parametrize(
    "reply",
    [
        "", "no", "[1]", "{", "{}", '{"adherence": 9, "coherence": 1, "dynamics": 1, "overall": 1}',
        '{"adherence": "4", "coherence": 1, "dynamics": 1, "overall": 1}', "{" * 5000, None, 7, ["x"],
        '{"adherence": true, "coherence": 1, "dynamics": 1, "overall": 1}',
        '{"adherence": NaN, "coherence": 1, "dynamics": 1, "overall": 1}',
    ],
)  # fmt: skip
def test_what_is_no_rating_is_one_line(service: Service, clip: Clip, reply: Any) -> None:
    service.reply = reply
    with pytest.raises(PluginFault) as caught:
        judge(address=service.address).score(clip)
    assert caught.value.message.isprintable()


def test_words_around_the_answer_do_not_matter(service: Service, clip: Clip) -> None:
    service.reply = f"Well {'{'} hm\n```json\n{json.dumps(GOOD)}\n```"
    assert judge(address=service.address).score(clip) == GOOD


def test_a_busy_service_is_asked_again_but_not_for_ever(service: Service, clip: Clip) -> None:
    service.statuses = [503, 429]
    assert judge(address=service.address).score(clip) == GOOD
    assert len(service.seen) == 3
    service.statuses = [500] * 9
    with pytest.raises(PluginFault, match="HTTP status 500"):
        judge(address=service.address, model="other").score(clip)
    assert len(service.seen) == 6


def test_refusals_and_redirections_are_not_followed(service: Service, clip: Clip) -> None:
    for status in (302, 400, 401):
        service.statuses = [status]
        with pytest.raises(PluginFault, match=f"HTTP status {status}"):
            judge(address=service.address).score(clip)
    assert [path for path, _, _ in service.seen] == ["/v1/chat/completions"] * 3


def test_answers_that_are_none_of_a_service(service: Service, clip: Clip) -> None:
    for raw in (
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b'{"choices": []}',
        b"[" * 50_000,
        b" " * (judge_client.LARGEST_ANSWER + 2),
    ):
        service.raw = raw
        with pytest.raises(PluginFault):
            judge(address=service.address).score(clip)


def test_a_service_that_drips_is_cut_off(service: Service, clip: Clip) -> None:
    service.drip = 0.05
    started = time.monotonic()
    with pytest.raises(PluginFault, match=r"not within 0\.3 s"):
        judge(address=service.address, timeout_s=0.3).score(clip)
    assert time.monotonic() - started < 20
    with pytest.raises(PluginFault, match="gave no answer"):
        judge(address="http://127.0.0.1:1/v1").score(clip)


COMMAND = """
import json, sys
asked = json.load(sys.stdin)
assert asked["text"] and asked["pictures"]
print(json.dumps({"adherence": len(asked["pictures"]), "coherence": 1, "dynamics": 1, "overall": 1}))
"""


def test_a_command_is_a_judge_and_its_file_is_part_of_the_key(clip: Clip, tmp_path: Path) -> None:
    program = tmp_path / "judge.py"
    program.write_text(COMMAND)
    metric = judge(command=[sys.executable, str(program)], frames=3)
    assert metric.score(clip)["adherence"] == 3
    before = metric.identity()
    program.write_text(COMMAND.replace('"coherence": 1', '"coherence": 2'))
    assert metric.identity() != before
    assert metric.score(clip)["coherence"] == 2


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import time; time.sleep(60)", "no answer within 1 s"),
        ("import sys; sys.exit(3)", "exit status 3"),
        ("import os\nwhile True: os.write(1, b'x' * 65536)", "said more than"),
        ("import os, time; os.close(1); time.sleep(60)", "no answer within 1 s"),
        ("print('nothing')", "no JSON object"),
    ],
)
def test_commands_that_do_not_answer(clip: Clip, code: str, said: str) -> None:
    with pytest.raises(PluginFault, match=said):
        judge(command=[sys.executable, "-c", code], timeout_s=1).score(clip)


def test_a_command_that_is_not_there(clip: Clip) -> None:
    for name in ("/nowhere/judge", "a\0b", "x" * 5000):
        with pytest.raises(PluginFault, match="cannot be started"):
            judge(command=[name]).score(clip)


def test_a_program_may_be_a_long_argument(clip: Clip) -> None:
    code = f"import json\nprint(json.dumps({GOOD}))\n# {'x' * 5000}"
    assert judge(command=[sys.executable, "-c", code]).score(clip) == GOOD


@pytest.mark.parametrize(
    "options",
    [
        {"command": ["x"], "address": "http://localhost/v1"},
        {"address": "ftp://localhost"}, {"address": "localhost:8000"}, {"address": "http://me:key@localhost"},
        {"address": "http://example.org/v1", "key_variable": "KEY"}, {"frames": 0}, {"timeout_s": 1e9},
        *({"address": address} for address in (
            "http://127.0.0.1:99999/v1", "http://127.0.0.1:x/v1", "http://127.0.0.1:0/v1", "http://a..b/v1",
            "http://[::1/v1", "http://localhost/é", "http://localhost/a b", "http://a b/v1", "http://a\0b/v1",
            f"http://{'x' * 70}/v1", "http://\ud800/v1", "http://localhost/\ud800",
        )),
    ],
)  # fmt: skip
def test_options_that_name_no_judge(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError) as caught:
        judge(**options)
    assert "\n" not in caught.value.message


def test_a_host_may_have_letters_of_any_script_or_be_a_number() -> None:
    for address in ("http://bücher.example/v1", "http://[::1]:8000/v1", "https://example.org"):
        judge(address=address)


@pytest.mark.parametrize("key", ["two\nlines", "ключ", "tab\t"])
def test_a_key_that_no_request_can_hold_is_said_and_not_shown(
    service: Service, clip: Clip, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("OUR_KEY", key)
    metric = judge(address=service.address, key_variable="OUR_KEY")
    state = metric.available()
    assert (state.ready, state.reason) == (False, "$OUR_KEY holds letters that no key has")
    if "\t" not in key:
        with pytest.raises(PluginFault, match=r"cannot be asked: .*Error$"):
            metric.score(clip)
    assert service.seen == []


def test_a_key_that_is_not_set_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OUR_KEY", raising=False)
    state = judge(address="https://example.org/v1", key_variable="OUR_KEY").available()
    assert (state.ready, state.reason) == (False, "$OUR_KEY is not set")
    assert isinstance(PluginFault("x"), HarnessError)
