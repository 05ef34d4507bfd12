"""A Ray cluster as the driver sees it: the connection, the nodes that are fit for a plan, and the workers on them."""

from __future__ import annotations

import importlib
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.contracts import Json
from harness.errors import NotAvailable
from harness.execute import ray_actors
from harness.execute.batches import PROCESS_BYTES
from harness.execute.luggage import Luggage, Unpacked
from harness.execute.making import THREADS
from harness.system import devices

CONNECT_S = 30.0
"""Seconds in which a cluster has to answer."""
PATIENCE_S = 120.0
"""Seconds in which a first worker has to start, and a node to be prepared."""
POLL_S = 1.0
"""Seconds at most between two looks at what else is to do."""
LOOK_S = 2.0
"""Seconds between two looks at the list of nodes."""
ANSWER_S = 60.0
"""Seconds that nodes have for saying whether they are fit; one that takes longer counts as late."""
CLOSE_S = 5.0
"""Seconds that nodes have for deleting their folders."""
START_FAILURES = 3
"""Workers in a row that may end before they are ready; a node is left alone after so many."""
EXTRA = "pip install -c constraints.txt '.[ray]'"


def library() -> Any:
    """Ray itself. Raises `NotAvailable` with what brings it."""
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise NotAvailable("the engine `ray` needs Ray, which is not installed", EXTRA) from error


@dataclass(slots=True)
class Site:
    """A node.

    Attributes:
        name: its address, for messages alone. cores, gpus, memory: what Ray may give away there.
        keeper: its actor. folder, unpacked: what that has laid down; None until it has.
        machine: the same for nodes on one machine.
        failures: workers in a row that ended before they were ready.
    """

    node: str
    name: str
    cores: int
    gpus: int
    memory: int
    keeper: Any = None
    folder: Path | None = None
    unpacked: Unpacked = field(default_factory=Unpacked)
    machine: str = ""
    alive: bool = True
    failures: int = 0

    @property
    def fit(self) -> bool:
        """Whether workers may start here."""
        fit = self.alive and self.folder is not None and not self.unpacked.faults
        return fit and self.failures < START_FAILURES


@dataclass(eq=False, slots=True)
class Hand:
    """A worker: its actor, where it works, what for, its share of GPUs, and the file in which its output is.

    Attributes:
        due: when what it is at must have ended, in seconds of `time.monotonic`.
    """

    actor: Any
    site: Site
    job: str
    log: str
    gpus: float
    ready: bool = False
    pool: str | None = None
    items: Sequence[Any] = ()
    due: float = math.inf


