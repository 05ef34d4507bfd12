"""A metric that scores in an environment of its own: light in this process, its job in a worker's."""

from __future__ import annotations

import atexit
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from harness.contracts import Availability, Clip, Json, Metric, Options
from harness.environments.build import find
from harness.environments.lock import read_lock
from harness.environments.weights.manifest import read_manifest
from harness.environments.weights.store import availability, digests
from harness.environments.worker.client import Answer, Limits, Worker
from harness.errors import HarnessError, NotAvailable
from harness.system.files import weights_folder

JOBS = Path(__file__).parents[2] / "metrics" / "jobs"
DRAWING = JOBS.with_name("drawing")
DEATHS_IN_SETUP = 2
"""Workers that may die in setting up one job before it is not tried again."""


class WorkerMetric(Metric):
    """Base of the metrics whose packages cannot live in the core environment.

    A subclass gives `values`, `environment`, `job` and, where it needs weights, `weights` and `weight_groups`. Metrics
    of one environment and device share one worker, so a clip is decoded once and its features are at hand for all.

    Attributes:
        job: the file that runs inside the environment; `harness/environments/worker/program.py` says what it defines.
            Its `setup` gets the folder of the set `weights`.
        weights: the set of the manifest that it loads from; empty for none.
        packages: those whose versions stand in every record.
        limits: time and memory of the worker. The first metric to be set up in an environment decides for all of it.
        drawing: a file as `job`, whose `setup` alone is called: it draws random weights of their true format into the
            folder of the set; None where there is none, so that a rehearsal scores with the weights that are here.
    """

    job: ClassVar[Path]
    weights: ClassVar[str] = ""
    packages: ClassVar[tuple[str, ...]] = ("torch", "numpy")
    limits: Limits = Limits()
    drawing: ClassVar[Path | None] = None

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._answer: Answer | None = None
        self._scorer: Scorer | None = None

    def job_options(self) -> dict[str, Json]:
        """The argument of the job's `setup`: the options as JSON."""
        values: dict[str, Json] = self.options.model_dump(mode="json")
        return values

    def weight_groups(self) -> Sequence[str]:
        """The parts of the set `weights` that these options need; empty for all of it."""
        return ()

    def weight_digests(self) -> dict[str, str]:
        """SHA-256 by file name of the weights that decide the score."""
        return digests(self.weights, self.weight_groups()) if self.weights else {}

    def settings(self) -> dict[str, str]:
        """Environment variables that the packages need."""
        return {}

    def drawn(self, folder: Path) -> Mapping[str, Json]:
        """Options that, set over these, score with what `draw` puts into a weights folder; none unless overridden."""
        return {}

    def drawing_options(self) -> dict[str, Json]:
        """The argument of the drawing's `setup`: groups of weights, and the manifest's files for them with links."""
        groups = list(self.weight_groups())
        needed = read_manifest().get(self.weights).needed(groups)
        return {"groups": groups, "files": {file.path: list(file.links) for file in needed}}

    def draw(self, folder: Path) -> None:
        """Draw random weights into the weights folder `folder`, in the environment.

        Nothing is drawn that is there. Raises `NotAvailable`, `JobFault` or `WorkerFault`.
        """
        if self.drawing is None:
            raise NotAvailable(f"nothing draws random weights of {self.weights}", "fetch them")
        environment = find(self.environment)
        limits = self.limits.with_user_settings()
        worker = Worker(environment.python, environment.name, self.settings(), limits)
        try:
            worker.setup("drawing", self.drawing, self.drawing_options(), folder / self.weights, "cpu")
        finally:
            worker.stop()

    def environment_available(self) -> Availability:
        """Whether the environment is built."""
        try:
            find(self.environment)
        except NotAvailable as error:
            return Availability(False, error.message, error.fix.removeprefix("type: "))
        return Availability(True)

    def available(self) -> Availability:
        """Ready when the environment is built and the weights are here."""
        environment = self.environment_available()
        if not environment.ready or not self.weights:
            return environment
        return availability(self.weights, self.weight_groups())

    def identity(self) -> Mapping[str, Json]:
        """The environment's lock and the weights."""
        lock = {"name": self.environment, "lock": read_lock(self.environment).digest}
        return {"environment": lock, "weights": dict(self.weight_digests())}

    def setup(self, device: str) -> None:
        """Start the environment's worker, unless another metric has, and load the job there."""
        self.close()
        self._scorer = Scorer(self, device)
        try:
            self._scorer.prepare()
        except BaseException:
            self.close()
            raise

    def score(self, clip: Clip) -> Mapping[str, float]:
        """Score one clip in the worker, starting it anew if it has died since. Raises `JobFault` or `WorkerFault`."""
        if self._scorer is None:
            raise HarnessError("setup() was not called")
        self._answer = None  # so that after a failure no samples of the clip before are taken for this one's
        self._answer = self._scorer.score(clip)
        return self._answer.values

    def samples(self) -> Mapping[str, Sequence[float]]:
        """The job's lists for the last clip."""
        return self._answer.samples if self._answer else {}

    def notes(self) -> Mapping[str, Json]:
        """The environment that scored, the versions of `packages` in it, its seconds and its peak memory."""
        if self._answer is None or self._scorer is None:
            return {}
        versions = self._scorer.versions
        return {
            "environment": self.environment,
            "packages": {name: versions[name] for name in self.packages if name in versions},
            "seconds": round(self._answer.seconds, 3),
            "peak_bytes": self._answer.peak_bytes,
        }

    def close(self) -> None:
        """Let go of the worker. The last metric to do so ends it."""
        scorer, self._scorer = self._scorer, None
        if scorer is not None:
            scorer.close()


