"""Replay of a reference rollout: the file's weights and random numbers in, its latents out."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from harness.errors import WeightsError, nearest
from videomla_models.checkpoints.load import check_names
from videomla_models.checkpoints.tensors import save_tensors
from videomla_models.network.cache import Grid
from videomla_models.network.transformer import VideoTransformer
from videomla_models.ops.choice import Name
from videomla_models.rollout.replay_arithmetic import RecordedOrder
from videomla_models.rollout.rolling import RollingRollout
from videomla_models.rollout.rollout import PromptSwitch, Rollout
from videomla_models.spec.config import LARGEST_SIZE, LatentSizes, SamplerConfig, TransformerConfig
from videomla_models.spec.published_models import FULL_WINDOW, PUBLISHED
from videomla_models.spec.window import WindowPolicy

TOLERANCE = 5e-5
"""Largest absolute difference of a faithful float32 replay; measured replays agree to about 5e-6."""

RECORDED_WEIGHTS = 4_000_000
"""Weights up to which a rollout is replayed in the recordings' order of operations, which is slow."""


@dataclass(frozen=True, slots=True)
class Replay:
    """A replayed rollout.

    Attributes:
        latents: [B, frames, C, H, W], each chunk made on the rollout's own past.
        difference: largest absolute difference to the file's latents; None where it records none.
        in_order, in_order_difference: as above, in the recordings' order of operations (`replay_arithmetic`), also on
            its own past; None where it was not needed or is not known.
        chunkwise, on_recorded_past: the same as first, but each chunk made on the file's past; None where that was not
            needed.
    """

    family: str
    latents: Tensor
    difference: float | None
    in_order: Tensor | None = None
    in_order_difference: float | None = None
    chunkwise: Tensor | None = None
    on_recorded_past: float | None = None

    @property
    def passes(self) -> bool:
        """Whether the replay, free or on the recorded past, is within `TOLERANCE`."""
        return _least(self.difference, self.on_recorded_past) <= TOLERANCE

    @property
    def free_difference(self) -> float:
        """The smaller difference of the replays on their own past; infinite where there is nothing to compare with."""
        return _least(self.difference, self.in_order_difference)

    @property
    def best(self) -> tuple[str, Tensor]:
        """The latents to hand on, and what they are.

        `own` past, `own, recorded order`, or the `recorded` past; where several could be, the first within tolerance.
        """
        if self.in_order is not None and (self.in_order_difference is None or self.free_difference <= TOLERANCE):
            return "own, recorded order", self.in_order
        if self.chunkwise is not None:
            return "recorded", self.chunkwise
        return "own", self.latents


def _least(*differences: float | None) -> float:
    return min((d for d in differences if d is not None), default=float("inf"))


class TraceNoise:
    """The file's random numbers in order of use."""

    def __init__(self, start: Tensor, draws: list[Tensor]) -> None:
        self.noise, self.draws = start, draws

    def start(self, first: int, count: int) -> Tensor:
        """Start noise of these frames."""
        return self.noise[:, first : first + count]

    def renoise(self, count: int) -> Tensor:
        """The next draw, as [B, count, C, H, W]."""
        if not self.draws:
            raise WeightsError("the trace holds fewer random numbers than the rollout draws")
        batch, shape = self.noise.shape[0], self.noise.shape[2:]
        return self.draws.pop(0).reshape(batch, count, *shape)


def window_policy(spec: dict[str, Any]) -> WindowPolicy:
    """The window policy that a trace's `family`, `local` (-1: Self-Forcing's 32,760 tokens) and `sink` stand for."""
    windows = {preset.trace: preset.window for preset in PUBLISHED.values() if preset.trace}
    family = str(spec["family"])
    if family not in windows:
        raise WeightsError(f"unknown trace family {family!r}", nearest(family, windows))
    window, local = windows[family], int(spec["local"])
    if window.schedule == "rolling":
        return replace(window, frames=int(spec["cache_frames"]), sink=int(spec["block"]))
    if "memory" in spec:
        return _with_memory(window, spec)
    if "head_classes" in spec:
        window = replace(window, head_classes=tuple(spec["head_classes"]), head_current=0.0)
    return replace(
        window,
        frames=FULL_WINDOW if local == -1 else local,
        sink=int(spec["sink"]),
        keep_sink_on_rebuild=window.keep_sink_on_rebuild and bool(spec.get("global_sink", False)),
    )


