"""Run a plan on a Ray cluster: clips, scores and measurements come from workers, and this process alone writes.

Planning, records, failure policy and progress are those of `RunningPlan`. A unit whose worker ends is handed out again;
one that has ended three workers becomes a failed record.
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from harness.contracts import registry
from harness.errors import HarnessError, NotAvailable, StorageError
from harness.execute import batches
from harness.execute.handing_out import Item, Shares
from harness.execute.lost import DEATHS, Deaths, late_record, lost_record
from harness.execute.luggage import pack
from harness.execute.printed import Lines
from harness.execute.ray_actors import ClipTask, Done, ScoreTask, SentClip, planned
from harness.execute.ray_cluster import POLL_S, Cluster, Hand, Site
from harness.execute.run import Engine, RunningPlan
from harness.runs.folder import clip_name, inside
from harness.runs.line import Record
from harness.runs.plan import Arm, Unit, scored_clips
from harness.system import files
from harness.system.digests import canonical, digest

HOST_S = 60.0
"""Seconds that the worker that measures has beside a measurement's own, which it ends itself."""
WRITERS = 8
"""Threads that bring clips to the disk, most of which wait for it."""
MAKERS_PER_SCORER = 8


def engine_of(cluster: Cluster) -> Engine:
    """What runs a plan on `cluster`, for `run_plan`."""

    def make(*arguments: Any) -> RunningPlan:
        return RayRun(cluster, *arguments)

    return make


