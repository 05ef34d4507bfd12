"""Follow a model's cache along a rollout: which frames each chunk sees, what leaves and when, what storage costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from harness.contracts import (
    FilePath,
    Json,
    Measurement,
    Options,
    Probe,
    ProbeContext,
    ProbeTable,
    Subject,
    Value,
    VideoModel,
    Workload,
)
from harness.errors import OptionError
from videomla_models.probes.true_latents import behind, check_file, keyed

if TYPE_CHECKING:
    from videomla_models.probes.cache_contents import Shares
    from videomla_models.probes.coding_error import CodingErrors
    from videomla_models.rollout.rollout import Rollout
    from videomla_models.spec.config import TransformerConfig
    from videomla_models.spec.window import WindowPolicy


@runtime_checkable
class _Windowed(Protocol):
    """What every streaming model of this project says of its cache before it is loaded."""

    def network_config(self) -> TransformerConfig: ...

    def window_policy(self) -> WindowPolicy: ...


class CacheHistoryOptions(Options):
    """Options of `cache`.

    Attributes:
        latents: a file of latents [batch, channel, frame, height, width] that stand in the cache for what the model
            makes, so that every chunk is made behind true ones; safetensors, or a `.pt` of tensors. Its clips and
            their length are those that are followed.
    """

    latents: FilePath = ""


class CacheHistory(Probe):
    """Which frames each chunk sees, and the error that stored entries bring into attention.

    All is of one request: the first prompts and seeds, `batch` of them. Of a frame whose tokens are seen in part, in
    some heads, or in a bank or by choice of some layers and clips alone, the share is recorded. Averages are counted
    apart, since they are of no frame. Errors are of storage alone, as `attention_errors` has them: the model goes its
    way with an exact cache, and an encoded one beside it takes in the same entries; the value is their root mean square
    over layers and heads. A cache that stores what the model computes has none, whatever its policy evicts. Effective
    bits are those of all storage behind the cache over the numbers that stand in it: of the window, and of what a
    policy keeps besides (bank, chosen tokens, anchor, first frames). Scales and exact copies take bits and are no
    numbers of it.

    The model must be one of this project's streaming models, chunk by chunk; prompt switches are not followed.
    """

    version = "2"
    schema: ClassVar[type[Options]] = CacheHistoryOptions
    plots = ("cache_history",)
    has_table = True
    side_by_side = True
    values: ClassVar[tuple[Value, ...]] = (
        Value("stored_bytes", "B", "lower", "cache, measured"),
        Value("effective_bits", "bits", "none", "bits per cached number"),
        Value("frames_seen", "latent frames", "none", "frames seen by the last chunk"),
        Value("oldest_frame", "latent frames", "none", "age of the oldest of them"),
        Value("stay_chunks", "chunks", "none", "chunks until a frame leaves"),
        Value("attention_error", "", "lower", "attention error of storage"),
        Value("attention_error_worst", "", "lower", "attention error of storage, worst head"),
    )

    def check(self, model: VideoModel, workload: Workload) -> None:
        """Refuse prompt switches, and models without keys in a window that goes chunk by chunk."""
        if workload.switches:
            raise OptionError("it follows no prompt switch", "leave `switches` out of the section")
        fix = "leave the model out of the section (`models:`)"
        if not isinstance(model, _Windowed):
            raise OptionError("the model has no cache to follow: it is none of this project's streaming models", fix)
        if model.network_config().attention == "linear":
            raise OptionError("linear attention keeps one state and no frames, so there are none to follow", fix)
        if (schedule := model.window_policy().schedule) != "chunk":
            raise OptionError(f"the schedule is {schedule!r}, and only one chunk by chunk is followed", fix)
        check_file(self.options.latents, model)

    def keyed_options(self, options: Mapping[str, Json]) -> Mapping[str, Json]:
        """The latents by their digest, and not at all where there are none."""
        return keyed(options, self.options.latents)

    def measure(self, subject: Subject | None, workload: Workload, context: ProbeContext) -> Measurement:
        """Stream the workload's first clips and record. Raises `OptionError` as `check` does."""
        import torch

        from videomla_models.probes.coding_error import CodingErrors, attention_errors
        from videomla_models.probes.followed_rollouts import followed

        if subject is None:
            raise OptionError("the probe cache measures a model", "name one")
        model: Any = subject.load()
        self.check(model, workload)
        pipeline = model.pipeline
        latents, request, history = None, workload.request(0), History()
        if self.options.latents:
            latents, request = behind(self.options.latents, workload)
        with followed(model, history.note) as rollouts:
            passes = model.stream(request) if latents is None else model.pipeline.on_latents(latents, request)
            for _ in passes:
                continue
        (rollout,) = rollouts
        storage, config = model.storage(), pipeline.network.config
        values = {**_size(rollout, request.batch, storage.coded), **history.values()}
        if storage.coded:
            context.report("attention on encoded entries")
            errors = attention_errors(pipeline, request, model.timeline(request), storage, latents)
        else:
            none = torch.zeros(len(history.seen), config.layers, config.heads)
            errors = CodingErrors(none, none[0], values["effective_bits"])
        values["attention_error"] = float(errors.overall.square().mean().sqrt())
        values["attention_error_worst"] = float(errors.overall.max())
        table = _table(errors) if storage.coded else None
        return Measurement(values, {**history.samples(), **_samples(errors)}, table=table)


