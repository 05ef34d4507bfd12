"""The server of a study: to whom it says what, and what survives when it is killed."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import studies

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from harness.errors import HarnessError, StorageError
from harness.study import design, page
from harness.study.serve import Buckets, application, listening
from harness.study.votes import Ballots, collect

HOSTILE = '</script><script>window.ran=1</script><img src=x onerror="window.ran=1">&'


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Site:
    """An application without a network around it."""

    def __init__(self, folder: Path, study: design.Study, **options: Any) -> None:
        self.study, self.folder = study, folder
        self.ballots = Ballots(folder, study)
        self.app = application(folder, study, self.ballots, **options)

    def __call__(
        self,
        path: str,
        token: str = "",
        body: Any = None,
        host: str = "localhost:1",
        client: str = "10.0.0.1",
        **headers: str,
    ) -> Answer:
        content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        sent: list[dict[str, Any]] = []
        parts = [{"type": "http.request", "body": content, "more_body": False}]

        async def receive() -> dict[str, Any]:
            return parts.pop(0) if parts else {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        lines = {"host": host, **({"authorization": f"Bearer {token}"} if token else {}), **headers}
        scope = {
            "type": "http", "method": "GET" if body is None else "POST", "path": path, "raw_path": path.encode(),
            "query_string": b"", "root_path": "", "scheme": "http", "http_version": "1.1", "client": (client, 5),
            "server": ("127.0.0.1", 80), "headers": [(k.encode(), v.encode("latin-1")) for k, v in lines.items()],
        }  # fmt: skip
        asyncio.run(self.app(scope, receive, send))
        shown = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return Answer(sent[0]["status"], shown, b"".join(part.get("body", b"") for part in sent[1:]))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, design.Study]:
    folder = tmp_path_factory.mktemp("serve")
    return folder / "study", studies.make_study(folder, texts=[*studies.PROMPTS, HOSTILE, "x" * 10_000], each=8)


@pytest.fixture
def site(made: tuple[Path, design.Study], tmp_path: Path) -> Iterator[Site]:
    folder, study = made
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / design.MEDIA).symlink_to(folder / design.MEDIA)
    opened = Site(tmp_path / "study", study)
    yield opened
    opened.ballots.close()


def test_the_page_is_strict_and_empty(site: Site) -> None:
    answer = site("/")
    assert answer.status == 200
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert b"a pattern" not in answer.body


def test_a_rater_gets_the_own_tasks_and_nothing_that_names_an_arm(site: Site, made: tuple[Path, design.Study]) -> None:
    study = site.study
    everything = site("/").body
    for rater in range(1, 5):
        answer = site("/session", study.token(rater))
        assert (answer.status, answer.json()["agreed"], answer.json()["done"]) == (200, False, [])
        assert len(answer.json()["tasks"]) == len(study.sequences[rater - 1])
        everything += answer.body
    task = answer.json()["tasks"][0]
    assert set(task) == {"clips", "prompt", "questions"}
    assert set(answer.json()) == {"agreed", "done", "tasks"}
    for secret in (
        study.secret,
        study.run,
        "page/counter",
        "grey",
        "obvious",
        *(c.key for c in study.clips if c.key),
    ):
        assert secret.encode() not in everything
    assert {q for t in answer.json()["tasks"] for q, _, _ in t["questions"]} == {"adherence", "dynamics"}
    assert "x" * 10_000 in {t["prompt"] for t in answer.json()["tasks"]}


def test_clips_come_whole_and_in_part_and_nothing_else_does(site: Site) -> None:
    clip = site.study.clips[0].media
    whole = site(f"/clips/{clip}")
    assert (whole.status, whole.headers["content-type"]) == (200, "video/mp4")
    part = site(f"/clips/{clip}", range="bytes=10-19")
    assert (part.status, part.body) == (206, whole.body[10:20])
    for path in (
        "/study.json", "/raters.csv", "/votes.sqlite", "/clips/", "/clips/../study.json", "/clips/%2e%2e/study.json",
        "/clips/study.json", f"/clips/{'0' * 32}.mp4", f"/clips/{clip}/", "/clips/..%2fstudy.json", "//etc/passwd",
    ):  # fmt: skip
        assert site(path).status in (404, 307, 405), path
        assert b"secret" not in site(path).body


def test_votes_need_a_token_and_consent_and_count_once(site: Site) -> None:
    study, token = site.study, site.study.token(1)
    body = {"task": 0, "answers": studies.answers(study, 1, 0, lambda *_: "a"), "seconds": 4}
    assert site("/vote", "", body).status == 401
    assert site("/vote", f"1-{'0' * 32}", body).status == 401
    assert site("/vote", token, body).status == 403
    assert site("/consent", token, {}).status == 200
    assert site("/vote", token, body).json() == {"kept": True, "new": True}
    assert site("/vote", token, body).json() == {"kept": True, "new": False}
    other = {**body, "answers": studies.answers(study, 1, 0, lambda *_: "b")}
    if other["answers"] != body["answers"]:
        assert site("/vote", token, other).status == 409
    # The token says who votes; a request cannot say otherwise.
    assert site("/vote", token, {**body, "task": 1, "rater": 2}).status in (200, 400)
    assert site("/session", study.token(2)).json()["done"] == []
    assert site("/session", token).json()["done"][0] == 0
    assert [(vote.rater, vote.task, vote.seconds) for vote in collect(site.folder, study).votes][:1] == [(1, 0, 4.0)]


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b"[" * 10_000, b"\xff", b"x" * 20_000, {}, {"task": 10**30}, {"task": 0},
        {"task": 0, "answers": {"adherence": HOSTILE, "dynamics": "a"}}, {"task": "0; DROP TABLE votes", "answers": {}},
    ],
)  # fmt: skip
def test_bad_votes_are_refused(site: Site, body: Any) -> None:
    site("/consent", site.study.token(1), {})
    answer = site("/vote", site.study.token(1), body)
    assert answer.status == 400
    assert set(answer.json()) == {"error"}
    assert site.ballots.rows() == []


def test_other_methods_and_names_of_the_host_are_refused(site: Site) -> None:
    assert site("/vote", site.study.token(1)).status == 405
    assert site("/", body={}).status == 405
    for host in ("example.org", "example.org:80", "localhost.example.org", "", "127.0.0.1.nip.io"):
        assert site("/", host=host).status == 403
    for host in ("127.0.0.1:8000", "localhost", "LOCALHOST:1", "[::1]:80"):
        assert site("/", host=host).status == 200


def test_a_proxys_name_is_let_in_where_it_is_said(made: tuple[Path, design.Study], tmp_path: Path) -> None:
    site = Site(tmp_path, made[1], hosts=("127.0.0.1", "study.example.org"))
    assert site("/", host="study.example.org").status == 200
    assert site("/", host="Study.Example.org:443").status == 200
    assert site("/", host="other.example.org").status == 403
    site.ballots.close()


def test_titles_and_consent_are_text(made: tuple[Path, design.Study], tmp_path: Path) -> None:
    asked = [question.model_copy(update={"text": HOSTILE}) for question in made[1].questions]
    study = made[1].model_copy(update={"title": HOSTILE, "consent": HOSTILE, "questions": asked})
    for served in (True, False):
        html, _ = page.render(study, served=served)
        assert HOSTILE not in html
        assert "<script>window" not in html
        assert "<img" not in html


def test_too_many_votes_requests_and_guesses_wait(site: Site) -> None:
    statuses = [site("/session", f"{number}-{'0' * 32}").status for number in range(8)]
    assert statuses == [401] * 6 + [429] * 2
    assert site("/session", site.study.token(1)).status == 200
    site("/consent", site.study.token(1), {})
    votes = [site("/vote", site.study.token(1), {}) for _ in range(21)]
    assert [vote.status for vote in votes] == [400] * 20 + [429]
    assert int(votes[-1].headers["retry-after"]) >= 1
    assert site("/vote", site.study.token(2), {}).status == 400
    assert {site("/", client="10.0.0.2").status for _ in range(300)} == {200, 429}
    clip = site.study.clips[0].media
    assert site(f"/clips/{clip}", client="10.0.0.2", range="bytes=0-9").status == 206
    assert site("/", client="10.0.0.3").status == 200


def test_a_bucket_fills_again_and_the_oldest_is_forgotten() -> None:
    now = [0.0]
    buckets = Buckets(60, most=2, clock=lambda: now[0])
    assert [buckets.wait("a") for _ in range(20)] == [0] * 20
    assert buckets.wait("a") == pytest.approx(1)
    now[0] = 1.0
    assert buckets.wait("a") == 0
    buckets.wait("b")
    buckets.wait("c")
    assert len(buckets._levels) == 2
    assert buckets.wait("a") == 0


def test_a_disk_that_takes_nothing_is_said(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(site.ballots, "consent", full)
    answer = site("/consent", site.study.token(1), {})
    assert (answer.status, answer.headers["retry-after"]) == (503, "5")


def test_a_port_that_is_taken_is_one_line() -> None:
    with listening("127.0.0.1", 0) as opened:
        port = opened.getsockname()[1]
        with pytest.raises(HarnessError, match="cannot be served"), listening("127.0.0.1", port):
            pass
    with pytest.raises(HarnessError, match="cannot be served"), listening("no.such.host.invalid", 0):
        pass


def killed(folder: Path, study: design.Study, times: int, seed: int) -> None:
    """Vote while the server dies `times` times: at random places of a vote, mostly while it writes."""
    rng = random.Random(seed)
    todo = [(rater, task) for rater in range(1, len(study.sequences) + 1) for task in range(len(study.sequences[0]))]
    acknowledged: set[tuple[int, int]] = set()
    better: Callable[[str, str], str] = lambda *_: "a"  # noqa: E731
    deaths = 0
    while deaths < times:
        server = studies.Process(folder)
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        headers = {"Content-Type": "application/json"}
        left = rng.randint(1, 4)
        with contextlib.suppress(OSError, http.client.HTTPException):
            for rater, task in [place for place in todo if place not in acknowledged]:
                token = {**headers, "Authorization": f"Bearer {study.token(rater)}"}
                connection.request("POST", "/consent", "{}", token)
                connection.getresponse().read()
                body = json.dumps({"task": task, "answers": studies.answers(study, rater, task, better)})
                connection.request("POST", "/vote", body, token)
                left -= 1
                if not left:
                    time.sleep(rng.uniform(0, 0.01))
                    server.end()
                answer = connection.getresponse()
                if answer.status == 200 and json.loads(answer.read())["kept"]:
                    acknowledged.add((rater, task))
        connection.close()
        if server.process.poll() is None:
            server.end()
        deaths += 1
        if len(acknowledged) == len(todo):
            break
        with Ballots(folder, study) as ballots:
            rows = [(rater, task) for rater, task, _, _ in ballots.rows()]
        assert len(rows) == len(set(rows))
        assert acknowledged <= set(rows)
    assert deaths == times, "more tasks are needed for so many deaths"


def test_a_server_that_is_killed_loses_no_vote_and_keeps_none_twice(tmp_path: Path) -> None:
    study = studies.make_study(tmp_path, raters=4, each=6)
    killed(tmp_path / "study", study, 3, 1)


@pytest.mark.slow
def test_two_hundred_deaths_lose_no_vote_and_keep_none_twice(tmp_path: Path) -> None:
    study = studies.make_study(tmp_path, raters=120, each=6)
    killed(tmp_path / "study", study, 200, 2)


def test_the_server_ends_in_peace(tmp_path: Path) -> None:
    studies.make_study(tmp_path)
    server = studies.Process(tmp_path / "study")
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.request("GET", "/")
    answer = connection.getresponse()
    assert (answer.status, answer.getheader("Server")) == (200, None)
    connection.close()
    assert server.end(signal.SIGINT) == 0
    assert design.RATERS in {path.name for path in (tmp_path / "study").iterdir()}