_numbers = itertools.count()


class Scorer:
    """One metric's seat at the worker that its environment and device share."""

    def __init__(self, metric: WorkerMetric, device: str) -> None:
        environment = find(metric.environment)
        self._metric = metric
        self._device = device
        self._job = f"{metric.job.stem}:{next(_numbers)}"
        self._key = (environment.name, environment.digest, device, tuple(sorted(metric.settings().items())))
        limits = metric.limits.with_user_settings()
        self._worker = _shared.take(
            self._key, lambda: Worker(environment.python, environment.name, metric.settings(), limits)
        )
        self._fault: HarnessError | None = None
        self._deaths = 0

    @property
    def versions(self) -> dict[str, str]:
        """Packages of the running worker."""
        return dict(self._worker.hello.get("versions", {}))

    def prepare(self) -> None:
        """Load the job, unless this process of the worker has it. A setup that failed is not tried for every clip."""
        if self._fault is not None:
            raise self._fault
        metric = self._metric
        try:
            self._worker.setup(
                self._job, metric.job, metric.job_options(), weights_folder() / metric.weights, self._device
            )
        except HarnessError as error:
            # A setup that raised raises again. One that died may have been killed from outside, so it gets another try.
            self._deaths += 1
            if self._worker.alive or self._deaths >= DEATHS_IN_SETUP:
                self._fault = error
            raise
        self._deaths = 0

    def score(self, clip: Clip) -> Answer:
        """Score one clip. Raises `JobFault` or `WorkerFault`."""
        self.prepare()
        return self._worker.score(self._job, clip)

    def close(self) -> None:
        """Leave the worker to the others, or end it."""
        _shared.give(self._key)


class _Shared:
    """The workers of this process by environment and device, each with the number of metrics that use it."""

    def __init__(self) -> None:
        self._workers: dict[object, tuple[Worker, int]] = {}
        self._watched = False

    def take(self, key: object, make: Callable[[], Worker]) -> Worker:
        # At exit, as workers are processes of their own and would outlive an interrupted run.
        if not self._watched:
            atexit.register(self.end)
            self._watched = True
        worker, users = self._workers.get(key) or (make(), 0)
        self._workers[key] = (worker, users + 1)
        return worker

    def give(self, key: object) -> None:
        worker, users = self._workers[key]
        if users > 1:
            self._workers[key] = (worker, users - 1)
        else:
            del self._workers[key]
            worker.stop()

    def end(self) -> None:
        for worker, _ in self._workers.values():
            worker.kill()
        self._workers.clear()


_shared = _Shared()
