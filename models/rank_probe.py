"""Probes of spectra: of a checkpoint's key and value maps, and of a live model's activations. No torch at import."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from statistics import mean, median
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from harness.contracts import Json, Measurement, Options, Probe, Request, Subject, Value, Workload
from harness.errors import OptionError

if TYPE_CHECKING:
    from torch import Tensor

    from models.weights import Checkpoint

SHARES = {"r90": 0.90, "r95": 0.95, "r99": 0.99}
VALUES = (
    Value("energy", "", "none", "energy kept at the width (median layer)"),
    Value("r90", "", "none", "directions for 90 % (median layer)"),
    Value("r95", "", "none", "directions for 95 % (median layer)"),
    Value("r99", "", "none", "directions for 99 % (median layer)"),
    Value("directions", "", "none", "singular values of a layer"),
    Value("layers", "", "none", "layers"),
)


class RankOptions(Options):
    """Options of `rank`.

    Attributes:
        checkpoint: a file, a folder or a Hub id; dense or VideoMLA.
        width: directions whose share of the energy is reported; 192 is the paper's content latent.
        ema, lora: as in `models.weights.open_checkpoint`.
    """

    checkpoint: str
    width: int = Field(default=192, ge=1)
    ema: bool | None = None
    lora: str | None = None


class RankProbe(Probe):
    """Per layer: singular values of [W_K; W_V], or of the composed operator where attention is latent.

    Energy is the share of squared singular values, r_tau the smallest width that keeps tau of it (VideoMLA paper,
    spectral analysis).
    """

    schema: ClassVar[type[Options]] = RankOptions
    values: ClassVar[tuple[Value, ...]] = VALUES
    needs_model: ClassVar[bool] = False

    def identity(self) -> Mapping[str, Json]:
        """SHA-256 of the checkpoint's files."""
        from models.sources import resolve

        digests: dict[str, Json] = dict(resolve(self.options.checkpoint).digests())
        if self.options.lora:
            digests |= {f"lora/{name}": found for name, found in resolve(self.options.lora).digests().items()}
        return {"weights": digests}

    def measure(self, subject: Subject | None, workload: Workload) -> Measurement:
        """Read the checkpoint layer by layer; neither argument is used."""
        from models.spectrum import key_value_spectrum, layer_count, operator_of
        from models.weights import open_checkpoint

        checkpoint: Checkpoint = open_checkpoint(self.options.checkpoint, ema=self.options.ema, lora=self.options.lora)
        spectra = {f"{i:02}": key_value_spectrum(checkpoint, i) for i in range(layer_count(checkpoint))}
        notes: dict[str, Json] = {
            "operator": {"stacked": "[W_K; W_V]", "composed": "[W_K_up W_KV_down; W_V_up W_KV_down]"}[
                operator_of(checkpoint)
            ],
            "part": checkpoint.part,
            "layout": checkpoint.layout,
        }
        return summarise(spectra, self.options.width, notes)


class WeightRankOptions(Options):
    """Options of `weight-rank`: `width` as for `rank`."""

    width: int = Field(default=192, ge=1)


class WeightRankProbe(Probe):
    """As `rank`, of a loaded model's own weights; over several networks, as those of training seeds, their mean.

    Samples are named by network and layer, as in `seed[0]:r99`.
    """

    schema: ClassVar[type[Options]] = WeightRankOptions
    values: ClassVar[tuple[Value, ...]] = VALUES

    def measure(self, subject: Subject | None, workload: Workload) -> Measurement:
        """Decompose the maps; the workload is not used."""
        from models.spectrum import network_spectra

        if subject is None:
            raise OptionError("weight-rank measures a model", "name one")
        model: Any = subject.load()
        found = [
            summarise(network_spectra(pipeline.network), self.options.width)
            for pipeline in getattr(model, "pipelines", None) or [getattr(model, "pipeline", None)]
            if pipeline is not None
        ]
        if not found:
            raise OptionError(f"model {subject.name} gives no transformer to read", "choose one of the Wan family")
        values = {name: mean(one.values[name] for one in found) for name in found[0].values}
        samples = {f"seed[{i}]:{name}": s for i, one in enumerate(found) for name, s in one.samples.items()}
        return Measurement(values, samples, {"width": self.options.width})