def _size(rollout: Rollout, clips: int, coded: bool) -> dict[str, float]:
    """Bytes behind the cache of a clip, and bits for each number that it has room for."""
    config, cache = rollout.network.config, rollout.cache
    if coded:
        numbers = clips * (1 if rollout.guidance == 1 else 2) * config.layers * cache.rows * config.cached_scalars
    else:
        numbers = sum(tensor.numel() for tensor in cache.tensors())
    return {"stored_bytes": cache.bytes() / clips, "effective_bits": 8 * cache.bytes() / numbers}


def _samples(errors: CodingErrors) -> dict[str, list[float]]:
    """The error of each chunk, layer and head, and where it is."""
    import torch

    places = torch.cartesian_prod(*map(torch.arange, errors.by_chunk.shape)).T.tolist()
    names = ("error_chunk", "error_layer", "error_head")
    samples = {name: [float(number) for number in numbers] for name, numbers in zip(names, places, strict=True)}
    return {**samples, "error": errors.by_chunk.flatten().tolist()}


def _table(errors: CodingErrors) -> ProbeTable:
    """A row a layer, a column a head."""
    rows = [(f"layer {layer}", numbers) for layer, numbers in enumerate(errors.overall.tolist())]
    columns = [(f"head {head}", "", "lower") for head in range(errors.overall.shape[1])]
    return ProbeTable("Error of attention by layer and head", "layer", columns, rows)  # type: ignore[arg-type]


@dataclass(slots=True)
class History:
    """What each chunk sees, its own frames included; of what leaves, the chunk that no longer sees it.

    Attributes:
        seen: shares of latent frames, by chunk. merged: frames' worth of averages, by chunk.
    """

    seen: list[Shares] = field(default_factory=list)
    merged: list[float] = field(default_factory=list)

    def note(self, shares: Shares, merged: float = 0.0) -> None:
        """Take down what a chunk saw."""
        self.seen.append(shares)
        self.merged.append(merged)

    def left(self) -> Iterator[tuple[int, int]]:
        """(chunk, frame) of everything of which nothing is seen any more."""
        for chunk, (before, now) in enumerate(zip(self.seen, self.seen[1:], strict=False), 1):
            yield from ((chunk, frame) for frame in sorted(before.keys() - now.keys()))

    def values(self) -> dict[str, float]:
        """Of the last chunk, and of all that has left."""
        came: dict[int, int] = {}
        stays = []
        for chunk, (before, now) in enumerate(zip([{}, *self.seen], self.seen, strict=False)):
            stays += [chunk - came[frame] for frame in before.keys() - now.keys()]
            came |= dict.fromkeys(now.keys() - before.keys(), chunk)
        last = self.seen[-1]
        return {
            "frames_seen": sum(last.values()) + self.merged[-1],
            "oldest_frame": float(max(last) - min(last)),
            "stay_chunks": sum(stays) / len(stays) if stays else float("nan"),
        }

    def samples(self) -> dict[str, list[float]]:
        """By chunk: frames and their shares, what has left, and averages where there are any."""
        seen = [(chunk, *pair) for chunk, shares in enumerate(self.seen) for pair in sorted(shares.items())]
        merged = [(chunk, count) for chunk, count in enumerate(self.merged) if count]
        listed: dict[str, tuple[tuple[str, ...], Sequence[tuple[float, ...]]]] = {
            "seen": (("chunk", "frame", "share"), seen),
            "left": (("chunk", "frame"), list(self.left())),
        }
        if merged:
            listed["merged"] = ("chunk", "frames"), merged
        return {
            f"{name}_{part}": [float(row[place]) for row in rows]
            for name, (parts, rows) in listed.items()
            for place, part in enumerate(parts)
        }