class RayRun(RunningPlan):
    """One run whose units are done by the workers of a cluster."""

    def __init__(self, cluster: Cluster, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.cluster, self.ray = cluster, cluster.ray
        self.running: dict[Any, Hand] = {}
        self.to_make: Shares[ClipTask] = Shares(_part_of_clips)
        self.to_score: Shares[tuple[Unit, ...]] = Shares(_part_of_scores)
        self.deaths = Deaths()
        self.writers = ThreadPoolExecutor(WRITERS)
        self.waiting_since: dict[str, float] = {}
        self.unwritten = 0

    def work(self, jobs: int, processes: int | None) -> None:
        """Do every unit that is not done: all clips and scores, then all measurements."""
        if all(map(self._done, self.plan.units)):
            return
        self.cluster.open(pack(self.plan), self.setting.git, self._say)
        self.make_clips(processes)
        together, in_turn = self.measurements(jobs)
        sections: dict[str, deque[tuple[Unit, Arm | None]]] = {}
        arms = {arm.label: arm for arm in self.plan.arms}
        for unit, arm in ((unit, arms.get(str(unit.context["arm"]))) for unit in together):
            sections[unit.key] = deque([(unit, arm)])
        for unit, arm in in_turn:
            sections.setdefault(str(unit.context["section"]), deque()).append((unit, arm))
        _Measuring(self, list(sections.values())).work()

    # ---------------------------------------------------------------------------- clips and scores

    def make_clips(self, processes: int | None) -> None:
        """Make the clips that are missing, and score those that have no score."""
        clips, room = self.clips(), self.cluster.room()
        for arm in self.plan.arms:
            missing = [unit for unit in clips[arm.label] if not self._done(unit)]
            for unit in clips[arm.label]:
                if self._done(unit):
                    self._scores(unit)
            self.to_make.add(arm.label, map(_clip_item(arm), batches.grouped(missing, arm, processes=room)))
        while self.to_make or self.to_score or any(hand.items for hand in self.cluster.hands):
            self.cluster.look()
            self._staff()
            self._hand_out()
            self._take_back(self._finished_now())
            self._end_late()
        for hand in list(self.cluster.hands):
            self.cluster.dismiss(hand)
        self.running.clear()

    def _scores(self, of: Unit) -> None:
        """Let the scores of a clip wait for a worker; without a clip they are skipped at once."""
        together: dict[tuple[str, tuple[str, ...]], list[Unit]] = {}
        for unit in self._due(of):
            clips = scored_clips(unit)
            if self.digests.keys() >= set(clips):
                environment = registry.metrics.get(unit.context["plugin"]).environment
                together.setdefault((environment, clips), []).append(unit)
            else:
                self._score(unit)
        for (environment, clips), several in together.items():
            task = tuple(self.units[key] for key in clips)
            self.to_score.add(environment, [Item(tuple(several), len(several), task)])

    def _staff(self) -> None:
        """Start workers where some are missing, and say so where none can start."""
        cluster = self.cluster
        makers, spare = self._share_gpus()
        if self.to_make:
            cluster.staff("clips", makers, cluster.maker)
        on_gpus = sorted({registry.metrics.get(use).environment for use in self._metrics()} - {"core"})
        for environment in self.to_score.pools():
            gpus, wanted = 0.0, -(-makers // MAKERS_PER_SCORER)
            if spare > 0 and environment in on_gpus:
                # Environments share a GPU, as they do locally, where there are more of them than GPUs.
                gpus, wanted = min(1.0, 1 / -(-len(on_gpus) // spare)), max(1, spare // len(on_gpus))

            def start(site: Site, environment: str = environment, gpus: float = gpus) -> Hand | None:
                fit = self._scores_on(site, environment) or not any(
                    self._scores_on(other, environment) for other in cluster.sites.values() if other.fit
                )
                return cluster.scorer(site, environment, gpus) if fit else None

            cluster.staff(environment, wanted, start)
        waiting_for = set(self.running.values())
        for hand in cluster.hands:
            if not hand.ready and hand not in waiting_for:
                self.running[hand.actor.ready.remote()] = hand
        self._lose_patience({*(["clips"] if self.to_make else []), *self.to_score.pools()})

    def _share_gpus(self) -> tuple[int, int]:
        """Workers that make clips, and GPUs that are left for scores."""
        cluster = self.cluster
        makers = cluster.room()
        if cluster.device == "cpu":
            return makers, 0
        gpus = sum(site.gpus for site in cluster.sites.values() if site.fit)
        environments = {registry.metrics.get(use).environment for use in self._metrics()}
        if gpus > 1 and environments - {"core"} and not cluster.workers:
            makers = gpus - max(1, gpus // MAKERS_PER_SCORER)
        return makers, gpus - makers

    def _metrics(self) -> set[str]:
        return {use.name for section in self.plan.suite.generate for use in section.metrics}

    def _scores_on(self, site: Site, environment: str) -> bool:
        """Whether every metric of an environment is available on a node."""
        uses = [use for section in self.plan.suite.generate for use in section.metrics]
        return not any(
            canonical({"name": use.name, "options": use.options}) in site.unpacked.unavailable
            for use in uses
            if registry.metrics.get(use.name).environment == environment
        )

    def _lose_patience(self, jobs: Iterable[str]) -> None:
        """Raise `NotAvailable` where no worker has become ready in time for one of `jobs`."""
        cluster, now = self.cluster, time.monotonic()
        at_work = {hand.job for hand in cluster.hands if hand.ready}
        for job in jobs:
            since = self.waiting_since.setdefault(job, now)
            if job in at_work:
                self.waiting_since[job] = now
            elif now - since > cluster.patience:
                free = self.ray.available_resources()
                has = ", ".join(f"{free[name]:g} {name}" for name in ("CPU", "GPU") if name in free) or "nothing"
                raise NotAvailable(
                    f"no worker for {job} started within {cluster.patience:.0f} s: {has} free in the cluster"
                    + (f"; {cluster.reason}" if cluster.reason else ""),
                    "wait until others are through, or add nodes",
                )

    def _hand_out(self) -> None:
        """Give every worker that is free what it does next."""
        free = [hand for hand in self.cluster.hands if hand.ready and not hand.items]
        if not free:
            return
        busy = Counter(str(hand.pool) for hand in self.cluster.hands if hand.items and hand.job == "clips")
        for hand in free:
            most = None if self.limit is None else self.limit - self._begun()
            if hand.job == "clips":
                hand.items = self.to_make.take(self.to_make.pools(), hand.pool, busy, most)
                tasks: Sequence[Any] = [item.task for item in hand.items]
                if hand.items and hand.pool != (pool := tasks[0].arm.label):
                    hand.pool = pool
                    self._say(f"loading {pool} on {hand.site.name}")
                busy[str(hand.pool)] += bool(hand.items)
            else:
                hand.items = self.to_score.take([hand.job], hand.job, busy, most)
                tasks = [self._score_task(item) for item in hand.items]
            if hand.items:
                hand.due = time.monotonic() + self._limit(hand.items)
                self.running[hand.actor.do.remote(tasks)] = hand

    def _limit(self, items: Sequence[Item[Any]]) -> float:
        """Seconds that a share may take: as one of its items, which are done again one by one where it is late."""
        return max(self.limits[str(unit.context["section"])] for item in items for unit in item.units)

    def _begun(self) -> int:
        at_work = sum(len(item.units) for hand in self.cluster.hands for item in hand.items)
        return self.finished + self.unwritten + at_work

    def _score_task(self, item: Item[tuple[Unit, ...]]) -> ScoreTask:
        return ScoreTask(item.units, tuple(map(self._sent, item.task)))

    def _sent(self, clip: Unit) -> SentClip:
        path = self.store.clip_path(clip.key)
        try:
            content = path.read_bytes()
        except OSError:
            content = b""  # the score fails, and says that the clip cannot be read
        return SentClip(clip, self.index[clip.key].clip, content)

    def _finished_now(self) -> list[Any]:
        """References to what workers have finished; waits a little for the first."""
        if not self.running:
            time.sleep(POLL_S / 10)
            return []
        references = list(self.running)
        due = min(hand.due for hand in self.running.values()) - time.monotonic()
        ready, _ = self.ray.wait(references, num_returns=1, timeout=max(0.0, min(POLL_S, due)))
        if ready:
            ready, _ = self.ray.wait(references, num_returns=len(references), timeout=0)
        return list(ready)

    def _take_back(self, references: Iterable[Any]) -> None:
        """Take what workers have finished, give them more, and write it down."""
        results: list[tuple[Hand, Sequence[Item[Any]], Done]] = []
        lost: list[Record] = []
        for reference in references:
            hand = self.running.pop(reference)
            try:
                value = self.ray.get(reference)
            except self.ray.exceptions.RayError as error:
                lost += self._lost(hand, error)
                continue
            if not hand.ready:
                hand.ready, hand.site.failures = True, 0
                if value:
                    self._say(f"a GPU of {hand.site.name} is in use by {value} other processes")
                continue
            results.append((hand, hand.items, value))
            shares = self.to_make if hand.job == "clips" else self.to_score
            weight = sum(item.weight for item in hand.items)
            shares.measured(str(hand.pool or hand.job), weight, value.seconds, value.loading)
            hand.items, hand.due = (), math.inf
        self.unwritten = len(lost) + sum(len(done.records) for _, _, done in results)
        self._hand_out()
        self.unwritten = 0
        self._write_down(results, lost)

    def _write_down(self, results: Sequence[tuple[Hand, Sequence[Item[Any]], Done]], lost: Sequence[Record]) -> None:
        for line in (line for _, _, done in results for line in done.said):
            if not line.startswith(("loading", "setting up")):
                self._say(line)
        for _, _, done in results:
            self.log.add(Lines().take(done.printed, last=True))
        pairs = [pair for _, _, done in results for pair in done.records]
        records = [planned(record, self.units[record.key]) for record, _ in pairs]
        clips = [
            (record, content) for record, (_, content) in zip(records, pairs, strict=True) if record.kind == "generate"
        ]
        list(self.writers.map(self._write_clip, clips))
        self._write(*records, *lost)
        for record in (*records, *lost):
            if record.kind == "generate":
                self._scores(self.units[record.key])
        for hand, _, done in results:
            if done.refused:
                raise StorageError(f"on node {hand.site.name}: {done.refused[0]}", done.refused[1])

    def _write_clip(self, pair: tuple[Record, bytes]) -> None:
        """Bring a clip to the disk. Raises `HarnessError` for other bytes than the record speaks of."""
        record, content = pair
        if record.status != "ok":
            return
        if digest(content) != record.clip["sha256"]:
            raise HarnessError(f"the clip {record.key[:12]} came damaged from its worker", "run again")
        files.write_atomic(self.store.folder / clip_name(record.key), content)

    # -------------------------------------------------------------------------------- lost workers

    def tail_of(self, hand: Hand) -> str:
        """The end of what a lost worker printed about its last unit; all of it goes to the log."""
        lines = Lines()
        self.log.add(lines.take(self.cluster.printed(hand), last=True))
        return lines.tail()

    def _end_late(self) -> None:
        """End workers that are at their share for longer than it may take."""
        now = time.monotonic()
        late = [reference for reference, hand in self.running.items() if hand.due < now]
        through = self.ray.wait(late, num_returns=len(late), timeout=0)[0] if late else []
        hands = [self.running.pop(reference) for reference in late if reference not in through]
        if lost := [record for hand in hands for record in self._lost(hand, None)]:
            self._write_down((), lost)

    def _lost(self, hand: Hand, error: BaseException | None) -> list[Record]:
        """Let what a lost worker was doing wait again; the records of what has ended too many.

        Without an error it was late, and is ended; a unit that is late by itself has failed at once.
        """
        tail, items = self.tail_of(hand) if hand.items else "", hand.items
        late = 0.0 if error is not None else self._limit(items)
        how = self.cluster.ended(hand, error, late)
        shares: Shares[Any] = self.to_make if hand.job == "clips" else self.to_score
        failed: list[Record] = []
        for item in items:
            deaths = 0 if late else self.deaths.add(item.units)
            by_itself = bool(late) and len(items) == 1
            pool = item.task.arm.label if hand.job == "clips" else hand.job
            if by_itself and len(item.units) == 1:
                failed.append(late_record(item.units[0], self.setting, late, tail))
            elif deaths >= DEATHS and len(item.units) == 1:
                failed.append(lost_record(item.units[0], self.setting, how, tail))
            elif deaths >= DEATHS - 1 or by_itself:
                shares.add_alone(pool, item)
            else:
                shares.add(pool, [replace(item, alone=True)])
        if len(failed) < len(items):
            self._say(f"a worker on {hand.site.name} ended {how}; its work is done again")
        return failed

    def release(self) -> None:
        """Write down what workers have finished, and end them all."""
        with suppress(Exception, KeyboardInterrupt):
            references = [reference for reference, hand in self.running.items() if hand.ready and hand.items]
            ready, _ = self.ray.wait(references, num_returns=len(references), timeout=0) if references else ([], [])
            for reference in ready:
                done = self.ray.get(reference)
                self._write_down([(self.running.pop(reference), (), done)], ())
        self.cluster.close()
        self.writers.shutdown(wait=False)
        super().release()


def _clip_item(arm: Arm) -> Callable[[Sequence[Unit]], Item[ClipTask]]:
    def item(batch: Sequence[Unit]) -> Item[ClipTask]:
        weight = sum(int(str(unit.preimage["frames"])) for unit in batch)
        return Item(tuple(batch), weight, ClipTask(arm, tuple(batch)))

    return item


def _part_of_clips(task: ClipTask, part: tuple[Unit, ...]) -> ClipTask:
    return ClipTask(task.arm, part)


def _part_of_scores(task: tuple[Unit, ...], part: tuple[Unit, ...]) -> tuple[Unit, ...]:
    return task


# ----------------------------------------------------------------------------------- measurements


@dataclass(slots=True)
class _Place:
    """A machine that measures: its worker once it has one, and the unit that it is at."""

    site: Site
    sections: deque[deque[tuple[Unit, Arm | None]]]
    hand: Hand | None = None
    stream: Any = None
    task: tuple[Unit, Arm | None] | None = None
    due: float = math.inf


class _Measuring:
    """All measurements, each section on one machine, so that its arms are compared there; one at a time on each."""

    def __init__(self, run: RayRun, sections: Sequence[deque[tuple[Unit, Arm | None]]]) -> None:
        self.run, self.ray, self.cluster = run, run.ray, run.cluster
        todo = [deque(pair for pair in section if not run._done(pair[0])) for section in sections]
        self.waiting = deque(section for section in todo if section)
        self.places: dict[str, _Place] = {}
        self.begun = 0

    def work(self) -> None:
        """Measure until nothing is left."""
        while self.waiting or any(place.task or place.sections for place in self.places.values()):
            self.cluster.look()
            self._open_places()
            for place in self.places.values():
                self._begin(place)
            streams = {place.stream: place for place in self.places.values() if place.stream is not None}
            ready, _ = self.ray.wait(list(streams), num_returns=1, timeout=POLL_S) if streams else ([], [])
            for stream in ready:
                self._take(streams[stream])
            for stream in streams.keys() - set(ready):
                if streams[stream].task is not None and time.monotonic() > streams[stream].due:
                    self._lost(streams[stream], None)
            if not streams:
                time.sleep(POLL_S / 10)
            self.run._lose_patience(["measure"])

    def _open_places(self) -> None:
        """Let machines share the sections; those of a machine that is gone are shared again."""
        for machine, place in list(self.places.items()):
            if not place.site.fit:
                self.waiting.extend(place.sections)
                del self.places[machine]
                if place.hand in self.cluster.hands and place.hand is not None:
                    self.cluster.dismiss(place.hand)
        for site in sorted(self.cluster.sites.values(), key=lambda site: site.name):
            if site.fit and site.machine not in self.places and self.cluster._room(site):
                self.places[site.machine] = _Place(site, deque())
        while self.waiting and self.places:
            least = min(self.places.values(), key=lambda place: sum(map(len, place.sections)))
            least.sections.append(self.waiting.popleft())

    def _begin(self, place: _Place) -> None:
        """Start a worker where there is none, and hand it the next unit."""
        while place.sections and not place.sections[0]:
            place.sections.popleft()
        limit = self.run.limit
        if place.hand is not None and place.stream is None and not place.sections:
            # While it is there, nobody loses patience with another machine, which may wait for what it holds.
            self.cluster.dismiss(place.hand)
            place.hand = None
        if place.stream is not None or not place.sections or (limit is not None and self._begun() >= limit):
            return
        if place.hand is None:
            place.hand = self.cluster.measurer(place.site)
        if not place.hand.ready:
            place.stream = place.hand.actor.ready.remote()
            return
        place.task = place.sections[0].popleft()
        unit, arm = place.task
        task = self.run.task(unit, arm)
        place.due = time.monotonic() + task[-1] + HOST_S
        place.stream = place.hand.actor.measure.options(num_returns="streaming").remote(*task)

    def _begun(self) -> int:
        return self.run.finished + sum(place.task is not None for place in self.places.values())

    def _take(self, place: _Place) -> None:
        """Take what a worker says: that it is ready, a line of progress, or a record."""
        assert place.hand is not None
        try:
            if place.task is None:
                self.ray.get(place.stream)
                place.hand.ready, place.hand.site.failures, place.stream = True, 0, None
                return
            answer = self.ray.get(next(place.stream))
        except (self.ray.exceptions.RayError, StopIteration) as error:
            self._lost(place, error)
            return
        if isinstance(answer, str):
            self.run._say(answer)
            return
        (unit, _), place.task, place.stream = place.task, None, None
        if isinstance(answer[0], str):
            raise StorageError(f"on node {place.site.name}: {answer[0]}", answer[1])
        record, products, printed = answer
        self.run.log.add(Lines().take(printed, last=True))
        for name, content in products.items():
            files.write_atomic(inside(self.run.scratch, name), content)
        self.run._write(planned(record, unit))

    def _lost(self, place: _Place, error: BaseException | None) -> None:
        """Let what a lost worker measured wait again, or fail; without an error it was late, and is ended."""
        hand, task = place.hand, place.task
        assert hand is not None
        tail = self.run.tail_of(hand)
        place.hand, place.stream, place.task = None, None, None
        how = self.cluster.ended(hand, error, self.run.task(*task)[-1] + HOST_S if task else 0.0)
        if task is None:
            return
        unit = task[0]
        self.run._say(f"the worker that measures on {place.site.name} ended {how}")
        if self.run.deaths.add([unit]) >= DEATHS:
            self.run._write(lost_record(unit, self.run.setting, how, tail))
        else:
            place.sections.appendleft(deque([task, *(place.sections.popleft() if place.sections else ())]))