class ActivationOptions(Options):
    """Options of `activation-rank`.

    Attributes:
        outputs: submodules of a block whose outputs are recorded, the first that the model has: the names of dense
            keys and of VideoMLA's content latent, unless given.
        width: as for `rank`.
    """

    outputs: tuple[str, ...] = ("self_attn.kv_down", "self_attn.k")
    width: int = Field(default=192, ge=1)


class ActivationRankProbe(Probe):
    """Per layer: the spectrum of activations (not centred) over a whole rollout, every denoising step included.

    The model must be one of this project's streaming models: its network is looked for at `pipeline.network`.
    """

    schema: ClassVar[type[Options]] = ActivationOptions
    values: ClassVar[tuple[Value, ...]] = (*VALUES, Value("tokens", "", "none", "activations recorded a layer"))

    def measure(self, subject: Subject | None, workload: Workload) -> Measurement:
        """Stream the workload's clips and record."""
        from models.spectrum import recorded

        if subject is None:
            raise OptionError("activation-rank measures a model", "name one")
        model = subject.load()
        network: Any = getattr(getattr(model, "pipeline", None), "network", None)
        if network is None:
            raise OptionError(f"model {subject.name} gives no transformer to record", "choose one of the Wan family")
        names = self._names([name for name, _ in network.named_modules()])
        with recorded(network, list(names.values())) as grams:
            for request in requests(workload):
                for _ in model.stream(request):
                    pass
        spectra = {layer: grams[name].singular_values() for layer, name in names.items()}
        tokens = [grams[name].tokens for name in names.values()]
        found = summarise(spectra, self.options.width, {"outputs": list(names.values()), "centred": False})
        return Measurement({**found.values, "tokens": float(max(tokens))}, found.samples, found.notes)

    def _names(self, modules: Sequence[str]) -> dict[str, str]:
        layers = sorted({int(found[1]) for name in modules if (found := re.match(r"blocks\.(\d+)$", name))})
        for output in self.options.outputs:
            names = {f"{layer:02}": f"blocks.{layer}.{output}" for layer in layers}
            if names and set(names.values()) <= set(modules):
                return names
        raise OptionError(f"no block has {' or '.join(self.options.outputs)}", "see the model's named_modules()")


def requests(workload: Workload) -> Iterator[Request]:
    """The workload's clips, `batch` at a time, every prompt with every seed."""
    clips = iter([(prompt, seed) for seed in workload.seeds for prompt in workload.prompts])
    while batch := list(islice(clips, workload.batch)):
        yield Request(tuple(text for text, _ in batch), tuple(seed for _, seed in batch), workload.frames)


def summarise(spectra: Mapping[str, Tensor], width: int, notes: Mapping[str, Json] | None = None) -> Measurement:
    """Medians over layers as values; per-layer numbers and every singular value as samples.

    Args:
        spectra: singular values of each layer, descending, by layer number as two digits.

    Samples are `energy`, `r90`, `r95`, `r99` (an entry a layer) and `singular[NN]`.
    """
    from models.spectrum import effective_rank, energy

    samples: dict[str, list[float]] = {"energy": [energy(singular, width) for singular in spectra.values()]}
    for name, share in SHARES.items():
        samples[name] = [float(effective_rank(singular, share)) for singular in spectra.values()]
    values = {name: float(median(per_layer)) for name, per_layer in samples.items()}
    values |= {"layers": float(len(spectra)), "directions": float(max(len(s) for s in spectra.values()))}
    samples |= {f"singular[{layer}]": singular.tolist() for layer, singular in spectra.items()}
    return Measurement(values, samples, {"width": width, **(notes or {})})
