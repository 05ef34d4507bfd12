"""VBench on short clips: its sixteen dimensions, in the package's own standard suite or on any clips."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import field_validator, model_validator

from harness.contracts import Availability, Clip, FilePath, Json, Options, Value
from harness.environments.build import Environment, find
from harness.environments.weights.manifest import read_manifest
from harness.environments.weights.store import availability, digests
from harness.environments.worker.client import JobFault
from harness.environments.worker.metric import DRAWING, WorkerMetric
from harness.errors import ClipError, HarnessError, NotAvailable, WeightsError, nearest
from harness.metrics import vbench_totals
from harness.metrics.vbench_protocol import FLICKER, entries, first_static, suite
from harness.system.digests import canonical, digest
from harness.system.files import read_limited, reason

NEEDS: Mapping[str, tuple[str, ...]] = {
    "object_class": ("detectron2",),
    "multiple_objects": ("detectron2",),
    "color": ("detectron2",),
    "spatial_relationship": ("detectron2",),
    "scene": ("fairscale", "transformers"),
}
"""Packages of a dimension that not every environment has."""

ONLY_STANDARD = frozenset(
    {"object_class", "multiple_objects", "color", "spatial_relationship", "scene", "appearance_style"}
)
"""Dimensions that need facts of the prompt which only VBench's own suite gives."""

FILTERED_BY = "dynamic_degree"
"""The dimension whose network the static filter uses."""

READERS: Mapping[str, Json] = {
    "opencv": ["temporal_flickering", "motion_smoothness", "dynamic_degree"],
    "decord": "all other dimensions",
}
"""The package's own reader of each dimension. They differ for clips with colour tags, or of more than 8 bits."""

OF_FLOW = 128
"""Pixels of the shortest side that RAFT takes: it halves its grid of an eighth of the frame three times."""
LABELS: Mapping[str, str] = {name: name.replace("_", " ") for name in vbench_totals.DIMENSIONS}

SHARES = frozenset({"dynamic_degree", "human_action", "object_class", "multiple_objects", "color", "scene"})
"""Dimensions by which a clip passes or not, or a part of its frames does (`check_move` of `dynamic_degree.py`, a label
among the first five in `human_action.py`, the rates of frames in the others' files)."""

BOUNDS: Mapping[str, tuple[float, float]] = {
    "subject_consistency": (0.0, 1.0),
    "background_consistency": (0.0, 1.0),
    "temporal_flickering": (0.0, 1.0),
    "motion_smoothness": (0.0, 1.0),
    "spatial_relationship": (0.0, 1.0),
    "appearance_style": (-1.0, 1.0),
    "temporal_style": (-1.0, 1.0),
    "overall_consistency": (-1.0, 1.0),
}
"""Ends of the other dimensions, by the file of each in vbench 0.1.5: means of cosines of which negative ones count as 0
(the two consistencies), of (255 - d) / 255 with d the mean difference of pixels (flickering, smoothness), of position
scores from 0 to 1, and of cosines between picture and text (the last three). The linear heads behind aesthetic and
imaging quality have no ends, nor have means that they go into."""


def dimension(name: str) -> Value:
    """A dimension as a value, with the ends that its definition gives."""
    low, high = BOUNDS.get(name, (None, None))
    return Value(name, "", "higher", LABELS[name], share=name in SHARES, low=low, high=high)


LARGEST_PROMPT_FILE = 64 * 2**20


class VBenchOptions(Options):
    """Options of `vbench`.

    Attributes:
        mode: `standard` scores a clip on the dimensions that its prompt belongs to in VBench's suite; `custom` scores
            every clip on every dimension asked for.
        dimensions: those to score. All that the mode has and that can run here, when empty.
        static_filter: leave temporal flickering undefined where the package's filter finds that the clip moves.
        prompts: a JSONL file with `prompt` (what clips are made from) and `short` (what they are scored by); empty
            where clips are made from the prompts that score them.
    """

    mode: Literal["standard", "custom"] = "custom"
    dimensions: tuple[str, ...] = ()
    static_filter: bool = False
    prompts: FilePath = ""

    @field_validator("dimensions")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in vbench_totals.DIMENSIONS:
                raise ValueError(f"{name!r} is no dimension of VBench; {nearest(name, vbench_totals.DIMENSIONS)}")
        if len(set(names)) < len(names):
            raise ValueError("a dimension stands twice")
        return names

    @model_validator(mode="after")
    def _of_the_mode(self) -> VBenchOptions:
        alien = sorted(ONLY_STANDARD & set(self.dimensions)) if self.mode == "custom" else []
        if alien:
            raise ValueError(f"{', '.join(alien)} can only be scored in mode 'standard'")
        return self


def lacking(environment: Environment, dimension: str) -> list[str]:
    """The packages that `dimension` needs and `environment` does not have."""
    sites = list(environment.root.glob("lib/python*/site-packages"))
    return [name for name in NEEDS.get(dimension, ()) if not any((site / name).is_dir() for site in sites)]