def _with_memory(window: WindowPolicy, spec: dict[str, Any]) -> WindowPolicy:
    """LongLive-RAG's: of `local` frames that hold their positions `memory` make room for older ones."""
    local, sink, memory, guard = (int(spec[key]) for key in ("local", "sink", "memory", "recent_exclude"))
    return replace(window, frames=local - memory, sink=sink, span=local, bank=memory, bank_recent=local - sink + guard)


def network_config(spec: dict[str, Any]) -> TransformerConfig:
    """The network's sizes."""
    mla = spec.get("mla")
    latent = LatentSizes(**{**mla, "pairs": tuple(mla["pairs"])}) if mla else LatentSizes()
    return TransformerConfig(
        dim=spec["dim"],
        heads=spec["heads"],
        layers=spec["layers"],
        ffn=spec["ffn"],
        text_tokens=spec["text"][0],
        text_width=spec["text"][1],
        attention="latent" if mla else "dense",
        latent=latent,
    )


def verify(path: Path, form: Name = "expanded") -> Replay:
    """Replay a trace in float32 as a check of this implementation.

    A rollout whose softmaxes are sharp multiplies rounding from chunk to chunk: both VideoMLA traces do, so that even
    float64 evaluation of the same equations ends 1e-3 away from a float32 recording. Where the free replay is not
    within `TOLERANCE`, two more are made: a free one in the recordings' own order of operations, which shows that no
    equation differs, and one in the usual order and in `form` with every chunk on the recorded past. A wrong formula,
    position or window cannot pass either: it moves a chunk by 0.1 to 1.

    Raises `WeightsError` for a file that is not a trace, and `OptionError` for sizes that do not fit each other.
    """
    spec, tensors = read(path)
    try:
        return _replayed(path, spec, tensors, form)
    except (
        ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError
    ) as error:  # fmt: skip
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise WeightsError(f"{path} cannot be replayed: {reason}", "its spec and its tensors do not fit") from error


def _replayed(path: Path, spec: dict[str, Any], tensors: dict[str, Tensor], form: Name) -> Replay:
    free = roll(path, spec, tensors, form)
    recorded = tensors.get("latents")
    difference = _difference(free, recorded)
    if window_policy(spec).schedule == "rolling" or (difference is not None and difference <= TOLERANCE):
        return Replay(spec["family"], free, difference)
    ordered = roll(path, spec, tensors, order=RecordedOrder()) if _order_is_known(spec, tensors) else None
    replay = Replay(spec["family"], free, difference, ordered, _difference(ordered, recorded))
    if recorded is None:
        return replay
    chunkwise = roll(path, spec, tensors, form, history=recorded)
    return replace(replay, chunkwise=chunkwise, on_recorded_past=_difference(chunkwise, recorded))


def _difference(latents: Tensor | None, recorded: Tensor | None) -> float | None:
    return None if latents is None or recorded is None else float((latents - recorded).abs().max())


def _order_is_known(spec: dict[str, Any], tensors: dict[str, Tensor]) -> bool:
    weights = sum(t.numel() for name, t in tensors.items() if name.startswith("weights."))
    return spec["family"] == "videomla" and weights <= RECORDED_WEIGHTS


