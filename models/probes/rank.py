"""Probes of spectra: of a checkpoint's key and value maps, and of a live model's activations. No torch at import."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from statistics import mean, median
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from harness.contracts import (
    PATH_SCHEMA,
    FilePath,
    Json,
    Measurement,
    Options,
    Probe,
    ProbeContext,
    Request,
    Subject,
    Value,
    VideoModel,
    Workload,
)
from harness.errors import OptionError
from videomla_models.checkpoints.locate import weights_path
from videomla_models.probes.true_latents import behind, check_file, keyed

if TYPE_CHECKING:
    from torch import Tensor

    from videomla_models.checkpoints.load import Checkpoint

SHARES = {"r90": 0.90, "r95": 0.95, "r99": 0.99}
DRAWS = 3
"""Random operators of a shape over which the null is averaged; singular values of large ones hardly vary."""
PER_LAYER = (
    Value("energy", "", "none", "energy kept at the width (median layer)"),
    Value("r90", "", "none", "directions for 90 % (median layer)"),
    Value("r95", "", "none", "directions for 95 % (median layer)"),
    Value("r99", "", "none", "directions for 99 % (median layer)"),
    Value("directions", "", "none", "singular values of a layer"),
    Value("layers", "", "none", "layers"),
)
VALUES = (
    *PER_LAYER,
    Value("null_energy", "", "none", "energy kept at the width, random maps of that shape"),
    Value("null_r90", "", "none", "directions for 90 %, random maps of that shape"),
    Value("null_r95", "", "none", "directions for 95 %, random maps of that shape"),
    Value("null_r99", "", "none", "directions for 99 %, random maps of that shape"),
)
NAN = float("nan")


class RankOptions(Options):
    """Options of `rank`.

    Attributes:
        checkpoint: a file, a folder or a Hub id; dense or VideoMLA.
        width: directions whose share of the energy is reported; 192 is the paper's content latent.
        ema, lora, lora_alpha: as in `videomla_models.checkpoints.load.open_checkpoint`.
    """

    checkpoint: Annotated[str, weights_path(), PATH_SCHEMA]
    width: int = Field(default=192, ge=1)
    ema: bool | None = None
    lora: Annotated[str, weights_path(), PATH_SCHEMA] | None = None
    lora_alpha: float | None = None

    @model_serializer(mode="wrap")
    def _as_keys_have_it(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without an alpha that nobody gave: keys were made before there was the option."""
        values: dict[str, Any] = fields(self)
        if values["lora_alpha"] is None:
            del values["lora_alpha"]
        return values


class RankProbe(Probe):
    """Per layer: singular values of [W_K; W_V], or of the composed operator where attention is latent.

    Energy is the share of squared singular values, r_tau the smallest width that keeps tau of it (VideoMLA paper,
    spectral analysis). Energy at a width that reaches the number of directions is NaN, since it is all by definition.
    `null_…` is the same of operators composed of maps with independent normal entries: what the shape alone gives.
    """

    version = "2"
    schema: ClassVar[type[Options]] = RankOptions
    values: ClassVar[tuple[Value, ...]] = VALUES
    needs_model: ClassVar[bool] = False
    side_by_side: ClassVar[bool] = True

    def identity(self) -> Mapping[str, Json]:
        """SHA-256 of the checkpoint's files, and the strength that a LoRA's state."""
        from videomla_models.checkpoints.locate import resolve
        from videomla_models.checkpoints.lora_config import check_strength, lora_digests, stated_strength

        check_strength(self.options.lora, self.options.lora_alpha)
        digests: dict[str, Json] = dict(resolve(self.options.checkpoint).digests())
        if not self.options.lora:
            return {"weights": digests}
        lora = resolve(self.options.lora)
        digests |= {f"lora/{name}": sha256 for name, sha256 in lora_digests(lora).items()}
        stated = stated_strength(lora)
        return {"weights": digests, **({"lora": stated.identity()} if stated else {})}

    def measure(self, subject: Subject | None, workload: Workload, context: ProbeContext) -> Measurement:
        """Read the checkpoint layer by layer; neither subject nor workload is used."""
        from videomla_models.checkpoints.load import open_checkpoint
        from videomla_models.checkpoints.spectrum import (
            checkpoint_shapes,
            key_value_spectrum,
            layer_count,
            operator_of,
            random_spectra,
        )

        options: RankOptions = self.options
        checkpoint: Checkpoint = open_checkpoint(
            options.checkpoint, ema=options.ema, lora=options.lora, lora_alpha=options.lora_alpha
        )
        spectra = {f"{i:02}": key_value_spectrum(checkpoint, i) for i in range(layer_count(checkpoint))}
        null = summarise_null([random_spectra(checkpoint_shapes(checkpoint), DRAWS)], self.options.width)
        notes: dict[str, Json] = {
            "operator": {"stacked": "[W_K; W_V]", "composed": "[W_K_up W_KV_down; W_V_up W_KV_down]"}[
                operator_of(checkpoint)
            ],
            "part": checkpoint.part,
            "layout": checkpoint.layout,
            "of": "weights",
        }
        summary = summarise(spectra, self.options.width, notes)
        return Measurement({**summary.values, **null}, summary.samples, summary.notes)


