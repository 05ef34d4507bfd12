"""The worker's parent: answers, and every way in which a worker can fail."""

import dataclasses
import json
import math
import os
import signal
import sys
import traceback
from pathlib import Path

import numpy as np
import pytest

from harness.contracts import Clip
from harness.environments.worker import client
from harness.environments.worker.client import Answer, JobFault, Limits, Worker, WorkerFault
from harness.errors import OptionError

JOB = Path(__file__).with_name("fake_job.py")
QUICK = Limits(start=300, setup=300, score=300, silence=300, beat=0.1)


def clip(prompt: str = "a dog", path: str = "a b'\"_-0.mp4", digest: str = "d") -> Clip:
    return Clip(
        path=Path(path),
        prompt=prompt,
        seed=0,
        index=0,
        frames=17,
        height=8,
        width=8,
        frame_rate=16.0,
        digest=digest,
        read=lambda: np.zeros((17, 8, 8, 3), np.uint8),
    )


@pytest.fixture
def worker():
    made = []

    def make(**limits):
        made.append(Worker(Path(sys.executable), "fake", limits=dataclasses.replace(QUICK, **limits)))
        return made[-1]

    yield make
    for one in made:
        one.kill()


def ask(worker: Worker, prompt: str, **options) -> Answer:
    worker.setup("fake", JOB, options, Path("/weights"), "cpu")
    return worker.score("fake", clip(prompt))


def test_scores_values_samples_and_says_hello(worker):
    one = worker()
    answer = ask(one, "a dog")
    assert answer.values == {"score": 8.5, "reads": 1.0}
    assert answer.samples == {"per_frame": [0.5, 1.5]}
    assert answer.seconds >= 0
    assert one.hello["python"] == sys.version.split()[0]
    assert one.hello["versions"]["pip"]


def test_two_jobs_share_what_was_decoded_of_one_clip_and_not_of_the_next(worker):
    one = worker()
    for job in ("first", "second"):
        one.setup(job, JOB, {}, Path(), "cpu")
    assert one.score("first", clip()).values["reads"] == 1
    assert one.score("second", clip()).values["reads"] == 2
    assert one.score("first", clip(path="other.mp4")).values["reads"] == 1
    assert one.score("first", clip(digest="rewritten")).values["reads"] == 1


def test_nan_survives_the_pipe(worker):
    assert math.isnan(ask(worker(), "nan").values["score"])


@pytest.mark.parametrize(
    ("act", "kind", "says"),
    [
        ("raise", "ValueError", "the third frame is odd"),
        ("exit", "SystemExit", "a package called exit"),
        ("wrong", "TypeError", "not a dictionary"),
        ("text", "ValueError", "high"),
    ],
)
def test_an_exception_comes_with_type_traceback_and_log_and_the_worker_goes_on(worker, act, kind, says):
    one = worker()
    with pytest.raises(JobFault) as caught:
        ask(one, act)
    assert caught.value.kind == kind
    assert says in str(caught.value)
    assert "in score" in caught.value.remote
    assert "in score" in "".join(traceback.format_exception(caught.value))
    if act == "raise":
        assert "loading the model went well" in str(caught.value)
    pid = one.hello["pid"]
    assert ask(one, "a dog").values["score"] == 8.5
    assert one.hello["pid"] == pid


@pytest.mark.parametrize(
    ("act", "says"), [("die", "exit status 3"), ("kill", "SIGKILL, as by the system when memory runs out")]
)
def test_a_dead_worker_is_an_error_with_its_cause_and_the_next_clip_gets_another(worker, act, says):
    one = worker()
    with pytest.raises(WorkerFault, match=says) as caught:
        ask(one, act)
    if act == "die":
        assert "about to crash" in str(caught.value)
    assert not one.alive
    assert ask(one, "a dog").values["score"] == 8.5


def test_a_hung_clip_is_ended_by_the_timeout(worker):
    one = worker(score=0.5)
    with pytest.raises(WorkerFault, match=r"scoring .* took more than 0.5 s"):
        ask(one, "hang")
    one.limits = QUICK
    assert ask(one, "a dog").values["score"] == 8.5


def test_a_frozen_worker_is_ended_by_its_silence(worker):
    with pytest.raises(WorkerFault, match="no sign of life for 2 s"):
        ask(worker(silence=2.0), "freeze")


def test_noise_on_standard_output_is_not_taken_for_an_answer(worker):
    assert ask(worker(), "noise").values["score"] == 8.5


def test_a_clip_that_needs_more_memory_than_allowed_fails_alone(worker):
    one = worker(memory=1 << 30)
    with pytest.raises(JobFault) as caught:
        ask(one, "hoard")
    assert caught.value.kind == "MemoryError"
    assert ask(one, "a dog").values["score"] == 8.5