def roll(
    path: Path,
    spec: dict[str, Any],
    tensors: dict[str, Tensor],
    form: Name = "expanded",
    dtype: torch.dtype = torch.float32,
    history: Tensor | None = None,
    order: RecordedOrder | None = None,
) -> Tensor:
    """The latents of the rollout that a trace describes, [B, frames, C, H, W], in float32 or float64.

    With `history` every chunk is made on that past; with `order` in the recordings' float32, latent attention alone.
    """
    weights = {name[len("weights.") :]: t for name, t in tensors.items() if name.startswith("weights.")}
    with torch.device("meta"):  # a spec may ask for any size, and memory is taken for that of the file
        shapes = {n: t.shape for n, t in VideoTransformer(network_config(spec)).state_dict().items()}
    check_names(path.name, shapes, {n: t.shape for n, t in weights.items()})
    network = VideoTransformer(network_config(spec))
    network.load_state_dict(weights)
    network = network.to(dtype).eval().requires_grad_(False)
    network.use_form(form)
    if order is not None:
        order.prepare(network)
    height, width = (int(n) for n in spec["hw"])
    shape = (tensors["noise"].shape[0], int(spec["frames"]), network.config.in_channels, height, width)
    if tensors["noise"].shape != shape:
        raise WeightsError(f"{path}: noise is {tuple(tensors['noise'].shape)}, its spec says {shape}")
    steps = tuple(spec.get("steps", SamplerConfig().steps))
    sampler = SamplerConfig(steps=steps, first_steps=tuple(spec.get("first_steps", ())))
    policy, chunk = window_policy(spec), int(spec["block"])
    kind = RollingRollout if policy.schedule == "rolling" else Rollout
    rollout = kind(network, policy, chunk, sampler, Grid(height // 2, width // 2))
    if order is not None:
        rollout.cache = order.cache(rollout.cache)
    context = tensors["context"].to(dtype)
    noise = TraceNoise(tensors["noise"].to(dtype), [t.to(dtype) for t in _draws(tensors)])
    past = None if history is None else history.to(dtype)
    with order or nullcontext():
        prompts = [network.prompt(text) for text in (context if "switch" in spec else context[None])]
        switches = [PromptSwitch(frame, p) for frame, p in zip(spec.get("switch", []), prompts[1:], strict=True)]
        latents = torch.cat(list(rollout.run(noise, prompts[0], int(spec["frames"]), switches, history=past)), dim=1)
    if noise.draws:
        raise WeightsError(f"{path}: {len(noise.draws)} of its random numbers were not used")
    return latents


def save_latents(result: Replay, path: Path) -> None:
    """Write the replay's best latents, float32 under `latents`; the header's `past` says which they are."""
    past, latents = result.best
    save_tensors({"latents": latents.float().contiguous()}, path, {"past": past, "family": result.family})


def _draws(tensors: dict[str, Tensor]) -> list[Tensor]:
    if "renoise" in tensors:
        return list(tensors["renoise"].flatten(0, 1))
    return [tensors[name] for name in sorted(tensors) if name.startswith("renoise.")]


def _check_classes(spec: dict[str, Any]) -> None:
    """Raise `ValueError` for classes of heads that are not a letter for each head of each layer."""
    classes = spec.get("head_classes")
    if classes is None:
        return
    whole = isinstance(classes, list) and len(classes) == spec["layers"]
    if not whole or any(not isinstance(heads, str) or len(heads) != spec["heads"] for heads in classes):
        raise ValueError(f"head_classes are not {spec['layers']} texts of {spec['heads']} letters")


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Spec and tensors of a trace file. Raises `WeightsError` for anything else."""
    if not path.is_file():
        raise WeightsError(f"{path} is no file" if path.exists() else f"{path} does not exist")
    try:
        with safe_open(str(path), framework="pt") as file:
            spec = json.loads((file.metadata() or {})["spec"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        numbers = {key: spec[key] for key in ("local", "sink", "frames", "block", "dim", "heads", "layers", "ffn")}
        numbers |= {f"{key} {place}": size for key in ("hw", "text") for place, size in enumerate(spec[key])}
        numbers |= {key: spec[key] for key in ("cache_frames", "memory", "recent_exclude") if key in spec}
        for key, number in numbers.items():
            least = {"local": -1, "sink": 0}.get(key, 1)
            if type(number) is not int or not least <= number <= LARGEST_SIZE:
                raise ValueError(f"{key} is {number!r:.40}")
        if numbers["layers"] > len(tensors):
            raise ValueError(f"{numbers['layers']} layers, and {len(tensors)} tensors")
        _check_classes(spec)
        spec["family"]
        return spec, tensors
    except (SafetensorError, OSError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise WeightsError(
            f"{path} is not a trace file: {error}", "a trace is safetensors with a `spec` entry"
        ) from error
