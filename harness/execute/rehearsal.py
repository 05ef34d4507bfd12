"""Make of a suite its rehearsal: the same arms, metrics, probes, tables and plots, each as small as it can be.

The result is a suite as any other. It takes the one road, and `Suite.rehearsal` marks whatever is made on it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from harness import testing
from harness.contracts import Json, Metric, ModelCard, Probe, VideoModel, enforce, registry
from harness.environments.worker.metric import WorkerMetric
from harness.errors import HarnessError, shown
from harness.runs import foresight
from harness.runs.index import IndexEntry
from harness.runs.plan import Plan, Unit
from harness.runs.records import RecordFile
from harness.suite.prompt_schema import PromptSet, SwitchEntry
from harness.suite.schema import (
    ALL,
    GenerateSection,
    MeasureSection,
    MetricUse,
    ModelEntry,
    Suite,
    dump,
)
from harness.suite.scripts import scripts_of
from harness.system import devices
from harness.system.files import make_folder, weights_folder, weights_in

PROMPTS, SEEDS = 2, 1
SHORTEST = 21
"""Frames of a clip, where no chunk, window, switch or metric needs more."""
PIXELS = 16
"""Of which sides of frames are a multiple: eight of a latent of Wan's VAE, in patches of two."""
STAND_IN_SIDE = 32
"""Pixels of the sides of a stand-in's frames, where no metric needs more."""
MEASURE_S = 300.0
"""Seconds that one measurement may take."""

T = TypeVar("T")
SectionT = TypeVar("SectionT", GenerateSection, MeasureSection)

Kind = Literal["device", "model", "metric", "probe", "tables"]


@dataclass(frozen=True, slots=True)
class Part:
    """Something of the suite that can be rehearsed.

    Attributes:
        name: label of an arm, or name of a metric or probe.
        note: how it is rehearsed, where that is not at its tiny size.
        stop, fix: what stops the real run, and the remedy; empty where nothing is known to.
        stands_in: whether a stand-in took its place.
        fault: why its random weights could not be drawn.
    """

    kind: Kind
    name: str
    note: str = ""
    stop: str = ""
    fix: str = ""
    stands_in: bool = False
    fault: str = ""


@dataclass(slots=True)
class Rehearsal:
    """A suite made small, what is known of its parts before it runs, and by name the metrics to draw weights for."""

    suite: Suite
    parts: list[Part] = field(default_factory=list)
    to_draw: list[tuple[str, WorkerMetric]] = field(default_factory=list)


def rehearsal_of(suite: Suite, weights: Path | None = None) -> Rehearsal:
    """The rehearsal of a loaded suite. Raises `HarnessError` where not even a small one can be made.

    Args:
        weights: the weights folder that random weights will be drawn into; None where metrics score with what is here.
    """
    device, parts = _device(suite.device)
    sides = _sides(suite, parts)
    models = [_Arm(entry, device, sides[entry.label]) for entry in suite.models]
    parts += [arm.part for arm in models]
    # Scripts name their prompts by number.
    named = [
        entry.prompt for kind in (suite.generate, suite.measure) for each in kind for entry in each.scripts[:PROMPTS]
    ]
    count = max([PROMPTS, *(number + 1 for number in named)])
    small = suite.model_copy(
        update={
            "rehearsal": True,
            "title": f"Rehearsal of {suite.title or suite.suite}",
            "device": device,
            "errors": "continue",
            "incomplete": "mark",
            "models": [arm.entry for arm in models],
            "prompts": {
                name: _few(prompts, [*range(count), *_to_try(suite, name, parts)])
                for name, prompts in suite.prompts.items()
            },
        }
    )
    drawings = _Drawings(weights)
    generate = [_generate(section, models, parts, drawings) for section in suite.generate]
    measure = [_measure(section, models, parts, device) for section in suite.measure]
    small = small.model_copy(update={"generate": generate, "measure": measure})
    small = small.model_copy(
        update={
            "generate": [_taken(small, section, models, parts) for section in generate],
            "measure": [_taken(small, section, models, parts) for section in measure],
        }
    )
    return Rehearsal(Suite.model_validate(dump(small)), parts, drawings.metrics)


