"""The schema of suite files, as pydantic models; `harness.suite.load.load_suite` reads one. Torch-free."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from harness.contracts import DRAWN_FROM, Json, ProbePlot
from harness.suite.part import Label, Name, Part
from harness.suite.prompt_schema import Dropped, PromptSet, ScriptEntry, SwitchEntry, nothing, points
from harness.suite.sampled import Drift, Serving

JsonValue = Any
"""Any value of YAML; pydantic cannot build a schema from the recursive `Json`."""


class ModelEntry(Part):
    """One arm, or several when it has a `grid`.

    Attributes:
        name: a registered model. A `grid` may give it instead, under the key `name`.
        label: how tables call the arm; the name unless given. A grid adds ` [option=value]`.
        options: checked by the model's own schema; in a loaded suite every default is filled in.
        grid: values by option; the arm is repeated for every combination. Empty in a loaded suite.
    """

    name: str = ""
    label: Label = ""
    options: dict[str, JsonValue] = {}
    grid: dict[str, list[JsonValue]] = {}


def _short_for(key: str, kind: type) -> BeforeValidator:
    """A value of `kind` alone stands for a mapping with only `key`."""
    return BeforeValidator(lambda value: {key: value} if isinstance(value, kind) else value)


Prompts = Annotated[PromptSet, _short_for("texts", list)]
Frames = Annotated[int, Field(ge=1, le=1_000_000)]
ALL: Literal["all"] = "all"
"""Frames of a section whose clips exist: of each as many as it has."""
Seeds = Annotated[list[Annotated[int, Field(ge=0, lt=2**63)]], Field(min_length=1)]


class MetricUse(Part):
    """A registered metric and its options; a bare name is enough in the file.

    Attributes:
        name: as `harness list metrics` shows it. options: checked by the metric's own schema.
        against: label of the arm whose clip of the same prompt and seed each clip is held against, where the metric
            takes one. That arm has no score itself.
    """

    name: str
    options: dict[str, JsonValue] = {}
    against: Annotated[str, Field(exclude_if=lambda label: not label)] = ""


class Video(Part):
    """How clips are written: H.264, yuv420p. The default quality keeps small clips nearly lossless.

    Attributes:
        crf: constant rate factor of x264, 0 (lossless in yuv420p) to 51.
        preset: of x264. The default is nearly as faithful at this quality as `medium` for a fifth of its time, so that
            the encoder keeps up with a model that streams.
    """

    crf: Annotated[int, Field(ge=0, le=51)] = 8
    preset: Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"] = (
        "veryfast"
    )


A_WEEK_S = 7 * 86_400.0


def _is_a_week(seconds: float) -> bool:
    """What plans leave out, so that those from before there was a limit are as they were."""
    return seconds == A_WEEK_S


class Section(Part):
    """The keys that generate and measure sections share.

    Attributes:
        name: unique in the suite; tables refer to it.
        models: labels of the arms that take part; all of them unless given. A label before its grid stands for all.
        switches: of the prompts, in their order; `{latent: [40, 80]}` and the like for those of a script.
        scripts: the prompts of each clip, where they do not go by the numbers of the sets. Filled in on load.
        dropped: as in a prompt set, of the lines that were paired. Filled in on load.
        timeout_s: seconds after which a measurement, or a request for clips in another process, is ended and has
            failed, and so are scores by a worker of Ray; a week unless given. What the run's own process does has no
            such limit, as only its end would stop it: clips with `--processes 0`, and scores of metrics of `core`.
    """

    name: Name
    models: list[str] | None = None
    switches: Annotated[list[SwitchEntry], BeforeValidator(points)] = []
    scripts: Annotated[list[ScriptEntry], Field(exclude_if=nothing)] = []
    dropped: Dropped = {}
    timeout_s: Annotated[float, Field(gt=0, le=1e8, exclude_if=_is_a_week)] = A_WEEK_S

    @field_validator("name")
    @classmethod
    def _not_reserved(cls, name: str) -> str:
        if name == "card":
            raise ValueError("'card' names the model's card in tables; choose another name")
        return name

    @model_validator(mode="after")
    def _switches_in_order(self) -> Section:
        frames = [switch.frame for switch in self.switches if switch.frame is not None]
        last = getattr(self, "frames", None)
        if frames != sorted(set(frames)):
            raise ValueError("switches must come in the order of their frames")
        if self.switches and last == ALL:
            raise ValueError("`frames: all` and `switches` exclude each other")
        if frames and last is not None and frames[-1] >= last:
            raise ValueError(f"a switch at frame {frames[-1]} never happens in {last} frames")
        return self


MAX_BATCH = 4096
"""Clips of one request."""


def _batch(value: object) -> object:
    if value != "auto" and not (type(value) is int and 1 <= value <= MAX_BATCH):
        raise ValueError(f"must be a number of clips from 1 to {MAX_BATCH}, or auto")
    return value


class GenerateSection(Section):
    """Clips for every arm, prompt and seed, and the metrics that score them.

    `frames` counts those that a model makes. Where its prompt continues an image or a video, that is no part of the
    clip: frame 0 is the first after it, for switches and metrics alike.

    Attributes:
        prompts: name of a prompt set. seeds: one clip for each, of every prompt.
        frames: of a clip; `all` takes clips that exist (`folder`) as long as each is.
        metrics: those that score every clip.
        batch: clips of one arm that are made in one request of the model, as far as there are so many of one length. It
            stands in the keys of a model whose pixels it may change. Where a request fails, its clips are made in
            halves, so that a clip fails alone. `auto` is the largest that fits `memory`, by the model's arithmetic.
        memory: bytes that the model and its clips may take, for `batch: auto`; on a CPU in each process.
    """

    prompts: str
    seeds: Seeds = [0]
    frames: Frames | Literal["all"]  # ALL
    batch: Annotated[int | Literal["auto"], BeforeValidator(_batch)] = 1
    memory: Annotated[int, Field(ge=1)] | None = None
    metrics: list[Annotated[MetricUse, _short_for("name", str)]] = []

    @model_validator(mode="after")
    def _memory_for_auto(self) -> GenerateSection:
        if (self.batch == "auto") != (self.memory is not None):
            raise ValueError("`batch: auto` and `memory` (in bytes) go together")
        return self


class MeasureSection(Section):
    """One probe over every arm, alone on the device. `prompts` may be left out where the probe needs none.

    Attributes:
        probe: as `harness list probes` shows it. options: checked by the probe's own schema.
        prompts: name of a prompt set. seeds: of the rollouts. frames: of a rollout. batch: clips that a model makes at
            the same time.
        rounds: how often each arm is measured. Arms alternate A B B A, so that drift of the device falls on all of
            them alike; tables show the median of the rounds. One is enough where nothing varies, as for bytes; a
            comparison of speeds wants four, as `stats.ratio_of_medians` says.
    """

    probe: str
    options: dict[str, JsonValue] = {}
    prompts: str = ""
    seeds: Seeds = [0]
    frames: Frames = 1
    batch: Annotated[int, Field(ge=1)] = 1
    rounds: Annotated[int, Field(ge=1, le=1000)] = 1


class PublishedValue(Part):
    """Which published figure stands in a column: a bare metric, or a metric under one setting.

    Attributes:
        metric: as the source calls it. setting: as in `30 s`; any unless given.
    """

    metric: str
    setting: str = ""


class PublishedRows(Part):
    """Rows that others published, shown below the measured ones and never ranked with them.

    Attributes:
        table: of the source, as in `Table 2`. source: where several have one of that name.
        models, settings: those to show; all unless given. A row is one model, or one model under one setting where
            the columns name no setting themselves.
    """

    table: str
    source: str = ""
    models: list[str] = []
    settings: list[str] = []


STUDY = "study"
"""Before the colon of a column that shows what people answered, where no section has this name."""


class Column(Part):
    """A column of a table.

    Attributes:
        value: `section:value name`, `card:field of the model card`, or `study:question` for what people answered.
        label: heading; the value's own label unless given.
        format: how the number is written, as a Python format specification without width: `.3f`, `,d`, `.1%`.
        metric: the metric that gives the value, where two of one section give one of that name.
        relative: divide by the value of the suite's reference arm, as for headroom or a speed-up; `inverse` divides
            the reference's value instead, as for a reduction.
        joined: other sections of the same metric whose values complete a derived one, as when the dimensions of a
            total are scored on different clips. Of a value that several give, the last section's counts.
        published: the figure of published rows here. In a relative column it must be a ratio, elsewhere it must not.
        where: by attribute of the prompts the value that they must have; only their clips count.
    """

    value: Annotated[str, Field(pattern=r"^[^:]+:[^:]+$")]
    label: str = ""
    format: Annotated[str, Field(pattern=r"^([+,]?(\.\d{1,2})?[efg%]?|[+,]?d)$")] = ""
    metric: str = ""
    relative: bool | Literal["inverse"] = False
    joined: list[str] = []
    published: Annotated[PublishedValue | None, _short_for("metric", str)] = None
    where: Annotated[dict[str, str], Field(exclude_if=nothing)] = {}


class TableSpec(Part):
    """A table: one row an arm, one column a value, and published rows below.

    Attributes:
        name: of its files. title: above it; the name unless given.
        columns: from left to right. published: rows that others published.
        models: labels of the arms to show; all unless given. A label before its grid stands for all.
        by: an attribute of the prompts: beside each column of a metric stands one for each value of it. rows_by: the
            same with rows: below each arm stands one for each value.
    """

    name: Name
    title: str = ""
    by: Annotated[str, Field(exclude_if=nothing)] = ""
    rows_by: Annotated[str, Field(exclude_if=nothing)] = ""
    columns: Annotated[list[Column], Field(min_length=1)]
    models: list[str] | None = None
    published: list[PublishedRows] = []


PlotKind = Literal[ProbePlot, "cache_by_length", "pareto", "quality_by_cache", "quality_by_option", "quality_over_time"]
BY_SECTION = tuple(DRAWN_FROM)
BY_VALUES = ("pareto", "quality_by_cache", "quality_by_option", "quality_over_time")


ValueName = Annotated[str, Field(pattern=r"^[^:]+:[^:]+$")]


class Plot(Part):
    """A picture, written as SVG and PNG beside the tables.

    Attributes:
        name: of its files. title: above it.
        kind: cache bytes against clip length; memory against batch with the budget; chunk time against index; quality
            against cached scalars, or against an option of the models; quality of the segments of a clip; cost of
            attention by form. `pareto`: quality against each of `costs`, with the arms grey that another one dominates,
            and a table of the plot's name that says which. `cache_history`: what chunks see, and attention's error.
        models: labels of the arms to show; all unless given.
        section: of `measure`, for `memory_by_batch`, `chunk_time`, `complexity` and `cache_history`.
        values: `section:value name`: one a panel for `quality_by_option`, one for `quality_by_cache` and `pareto`, one
            a segment, in their order, for `quality_over_time`. metric: as in a column. labels: of the segments. axis:
            name of the quality. option: for `quality_by_option`, a number among the models' options; a line is the
            arms whose labels differ in their grid alone.
        costs: for `pareto`, what quality is paid with: `card:field` or `section:value name`, one a panel.
        longest: latent frames at which `cache_by_length` ends.
    """

    name: Name
    kind: PlotKind
    title: str = ""
    models: list[str] | None = None
    section: str = ""
    values: list[ValueName] = []
    metric: str = ""
    labels: list[str] = []
    axis: str = ""
    option: str = ""
    costs: Annotated[list[ValueName], Field(exclude_if=lambda costs: not costs)] = []
    longest: Annotated[int, Field(ge=2, le=100_000)] = 240

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Plot:
        if bool(self.section) != (self.kind in BY_SECTION):
            raise ValueError(f"{self.kind} {'needs' if self.kind in BY_SECTION else 'takes no'} `section`")
        if bool(self.values) != (self.kind in BY_VALUES):
            raise ValueError(f"{self.kind} {'needs' if self.kind in BY_VALUES else 'takes no'} `values`")
        if bool(self.option) != (self.kind == "quality_by_option"):
            raise ValueError(f"{self.kind} {'needs' if self.kind == 'quality_by_option' else 'takes no'} `option`")
        if bool(self.costs) != (self.kind == "pareto"):
            raise ValueError(f"{self.kind} {'needs' if self.kind == 'pareto' else 'takes no'} `costs`")
        if self.kind in ("pareto", "quality_by_cache") and len(self.values) != 1:
            raise ValueError(f"{self.kind} needs one value")
        if self.labels and len(self.labels) != len(self.values):
            raise ValueError(f"{len(self.labels)} labels for {len(self.values)} values")
        return self


def _positive(policy: str | float) -> str | float:
    if isinstance(policy, bool) or (not isinstance(policy, str) and not policy > 0):
        raise ValueError("must be continue, stop, a count (5) or a fraction (0.1)")
    if isinstance(policy, float) and policy >= 1:
        raise ValueError("a fraction lies between 0 and 1; a count is written without a point")
    return policy


ErrorPolicy = Annotated[Literal["continue", "stop"] | int | float, AfterValidator(_positive)]
"""When failures end a run: never, at the first, at a count, or at a fraction of all planned units."""


class Suite(Part):
    """A checked suite, made by `load_suite`; `plan.json` keeps it with prompts, options and grids resolved.

    Attributes:
        suite: name; the run folder is `runs/<suite>` unless given. title: for people; tables show it.
        device: `auto` takes CUDA where torch can use it.
        plugins: Python files that register models, metrics or probes of one's own, relative to the file that names
            them. A plan keeps them with those of `--plugin`, so that commands that read the run need no flag.
        models: the arms; none where every section is a probe that needs no model.
        reference: label of the arm that others are compared with; the first one unless given.
        errors: when to stop: never (`continue`), at the first failure (`stop`), at a count, or at a fraction of
            all planned units.
        incomplete: whether a mean over fewer clips than planned is marked and not ranked, or refused: then `table` and
            `compare` end with exit code 3 while some of its results are missing. A mean whose results were all skipped
            is never refused and reads `not available`.
        prompts: sets of prompts by name; a bare list of texts is enough. video: how clips are written.
        generate: sections that make clips and score them. measure: sections that measure.
        tables: one with every value where none is asked for. plots: pictures beside the tables.
        drift: tables and pictures of how values hold along a clip.
        serving: tables of what a viewer and an operator get.
        rehearsal: set by `harness rehearse`: whatever is made of it says that it is no result.
    """

    suite: Name
    title: str = ""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    reference: str = ""
    errors: ErrorPolicy = "continue"
    incomplete: Literal["refuse", "mark"] = "mark"
    plugins: list[Annotated[str, Field(min_length=1)]] = []
    models: list[ModelEntry] = []
    prompts: dict[str, Prompts] = {}
    video: Video = Video()
    generate: list[GenerateSection] = []
    measure: list[MeasureSection] = []
    tables: list[TableSpec] = []
    plots: list[Plot] = []
    drift: list[Drift] = []
    serving: list[Serving] = []
    rehearsal: Annotated[bool, Field(exclude_if=lambda is_one: not is_one)] = False


def dump(suite: Suite) -> dict[str, Json]:
    """`suite` as JSON; `Suite.model_validate` reads it back."""
    data: dict[str, Any] = suite.model_dump(mode="json")
    # Plans of suites without any are as they were before there were any.
    return data if suite.plugins else {name: value for name, value in data.items() if name != "plugins"}
