"""Turn a suite into units of work. Pure and torch-free: the same suite gives the same plan everywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness.contracts import Json, ModelCard, VideoModel, enforce, registry
from harness.errors import HarnessError, OptionError, RegistryError, SuiteError
from harness.runs import foresight
from harness.runs.code import CODE, code_of
from harness.runs.keys import IDENTITY_VERSION, Template
from harness.runs.keys import key as key_of
from harness.suite import plugins
from harness.suite.schema import (
    MAX_BATCH,
    GenerateSection,
    MeasureSection,
    MetricUse,
    ModelEntry,
    Suite,
    dump,
)
from harness.suite.scripts import Script, scripts_of
from harness.system import devices
from harness.system.digests import canonical
from harness.system.files import folder_kept

PLAN_SCHEMA = 1
Kind = Literal["generate", "score", "measure"]


@dataclass(frozen=True, slots=True)
class Unit:
    """One piece of work.

    Attributes:
        key: digest of `preimage`.
        kind: `generate` (one clip), `score` (a clip under one metric) or `measure` (a probe on one model).
        preimage: everything that could change the result.
        context: further facts for readers, not part of the key: suite, arm, section, plugin (metric or probe), prompt,
            seed, index (of the seed among the prompt's), for a score `of`, the key of its generate unit, and
            `reference`, that of the clip it is held against, if it is, `batch`, how many clips are made together, where
            they are several, and `code`, as of `code_of`.
    """

    key: str
    kind: Kind
    preimage: Mapping[str, Json]
    context: Mapping[str, Any]


def scored_clips(unit: Unit) -> tuple[str, ...]:
    """The keys of the clips that a score unit is of: its own, then that of its reference, if it has one."""
    return tuple(str(unit.preimage[name]) for name in ("generate", "reference") if name in unit.preimage)


@dataclass(frozen=True, slots=True)
class Arm:
    """A model with all options resolved, as compared in tables.

    Attributes:
        label: its name in tables. name, options: of the registered model.
        identity: the model's part of its units' pre-images.
        card: the model's own description.
    """

    label: str
    name: str
    options: Mapping[str, Json]
    identity: Mapping[str, Json]
    card: ModelCard


@dataclass(frozen=True, slots=True)
class Group:
    """The planned units of one arm in one section, which `scored/planned` counts.

    Two groups may share keys where sections ask for the same thing. The unit then runs once.

    Attributes:
        arm: label; empty for a probe that needs no model.
        plugin: the metric or probe; empty for generate units.
        keys: in the order of (prompt, seed).
    """

    section: str
    arm: str
    kind: Kind
    plugin: str
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything a run will do. `units` holds every key once, generate units before the scores of their clips."""

    suite: Suite
    device: str
    arms: tuple[Arm, ...]
    units: tuple[Unit, ...]
    groups: tuple[Group, ...]


def to_json(plan: Plan) -> dict[str, Json]:
    """The content of `plan.json` in a run folder: the resolved suite, the arms with their cards, the planned keys."""
    return {
        "schema": PLAN_SCHEMA,
        "device": plan.device,
        "suite": dump(plan.suite),
        "arms": [_plain(arm) for arm in plan.arms],
        "groups": [_plain(group) for group in plan.groups],
    }


def _plain(item: Arm | Group) -> dict[str, Any]:
    body = {name: getattr(item, name) for name in item.__slots__}
    if isinstance(item, Arm):
        body["card"] = {name: getattr(item.card, name) for name in ModelCard.__slots__}
    return body


# ------------------------------------------------------------------------------------------- planning


@folder_kept()
def make(suite: Suite, device: str | None = None) -> Plan:
    """The plan of a loaded suite on `device`, by default the suite's own.

    Asks every model and metric for its identity and card, which imports no torch. Raises `HarnessError`.
    """
    device = device or devices.resolve(suite.device)
    kind = device.partition(":")[0]
    models = {entry.label: registry.models.create(entry.name, entry.options) for entry in suite.models}
    arms = {entry.label: _arm(entry, models[entry.label], kind) for entry in suite.models}
    units: dict[str, Unit] = {}
    groups: list[Group] = []
    for section in suite.generate:
        groups += _clips(suite, section, arms, models, kind, units)
    for probe_section in suite.measure:
        groups += _measures(suite, probe_section, arms, models, kind, units)
    suite = suite.model_copy(update={"plugins": _plugin_files(suite)})
    return Plan(suite, device, tuple(arms.values()), tuple(units.values()), tuple(groups))


def _plugin_files(suite: Suite) -> list[str]:
    """The plug-in files that a reader of the run may need, as a plan names them."""
    used = [registry.models.is_plugin(entry.name) for entry in suite.models]
    used += [registry.metrics.is_plugin(use.name) for section in suite.generate for use in section.metrics]
    used += [registry.probes.is_plugin(section.probe) for section in suite.measure]
    loaded = map(plugins.place, registry.plugin_files) if any(used) else ()
    return list(dict.fromkeys([*suite.plugins, *loaded]))


@folder_kept()
def _arm(entry: ModelEntry, model: VideoModel, device: str) -> Arm:
    try:
        return _described_arm(entry, model, device)
    except OptionError as error:  # its options fit their schema and not each other
        raise OptionError(f"model {entry.label!r}: {error.message}", error.fix) from error


def _described_arm(entry: ModelEntry, model: VideoModel, device: str) -> Arm:
    card = enforce.card(entry.label, model)
    try:
        own_identity = dict(model.identity(device))
    except HarnessError:
        raise
    except Exception as error:  # a plug-in may raise anything
        raise RegistryError(f"model {entry.label!r} has no identity: {type(error).__name__}: {error}") from error
    identity: dict[str, Json] = {
        "name": entry.name,
        "options": {name: value for name, value in entry.options.items() if name not in model.unkeyed},
        "version": model.version,
        "identity": own_identity,
    }
    canonical(identity)
    return Arm(entry.label, entry.name, entry.options, identity, card)


def _taking_part(section: GenerateSection | MeasureSection, arms: Mapping[str, Arm]) -> list[Arm]:
    return [arm for label, arm in arms.items() if section.models is None or label in section.models]


def _clips(
    suite: Suite,
    section: GenerateSection,
    arms: Mapping[str, Arm],
    models: Mapping[str, VideoModel],
    device: str,
    units: dict[str, Unit],
) -> list[Group]:
    """Add the section's generate and score units to `units`. Returns their groups."""
    taking_part = _taking_part(section, arms)
    scorers = [_Scorer(use, _mark(suite)) for use in section.metrics]
    clips = {arm.label: _clips_of(suite, section, arm, models[arm.label], device) for arm in taking_part}
    groups = []
    for arm in taking_part:
        # An arm that others are held against has no score of that metric itself.
        scoring = [scorer for scorer in scorers if scorer.against != arm.label]
        for scorer in scoring:
            if scorer.against:
                _refuse_unlike(section, scorer, arm, arms, models, clips)
        score_keys: dict[str, list[str]] = {scorer.name: [] for scorer in scoring}
        for place, clip in enumerate(clips[arm.label]):
            units.setdefault(clip.key, clip)
            for scorer in scoring:
                unit = scorer.unit(clip, clips[scorer.against][place] if scorer.against else None)
                score_keys[scorer.name].append(unit.key)
                units.setdefault(unit.key, unit)
        keys = tuple(clip.key for clip in clips[arm.label])
        groups.append(Group(section.name, arm.label, "generate", "", keys))
        groups += [Group(section.name, arm.label, "score", name, tuple(each)) for name, each in score_keys.items()]
    return groups


def _refuse_unlike(
    section: GenerateSection,
    scorer: _Scorer,
    arm: Arm,
    arms: Mapping[str, Arm],
    models: Mapping[str, VideoModel],
    clips: Mapping[str, Sequence[Unit]],
) -> None:
    """Raise `SuiteError` where the clips of an arm are those of its reference, or are known to be of another kind."""
    reference = arms[scorer.against]
    where = f"section {section.name!r}, metric {scorer.name!r}: "
    fix = f"leave {arm.label!r} out of the section (`models:`)"
    if any(own.key == other.key for own, other in zip(clips[arm.label], clips[reference.label], strict=True)):
        raise SuiteError(
            f"{where}{arm.label!r} makes the very clips of {reference.label!r}, so they would be held against "
            "themselves",
            fix,
        )
    if any(models[each.label].existing for each in (arm, reference)):
        return  # of clips that exist the files alone tell, each its own
    kinds = [
        f"{each.card.height} x {each.card.width} pixels at {each.card.frame_rate:g} a second"
        for each in (arm, reference)
    ]
    if kinds[0] != kinds[1]:
        raise SuiteError(f"{where}clips of {arm.label!r} have {kinds[0]}, those of {reference.label!r} {kinds[1]}", fix)


def _clips_of(suite: Suite, section: GenerateSection, arm: Arm, model: VideoModel, device: str) -> list[Unit]:
    """The section's generate units of one arm, in the order of (prompt, seed)."""
    scripts = scripts_of(suite, section)
    count = len(scripts) * len(section.seeds)
    batch = min(_batch(section, arm.label, model), count)
    requests = foresight.ClipRequests(suite, section, arm.label, model, arm.card, batch)
    # A clip that exists has a rate of its own; the card's is that of whichever comes first.
    frame_rate = None if model.existing else arm.card.frame_rate
    common: dict[str, Json] = {
        "identity": IDENTITY_VERSION,
        "kind": "generate",
        "model": arm.identity,
        "frames": section.frames,
        "batch": batch if model.batch_may_change_pixels(device) else 1,
        "device": device,
        "video": {"codec": "h264", "mbtree": False, "frame_rate": frame_rate, **suite.video.model_dump()},
        **_mark(suite),
    }
    if suite.rehearsal and any(use.against for use in section.metrics):
        common["rehearsal"] = arm.label  # tiny arms may be alike, and no clip is held against itself
    if not section.switches:
        common["switches"] = []
    template = Template(common)
    base: dict[str, Any] = {"suite": suite.suite, "arm": arm.label, "section": section.name}
    if batch > 1:
        base["batch"] = batch
    code = code_of(model)
    units = []
    for script in scripts:
        # A clip that exists is found by what it is known by.
        prompt = script.identity if model.existing else script.text
        by_prompt: dict[str, Json] = {"prompt": prompt}
        if section.switches:
            by_prompt["switches"] = [list(switch) for switch in script.at(requests.frames)]
        known_as = {"identity": script.identity} if script.identity != prompt else {}
        for index, seed in enumerate(section.seeds):
            varying = {**by_prompt, "seed": seed}
            if request := model.request_identity(prompt, seed):
                varying["request"] = dict(request)
            for_preimage, for_context = requests.additions(script, seed)
            varying |= for_preimage
            context = {**base, "plugin": "", "prompt": prompt, "seed": seed, "index": index}
            context |= {**known_as, **for_context, **code}
            units.append(Unit(template.key(varying), "generate", {**common, **varying}, context))
    return units


def _mark(suite: Suite) -> dict[str, Json]:
    """What the pre-images of a rehearsal have beside those of a run, so that no record of one stands for the other."""
    return {"rehearsal": True} if suite.rehearsal else {}


def _batch(section: GenerateSection, label: str, model: VideoModel) -> int:
    """Clips of one request, before they run out. Raises `SuiteError` where the memory allows none."""
    if section.batch != "auto":
        return section.batch
    where, memory = f"section {section.name!r}, model {label!r}", section.memory or 0
    if (sizes := model.batch_bytes()) is None:
        raise SuiteError(
            f"{where}: it does not say how much memory a clip takes, so there is no `batch: auto`",
            "state a number; the probe batch_scaling finds the largest",
        )
    weights, clip = sizes
    if weights + clip > memory:
        raise SuiteError(f"{where}: weights and one clip take {weights + clip} bytes, not {memory}", "raise `memory`")
    return min((memory - weights) // clip, MAX_BATCH)


class _Scorer:
    """The score units of one metric."""

    def __init__(self, use: MetricUse, mark: Mapping[str, Json]) -> None:
        self.name, self.against = use.name, use.against
        metric = registry.metrics.create(use.name, use.options)
        identity: dict[str, Json] = {
            "name": use.name,
            "options": use.options,
            "version": metric.version,
            "identity": dict(metric.identity()),
        }
        self.shared: dict[str, Json] = {"identity": IDENTITY_VERSION, "kind": "score", "metric": identity, **mark}
        self.template = Template(self.shared)
        self.code = code_of(metric)

    def unit(self, clip: Unit, reference: Unit | None) -> Unit:
        """The unit that scores a clip, held against `reference` where the metric takes one."""
        clips: dict[str, Json] = {"generate": clip.key}
        context = {name: fact for name, fact in clip.context.items() if name != CODE}
        context |= {"plugin": self.name, "of": clip.key, **self.code}
        # Said only where the clip is known by another text than made it, so that other scores keep their keys.
        if "identity" in context:
            clips["prompt_identity"] = context["identity"]
        if reference is not None:
            clips["reference"] = context["reference"] = reference.key
        return Unit(self.template.key(clips), "score", {**self.shared, **clips}, context)


def _measures(
    suite: Suite,
    section: MeasureSection,
    arms: Mapping[str, Arm],
    models: Mapping[str, VideoModel],
    device: str,
    units: dict[str, Unit],
) -> list[Group]:
    """Add the section's units to `units`: one an arm and round, or one a round where the probe needs no model."""
    probe = registry.probes.create(section.probe, section.options)
    scripts = scripts_of(suite, section)
    workload: dict[str, Json] = {
        "prompts": [script.text for script in scripts],
        "seeds": section.seeds,
        "frames": section.frames,
        "batch": section.batch,
        "switches": _without_model(section, scripts),
    }
    options = dict(probe.keyed_options(section.options))
    identity: dict[str, Json] = {"name": section.probe, "options": options, "version": probe.version}
    if depends := probe.identity():
        identity["identity"] = depends
    groups = []
    for arm in _taking_part(section, arms) if probe.needs_model else [None]:
        preimage: dict[str, Json] = {
            "identity": IDENTITY_VERSION,
            "kind": "measure",
            "model": arm.identity if arm else None,
            "probe": identity,
            "workload": workload,
            "device": device,
            **_mark(suite),
        }
        label = arm.label if arm else ""
        context: dict[str, Any] = {"suite": suite.suite, "arm": label, "section": section.name, "plugin": section.probe}
        context |= code_of(probe, *([models[label]] if arm else []))
        if arm:
            for_preimage, for_context = foresight.of_workload(
                suite, section, arm.label, models[label], arm.card, scripts
            )
            preimage["workload"] = {**workload, **for_preimage}
            context |= for_context
        keys = []
        for number in range(section.rounds):
            # The first round has no number, so that its record counts when a suite asks for more rounds later.
            turn = {"round": number} if number else {}
            unit = Unit(key_of({**preimage, **turn}), "measure", {**preimage, **turn}, {**context, "round": number})
            units.setdefault(unit.key, unit)
            keys.append(unit.key)
        groups.append(Group(section.name, label, "measure", section.probe, tuple(keys)))
    return groups


def _without_model(section: MeasureSection, scripts: Sequence[Script]) -> list[Json]:
    """The switches of a measurement at pixel frames; those at other points depend on the model, which adds them."""
    frames = [switch.frame for switch in section.switches]
    return [[frame, [script.later[number] for script in scripts]] for number, frame in enumerate(frames)]