def _device(asked: str) -> tuple[str, list[Part]]:
    """Where it is rehearsed, and whether the suite could run here."""
    try:
        return devices.resolve(asked), []
    except HarnessError as error:
        return devices.resolve("auto"), [Part("device", asked, "rehearsed on cpu", error.message, error.fix)]


# ------------------------------------------------------------------------------------------------- arms


class _Arm:
    """An arm of the suite, and what takes its place in the rehearsal.

    Attributes:
        entry: the arm at its tiny size, at its own where it has none, or the stand-in where it cannot be made.
        model, card: of that entry.
    """

    def __init__(self, entry: ModelEntry, device: str, side: int) -> None:
        stop, fix = _stop_of_model(entry, device)
        stands_in = False
        try:
            self.entry, self.model, self.card, note = _small(entry, device, side)
        except Exception as error:  # noqa: BLE001 - a plug-in may raise anything
            why, _ = _told(error)
            testing.load_stand_in()
            size: dict[str, Json] = dict.fromkeys(("height", "width"), max(STAND_IN_SIDE, side))
            stand_in = ModelEntry(name=testing.STAND_IN, label=entry.label, options=size)
            self.entry, self.model, self.card, _ = _small(stand_in, device, side)
            note, stands_in = "a stand-in took its place" + ("" if stop else f": {shown(why, 200)}"), True
        self.part = Part("model", entry.label, note, stop, fix, stands_in)