class WeightRankOptions(Options):
    """Options of `weight-rank`.

    Attributes:
        width: directions whose share of the energy is reported.
    """

    width: int = Field(default=192, ge=1)


class WeightRankProbe(Probe):
    """As `rank`, of a loaded model's own weights; over several networks, as those of training seeds, their mean.

    Samples are named by network and layer, as in `seed[0]:r99`.
    """

    version = "2"
    schema: ClassVar[type[Options]] = WeightRankOptions
    values: ClassVar[tuple[Value, ...]] = VALUES

    def measure(self, subject: Subject | None, workload: Workload, context: ProbeContext) -> Measurement:
        """Decompose the maps; the workload is not used."""
        from videomla_models.checkpoints.spectrum import network_shapes, network_spectra, random_spectra

        if subject is None:
            raise OptionError("weight-rank measures a model", "name one")
        model: Any = subject.load()
        pipelines = getattr(model, "pipelines", None) or [getattr(model, "pipeline", None)]
        networks = [pipeline.network for pipeline in pipelines if pipeline is not None]
        if not networks:
            raise OptionError(f"model {subject.name} gives no transformer to read", "choose one of the Wan family")
        width = self.options.width
        summary = [summarise(network_spectra(network), width) for network in networks]
        values = {name: mean(one.values[name] for one in summary) for name in summary[0].values}
        values |= summarise_null([random_spectra(network_shapes(network), DRAWS) for network in networks], width)
        samples = {f"seed[{i}]:{name}": s for i, one in enumerate(summary) for name, s in one.samples.items()}
        return Measurement(values, samples, {"width": width, "of": "weights"})


Activation = Literal["k", "v", "latent"]
ACTIVATIONS: Mapping[Activation, str] = {"k": "self_attn.k", "v": "self_attn.v", "latent": "self_attn.kv_norm"}
"""Submodule of a block that gives each: a dense layer's keys before their norm and its values, and the content latent
as it is cached. Latent attention makes keys and values in no module, and absorbed it makes none."""


class ActivationOptions(Options):
    """Options of `activation-rank`.

    Attributes:
        activations: those to record; what a model has not is NaN.
        centred: take each channel's mean over all tokens away, so that energy is variance.
        width: as for `rank`.
        latents: a file of latents [batch, channel, frame, height, width] that stand in for what the model makes, so
            that every chunk is made behind true ones; safetensors, or a `.pt` of tensors. Its length is the clips'.
    """

    activations: tuple[Activation, ...] = Field(tuple(ACTIVATIONS), min_length=1)
    centred: bool = False
    width: int = Field(default=192, ge=1)
    latents: FilePath = ""


