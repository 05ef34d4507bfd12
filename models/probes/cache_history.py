"""Follow a model's cache along a rollout: which frames each chunk sees, what leaves and when, what storage costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from harness.contracts import Measurement, Probe, ProbeContext, ProbeTable, Subject, Value, Workload
from harness.errors import OptionError

if TYPE_CHECKING:
    from videomla_models.probes.coding_error import CodingErrors
    from videomla_models.rollout.rollout import Rollout


class CacheHistory(Probe):
    """Which frames stand in the window at each chunk, and the error that stored entries bring into attention.

    All is of one request: the first prompts and seeds, `batch` of them. Errors are those of `attention_errors`: the
    model goes its way with an exact cache, and an encoded one beside it takes in the same entries; the value is their
    root mean square over layers and heads. A cache that stores what the model computes has none. Effective bits are
    those of all storage behind the cache, scales and whatever else is kept, over the numbers of a full window.

    The model must be one of this project's streaming models, chunk by chunk; prompt switches are not followed.
    """

    plots = ("cache_history",)
    has_table = True
    side_by_side = True
    values: ClassVar[tuple[Value, ...]] = (
        Value("stored_bytes", "B", "lower", "cache, measured"),
        Value("effective_bits", "bits", "none", "bits per cached number"),
        Value("frames_seen", "latent frames", "none", "frames seen by the last chunk"),
        Value("oldest_frame", "latent frames", "none", "age of the oldest of them"),
        Value("stay_chunks", "chunks", "none", "chunks until a frame leaves"),
        Value("attention_error", "", "lower", "attention error"),
        Value("attention_error_worst", "", "lower", "attention error, worst head"),
    )

    def measure(self, subject: Subject | None, workload: Workload, context: ProbeContext) -> Measurement:
        """Stream the workload's first clips and record. Raises `OptionError` for a model that cannot be followed."""
        import torch

        from videomla_models.probes.coding_error import CodingErrors, attention_errors
        from videomla_models.probes.followed_rollouts import followed
        from videomla_models.rollout.pipeline import Pipeline

        if subject is None:
            raise OptionError("the probe cache measures a model", "name one")
        if workload.switches:
            raise OptionError("the probe cache follows no prompt switch", "leave `switches` out of the section")
        model: Any = subject.load()
        pipeline = getattr(model, "pipeline", None)
        if not isinstance(pipeline, Pipeline):
            raise OptionError(f"model {subject.name} has no cache to follow", "choose one of this project's models")
        if pipeline.policy.schedule != "chunk" or pipeline.network.config.attention == "linear":
            raise OptionError(
                f"model {subject.name} has no keys in a window that goes chunk by chunk", "choose one that has"
            )
        request, history = workload.request(0), History()
        with followed(model, history.note) as rollouts:
            for _ in model.stream(request):
                continue
        (rollout,) = rollouts
        values = {**_size(rollout, request.batch), **history.values()}
        storage, config = model.storage(), pipeline.network.config
        if storage.coded:
            context.report("attention on encoded entries")
            errors = attention_errors(pipeline, request, model.timeline(request), storage)
        else:
            none = torch.zeros(len(history.seen), config.layers, config.heads)
            errors = CodingErrors(none, none[0], values["effective_bits"])
        values["attention_error"] = float(errors.overall.square().mean().sqrt())
        values["attention_error_worst"] = float(errors.overall.max())
        table = _table(errors) if storage.coded else None
        return Measurement(values, {**history.samples(), **_samples(errors)}, table=table)


def _size(rollout: Rollout, clips: int) -> dict[str, float]:
    """Bytes behind the cache of a clip, and bits for each number of a full window."""
    config, cache = rollout.network.config, rollout.cache
    rows = clips * (1 if rollout.guidance == 1 else 2)
    numbers = rows * config.layers * rollout.capacity * cache.grid.tokens * config.cached_scalars
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
    """The latent frames that each chunk sees, its own included; of what leaves, the chunk that no longer sees it."""

    seen: list[list[int]] = field(default_factory=list)

    def note(self, frames: Sequence[int]) -> None:
        """Take down what the next chunk sees."""
        self.seen.append(sorted(frames))

    def left(self) -> Iterator[tuple[int, int]]:
        """(chunk, frame) of everything that leaves."""
        for chunk, (before, now) in enumerate(zip(self.seen, self.seen[1:], strict=False), 1):
            yield from ((chunk, frame) for frame in before if frame not in now)

    def values(self) -> dict[str, float]:
        """Of the last chunk, and of all that has left."""
        first = {frame: chunk for chunk, frames in reversed(list(enumerate(self.seen))) for frame in frames}
        stays = [chunk - first[frame] for chunk, frame in self.left()]
        last = self.seen[-1]
        return {
            "frames_seen": float(len(last)),
            "oldest_frame": float(last[-1] - last[0]),
            "stay_chunks": sum(stays) / len(stays) if stays else float("nan"),
        }

    def samples(self) -> dict[str, list[float]]:
        """Pairs of chunk and frame: what is seen, and what has left."""
        pairs = {
            "seen": [(chunk, frame) for chunk, frames in enumerate(self.seen) for frame in frames],
            "left": list(self.left()),
        }
        return {
            f"{name}_{part}": [float(pair[place]) for pair in pairs_of_name]
            for name, pairs_of_name in pairs.items()
            for place, part in enumerate(("chunk", "frame"))
        }