def _sides(suite: Suite, parts: list[Part]) -> dict[str, int]:
    """For each arm the shortest side of a frame that the metrics of its clips take, a multiple of what codecs take."""
    sides = {entry.label: 1 for entry in suite.models}
    for section in suite.generate:
        for use in section.metrics:
            try:
                side = int(registry.metrics.create(use.name, use.options).smallest())
            except Exception as error:  # noqa: BLE001 - a plug-in may raise anything
                _add(parts, Part("metric", use.name, "", *_told(error)))
                continue
            for label in sides if section.models is None else section.models:
                sides[label] = max(sides[label], -(-side // PIXELS) * PIXELS)
    return sides


def _stop_of_model(entry: ModelEntry, device: str) -> tuple[str, str]:
    """What stops the real arm, before anything is loaded, and the remedy."""
    try:
        model = registry.models.create(entry.name, entry.options)
        enforce.card(entry.label, model)
        model.identity(device.partition(":")[0])
    except Exception as error:  # noqa: BLE001 - a plug-in may raise anything
        return _told(error)
    return "", ""


def _told(error: Exception) -> tuple[str, str]:
    """What an exception says, and the remedy where it has one."""
    if isinstance(error, HarnessError):
        return error.message, error.fix
    return f"{type(error).__name__}: {error}", ""


def _small(entry: ModelEntry, device: str, side: int) -> tuple[ModelEntry, VideoModel, ModelCard, str]:
    """The arm at its tiny size, its model and card, and a note. Raises what a plug-in raises, and `HarnessError`.

    A tiny size that names height and width grows to `side`, which metrics need.
    """
    own = registry.models.create(entry.name, entry.options)
    tiny = dict(own.tiny())
    for name in ("height", "width"):
        if isinstance(pixels := tiny.get(name), int):
            tiny[name] = max(pixels, side)
    model = registry.models.create(entry.name, {**entry.options, **tiny}) if tiny else own
    card = enforce.card(entry.label, model)
    model.identity(device.partition(":")[0])
    if not tiny and (card.parameters or 0) > testing.LIVE_PARAMETERS:
        raise HarnessError(f"it has {card.parameters:,} parameters and no tiny size", "override tiny() in its class")
    note = "" if tiny or entry.name == testing.STAND_IN else "at its own size"
    return entry.model_copy(update={"options": model.options.model_dump(mode="json")}), model, card, note


# --------------------------------------------------------------------------------------- prompts, sections


def _to_try(suite: Suite, name: str, parts: list[Part]) -> list[int]:
    """The prompts of a set, by number, that metrics of its sections need so that each of their values is tried."""
    prompts = suite.prompts[name]
    numbers: list[int] = []
    for section in suite.generate:
        for use in section.metrics if section.prompts == name and not (section.scripts or section.switches) else ():
            try:
                metric = registry.metrics.create(use.name, use.options)
                numbers += map(int, metric.to_try(prompts.identities or prompts.texts))
            except Exception as error:  # noqa: BLE001 - a plug-in may raise anything
                _add(parts, Part("metric", use.name, "", *_told(error)))
    return numbers


def _few(prompts: PromptSet, numbers: Sequence[int]) -> PromptSet:
    """The prompts of these numbers, with what belongs to each."""

    def few(values: Sequence[T]) -> list[T]:
        return [values[number] for number in dict.fromkeys(numbers) if 0 <= number < len(values)]

    update: dict[str, Any] = {
        name: few(getattr(prompts, name)) for name in ("texts", "prefixes", "identities", "scripts")
    }
    update["attributes"] = {name: few(values) for name, values in prompts.attributes.items()}
    return prompts.model_copy(update=update)


def _generate(
    section: GenerateSection, models: Sequence[_Arm], parts: list[Part], drawings: _Drawings
) -> GenerateSection:
    """A section of few and short clips, and its metrics with random weights where they have some."""
    arms = _taking_part(section, models)
    metrics = [_metric(use, parts, drawings) for use in section.metrics]
    frames = [2 * arm.card.frames_per_chunk + 1 for arm in arms]
    frames += [_shortest(metric, use.name, arm.card.frame_rate, parts) for metric, use in metrics for arm in arms]
    update: dict[str, Any] = {
        "seeds": section.seeds[:SEEDS],
        "scripts": section.scripts[:PROMPTS],
        "batch": 1 if section.batch == "auto" else min(section.batch, PROMPTS),
        "memory": None,
        "metrics": [use for _, use in metrics],
    }
    if section.frames != ALL and not any(arm.model.existing for arm in arms):
        update |= _short(section.frames, section.switches, max([SHORTEST, *frames]))
    return section.model_copy(update=update)


def _measure(section: MeasureSection, models: Sequence[_Arm], parts: list[Part], device: str) -> MeasureSection:
    """A section of one short measurement an arm."""
    probe = registry.probes.create(section.probe, section.options)
    options, stop, note = dict(section.options), ("", ""), ""
    try:
        state = probe.available(device)
        stop = ("", "") if state.ready else (state.reason or "it is not available", state.fix)
        note = "" if probe.tiny() else "as it is"
        options = _options(registry.probes, section.probe, section.options, probe)
    except Exception as error:  # noqa: BLE001 - a plug-in may raise anything
        stop = _told(error)
    _add(parts, Part("probe", section.probe, note, *stop))
    arms = _taking_part(section, models)
    windows = [(arm.card.window_frames or 0) * arm.card.temporal_ratio for arm in arms]
    chunks = [arm.card.frames_per_chunk for arm in arms]
    full = [window + 2 * chunk + 1 for window, chunk in zip(windows, chunks, strict=True)]
    update: dict[str, Any] = {"options": options, "rounds": 1, "seeds": section.seeds[:SEEDS]}
    update["scripts"] = section.scripts[:PROMPTS]
    update |= {"batch": min(section.batch, PROMPTS), "timeout_s": min(section.timeout_s, MEASURE_S)}
    return section.model_copy(update=update | _short(section.frames, section.switches, max([1, *full])))


def _short(frames: int, switches: Sequence[SwitchEntry], most: int) -> dict[str, Any]:
    """Frames and switches of a clip as short as it may be: `most` frames for each prompt."""
    if frames <= most * (len(switches) + 1):
        return {}
    moved = [SwitchEntry(frame=most * number, prompts=switch.prompts) for number, switch in enumerate(switches, 1)]
    return {"frames": most * (len(switches) + 1), "switches": moved}


def _taking_part(section: GenerateSection | MeasureSection, models: Sequence[_Arm]) -> list[_Arm]:
    return [arm for arm in models if section.models is None or arm.entry.label in section.models]


def _taken(suite: Suite, section: SectionT, models: Sequence[_Arm], parts: list[Part]) -> SectionT:
    """The section without the arms that refuse its short clip, each of which is noted."""
    if isinstance(section, MeasureSection) and not registry.probes.get(section.probe).needs_model:
        return section
    scripts = scripts_of(suite, section)
    refusing: list[str] = []
    for arm in _taking_part(section, models):
        label = arm.entry.label
        try:
            if isinstance(section, MeasureSection):
                foresight.of_workload(suite, section, label, arm.model, arm.card, scripts)
            else:
                foresight.ClipRequests(suite, section, label, arm.model, arm.card).additions(
                    scripts[0], section.seeds[0]
                )
        except HarnessError as error:
            refusing.append(label)
            _add(parts, Part("model", label, f"not rehearsed in {shown(error.message, 300)}"))
    labels = [arm.entry.label for arm in _taking_part(section, models) if arm.entry.label not in refusing]
    return section.model_copy(update={"models": labels}) if refusing else section


# ------------------------------------------------------------------------------------------ metrics, probes


@dataclass(slots=True)
class _Drawings:
    """The metrics whose random weights are drawn into `folder`; none without a folder."""

    folder: Path | None
    metrics: list[tuple[str, WorkerMetric]] = field(default_factory=list)

    def of(self, name: str, metric: Metric) -> dict[str, Json]:
        """What the options of a metric become where its weights are drawn; nothing where none are."""
        if self.folder is None or not isinstance(metric, WorkerMetric) or metric.drawing is None:
            return {}
        if not metric.environment_available().ready:
            return {}
        options = {**metric.options.model_dump(mode="json"), **metric.drawn(self.folder)}
        small = registry.metrics.create(name, options)
        assert isinstance(small, WorkerMetric)
        self.metrics.append((name, small))
        return options


def _metric(use: MetricUse, parts: list[Part], drawings: _Drawings) -> tuple[Metric, MetricUse]:
    """A metric of the suite with its tiny options, where it has some."""
    metric = registry.metrics.create(use.name, use.options)
    stop = ("", "")
    try:
        state = metric.available()
        stop = ("", "") if state.ready else (state.reason, state.fix)
        options = _options(registry.metrics, use.name, use.options, metric)
        metric = registry.metrics.create(use.name, options)
        use = use.model_copy(update={"options": options | drawings.of(use.name, metric)})
    except Exception as error:  # noqa: BLE001 - a plug-in may raise anything
        stop = _told(error)
    _add(parts, Part("metric", use.name, "", *stop))
    return registry.metrics.create(use.name, use.options), use


def _shortest(metric: Metric, name: str, frame_rate: float, parts: list[Part]) -> int:
    """Frames of the shortest clip that the metric takes; 1, and a stop, where it cannot say."""
    try:
        return int(metric.shortest(frame_rate))
    except Exception as error:  # noqa: BLE001 - a plug-in may raise anything
        _add(parts, Part("metric", name, "", *_told(error)))
        return 1


def _options(
    kind: registry.Registry[Any], name: str, options: Mapping[str, Json], plugin: Metric | Probe
) -> dict[str, Json]:
    """`options` with the tiny ones of the plug-in over them, every default filled in."""
    values: dict[str, Json] = kind.create(name, {**options, **plugin.tiny()}).options.model_dump(mode="json")
    return values


def _add(parts: list[Part], part: Part) -> None:
    """Add what is known of a part; one that several sections name is one part, with what stops any of them."""
    for place, earlier in enumerate(parts):
        if (earlier.kind, earlier.name) == (part.kind, part.name):
            stop, fix = (earlier.stop, earlier.fix) if earlier.stop else (part.stop, part.fix)
            notes = dict.fromkeys(filter(None, (earlier.note, part.note)))
            fault = earlier.fault or part.fault
            parts[place] = replace(earlier, note="; ".join(notes), stop=stop, fix=fix, fault=fault)
            return
    parts.append(part)


# ------------------------------------------------------------------------------------------ random weights


@contextmanager
def random_weights(rehearsal: Rehearsal, folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Draw the metrics' random weights into `folder`, which is the weights folder meanwhile and deleted at the end.

    Sets of which nothing is drawn stay those that are here. A metric whose weights cannot be drawn is noted.
    """
    real = weights_folder()
    try:
        make_folder(folder)
        drawn = {metric.weights for _, metric in rehearsal.to_draw}
        for path in real.iterdir() if real.is_dir() else ():
            if path.name not in drawn:
                (folder / path.name).symlink_to(path)
        with weights_in(folder):
            for name, metric in rehearsal.to_draw:
                say(f"drawing random weights of {name}")
                _draw(rehearsal, name, metric, folder)
            yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _draw(rehearsal: Rehearsal, name: str, metric: WorkerMetric, folder: Path) -> None:
    part = Part("metric", name, "on random weights")
    try:
        if not metric.available().ready:
            metric.draw(folder)
    except Exception as error:  # noqa: BLE001 - packages of an environment may raise anything
        why, _ = _told(error)
        part = Part("metric", name, fault=f"its random weights cannot be drawn: {why}")
    _add(rehearsal.parts, part)


# --------------------------------------------------------------------------------------------- how it ended


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a part ended, and why; `fix` is the remedy where one is known."""

    part: Part
    ended: Literal["ran", "stopped", "failed", "not tried"]
    reason: str = ""
    fix: str = ""


def verdicts(parts: Sequence[Part], plan: Plan, records: RecordFile) -> list[Verdict]:
    """How each part ended in a rehearsal that has been run: one that failed, before what stops the real run."""
    index = records.newest()
    entries = [(unit, entry) for unit in plan.units if (entry := index.get(unit.key)) is not None]
    ends = []
    for part in parts:
        planned = any(_is_of(part, unit) for unit in plan.units)
        own = [entry for unit, entry in entries if _is_of(part, unit) and _tells(part, unit, entry)]
        ends.append(_verdict(part, own, records, planned))
    return ends


def _is_of(part: Part, unit: Unit) -> bool:
    if part.kind == "model":
        return unit.kind in ("generate", "measure") and unit.context["arm"] == part.name
    return unit.kind == {"metric": "score", "probe": "measure"}.get(part.kind) and unit.context["plugin"] == part.name


def _tells(part: Part, unit: Unit, entry: IndexEntry) -> bool:
    """Whether the end of a unit says something of the part: a measurement that is not available is the probe's."""
    return part.kind != "model" or unit.kind == "generate" or entry.status != "skipped"


def _verdict(part: Part, entries: Sequence[IndexEntry], records: RecordFile, planned: bool) -> Verdict:
    by_status = {entry.status: entry for entry in reversed(entries)}
    if (failed := by_status.get("failed")) is not None:
        error = records.at(failed.offset).error
        return Verdict(part, "failed", f"{error.get('type')}: {error.get('message')}")
    if part.fault:
        return Verdict(part, "failed", part.fault)
    if part.stop:
        tried = replace(part, note=f"ran {part.note}" if part.note and "ok" in by_status else part.note)
        return Verdict(tried if part.kind == "metric" else part, "stopped", part.stop, part.fix)
    if part.stands_in:
        return Verdict(part, "not tried", part.note)
    if "ok" in by_status:
        return Verdict(part, "ran", part.note)
    if (skipped := by_status.get("skipped")) is not None:
        notes = records.at(skipped.offset).notes
        return Verdict(part, "stopped", str(notes.get("reason", "")), str(notes.get("fix", "")))
    return Verdict(part, "not tried", part.note or ("it was not reached" if planned else "no section runs it"))
