"""Run a plan on this machine: each model loaded once for its clips, and anew for every measurement.

Clips are made in processes of their own, which a model may end. They are recorded as they come, and scored here while
the next ones are made. Models that exist in this process alone make their clips here: while one makes a clip, the one
before is encoded, brought to the disk and recorded by another thread; its scores follow before the next clip starts.
When all clips are there and nothing is loaded any more, another process measures (rule T1).
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

from harness.contracts import Clip, registry
from harness.errors import NotAvailable
from harness.execute import batches, standing, units
from harness.execute.generate import Maker
from harness.execute.making import ClipWorker
from harness.execute.measuring import Measurer, Task
from harness.execute.models import Models
from harness.execute.outcome import Outcome, Progress, Tick, stop_reason
from harness.execute.pool import work_all
from harness.execute.printed import Log
from harness.execute.products import SCRATCH, placed
from harness.execute.scorers import Scorers
from harness.runs.folder import Store
from harness.runs.index import IndexEntry
from harness.runs.line import Record
from harness.runs.plan import Arm, Plan, Unit, scored_clips
from harness.suite.schema import A_WEEK_S
from harness.system import devices, files

INTERRUPTED = "interrupted{}; run again to {}"


def run_plan(
    plan: Plan,
    out: Path,
    limit: int | None = None,
    progress: Progress | None = None,
    *,
    verify: bool = False,
    suite_folder: Path | None = None,
    scratch: Path | None = None,
    jobs: int = 1,
    processes: int | None = None,
    engine: Engine | None = None,
    replace_plan: bool = False,
) -> Outcome:
    """Run the units of `plan` that `out` does not hold yet; at most `limit` of them.

    `verify` compares the digest of every clip's file, not its length alone. The git commit of `suite_folder` is
    recorded beside that of the harness. Probes keep files in `scratch`, a folder of the run unless
    given. `jobs` measurements run at the same time where their probe allows it (`Probe.side_by_side`). `processes` make
    clips on a CPU, one, and for batches one a core, unless given; 0 has them made in this process. `engine` does the
    units elsewhere, as that of `harness.execute.ray_engine` does. `replace_plan` lets a folder's plan go of which this
    one has no unit.

    An interrupt (Ctrl-C, and on the command line SIGTERM and SIGHUP) ends the run in order, and `stopped` says so.
    Raises `HarnessError` where the run cannot start, and `StorageError` where the disk refuses. In both cases the
    records stay, and the next run goes on from there.
    """
    git = devices.git_state(Path(__file__).parent, suite_folder)
    setting = units.Setting(devices.describe(plan.device), devices.versions(), git)
    files.fix_folders()
    # A model or metric that goes to another folder takes no path of the run with it.
    folder = out.absolute()
    with Store(folder) as store:
        store.sweep()
        remark = store.write_plan(plan, replace_plan)
        say = progress or (lambda tick: None)
        job = (engine or RunningPlan)(
            plan, store, setting, verify, say, limit, (scratch or folder / SCRATCH).absolute()
        )
        try:
            job.work(jobs, processes)
        except _Stop as stop:
            job.stopped = str(stop)
        except KeyboardInterrupt as interrupt:
            by = f" by {interrupt}" if str(interrupt) else ""
            job.stopped = INTERRUPTED.format(by, "begin anew" if plan.suite.rehearsal else "go on")
        finally:
            job.release()
            # A process that was ended in the middle of a clip leaves its part.
            store.sweep()
        remarks = tuple(filter(None, (remark, *job.other_texts, job.made_here)))
        return replace(job.outcome(), folder=out, remarks=remarks)


Engine = Callable[[Plan, Store, units.Setting, bool, Progress, int | None, Path], "RunningPlan"]
"""What makes the one run of a plan: `RunningPlan` itself, or what makes one of a subclass."""


class _Stop(Exception):
    """Ends the run between two units; its text is the reason, empty for a limit."""


class RunningPlan:
    """One run: the finished units, the loaded models and metrics, and the counts."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        setting: units.Setting,
        verify: bool,
        progress: Progress,
        limit: int | None,
        scratch: Path,
    ) -> None:
        self.plan, self.store, self.setting = plan, store, setting
        self.progress, self.limit, self.scratch = progress, limit, scratch
        self.sections = {section.name: section for section in plan.suite.measure}
        self.limits = {section.name: section.timeout_s for section in plan.suite.generate}
        self.index = store.records.newest()
        self.models = Models(plan.device, self._say)
        self.log = Log(store.folder)
        self.measurer = self._measurer(self._say)
        self.scorers = Scorers(plan.device, self._say)
        self.maker = Maker(self.models, setting, store.folder, self._keep)
        self.stopped = ""
        self.finished = self.failed = self.done_now = 0
        self.began = time.monotonic()
        self.scores: dict[str, list[Unit]] = defaultdict(list)
        self.units = {unit.key: unit for unit in plan.units}
        for unit in plan.units:
            for key in scored_clips(unit):
                self.scores[key].append(unit)
        self.digests = standing.digests(plan, store.records, self.index, scratch, verify=verify, place=True)
        # Clips that nobody waits for any more, and scores that were tried: each score is tried once in a run.
        self.settled = {key for key in self.scores if key in self.digests or key not in self.units}
        self.tried: set[str] = set()
        self.total = sum(not self._done(unit) for unit in plan.units)
        self.made_here = ""
        self.unscored: deque[Unit] = deque()
        self.other_texts = standing.other_texts(plan, self.index, self.digests)

    # ------------------------------------------------------------------------------- what is done

    def _done(self, unit: Unit) -> bool:
        """Whether the unit's newest record is ok and agrees with its clip."""
        return standing.done(unit, self.digests)

    # --------------------------------------------------------------------------------- the order

    def work(self, jobs: int, processes: int | None) -> None:
        """Do every unit that is not done: all clips and scores, then all measurements."""
        self.make_clips(processes)
        together, in_turn = self.measurements(jobs)
        self._measure_together(together, jobs)
        for unit, arm in in_turn:
            if not self._done(unit):
                self._write(self.measurer.measure(*self.task(unit, arm)))

    def make_clips(self, processes: int | None) -> None:
        """Make the clips that are missing, and score those that have no score."""
        here: dict[str, list[Unit]] = {}
        apart: list[tuple[Arm, Unit]] = []
        clips = self.clips()
        for arm in self.plan.arms:
            todo = [unit for unit in clips[arm.label] if not self._done(unit)]
            self.unscored += [unit for unit in clips[arm.label] if self._done(unit)]
            if processes == 0 or not registry.models.importable(arm.name):
                here[arm.label] = todo
            else:
                apart += [(arm, unit) for unit in todo]
        if any(here.values()):
            self.made_here = self._made_here([label for label in here if here[label]] if processes != 0 else [])
        self._make_apart(apart, batches.processes(apart, self.plan.device, processes))
        while self._score_next():
            continue
        for arm in self.plan.arms:
            self._make_here(arm, here.get(arm.label, ()))
        self.scorers.close()

    def _made_here(self, unfound: Sequence[str]) -> str:
        """What is said of clips that this process made: of arms that no other finds, and without a limit."""
        limited = ", ".join(section.name for section in self.plan.suite.generate if section.timeout_s != A_WEEK_S)
        found = (
            f"no other process finds the models of {', '.join(unfound)}, so this one made their clips, and would have "
            "ended with them; a file for --plugin is found"
        )
        late = f"`timeout_s` of {limited} did not hold, as it ends the process that makes a clip, here the run itself"
        return "; ".join([found] * bool(unfound) + [late] * bool(limited))

    def clips(self) -> dict[str, list[Unit]]:
        """The generate units by the label of their arm."""
        clips: dict[str, list[Unit]] = defaultdict(list)
        for unit in self.plan.units:
            if unit.kind == "generate":
                clips[str(unit.context["arm"])].append(unit)
        return clips

    def measurements(self, jobs: int) -> tuple[list[Unit], list[tuple[Unit, Arm | None]]]:
        """The measurements that run `jobs` at a time, and those that follow one by one.

        Units of several rounds come last, in the order A B B A, so that drift of the device falls on every arm alike
        (rule T12).
        """
        arms = {arm.label: arm for arm in self.plan.arms}
        place = {label: index for index, label in enumerate(arms)}
        of_rounds = {
            key for group in self.plan.groups if group.kind == "measure" and len(group.keys) > 1 for key in group.keys
        }
        together: list[Unit] = []
        single: list[Unit] = []
        rounds: dict[int, list[Unit]] = defaultdict(list)
        for unit in self.plan.units:
            if unit.kind != "measure":
                continue
            if jobs > 1 and registry.probes.get(unit.context["plugin"]).side_by_side:
                together.append(unit)
            else:
                (rounds[int(unit.context["round"])] if unit.key in of_rounds else single).append(unit)
        in_turn = sorted(single, key=lambda unit: place.get(str(unit.context["arm"]), len(place)))
        for number in sorted(rounds):
            todo = sorted(rounds[number], key=lambda unit: place.get(str(unit.context["arm"]), -1))
            in_turn += reversed(todo) if number % 2 else todo
        return together, [(unit, arms.get(str(unit.context["arm"]))) for unit in in_turn]

    def _make_here(self, arm: Arm, todo: Sequence[Unit]) -> None:
        """Clips in this process, each scored before the next but one is begun."""
        for batch in batches.grouped(todo, arm) if todo else ():
            self._batch(arm, batch)
        self._collect()
        self.models.unload()

    def _make_apart(self, todo: Sequence[tuple[Arm, Unit]], processes: int) -> None:
        """Clips in as many processes, scored here as they come."""
        threads = max(1, devices.cores() // processes) if processes > 1 else None

        def start(say: Callable[[str], None]) -> ClipWorker:
            return ClipWorker(self.plan.device, self.setting, say, self.store.folder, threads, self.log, self.limits)

        while todo:
            count = self._room([unit for _, unit in todo])
            if not count and self._score_next():
                continue
            now, todo = todo[: max(1, count)], todo[max(1, count) :]
            tasks = [
                (arm, batch)
                for arm in self.plan.arms
                if (mine := [unit for other, unit in now if other is arm])
                for batch in batches.grouped(mine, arm, processes=processes)
            ]
            of = {unit.key: unit for _, unit in now}
            with closing(work_all(tasks, processes, start, self._say, self._score_next)) as records:
                for record in records:
                    self._write(record)
                    self.unscored.append(of[record.key])

    def _score_next(self) -> bool:
        """Score a clip that waits for that; false where none does."""
        if not self.unscored:
            return False
        self._scores(self.unscored.popleft())
        return True

    def _batch(self, arm: Arm, batch: Sequence[Unit]) -> None:
        """Clips that are made together; the scores of the clips before them."""
        while batch:
            if not self._room(batch):
                self._collect()
            count = max(1, self._room(batch))
            self.maker.make(arm, batch[:count])
            batch = batch[count:]
            self._collect(0 if any(attempt.stopped for attempt, _ in self.maker.unfinished) else count)

    def _room(self, batch: Sequence[Unit]) -> int:
        """How many of the clips may be begun before the limit is reached by them and by their scores."""
        if self.limit is None:
            return len(batch)
        ahead = self.finished + sum(1 + len(self.scores[unit.key]) for _, unit in self.maker.unfinished)
        ahead += sum(not self._done(score) for unit in self.unscored for score in self.scores[unit.key])
        room = 0
        for unit in batch:
            if ahead >= self.limit:
                break
            room, ahead = room + 1, ahead + 1 + len(self.scores[unit.key])
        return room

    def _collect(self, leave: int = 0) -> None:
        """Wait for the clips that are being finished, but for the last `leave`; count and score each."""
        unfinished = self.maker.unfinished
        while len(unfinished) > leave:
            attempt, unit = unfinished[0]
            made = attempt.record()
            unfinished.popleft()
            self._count(*made)
            self._scores(unit)

    def _scores(self, of: Unit) -> None:
        for unit in self._due(of):
            self._score(unit)

    def _due(self, of: Unit) -> list[Unit]:
        """The scores of a clip, and those held against it, to be tried now: both clips are there, or failed."""
        due = [
            unit
            for unit in self.scores[of.key]
            if unit.key not in self.tried and self.settled.issuperset(scored_clips(unit)) and not self._done(unit)
        ]
        self.tried.update(unit.key for unit in due)
        return due

    def _score(self, unit: Unit) -> None:
        def work() -> units.Result:
            clip = self._clip(unit)
            return units.score(unit, self.scorers.get(unit), clip)

        self._write(units.attempt(unit, self.setting, work))

    def _clip(self, unit: Unit) -> Clip:
        """The clip of a score unit, with its reference. Raises `NotAvailable` where one was not made, `ClipError`."""
        clips = []
        for name, key in zip(("clip", "reference clip"), scored_clips(unit), strict=False):
            if key not in self.digests:
                raise NotAvailable(f"its {name} was not made")
            of, info = self.units[key], self.index[key].clip
            clips.append(units.clip_of(of, info, self.store.clip_path(key), int(of.context["index"])))
        return units.held_against(*clips) if len(clips) > 1 else clips[0]

    def task(self, unit: Unit, arm: Arm | None) -> Task:
        """What a process that measures is asked for."""
        section = self.sections[str(unit.context["section"])]
        return unit, arm, section.options, section.timeout_s

    def _measurer(self, say: Callable[[str], None]) -> Measurer:
        return Measurer(self.plan.device, self.setting, say, self.scratch, self.log)

    def _measure_together(self, todo: Sequence[Unit], jobs: int) -> None:
        arms = {arm.label: arm for arm in self.plan.arms}
        tasks = [self.task(unit, arms.get(str(unit.context["arm"]))) for unit in todo if not self._done(unit)]
        if self.limit is not None:
            tasks = tasks[: self.limit - self.finished]
        with closing(work_all(tasks, jobs, self._measurer, self._say)) as records:
            for record in records:
                self._write(record)

    # -------------------------------------------------------------------------------- the records

    def _write(self, *records: Record) -> None:
        """Bring records to the disk together, and count them."""
        entries = {record.key: self._skipped_again(record) for record in records}
        new = [record for record in records if entries[record.key] is None]
        entries |= zip((record.key for record in new), self.store.records.append_all(new), strict=True)
        for record in records:
            entry = entries[record.key]
            assert entry is not None
            self._note(record, entry)
        self._stop_where_asked()

    def _keep(self, record: Record) -> IndexEntry:
        """Append a record, and return the entry that counts from now on."""
        return self._skipped_again(record) or self.store.records.append(record)

    def _skipped_again(self, record: Record) -> IndexEntry | None:
        """The entry of a unit that is skipped again for the same reason: running again adds no second record."""
        entry = self.index.get(record.key) if record.status == "skipped" else None
        if entry is None or entry.status != "skipped":
            return None
        return entry if self.store.records.at(entry.offset).notes == record.notes else None

    def _count(self, record: Record, entry: IndexEntry) -> None:
        """Count a record, and stop where the suite or the limit says so."""
        self._note(record, entry)
        self._stop_where_asked()

    def _stop_where_asked(self) -> None:
        if reason := stop_reason(self.plan.suite.errors, self.failed, len(self.plan.units)):
            raise _Stop(reason)
        if self.limit is not None and self.finished >= self.limit:
            raise _Stop("")

    def _note(self, record: Record, entry: IndexEntry) -> None:
        self.index.add(entry)
        self.settled.add(record.key)
        if record.kind == "measure":
            placed(record, self.scratch, self.store.folder)
        if record.status == "ok":
            self.digests[record.key] = standing.seen(record.clip)
            # Scores of a clip that was lost stand again where it is made again as it was.
            self.total -= sum(map(self._done, self.scores[record.key]))
        else:
            self.digests.pop(record.key, None)
        self.finished += 1
        self.done_now += record.status == "ok"
        self.failed += record.status == "failed"
        self.progress(self._tick(record=record))

    def _say(self, message: str) -> None:
        self.progress(self._tick(message=message))

    def _tick(self, message: str = "", record: Record | None = None) -> Tick:
        seconds = time.monotonic() - self.began
        return Tick(self.finished, self.total, self.failed, seconds, message, record)

    def release(self) -> None:
        """Let the clips that are being finished be finished, and free models and metrics."""
        while self.maker.unfinished:
            attempt, _ = self.maker.unfinished.popleft()
            # The run ends with the fault that brought it here; an interrupted clip gives its interrupt again.
            with suppress(Exception, KeyboardInterrupt):
                self._note(*attempt.record())
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
            already_done=status["ok"] - self.done_now,
            done_now=self.done_now,
            failed=status["failed"],
            skipped=status["skipped"],
            pending=status["pending"],
            stopped=self.stopped,
        )