class Cluster:
    """The nodes and workers of one run.

    Args:
        workers: that make clips; as many as there is room for unless given.
        patience: seconds until a first worker must have started.
        cores: of each worker on a CPU; 0 takes none, for workers that only wait.
    """

    def __init__(self, ray: Any, workers: int | None, patience: float = PATIENCE_S, cores: int = 1) -> None:
        self.ray, self.workers, self.patience, self.cores = ray, workers, patience, cores
        self.sites: dict[str, Site] = {}
        self.hands: list[Hand] = []
        self.device = "cpu"
        self._git: Mapping[str, Json] = {}
        self._say: Callable[[str], None] = lambda line: None
        self._luggage: Any = None
        self._preparing: dict[Any, Site] = {}
        self._lost_keepers: Counter[str] = Counter()
        self._looked = 0.0
        self._number = 0
        self._bytes = PROCESS_BYTES
        self.reason = ""

    def resolve(self, device: str) -> str:
        """The suite's `device` on this cluster. Raises `NotAvailable` for `cuda` where no node has a GPU."""
        gpus = sum(site.gpus for site in self._nodes())
        if device == "auto":
            return "cuda" if gpus else "cpu"
        if device.startswith("cuda") and not gpus:
            raise NotAvailable("no node of the cluster has a GPU", "--set device=cpu, or add nodes with GPUs")
        return device.partition(":")[0]

    # -------------------------------------------------------------------------------------- the nodes

    def open(self, luggage: Luggage, git: Mapping[str, Json], say: Callable[[str], None]) -> None:
        """Prepare every node. Raises `NotAvailable` where one differs from the driver, or lacks what the plan needs."""
        self.device, self._git, self._say = luggage.device, git, say
        largest = max((4 * (arm.card.parameters or 0) for arm in luggage.arms), default=0)
        self._bytes = PROCESS_BYTES + largest
        self._luggage = self.ray.put(luggage)
        say("preparing the nodes")
        self._look()
        began = time.monotonic()
        while not self._settled(time.monotonic() - began):
            if time.monotonic() - began > self.patience:
                names = ", ".join(site.name for site in self._preparing.values())
                what = f"no answer from {names}" if names else f"no node for {self.device}"
                raise NotAvailable(f"{what} within {self.patience:.0f} s", "look at `ray status`")
            if not self._preparing:
                time.sleep(POLL_S)
            self.look()
            if self._preparing:
                self.prepared(self.ray.wait(list(self._preparing), num_returns=1, timeout=POLL_S)[0])
        faults = [f"node {site.name}: {fault}" for site in self.sites.values() for fault in site.unpacked.faults]
        if faults:
            more = f"\n  and {len(faults) - 5} more" if len(faults) > 5 else ""
            raise NotAvailable("workers cannot do this run: " + "; ".join(faults[:5]) + more)

    def _settled(self, waited: float) -> bool:
        """Whether every node has answered, or some that are fit have and the others had their time."""
        answered = any(site.fit for site in self.sites.values())
        refused = any(site.unpacked.faults for site in self.sites.values())
        return (answered or refused) and (not self._preparing or waited > ANSWER_S)

    def look(self) -> None:
        """Look for nodes that came or went, every few seconds."""
        if time.monotonic() - self._looked > LOOK_S:
            self._look()
            if self._preparing:
                self.prepared(self.ray.wait(list(self._preparing), num_returns=len(self._preparing), timeout=0)[0])

    def _look(self) -> None:
        self._looked = time.monotonic()
        nodes = {site.node: site for site in self._nodes()}
        for node, site in self.sites.items():
            site.alive = node in nodes
        self._preparing = {reference: site for reference, site in self._preparing.items() if site.alive}
        for node in nodes.keys() - self.sites.keys():
            site = self.sites[node] = nodes[node]
            if not self._room(site):
                continue
            site.keeper = self._actor(ray_actors.Keeper, site, num_cpus=0).remote()
            self._preparing[site.keeper.prepare.remote(self._luggage)] = site

    def _nodes(self) -> list[Site]:
        sites = []
        for node in self.ray.nodes():
            if node["Alive"]:
                has = node["Resources"]
                cores, gpus, memory = (int(has.get(name, 0)) for name in ("CPU", "GPU", "memory"))
                name = f"{node['NodeManagerAddress']} ({node['NodeID'][:6]})"
                sites.append(Site(node["NodeID"], name, cores, gpus, memory, machine=node["NodeManagerAddress"]))
        return sites

    def prepared(self, references: Sequence[Any]) -> None:
        """Take what nodes say of the luggage. Those that came late and are not fit are named, and left alone."""
        for reference in references:
            site = self._preparing.pop(reference)
            try:
                site.folder, site.unpacked, site.machine = self.ray.get(reference)
            except self.ray.exceptions.RayTaskError as error:
                site.unpacked = Unpacked(faults=(_cause(error),))
            except self.ray.exceptions.RayError as error:
                # The node may be going; where it stays it is asked again.
                self._lost_keepers[site.node] += 1
                if self._lost_keepers[site.node] < START_FAILURES:
                    del self.sites[site.node]
                    continue
                site.unpacked = Unpacked(faults=(_cause(error),))
            if self.hands:
                faults = "; ".join(site.unpacked.faults)
                self._say(f"node {site.name} {f'is not used: {faults}' if faults else 'has joined'}")

    # ------------------------------------------------------------------------------------ the workers

    def _room(self, site: Site) -> int:
        """Workers that make clips for which a node has room."""
        if self.device != "cpu":
            return site.gpus
        if not self.cores:
            return self.workers or 1
        return min(site.cores // self.cores, max(1, site.memory // 2 // self._bytes))

    def room(self) -> int:
        """Workers that make clips for which the cluster has room; one at least."""
        return max(1, min(self.workers or 1 << 30, sum(self._room(site) for site in self.sites.values() if site.fit)))

    def staff(self, job: str, wanted: int, start: Callable[[Site], Hand | None]) -> None:
        """Have at most `wanted` workers for `job`, each on the node that has the most room for it."""
        while sum(hand.job == job for hand in self.hands) < wanted:
            sites = [site for site in self.sites.values() if site.fit]
            by_room = sorted(sites, key=lambda site: self._crowd(job, site) / max(1, self._room(site)))
            hand = next((hand for site in by_room if (hand := start(site))), None)
            if hand is None:
                return
            self.hands.append(hand)

    def _crowd(self, job: str, site: Site) -> int:
        return sum(hand.site is site and hand.job == job for hand in self.hands)

    def maker(self, site: Site) -> Hand | None:
        """A worker that makes clips; None where the node has no room."""
        room = self._room(site)
        if self._crowd("clips", site) >= room or (self.device != "cpu" and self._free_gpus(site) < 1):
            return None
        if self.device != "cpu":
            threads = max(1, site.cores // room)
            return self.worker(ray_actors.ClipMaker, site, "clips", self.device, threads, num_cpus=1, num_gpus=1)
        rooms = sum(self._room(other) for other in self.sites.values() if other.fit)
        threads = min(_threads() or site.cores, max(1, site.cores // -(-self.room() * room // rooms)))
        return self.worker(ray_actors.ClipMaker, site, "clips", "cpu", threads, num_cpus=self.cores)

    def scorer(self, site: Site, environment: str, gpus: float) -> Hand | None:
        """A worker for the metrics of one environment, with a share of GPUs that make no clips, or with none."""
        if not gpus:
            return self.worker(ray_actors.ClipScorer, site, environment, "cpu", 1, num_cpus=0)
        if self._free_gpus(site) < gpus:
            return None
        threads = max(1, site.cores // site.gpus)
        return self.worker(ray_actors.ClipScorer, site, environment, self.device, threads, num_cpus=0, num_gpus=gpus)

    def _free_gpus(self, site: Site) -> float:
        return site.gpus - sum(hand.gpus for hand in self.hands if hand.site is site)

    def measurer(self, site: Site) -> Hand:
        """A worker that measures: with a GPU for itself, and on a CPU with the whole node."""
        own = {"num_cpus": 1, "num_gpus": 1} if self.device != "cpu" else {"num_cpus": site.cores * min(1, self.cores)}
        hand = self.worker(ray_actors.MeasuringHost, site, "measure", self.device, _threads(), **own)
        self.hands.append(hand)
        return hand

    def worker(self, cls: Any, site: Site, job: str, device: str, threads: int | None, **own: Any) -> Hand:
        """Start a worker on a node."""
        assert site.folder is not None
        self._number += 1
        log = f"{job.replace('/', '-')}-{self._number}.log"
        work = Path.cwd()
        desk = ray_actors.Desk(site.folder, work, site.unpacked, log, device, threads, self._git)
        return Hand(self._actor(cls, site, **own).remote(desk), site, job, log, own.get("num_gpus", 0.0))

    def _actor(self, cls: Any, site: Site, **own: Any) -> Any:
        strategy = self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(site.node, soft=False)
        return self.ray.remote(cls).options(scheduling_strategy=strategy, max_restarts=0, **own)

    def dismiss(self, hand: Hand) -> None:
        """End a worker."""
        with suppress(Exception):
            self.ray.kill(hand.actor, no_restart=True)
        self.hands.remove(hand)

    def printed(self, hand: Hand) -> bytes:
        """The end of what a worker printed, with its marks; empty where its node is gone."""
        try:
            return bytes(self.ray.get(hand.site.keeper.printed.remote(hand.log), timeout=CLOSE_S))
        except self.ray.exceptions.RayError:
            return b""

    def ended(self, hand: Hand, error: BaseException | None, late: float = 0.0) -> str:
        """A worker is lost: how it ended, in words; without an error it was `late`, by the seconds that it had.

        Raises `NotAvailable` where none ever starts.
        """
        how = f"after more than {late:g} s" if error is None else _how(self.ray, error)
        if not hand.ready:
            hand.site.failures += 1
            # An exception of its start stands in Ray's words, anything else in what it printed.
            own = "creation task" in str(error)
            says = str(error) if own else self.printed(hand).decode("utf-8", "replace")
            last = says.strip().rpartition("\n")[2].strip()
            self.reason = f"on {hand.site.name} a worker ended {how} before it was ready" + (
                f": {last}" if last else ""
            )
            self._say(self.reason)
            if not any(site.fit for site in self.sites.values()):
                raise NotAvailable(self.reason, "see what it printed, or name another cluster with --address")
        self.dismiss(hand)
        return how

    def close(self) -> None:
        """End all workers, and have the nodes delete their folders."""
        for hand in list(self.hands):
            self.dismiss(hand)
        keepers = [site.keeper for site in self.sites.values() if site.keeper is not None and site.alive]
        with suppress(Exception):
            closing = [keeper.close.remote() for keeper in keepers]
            self.ray.wait(closing, num_returns=len(closing), timeout=CLOSE_S)
            for keeper in keepers:
                self.ray.kill(keeper, no_restart=True)
        self.sites.clear()


def _threads() -> int | None:
    """Threads that the user wants; None where that is left to the libraries."""
    threads = os.environ.get(THREADS[0], "")
    return int(threads) if threads.isdigit() and int(threads) else None


def _how(ray: Any, error: BaseException) -> str:
    """How a worker ended, without addresses and paths, as records keep it."""
    if isinstance(error, ray.exceptions.OutOfMemoryError) or "OOM" in str(error) or "memory pressure" in str(error):
        return "for lack of memory"
    if isinstance(error, ray.exceptions.RayTaskError):
        return f"with {_cause(error)}"
    return "without a word"


def _cause(error: BaseException) -> str:
    cause = getattr(error, "cause", None) or error
    lines = str(cause).strip().splitlines() or [""]
    return f"{type(cause).__name__}: {lines[-1]}"


# ------------------------------------------------------------------------------------ the connection


@contextmanager
def connected(
    address: str | None, workers: int | None, patience: float = PATIENCE_S, cores: int = 1
) -> Iterator[Cluster]:
    """A connection to the cluster at `address`, or to one of this machine's own that ends with the run.

    Raises `NotAvailable` where Ray is not installed, or where no cluster answers within `CONNECT_S`.
    """
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    ray = library()
    with _token_shown() if address != "local" else nullcontext():
        if address != "local":
            _reach(address)
        with _joined(ray, address, workers):
            yield Cluster(ray, workers, patience, cores)


@contextmanager
def _joined(ray: Any, address: str, workers: int | None) -> Iterator[None]:
    """This process as the driver of the cluster at `address`, or of one of its own."""
    own = {"num_cpus": max(devices.cores(), workers or 1), "include_dashboard": False} if address == "local" else {}
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with _handlers_kept():
        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR", **own)
        except Exception as error:  # of its own node that does not start Ray says so by a plain one
            raise NotAvailable(f"no Ray cluster at {address}: {_cause(error)}", _WHERE) from error
    try:
        yield
    finally:
        with _handlers_kept():
            ray.shutdown()


_WHERE = "name a head node as HOST:6379, or `auto` on a node of a cluster; without --address the run starts its own"


@contextmanager
def _token_shown() -> Iterator[None]:
    """Have Ray show this user's token, where there is one and nothing else is asked for.

    Ray reads the variable once in a process, and every process that it starts reads it again: it is not left behind.
    """
    told = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    if "RAY_AUTH_MODE" in os.environ or not (told or Path("~/.ray/auth_token").expanduser().is_file()):
        yield
        return
    os.environ["RAY_AUTH_MODE"] = "token"
    try:
        yield
    finally:
        del os.environ["RAY_AUTH_MODE"]


def _reach(address: str) -> None:
    """Raise `NotAvailable` where nobody answers at `address`: Ray's own wait may take minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
        except (OSError, OverflowError) as error:
            raise NotAvailable(f"no Ray cluster at {address}: {error}", _WHERE) from error
    elif address != "auto":
        raise NotAvailable(f"{address!r} is no address of a Ray cluster", _WHERE)
    attempt = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR')"
    try:
        answer = subprocess.run(
            [sys.executable, "-c", attempt, address], capture_output=True, text=True, timeout=CONNECT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise NotAvailable(f"no answer from a Ray cluster at {address} within {CONNECT_S:.0f} s", _WHERE) from error
    if answer.returncode:
        last = answer.stderr.strip().rpartition("\n")[2]
        raise NotAvailable(f"no Ray cluster at {address}: {last}", _WHERE)


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Leave the signals of the process as they are: Ray would take SIGTERM for itself."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