class VBenchMetric(WorkerMetric):
    """A worker metric whose job raises by name what belongs to the clip and what to the weights."""

    environment = "vbench"
    weights = "vbench"
    packages: ClassVar[tuple[str, ...]] = (
        "vbench",
        "torch",
        "torchvision",
        "numpy",
        "openai-clip",
        "pyiqa",
        "timm",
        "opencv-python-headless",
    )
    job = Path(__file__).with_name("vbench_job") / "job.py"
    drawing = DRAWING / "draw_vbench.py"

    def settings(self) -> dict[str, str]:
        """Where the packages look for what they would otherwise download."""
        root = read_manifest().get(self.weights).folder
        return {"HF_HOME": str(root / "huggingface"), "TORCH_HOME": str(root / "torch")}

    def notes(self) -> Mapping[str, Json]:
        """As of any worker metric, and which reader's pixels each dimension sees."""
        return {**super().notes(), **({"readers": READERS} if self._answer is not None else {})}

    def score(self, clip: Clip) -> Mapping[str, float]:
        """Score one clip, by the prompt that it is known by.

        Raises `ClipError`, `WeightsError`, `NotAvailable`, or what the worker raises.
        """
        try:
            return super().score(replace(clip, prompt=clip.known_as or clip.prompt))
        except JobFault as fault:
            kinds: Mapping[str, type[HarnessError]] = {
                "ClipFault": ClipError,
                "PromptFault": ClipError,
                "WeightsFault": WeightsError,
                "ImportError": NotAvailable,
            }
            if fault.kind not in kinds:
                raise
            raise kinds[fault.kind](fault.message.removeprefix(f"{fault.kind}: ")) from fault