def test_peak_memory_is_reported(worker):
    one = worker(beat=0.01)
    ask(one, "noise")
    assert ask(one, "noise").peak_bytes > 1 << 20


def test_the_user_sets_limits(monkeypatch):
    monkeypatch.setenv("VIDEOMLA_WORKER_MEMORY", "1.5")
    monkeypatch.setenv("VIDEOMLA_WORKER_THREADS", "3")
    chosen = QUICK.with_user_settings()
    assert (chosen.memory, chosen.threads, chosen.score) == (1_500_000_000, 3, QUICK.score)
    for wrong in ("much", "-1", "nan"):
        monkeypatch.setenv("VIDEOMLA_WORKER_SECONDS", wrong)
        with pytest.raises(OptionError, match="VIDEOMLA_WORKER_SECONDS is"):
            QUICK.with_user_settings()


def test_a_failing_setup_says_why(worker):
    with pytest.raises(JobFault, match="no such checkpoint"):
        ask(worker(), "a dog", setup="raise")
    with pytest.raises(WorkerFault, match="setting up fake: it ended with exit status 7"):
        ask(worker(), "a dog", setup="die")


def test_a_job_cannot_reach_the_network(worker):
    with pytest.raises(JobFault, match="Connection refused"):
        ask(worker(), "network")


def test_an_interpreter_that_is_none(worker, tmp_path):
    with pytest.raises(WorkerFault, match="cannot start"):
        Worker(tmp_path / "python", "gone", limits=QUICK).start()
    liar = tmp_path / "liar"
    liar.write_text("#!/bin/sh\necho no Python here\nexit 4\n")
    liar.chmod(0o755)
    with pytest.raises(WorkerFault, match=r"starting: it ended with exit status 4(.|\n)*no Python here"):
        Worker(liar, "liar", limits=QUICK).start()


def test_nothing_is_left_when_it_is_stopped(worker):
    one = worker()
    ask(one, "a dog")
    pid = one.hello["pid"]
    before = len(os.listdir("/proc/self/fd"))
    one.stop()
    assert len(os.listdir("/proc/self/fd")) < before
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_worker_that_stops_reading_is_ended(worker):
    one = worker(silence=1.0)
    ask(one, "a dog")
    os.kill(one.hello["pid"], signal.SIGSTOP)
    with pytest.raises(WorkerFault, match="it read nothing for 1 s and was ended"):
        ask(one, "a dog" * 400_000)
    assert ask(one, "a dog").values["score"] == 8.5


def test_a_worker_that_stops_reading_can_be_asked_to_end(worker, monkeypatch):
    monkeypatch.setattr(client, "END_S", 0.2)
    one = worker()
    ask(one, "a dog")
    os.kill(one.hello["pid"], signal.SIGSTOP)
    one.stop()
    assert not one.alive


LIAR = """
import json, os, sys
read, write = os.fdopen(int(sys.argv[1])), int(sys.argv[2])
os.write(write, json.dumps({"op": "hello", "protocol": 1}).encode() + b"\\n")
for line in read:
    message = json.loads(line)
    answer = {"op": "ready"} if message["op"] == "setup" else json.loads(message["clip"]["prompt"])
    os.write(write, json.dumps({"id": message["id"], **answer}).encode() + b"\\n")
"""


@pytest.mark.parametrize(
    "answer",
    [
        {"op": "result"},
        {"op": "result", "values": 3, "samples": {}, "seconds": 1.0},
        {"op": "result", "values": {"score": "high"}, "samples": {}, "seconds": 1.0},
        {"op": "result", "values": {}, "samples": {"a": [None]}, "seconds": 1.0},
        {"op": "result", "values": {}, "samples": {}, "seconds": None, "peak": "much"},
        {"op": "ready"},
    ],
)
def test_an_answer_that_is_no_score_is_shown_and_the_worker_ended(worker, monkeypatch, tmp_path, answer):
    (tmp_path / "liar.py").write_text(LIAR)
    monkeypatch.setattr(client, "PROGRAM", tmp_path / "liar.py")
    one = worker()
    with pytest.raises(WorkerFault, match="which is no score, and was ended") as caught:
        ask(one, json.dumps(answer))
    assert f'"op": "{answer["op"]}"' in str(caught.value)
    assert not one.alive


def test_an_error_without_its_parts_is_an_error_of_the_job(worker, monkeypatch, tmp_path):
    (tmp_path / "liar.py").write_text(LIAR)
    monkeypatch.setattr(client, "PROGRAM", tmp_path / "liar.py")
    with pytest.raises(JobFault):
        ask(worker(), json.dumps({"op": "error"}))
