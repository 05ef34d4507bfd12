"""Runs on a Ray cluster of two nodes on this machine: what a local run gives, whatever is killed."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from road import FAKES, base, outcome_of, planned, write

from harness.contracts import registry
from harness.errors import NotAvailable
from harness.execute import ray_cluster, ray_engine
from harness.execute.luggage import Luggage, pack
from harness.execute.outcome import Outcome, Progress, Tick
from harness.execute.ray_actors import Keeper
from harness.execute.ray_cluster import Cluster
from harness.execute.ray_engine import engine_of
from harness.execute.run import INTERRUPTED, run_plan
from harness.execute.shares import only
from harness.runs.line import Record
from harness.runs.plan import Plan, make
from harness.runs.records import RecordFile
from harness.suite.load import load_suite
from harness.system import video

ray = pytest.importorskip("ray")
from ray.cluster_utils import Cluster as Nodes  # noqa: E402

PLUGIN, SEES = FAKES.with_name("process_models.py"), FAKES.with_name("ray_plugins.py")
LOST = FAKES.with_name("lost_models.py")
ARMS = [
    {"name": "fake/moving", "label": "a"},
    {"name": "fake/alone", "label": "b", "options": {"chunk": 3}},
    {"name": "fake/raises", "label": "c", "options": {"when": "prompt 1"}},
]
PROBES = [
    {"name": "speed", "probe": "fake/count", "prompts": "p", "frames": 10, "rounds": 2},
    {"name": "machine", "probe": "fake/device"},
]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """Two nodes of two cores each, and this process connected to them."""
    cluster = Nodes(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    cluster.add_node(num_cpus=2)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def cluster(nodes: Nodes) -> Cluster:
    """The cluster of a run with two workers."""
    return Cluster(ray, 2, patience=300)


def many(**changes: Any) -> dict[str, Any]:
    prompts = {"p": [f"prompt {number}" for number in range(5)]}
    section = {**base()["generate"][0], "batch": 4}
    return base(**{"models": ARMS, "prompts": prompts, "generate": [section], "measure": PROBES, **changes})


def run(folder: Path, plan: Plan, cluster: Cluster, **more: Any) -> Outcome:
    return run_plan(plan, folder / "run", engine=engine_of(cluster), **more)


def files(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.mp4")}


def test_a_run_gives_the_records_and_clips_of_a_local_one(tmp_path: Path, cluster: Cluster) -> None:
    plan = planned(tmp_path, many())
    local = run_plan(plan, tmp_path / "local")
    outcome = run(tmp_path, plan, cluster)
    assert outcome.exit_code == 1
    assert outcome_of(tmp_path / "run") == outcome_of(tmp_path / "local")
    assert (outcome.planned, outcome.done_now, outcome.failed) == (local.planned, local.done_now, local.failed)
    clips = files(tmp_path / "run")
    assert clips == files(tmp_path / "local")
    assert clips
    assert run_plan(plan, tmp_path / "run").done_now == 0


def test_scores_of_two_clips_are_those_of_a_local_run(tmp_path: Path, cluster: Cluster) -> None:
    section = {**base()["generate"][0], "metrics": [{"name": "against", "against": "b"}, "fake/brightness"]}
    plan = planned(tmp_path, many(generate=[section], measure=[]))
    local = run_plan(plan, tmp_path / "local")
    outcome = run(tmp_path, plan, cluster)
    assert (outcome.done_now, outcome.failed, outcome.skipped) == (local.done_now, local.failed, local.skipped)
    assert outcome_of(tmp_path / "run") == outcome_of(tmp_path / "local")
    assert once(tmp_path)
    assert run_plan(plan, tmp_path / "run").done_now == 0


@pytest.mark.parametrize("limit", [21])
def test_a_run_begun_by_one_engine_is_ended_by_the_other(tmp_path: Path, cluster: Cluster, limit: int) -> None:
    plan = planned(tmp_path, many(models=ARMS[:2]))
    run_plan(plan, tmp_path / "local")
    assert run(tmp_path, plan, cluster, limit=limit).done_now == limit
    assert len(records(tmp_path)) == limit
    assert run_plan(plan, tmp_path / "run", limit=3).done_now == 3
    assert run(tmp_path, plan, Cluster(ray, 1)).exit_code == 0
    assert outcome_of(tmp_path / "run") == outcome_of(tmp_path / "local")
    assert once(tmp_path)


def records(folder: Path) -> list[Record]:
    return list(RecordFile(folder / "run" / "records.jsonl").records())


def once(folder: Path) -> bool:
    """Whether no unit has two records."""
    keys = [record.key for record in records(folder)]
    return bool(keys) and len(keys) == len(set(keys))


# ---------------------------------------------------------------------------------------- what workers see


def test_workers_see_their_threads_and_no_gpu_that_they_did_not_ask_for(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.load_plugin(SEES)
    section = {**base()["generate"][0], "metrics": ["ray/sees"]}
    probes = [{"name": f"s{frames}", "probe": "ray/alone", "frames": frames, "rounds": 2} for frames in (1, 2)]
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    plan = planned(tmp_path, base(models=[{"name": "ray/sees", "label": "a"}], generate=[section], measure=probes))
    assert run(tmp_path, plan, cluster).exit_code == 0
    made = {record.kind: record for record in records(tmp_path)}
    assert made["score"].values == {"devices": 0.0, "threads": 1.0}
    pixels = video.read(tmp_path / "run" / str(made["generate"].clip["path"]))
    # Two workers, each on a node of two cores: two threads and no device.
    assert abs(float(pixels.mean()) - (50 * 2 + 5 * 2)) < 2
    assert made["measure"].values["threads"] == 7.0, "what the user set for the whole machine"
    times = sorted((r.values["began"], r.values["ended"]) for r in records(tmp_path) if r.kind == "measure")
    assert len(times) == 4
    assert all(one[1] <= other[0] for one, other in pairwise(times)), "two measured on one machine at a time"


def test_each_worker_of_a_node_with_gpus_sees_one_of_them_and_scorers_none(tmp_path: Path, nodes: Nodes) -> None:
    registry.load_plugin(SEES)
    node = nodes.add_node(num_cpus=2, num_gpus=2)
    section = {**base()["generate"][0], "metrics": ["ray/sees"]}
    probe = {"name": "s", "probe": "ray/alone"}
    data = base(models=[{"name": "ray/sees", "label": "a"}], generate=[section], measure=[probe])
    cluster = Cluster(ray, None, patience=300)
    assert cluster.resolve("auto") == "cuda"
    outcome = run(tmp_path, make(load_suite(write(tmp_path, data)), "cuda"), cluster)
    nodes.remove_node(node)
    assert outcome.exit_code == 0
    made = {record.kind: record for record in records(tmp_path)}
    pixels = video.read(tmp_path / "run" / str(made["generate"].clip["path"]))
    assert abs(float(pixels.mean()) - (50 * 3 + 5 * 1)) < 2, "one device and one of two cores"
    assert made["score"].values["devices"] == 0.0


# ---------------------------------------------------------------------------------------------- bad input


def test_a_node_with_other_code_is_refused_and_named_before_anything_starts(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(plan: Plan) -> Luggage:
        return replace(pack(plan), code={"harness": "0" * 64})

    monkeypatch.setattr(ray_engine, "pack", other)
    with pytest.raises(NotAvailable, match=r"node .*: package harness has the code"):
        run(tmp_path, planned(tmp_path, base()), cluster)
    assert not (tmp_path / "run" / "records.jsonl").exists()


def test_a_cluster_that_others_use_is_waited_for_within_bounds(tmp_path: Path, nodes: Nodes) -> None:
    holders = [ray.remote(Keeper).options(num_cpus=2).remote() for _ in range(2)]
    ray.get([holder.printed.remote("any.log") for holder in holders])
    with pytest.raises(NotAvailable, match=r"(no worker for clips started|no answer from .*) within 15 s"):
        run(tmp_path, planned(tmp_path, base()), Cluster(ray, 2, patience=15))
    for holder in holders:
        ray.kill(holder)


def test_the_device_is_that_of_the_cluster(nodes: Nodes) -> None:
    cluster = Cluster(ray, None)
    assert [cluster.resolve(device) for device in ("auto", "cpu")] == ["cpu", "cpu"]
    with pytest.raises(NotAvailable, match="no node of the cluster has a GPU"):
        cluster.resolve("cuda")


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:1", "no Ray cluster at 127.0.0.1:1"),
        ("ray://127.0.0.1:1", "Connection refused"),
        ("nonsense", "no address of a Ray cluster"),
        ("[::1]:99999999999", "no Ray cluster"),
    ],
)
def test_an_address_at_which_nobody_answers_is_refused(
    monkeypatch: pytest.MonkeyPatch, address: str, said: str
) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    with pytest.raises(NotAvailable, match=said), ray_cluster.connected(address, None):
        pass
    # A cluster that this process starts next would ask for the token, and this process not show it.
    assert "RAY_AUTH_MODE" not in os.environ


def test_somebody_else_at_the_address_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "CONNECT_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(NotAvailable, match="no answer from a Ray cluster"), ray_cluster.connected(address, None):
            pass


def test_a_cluster_of_its_own_that_does_not_start_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(**_: Any) -> None:
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", slow)
    with pytest.raises(NotAvailable, match=r"no Ray cluster at local: .*timed out"), ray_cluster.connected(None, 1):
        pass


def test_without_ray_one_line_says_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(NotAvailable) as refused, ray_cluster.connected(None, 2):
        pass
    assert "not installed" in refused.value.message
    assert refused.value.fix == "pip install -c constraints.txt '.[ray]'"


@pytest.mark.parametrize("option", [["--address", "auto"], ["--workers", "2"]])
def test_options_of_ray_are_refused_without_it(tmp_path: Path, option: list[str]) -> None:
    command = [sys.executable, "-m", "harness", "run", str(write(tmp_path, base())), *option]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 2
    assert "add --engine ray" in process.stderr


# ------------------------------------------------------------------------------------------------- faults


def dying(folder: Path, texts: list[str], seeds: tuple[int, ...] = (1, 2), batch: int = 4, **more: Any) -> Plan:
    """Clips of a model whose prompts may end its process, or stop it."""
    registry.load_plugin(FAKES)
    registry.load_plugin(PLUGIN)
    models = [{"name": "process/model", "label": "a", "options": {"log": str(folder / "a.log")}}]
    section = {**base()["generate"][0], "batch": batch, "seeds": list(seeds), **more}
    return make(load_suite(write(folder, base(models=models, prompts={"p": texts}, generate=[section]))), "cpu")


def logged(folder: Path) -> list[tuple[int, str]]:
    path = folder / "a.log"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [(int(pid), event) for pid, event in (line.split(" ", 1) for line in lines)]


def test_a_clip_that_ends_three_workers_fails_alone_with_the_end_of_the_log(tmp_path: Path, cluster: Cluster) -> None:
    plan = dying(tmp_path, [*(f"prompt {number}" for number in range(5)), "it dies"], seeds=(1,))
    outcome = run(tmp_path, plan, cluster)
    assert (outcome.done_now, outcome.failed, outcome.skipped, outcome.pending) == (10, 1, 1, 0)
    failed = next(record for record in records(tmp_path) if record.status == "failed")
    assert failed.context["prompt"] == "it dies"
    assert "it ended 3 workers" in str(failed.error["message"])
    assert "last words" in str(failed.error["traceback"])
    assert once(tmp_path)


def test_what_workers_print_comes_to_one_file_and_a_folder_that_they_go_to_takes_nothing_along(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "weights.bin").write_bytes(b"weights")
    registry.load_plugin(FAKES)
    registry.load_plugin(LOST)
    options = {"a": {"goes": str(tmp_path / "elsewhere")}, "b": {"reads": "weights.bin"}}
    models = [{"name": "lost/model", "label": label, "options": each} for label, each in options.items()]
    section = {**base()["generate"][0], "metrics": ["lost/brightness"]}
    plan = make(load_suite(write(tmp_path, base(models=models, generate=[section]))), "cpu")
    outcome = run_plan(plan, Path("run"), engine=engine_of(cluster))
    assert (outcome.exit_code, outcome.done_now) == (0, 16)
    assert not list((tmp_path / "elsewhere").iterdir())
    lines = (tmp_path / "run" / "printed.log").read_text().splitlines()
    for record in (record for record in records(tmp_path) if record.kind == "generate"):
        who = f"short {record.context['arm']} {record.key[:12]}"
        assert f"{who} | on standard error: {record.context['prompt']}" in lines
        assert f"{who} | by a program: {record.context['prompt']}" in lines


def after(units: int, act: Callable[[], object]) -> Progress:
    """Does something, once, when a run has finished so many units."""
    acts = [act]

    def progress(tick: Tick) -> None:
        if tick.finished >= units and acts:
            acts.pop()()

    return progress


def test_a_measurement_that_never_ends_is_ended_as_its_section_says(tmp_path: Path, cluster: Cluster) -> None:
    hangs = {"name": "hangs", "probe": "fake/hangs", "timeout_s": 1.0}
    plan = planned(tmp_path, many(generate=[], measure=[hangs, PROBES[1]]))
    outcome = run(tmp_path, plan, cluster)
    assert (outcome.failed, outcome.done_now) == (1, 1)
    (failed,) = (record for record in records(tmp_path) if record.status == "failed")
    assert str(failed.error["message"]).startswith("the measurement took more than 1 s and was ended")


class Ahead:
    """The time as an engine sees it: an hour later with each worker that hangs, once no other is at work."""

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        self.folder, self.cluster, self.sleep, self.hours = folder, cluster, time.sleep, 0

    def monotonic(self) -> float:
        """Seconds."""
        if sum(bool(hand.items) for hand in self.cluster.hands) <= 1:
            self.hours = sum(event == "hangs" for _, event in logged(self.folder))
        return time.monotonic() + 3600 * self.hours


@pytest.fixture
def ahead(tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """A cluster whose driver sees hours pass where workers hang, and has more patience than that."""
    cluster.patience = 1e9
    monkeypatch.setattr(ray_engine, "time", Ahead(tmp_path, cluster))
    return cluster


@pytest.mark.parametrize("batch", [1, 3])
def test_a_clip_that_never_ends_fails_alone_as_its_section_says(tmp_path: Path, ahead: Cluster, batch: int) -> None:
    plan = dying(tmp_path, ["one", "it hangs", "two"], seeds=(1,), batch=batch, timeout_s=600.0)
    outcome = run(tmp_path, plan, ahead)
    assert (outcome.done_now, outcome.failed, outcome.skipped, outcome.pending) == (4, 1, 1, 0)
    (failed,) = (record for record in records(tmp_path) if record.status == "failed")
    assert failed.context["prompt"] == "it hangs"
    assert str(failed.error["message"]).startswith("the clip was ended after more than 600 s")
    assert "raise `timeout_s` of its section" in str(failed.error["message"])
    assert gone({pid for pid, event in logged(tmp_path) if event == "hangs"})
    assert once(tmp_path)


def test_a_score_that_never_ends_fails_alone_as_its_section_says(tmp_path: Path, ahead: Cluster) -> None:
    registry.load_plugin(SEES)
    metric = {"name": "ray/hangs", "options": {"log": str(tmp_path / "a.log")}}
    section = {**base()["generate"][0], "metrics": [metric, "fake/brightness"], "timeout_s": 600.0}
    plan = planned(tmp_path, base(prompts={"p": ["one", "never", "two"]}, generate=[section]))
    outcome = run(tmp_path, plan, ahead)
    assert (outcome.done_now, outcome.failed, outcome.pending) == (16, 2, 0)
    failed = [record for record in records(tmp_path) if record.status == "failed"]
    assert {(record.context["prompt"], record.context["plugin"]) for record in failed} == {("never", "ray/hangs")}
    messages = [str(record.error["message"]) for record in failed]
    assert all(message.startswith("the score was ended after more than 600 s") for message in messages)
    assert once(tmp_path)


def test_a_worker_that_measures_and_says_nothing_is_given_up_after_its_time(tmp_path: Path, ahead: Cluster) -> None:
    registry.load_plugin(SEES)
    options = {"log": str(tmp_path / "a.log")}
    stops = {"name": "stops", "probe": "ray/stops", "options": options, "timeout_s": 600.0}
    plan = planned(tmp_path, base(generate=[], measure=[stops, PROBES[1]]))
    outcome = run(tmp_path, plan, ahead)
    assert (outcome.failed, outcome.done_now) == (1, 1)
    (failed,) = (record for record in records(tmp_path) if record.status == "failed")
    assert str(failed.error["message"]).startswith("it ended 3 workers, the last after more than 660 s")


def test_a_worker_that_is_killed_loses_nothing(tmp_path: Path, cluster: Cluster) -> None:
    plan = dying(tmp_path, [f"prompt {number} is slow" for number in range(8)])
    said: list[str] = []
    act = after(5, lambda: os.kill(logged(tmp_path)[-1][0], signal.SIGKILL))

    def progress(tick: Tick) -> None:
        said.append(tick.message)
        act(tick)

    outcome = run(tmp_path, plan, cluster, progress=progress)
    assert (outcome.exit_code, outcome.done_now) == (0, 32)
    assert once(tmp_path)
    assert any("its work is done again" in line for line in said)


@pytest.mark.slow
def test_a_node_that_is_killed_and_one_that_comes_late_lose_nothing(tmp_path: Path, nodes: Nodes) -> None:
    extra, cluster = [nodes.add_node(num_cpus=2)], Cluster(ray, 6, patience=300)
    killed, said = extra[0].node_id, list[str]()

    def progress(tick: Tick) -> None:
        said.append(tick.message)
        if "has joined" in tick.message:
            (tmp_path / "go").touch()
        if extra[0].node_id == killed and any(hand.items and hand.site.node == killed for hand in cluster.hands):
            nodes.remove_node(extra.pop(), allow_graceful=False)
            extra.append(nodes.add_node(num_cpus=2))

    texts = [f"prompt {number} is slow" for number in range(60)]
    plan = dying(tmp_path, [*texts, "it waits for the node"], seeds=(1, 2))
    outcome = run(tmp_path, plan, cluster, progress=progress)
    nodes.remove_node(extra[0])
    assert (outcome.exit_code, outcome.done_now) == (0, 244)
    assert once(tmp_path)
    assert extra[0].node_id != killed
    assert any("its work is done again" in line for line in said)
    assert any("has joined" in line for line in said)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_workers_that_are_killed_at_random_moments_lose_nothing(tmp_path: Path, nodes: Nodes, seed: int) -> None:
    dice, kills, going = random.Random(seed), list[int](), threading.Event()

    def kill() -> None:
        while len(kills) < 5 and not going.wait(dice.uniform(0.2, 2.0)):
            alive = sorted({pid for pid, _ in logged(tmp_path) if Path(f"/proc/{pid}").exists()} - set(kills))
            if alive:
                kills.append(dice.choice(alive))
                os.kill(kills[-1], signal.SIGKILL)

    plan = dying(tmp_path, [f"prompt {number} is slow" for number in range(40)])
    thread = threading.Thread(target=kill)
    thread.start()
    outcome = run(tmp_path, plan, Cluster(ray, 4, patience=300))
    going.set()
    thread.join()
    assert kills
    assert (outcome.exit_code, outcome.done_now) == (0, 160)
    assert once(tmp_path)
    assert {path.stem for path in files(tmp_path / "run")} == {r.key for r in records(tmp_path) if r.kind == "generate"}


@pytest.mark.slow
def test_the_quickstart_is_begun_on_a_cluster_interrupted_and_ended_here(tmp_path: Path, cluster: Cluster) -> None:
    overrides = ["prompts.plain.limit=6", "prompts.covered.limit=2"]
    suite = load_suite(Path(__file__).parents[3] / "suites" / "quickstart.yaml", overrides)
    plan = only(make(suite, "cpu"), ["short", "covered"])
    run_plan(plan, tmp_path / "local")
    main = threading.main_thread().ident
    assert main is not None
    interrupt = after(5, lambda: signal.pthread_kill(main, signal.SIGINT))
    assert run(tmp_path, plan, cluster, progress=interrupt).stopped == INTERRUPTED.format("", "go on")
    assert run_plan(plan, tmp_path / "run", limit=4).done_now == 4
    assert run(tmp_path, plan, Cluster(ray, 2, patience=300)).exit_code == 0
    assert outcome_of(tmp_path / "run") == outcome_of(tmp_path / "local")
    assert files(tmp_path / "run") == files(tmp_path / "local")
    assert once(tmp_path)


def test_an_interrupt_ends_the_workers_and_the_next_run_goes_on(tmp_path: Path, cluster: Cluster) -> None:
    plan = dying(tmp_path, [*(f"prompt {number}" for number in range(7)), "it hangs"])
    main = threading.main_thread().ident
    assert main is not None
    timer = threading.Timer(1.0, lambda: signal.pthread_kill(main, signal.SIGINT))
    outcome = run(tmp_path, plan, cluster, progress=after(8, timer.start))
    assert outcome.stopped == INTERRUPTED.format("", "go on")
    assert outcome.failed == 0
    assert gone({pid for pid, _ in logged(tmp_path)})
    assert run_plan(dying(tmp_path, [f"prompt {number}" for number in range(7)]), tmp_path / "run").exit_code == 0
    assert once(tmp_path)


def gone(pids: set[int]) -> bool:
    until = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < until:
        time.sleep(0.05)
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)