class VBench(VBenchMetric):
    """VBench 0.1.5, each dimension by the package's own networks and arithmetic (Huang et al., CVPR 2024)."""

    version = "1"
    schema = VBenchOptions
    values: ClassVar[tuple[Value, ...]] = tuple(map(dimension, LABELS))
    derived: ClassVar[tuple[Value, ...]] = tuple(
        Value(name, "", "higher", f"VBench {name.replace('_', ' ')}") for name in vbench_totals.FORMULAS
    )

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._short: dict[str, list[str]] | None = None

    def scored_dimensions(self) -> tuple[str, ...]:
        """The dimensions that the options name, or else all of the mode whose packages are installed."""
        try:
            environment = find(self.environment)
        except NotAvailable:
            return self._dimensions()
        return tuple(name for name in self._dimensions() if self.options.dimensions or not lacking(environment, name))

    def _dimensions(self) -> tuple[str, ...]:
        """The dimensions that the options name, or else all of the mode."""
        of_mode = (name for name in LABELS if self.options.mode == "standard" or name not in ONLY_STANDARD)
        return self.options.dimensions or tuple(of_mode)

    def not_available(self) -> dict[str, str]:
        """Why a dimension of the mode, or a mean that needs it, is not scored, by name.

        Empty where the options name the dimensions: one that cannot run then makes the whole metric not available.
        """
        if self.options.dimensions:
            return {}
        environment = find(self.environment)
        packages_by_dimension = {name: lacking(environment, name) for name in self._dimensions()}
        reasons = {name: f"needs {', '.join(packages)}" for name, packages in packages_by_dimension.items() if packages}
        for name, (needed, _) in vbench_totals.FORMULAS.items():
            if absent := [dimension for dimension in needed if dimension in reasons]:
                reasons[name] = f"lacks {', '.join(absent)}"
        return reasons

    def asked_for(self) -> Collection[str]:
        """The dimensions that the options name, or all of the mode, and the means of those alone."""
        dimensions = set(self._dimensions())
        return dimensions | {name for name, (needed, _) in vbench_totals.FORMULAS.items() if dimensions >= set(needed)}

    def weight_groups(self) -> Sequence[str]:
        """The scored dimensions that load weights, and the static filter's; none for temporal flickering alone."""
        groups = set(self.scored_dimensions())
        if self.options.static_filter and FLICKER in groups:
            groups.add(FILTERED_BY)
        return sorted(groups & set(read_manifest().get(self.weights).groups))

    def available(self) -> Availability:
        """Ready when the environment, the packages of the dimensions asked for, and their weights are here."""
        built = self.environment_available()
        if not built.ready:
            return built
        environment = find(self.environment)
        for name in self.options.dimensions:
            if packages := lacking(environment, name):
                reason = f"{name} needs {', '.join(packages)}, not installed in environment {self.environment!r}"
                fix = f"{environment.python} -m pip install {' '.join(packages)} (from source)"
                return Availability(False, reason, fix)
        groups = self.weight_groups()
        return availability(self.weights, groups) if groups else Availability(True)

    def weight_digests(self) -> dict[str, str]:
        """SHA-256 of each file that the scored dimensions load."""
        groups = self.weight_groups()
        return digests(self.weights, groups) if groups else {}

    def identity(self) -> Mapping[str, Json]:
        """Environment, weights, the dimensions scored, and the digest of the short prompts."""
        short = self.short_prompts()
        return {
            **super().identity(),
            "dimensions": list(self.scored_dimensions()),
            "short_prompts": digest(canonical(dict(short))) if short else "",
        }

    def short_prompts(self) -> dict[str, str]:
        """The prompt to score by, by the prompt a clip is made from, where that is of one alone.

        Raises `HarnessError` for a malformed file.
        """
        return {prompt: short for prompt, (short, *others) in self._all_short().items() if not others}

    def _all_short(self) -> dict[str, list[str]]:
        if self._short is None:
            self._short = read_short(Path(self.options.prompts)) if self.options.prompts else {}
        return self._short

    def smallest(self) -> int:
        """What the optical flow takes, where it is used."""
        return OF_FLOW if FILTERED_BY in self.weight_groups() else 1

    def to_try(self, prompts: Sequence[str]) -> Sequence[int]:
        """In the standard mode few prompts, each of a dimension that those before are not of."""
        if self.options.mode != "standard" or not self.environment_available().ready:
            return ()
        scored, numbers = set(self.scored_dimensions()), []
        dimensions_by_prompt = {entry.text: entry.dimensions for entry in suite(entries())}
        for number, prompt in enumerate(prompts):
            if new := scored & set(dimensions_by_prompt.get(prompt, ())):
                numbers.append(number)
                scored -= new
        return numbers

    def job_options(self) -> dict[str, Json]:
        """The arguments of `vbench_job.short_job.Plan`."""
        return {
            "job": "short",
            "dimensions": list(self.scored_dimensions()),
            "standard": self.options.mode == "standard",
            "static_filter": self.options.static_filter,
            "short": self.short_prompts(),
        }

    def score(self, clip: Clip) -> Mapping[str, float]:
        """Each dimension of one clip, from 0 to 1; NaN for those that are not scored, or not of this prompt."""
        if not clip.known_as and len(several := self._all_short().get(clip.prompt, ())) > 1:
            raise ClipError(
                f"its prompt {clip.prompt[:60]!r} stands for {len(several)} prompts of VBench",
                "say `identity: short` in the prompt set",
            )
        scores = super().score(clip)
        return {name: scores.get(name, float("nan")) for name in LABELS}

    def notes(self) -> Mapping[str, Json]:
        """As of any worker metric, and which dimensions and means are not available here."""
        reasons = self.not_available() if self._answer is not None else {}
        return {**super().notes(), **({"not_available": dict(reasons)} if reasons else {})}

    def keep(self, name: str, prompts: Sequence[int], scores: Sequence[float]) -> Sequence[bool]:
        """The clips on which a dimension is defined; after the static filter, the first five of each prompt."""
        if name != FLICKER or not self.options.static_filter:
            return super().keep(name, prompts, scores)
        # The job returns NaN for a clip that moves, and a sample's number is its place among those of its prompt.
        stillness_by_prompt: dict[int, list[tuple[int, bool]]] = {}
        places_by_prompt: dict[int, list[int]] = {}
        for place, (prompt, score) in enumerate(zip(prompts, scores, strict=True)):
            sample = len(places_by_prompt.setdefault(prompt, []))
            places_by_prompt[prompt].append(place)
            stillness_by_prompt.setdefault(prompt, []).append((sample, score == score))
        defined = {
            places_by_prompt[prompt][sample]
            for prompt, samples in stillness_by_prompt.items()
            for sample in first_static(samples)
        }
        return [place in defined for place in range(len(scores))]

    def derive(self, means: Mapping[str, float]) -> Mapping[str, float]:
        """Quality, Semantic, Total and the other means, each only where all its dimensions are measured."""
        present = {name: mean for name, mean in means.items() if name in vbench_totals.RANGES and mean == mean}
        return {
            name: formula(present)
            for name, (needed, formula) in vbench_totals.FORMULAS.items()
            if all(dimension in present for dimension in needed)
        }


def read_short(path: Path) -> dict[str, list[str]]:
    """Every `short` of each `prompt` in the JSONL file `path`: a translation may serve two.

    Raises `HarnessError` that names the line.
    """
    short_by_prompt: dict[str, list[str]] = {}
    try:
        lines: Sequence[str] = read_limited(path, LARGEST_PROMPT_FILE).decode().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise HarnessError(f"prompt file {path} cannot be read: {reason(error)}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row: Any = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise HarnessError(f"{path}:{number}: not JSON") from error
        if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("prompt", "short")):
            raise HarnessError(f"{path}:{number}: needs the texts 'prompt' and 'short'")
        if row["short"] not in (of_prompt := short_by_prompt.setdefault(row["prompt"], [])):
            of_prompt.append(row["short"])
    return short_by_prompt
