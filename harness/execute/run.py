"""Run a plan on this machine: each model loaded once for its clips, and anew for every measurement.

For every arm: generate the clips, each scored while it is fresh. While a model makes a clip, the one before is encoded,
brought to the disk and recorded by another thread; its scores follow before the next clip starts. When all clips are
there and nothing is loaded any more, another process measures (rule T1).
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from harness.errors import NotAvailable
from harness.execute import generate, units
from harness.execute.measuring import Measurer
from harness.execute.models import Models
from harness.execute.outcome import Outcome, Progress, Tick, stop_reason
from harness.execute.scorers import Scorers
from harness.runs.folder import Store, clip_name
from harness.runs.index import IndexEntry
from harness.runs.line import Record
from harness.runs.plan import Arm, Plan, Unit
from harness.system import devices

SCRATCH = "scratch"
"""Folder of a run in which probes may keep files."""

INTERRUPTED = "interrupted; run again to go on"


def run_plan(
    plan: Plan,
    out: Path,
    limit: int | None = None,
    progress: Progress | None = None,
    *,
    verify: bool = False,
    suite_folder: Path | None = None,
) -> Outcome:
    """Do what `plan` asks for and `out` does not hold yet; at most `limit` units of it.

    `verify` compares the digest of every clip's file, not its length alone. `suite_folder` tells whose git commit to
    record where the harness itself is not under git. An interrupt (Ctrl-C) ends the run in order, and `stopped` says
    so. Raises `HarnessError` where the run cannot start, and `StorageError` where the disk refuses: in both cases what
    is recorded stays, and the next run goes on from there.
    """
    folders = [Path(__file__).parent, *([suite_folder] if suite_folder else [])]
    setting = units.Setting(devices.describe(plan.device), devices.versions(), devices.git_state(*folders))
    with Store(out) as store:
        store.sweep()
        store.write_plan(plan)
        job = _Job(plan, store, setting, verify, progress or (lambda tick: None), limit)
        try:
            job.work()
        except _Stop as stop:
            job.stopped = str(stop)
        except KeyboardInterrupt:
            job.stopped = INTERRUPTED
        finally:
            job.release()
        return job.outcome()


class _Stop(Exception):
    """Ends the run between two units; its text is the reason, empty for a limit."""


class _Job:
    """One run: what is done, what is loaded, and the counts."""

    def __init__(
        self, plan: Plan, store: Store, setting: units.Setting, verify: bool, progress: Progress, limit: int | None
    ) -> None:
        self.plan, self.store, self.setting = plan, store, setting
        self.progress, self.limit = progress, limit
        self.index = store.records.newest()
        self.models = Models(plan.device, self._say)
        self.measurer = Measurer(plan.device, setting, self._say, store.folder / SCRATCH)
        self.scorers = Scorers(plan.device, self._say)
        self.flight: deque[tuple[generate.Making, Unit]] = deque()
        self.stopped = ""
        self.finished = self.failed = self.made = 0
        self.began = time.monotonic()
        self.scores: dict[str, list[Unit]] = defaultdict(list)
        for unit in plan.units:
            if unit.kind == "score":
                self.scores[str(unit.preimage["generate"])].append(unit)
        self.digests: dict[str, str] = {}
        for unit in plan.units:
            entry = self.index.get(unit.key)
            if entry is not None and entry.status == "ok":
                clip = entry.clip
                if unit.kind != "generate" or store.agrees(clip, verify):
                    self.digests[unit.key] = str(clip.get("digest", ""))
        self.found = sum(self._done(unit) for unit in plan.units)
        self.total = len(plan.units) - self.found

    # ------------------------------------------------------------------------------- what is done

    def _done(self, unit: Unit) -> bool:
        """Whether the unit's newest record is ok and agrees with the clip it speaks of.

        `digests` holds the clip digest of every unit whose record is ok and whose own file agrees; a score is done
        only while it is of the clip that is there.
        """
        digest = self.digests.get(unit.key)
        if digest is None or unit.kind != "score":
            return digest is not None
        return digest == self.digests.get(str(unit.preimage["generate"]))

    # --------------------------------------------------------------------------------- the order

    def work(self) -> None:
        """Every unit that is not done: all clips and scores, then all measurements."""
        clips: dict[str, list[Unit]] = defaultdict(list)
        timed: dict[str, list[Unit]] = defaultdict(list)
        rounds: dict[int, list[Unit]] = defaultdict(list)
        repeated = {
            key for group in self.plan.groups if group.kind == "measure" and len(group.keys) > 1 for key in group.keys
        }
        for unit in self.plan.units:
            if unit.key in repeated:
                rounds[int(unit.context["round"])].append(unit)
            elif unit.kind != "score":
                by_arm = clips if unit.kind == "generate" else timed
                by_arm[str(unit.context["arm"])].append(unit)
        for arm in self.plan.arms:
            self._clips(arm, clips[arm.label])
        self.scorers.close()
        for arm in self.plan.arms:
            for unit in timed[arm.label]:
                self._measure(unit, arm)
        for unit in timed[""]:
            self._measure(unit, None)
        self._rounds(rounds)

    def _rounds(self, rounds: dict[int, list[Unit]]) -> None:
        """Measurements of several rounds: A B B A, so that drift of the device falls on every arm alike (rule T12)."""
        arms = {arm.label: arm for arm in self.plan.arms}
        place = {label: index for index, label in enumerate(arms)}
        for number in sorted(rounds):
            todo = sorted(rounds[number], key=lambda unit: place.get(str(unit.context["arm"]), -1))
            for unit in reversed(todo) if number % 2 else todo:
                self._measure(unit, arms.get(str(unit.context["arm"])))

    def _clips(self, arm: Arm, todo: Sequence[Unit]) -> None:
        for unit in todo:
            self._clip(arm, unit)
        self._collect()
        self.models.unload()

    def _clip(self, arm: Arm, unit: Unit) -> None:
        """One clip; the scores of the clip before it."""
        if self._done(unit):
            self._collect()
            self._scores(unit)
            return
        if self.limit is not None and self.finished + self._in_flight() >= self.limit:
            self._collect()
        path = self.store.clip_path(unit.key)
        making = generate.Making(unit, self.setting, path, clip_name(unit.key), self._keep)
        self.flight.append((making, unit))
        making.feed(lambda: generate.frames_of(unit, self.models.get(arm), arm.card))
        self._collect(0 if making.stopped else 1)

    def _in_flight(self) -> int:
        """Units that the clips being finished will bring: themselves and their scores."""
        return sum(1 + len(self.scores[unit.key]) for _, unit in self.flight)

    def _collect(self, leave: int = 0) -> None:
        """Wait for the clips that are being finished, but for the last `leave`; count and score each."""
        while len(self.flight) > leave:
            making, unit = self.flight[0]
            made = making.record()
            self.flight.popleft()
            self._count(*made)
            self._scores(unit)

    def _scores(self, of: Unit) -> None:
        for unit in self.scores[of.key]:
            if not self._done(unit):
                self._score(unit, of)

    def _score(self, unit: Unit, of: Unit) -> None:
        def work() -> units.Result:
            if of.key not in self.digests:
                raise NotAvailable("its clip was not made")
            path = self.store.clip_path(of.key)
            clip = units.clip_of(of, self.index[of.key].clip, path, int(of.context["index"]))
            return units.score(unit, self.scorers.get(unit), clip)

        self._write(units.attempt(unit, self.setting, work))

    def _measure(self, unit: Unit, arm: Arm | None) -> None:
        if not self._done(unit):
            self._write(self.measurer.measure(unit, arm))

    # -------------------------------------------------------------------------------- the records

    def _write(self, done: Record) -> None:
        self._count(done, self._keep(done))

    def _keep(self, done: Record) -> IndexEntry:
        """Append a record; the entry that counts from now on.

        A unit that is passed over again for the same reason gets no second record, so that running again adds nothing.
        """
        entry = self.index.get(done.key)
        passed_over = done.status == "skipped" and entry is not None and entry.status == "skipped"
        if entry is not None and passed_over and self.store.records.at(entry.offset).notes == done.notes:
            return entry
        return self.store.records.append(done)

    def _count(self, done: Record, entry: IndexEntry) -> None:
        """Note what a record says, and stop where the suite or the limit says so."""
        self._note(done, entry)
        if reason := stop_reason(self.plan.suite.errors, self.failed, len(self.plan.units)):
            raise _Stop(reason)
        if self.limit is not None and self.finished >= self.limit:
            raise _Stop("")

    def _note(self, done: Record, entry: IndexEntry) -> None:
        self.index.add(entry)
        if done.status == "ok":
            self.digests[done.key] = str(done.clip.get("digest", ""))
        else:
            self.digests.pop(done.key, None)
        self.finished += 1
        self.made += done.status == "ok"
        self.failed += done.status == "failed"
        self.progress(self._tick(record=done))

    def _say(self, message: str) -> None:
        self.progress(self._tick(message=message))

    def _tick(self, message: str = "", record: Record | None = None) -> Tick:
        seconds = time.monotonic() - self.began
        return Tick(self.finished, self.total, self.failed, seconds, message, record)

    def release(self) -> None:
        """Let the clips that are being finished be finished, and free models and metrics."""
        while self.flight:
            making, _ = self.flight.popleft()
            # The run ends with the fault that brought it here; an interrupted clip gives its interrupt again.
            with suppress(Exception, KeyboardInterrupt):
                self._note(*making.record())
        self.scorers.close()
        self.models.unload()
        self.measurer.close()

    def outcome(self) -> Outcome:
        """The counts over the whole plan."""
        status: dict[str, int] = defaultdict(int)
        for unit in self.plan.units:
            entry = self.index.get(unit.key)
            status[
                "ok" if self._done(unit) else "pending" if entry is None or entry.status == "ok" else entry.status
            ] += 1
        return Outcome(
            folder=self.store.folder,
            planned=len(self.plan.units),
            found=self.found,
            made=self.made,
            failed=status["failed"],
            skipped=status["skipped"],
            pending=status["pending"],
            stopped=self.stopped,
        )