class ActivationRankProbe(Probe):
    """Per layer: the spectrum of keys, values and content latent over a whole rollout, every denoising step included.

    The model must be one of this project's streaming models: its network is looked for at `pipeline.network`. Values
    and samples are named by activation, as in `latent_r99` and `latent:r99`.
    """

    version = "2"
    schema: ClassVar[type[Options]] = ActivationOptions
    values: ClassVar[tuple[Value, ...]] = (
        *(
            Value(f"{kind}_{value.name}", value.unit, value.direction, f"{kind}: {value.label}")
            for kind in ACTIVATIONS
            for value in PER_LAYER
        ),
        Value("tokens", "", "none", "activations recorded a layer"),
    )

    def keyed_options(self, options: Mapping[str, Json]) -> Mapping[str, Json]:
        """The latents by their digest, and not at all where there are none: keys were given before there was a file."""
        return keyed(options, self.options.latents)

    def check(self, model: VideoModel, workload: Workload) -> None:
        """Refuse a file of latents that the model cannot be run behind."""
        check_file(self.options.latents, model)

    def measure(self, subject: Subject | None, workload: Workload, context: ProbeContext) -> Measurement:
        """Stream the workload's clips and record."""
        from videomla_models.checkpoints.spectrum import recorded

        if subject is None:
            raise OptionError("activation-rank measures a model", "name one")
        model = subject.load()
        network: Any = getattr(getattr(model, "pipeline", None), "network", None)
        if network is None:
            raise OptionError(f"model {subject.name} gives no transformer to record", "choose one of the Wan family")
        names = self._names([name for name, _ in network.named_modules()])
        with recorded(network, [name for layers in names.values() for name in layers.values()]) as grams:
            for passes in self._passes(model, workload):
                for _ in passes:
                    pass
        centred = self.options.centred
        values = dict.fromkeys((value.name for value in self.values), NAN)
        samples: dict[str, Sequence[float]] = {}
        for kind, layers in names.items():
            spectra = {layer: grams[name].singular_values(centred) for layer, name in layers.items()}
            summary = summarise(spectra, self.options.width)
            values |= {f"{kind}_{name}": value for name, value in summary.values.items()}
            samples |= {f"{kind}:{name}": series for name, series in summary.samples.items()}
        values["tokens"] = float(max(gram.tokens for gram in grams.values()))
        notes: dict[str, Json] = {"of": list(names), "centred": centred, "width": self.options.width}
        notes["outputs"] = [name for layers in names.values() for name in layers.values()]
        return Measurement(values, samples, notes)

    def _passes(self, model: Any, workload: Workload) -> Iterator[Iterator[object]]:
        """The workload's clips, or its first prompt behind the true latents of a file."""
        if not self.options.latents:
            yield from (model.stream(request) for request in requests(workload))
            return
        latents, request = behind(self.options.latents, workload)
        yield model.pipeline.on_latents(latents, request)

    def _names(self, modules: Sequence[str]) -> dict[Activation, dict[str, str]]:
        """Of each activation that the model has, the submodules by layer number as two digits."""
        layers = sorted({int(match[1]) for name in modules if (match := re.match(r"blocks\.(\d+)$", name))})
        there = set(modules)
        names = {
            kind: {f"{layer:02}": f"blocks.{layer}.{ACTIVATIONS[kind]}" for layer in layers}
            for kind in self.options.activations
        }
        complete = {kind: by_layer for kind, by_layer in names.items() if by_layer and set(by_layer.values()) <= there}
        if not complete:
            outputs = " or ".join(ACTIVATIONS[kind] for kind in self.options.activations)
            raise OptionError(f"no block has {outputs}", "choose among k, v and latent, or see named_modules()")
        return complete


def requests(workload: Workload) -> Iterator[Request]:
    """The workload's clips, `batch` at a time, every prompt with every seed."""
    clips = iter([(prompt, seed) for seed in workload.seeds for prompt in workload.prompts])
    while batch := list(islice(clips, workload.batch)):
        yield Request(tuple(text for text, _ in batch), tuple(seed for _, seed in batch), workload.frames)


def summarise(spectra: Mapping[str, Tensor], width: int, notes: Mapping[str, Json] | None = None) -> Measurement:
    """Medians over layers as values; per-layer numbers and every singular value as samples.

    Args:
        spectra: singular values of each layer, descending, by layer number as two digits.

    Samples are `energy`, `r90`, `r95`, `r99` (an entry a layer) and `singular[NN]`. Energy is NaN where `width` is not
    below the number of directions.
    """
    by_layer = [_numbers(singular, width) for singular in spectra.values()]
    samples = {name: [numbers[name] for numbers in by_layer] for name in by_layer[0]}
    values = {name: float(median(per_layer)) for name, per_layer in samples.items()}
    values |= {"layers": float(len(spectra)), "directions": float(max(len(s) for s in spectra.values()))}
    samples |= {f"singular[{layer}]": singular.tolist() for layer, singular in spectra.items()}
    return Measurement(values, samples, {"width": width, **(notes or {})})


def summarise_null(drawn: Sequence[Sequence[Tensor]], width: int) -> dict[str, float]:
    """Means over random spectra as `null_…`: over the draws of each network, then over networks."""
    means = []
    for spectra in drawn:
        numbers = [_numbers(singular, width) for singular in spectra]
        means.append({name: mean(one[name] for one in numbers) for name in numbers[0]})
    return {f"null_{name}": mean(one[name] for one in means) for name in means[0]}


def _numbers(singular: Tensor, width: int) -> dict[str, float]:
    """Energy at `width`, NaN where that is all there is, and the effective ranks."""
    from videomla_models.checkpoints.spectrum import effective_rank, energy

    kept = energy(singular, width) if width < len(singular) else NAN
    return {"energy": kept} | {name: float(effective_rank(singular, share)) for name, share in SHARES.items()}
