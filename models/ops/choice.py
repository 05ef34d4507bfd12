"""Which form of latent attention runs, decided without torch so that a plan and a unit's identity can say it.

The costs are those of a roofline: FLOPs against the matrix units, bytes against the memory, the larger of the two.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from harness.contracts import Json
from harness.errors import NotAvailable, OptionError
from harness.system.files import cache_folder, write_atomic
from videomla_models.ops import variants
from videomla_models.ops.device import UNNAMED, column, no_triton
from videomla_models.ops.device import device_name as device_name
from videomla_models.spec.config import LatentSizes
from videomla_models.spec.cost import ELEMENT_BYTES, attention_flops

Name = Literal["expanded", "absorbed", "reference"]
FORMS: tuple[Name, ...] = ("expanded", "absorbed", "reference")
CACHE_VARIABLE = "VIDEOMLA_BENCH_KERNELS"
"""Environment variable with the path of the tuning file."""
CACHE_VERSION: Literal[1] = 1
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
TUNED_QUERIES = 256
"""The kernels probe picks the fastest variant over the shapes with at most so many queries."""


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What a device can do, and the shares of it that the forms reach.

    Attributes:
        flops: FLOP/s of the matrix units in bfloat16. bandwidth: bytes/s of memory.
        absorbed, dense: shares of `flops` that the absorbed kernel and dense attention reach.
        memory: share of `bandwidth` that the expansion reaches.
    """

    flops: float
    bandwidth: float
    absorbed: float = 1.0
    dense: float = 1.0
    memory: float = 1.0


CEILINGS: Mapping[str, Ceilings] = {
    "H200": Ceilings(790e12, 4.3e12, 0.65, 0.77, 0.85),
    "H100": Ceilings(700e12, 3.0e12, 0.65, 0.77, 0.85),
    "B200": Ceilings(2200e12, 8.0e12, 0.65, 0.77, 0.85),
    "A100": Ceilings(270e12, 1.7e12, 0.65, 0.77, 0.85),
}
"""Estimates by a word of the device's name, for use until the kernels probe has measured; none is a measurement.

Rates are data-sheet peaks (NVIDIA: 989, 989, 2250 and 312 TFLOP/s of dense bfloat16, 4.8, 3.35, 8.0 and 2.0 TB/s) less
what a large product or copy is expected to lose; none is taken off the B200's bandwidth. `dense` is what cuDNN and
FlashAttention-3 reach on an H100 at head width 128, 595 to 650 TFLOP/s (arXiv 2407.08608), over the H200's rate here;
`absorbed` lies between Triton's 395 to 477 there and a hand-written kernel of this kind (FlashMLA, 660 on an H800);
`memory` is a guess.
"""
UNKNOWN = CEILINGS["H200"]
CPU = Ceilings(1.0, math.inf)
"""On a CPU both forms are one fused call whose rate hardly differs, so FLOPs alone decide."""


@dataclass(frozen=True, slots=True)
class Call:
    """One attention call: batch, queries, keys, heads and widths; `d_v` is the width of a head's values."""

    batch: int
    queries: int
    keys: int
    heads: int
    d_c: int
    d_nope: int
    d_rope: int
    d_v: int
    element_bytes: int = 2

    @staticmethod
    def of(batch: int, queries: int, keys: int, heads: int, sizes: LatentSizes, d_v: int, dtype: str) -> Call:
        """From the sizes of a network and the name of a dtype."""
        element = ELEMENT_BYTES.get(dtype, 2)
        return Call(batch, queries, keys, heads, sizes.d_c, sizes.d_nope, sizes.d_rope, d_v, element)

    def absorbed(self) -> tuple[int, int]:
        """(FLOPs, bytes) of attention on the latents. Scores d_c + d_rope wide, sums d_c wide, for every head."""
        width = self.d_c + self.d_rope
        flops = attention_flops(self.batch, self.queries, self.keys, self.heads, width, self.d_c)
        rows = self.queries * self.heads * (2 * self.d_c + self.d_rope)
        return flops, self.element_bytes * self.batch * (self.keys * (self.d_c + self.d_rope) + rows)

    def projections(self) -> tuple[int, int]:
        """(FLOPs, bytes) of mapping queries into the latent and sums out of it, head by head."""
        rows = self.batch * self.queries * self.heads
        flops = 2 * rows * self.d_c * (self.d_nope + self.d_v)
        return flops, self.element_bytes * rows * (2 * self.d_c + self.d_nope + self.d_v)

    def dense(self) -> tuple[int, int]:
        """(FLOPs, bytes) of dense attention on keys and values that are there already."""
        key_width = self.d_nope + self.d_rope
        flops = attention_flops(self.batch, self.queries, self.keys, self.heads, key_width, self.d_v)
        width = key_width + self.d_v
        return flops, self.element_bytes * self.batch * self.heads * width * (self.keys + self.queries)

    def expansion(self) -> tuple[int, int]:
        """(FLOPs, bytes) of rebuilding keys and values of every head from the latents."""
        flops = 2 * self.batch * self.keys * self.heads * self.d_c * (self.d_nope + self.d_v)
        width = self.heads * (self.d_nope + self.d_rope + self.d_v)
        return flops, self.element_bytes * self.batch * self.keys * (self.d_c + self.d_rope + width)

    def seconds(self, at: Ceilings) -> dict[Name, float]:
        """Modelled seconds of either form on a device with ceilings `at`."""

        def roof(work: tuple[int, int], share: float) -> float:
            return max(work[0] / (at.flops * share), work[1] / (at.bandwidth * at.memory))

        return {
            "expanded": roof(self.expansion(), at.dense) + roof(self.dense(), at.dense),
            "absorbed": roof(self.absorbed(), at.absorbed) + roof(self.projections(), at.dense),
        }


# ------------------------------------------------------------------------------------- measured thresholds


@dataclass(frozen=True, slots=True)
class Threshold:
    """One measurement: up to `queries` queries on `keys` keys the absorbed form was the faster one.

    Attributes:
        heads, sizes: heads and (d_c, d_nope, d_rope, d_v) it was measured for. dtype: its dtype.
        variant: kernel variant that was the fastest; empty for the default one.
    """

    keys: int
    queries: int
    heads: int
    sizes: tuple[int, int, int, int]
    dtype: str
    variant: str = ""


def tuning_file() -> Path:
    """Where measured thresholds are kept: `$VIDEOMLA_BENCH_KERNELS`, else `kernels.json` in the cache folder."""
    path = os.environ.get(CACHE_VARIABLE)
    return Path(path) if path else cache_folder() / "kernels.json"


class _Tuning(BaseModel):
    """The content of the tuning file: thresholds, and FLOP/s and bytes/s as measured, by the name of a device."""

    version: Literal[1] = CACHE_VERSION
    devices: dict[str, list[Threshold]]
    rates: dict[str, tuple[Rate, Rate]] = Field(default_factory=dict)

    @staticmethod
    def read(path: Path) -> _Tuning:
        """Empty where there is no file, or one of another version. Raises `OptionError` for any other content."""
        body: Any = {"devices": {}}
        try:
            if path.is_file() and (content := json.loads(path.read_text(encoding="utf-8")))["version"] == CACHE_VERSION:
                body = content
            return _Tuning.model_validate(body)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            reason = str(error).partition("\n")[0]
            raise OptionError(
                f"{path} is not a tuning file: {reason}", "delete it; the kernels probe writes it anew"
            ) from error


def read_thresholds(device_name: str, path: Path | None = None) -> list[Threshold]:
    """What was measured on `device_name`, nothing for a device without a name.

    Raises `OptionError` for a file that is not a tuning file.
    """
    return [] if device_name == UNNAMED else _Tuning.read(path or tuning_file()).devices.get(device_name, [])


def read_rates(device_name: str, path: Path | None = None) -> tuple[float, float] | None:
    """FLOP/s and bytes/s as measured on `device_name`, if they were. Raises `OptionError` as `read_thresholds`."""
    return None if device_name == UNNAMED else _Tuning.read(path or tuning_file()).rates.get(device_name)


def write_thresholds(
    device_name: str, measured: list[Threshold], path: Path | None = None, rates: tuple[float, float] | None = None
) -> Path | None:
    """Replace what is kept for `device_name` by `measured`, and by `rates` where given; the file in one step.

    Args:
        rates: FLOP/s of a large product and bytes/s of a large copy.

    Returns:
        The file; None, and nothing is kept, for a device without a name.
    """
    if device_name == UNNAMED:
        return None
    path = path or tuning_file()
    tuning = _Tuning.read(path)
    tuning.devices[device_name] = measured
    if rates is not None:
        tuning.rates[device_name] = rates
    write_atomic(path, tuning.model_dump_json(indent=1) + "\n")
    return path


def ceilings(name: str) -> Ceilings:
    """The rates measured on a device of this name, else the table's; the shares are the table's. See `CEILINGS`."""
    if name == "cpu":
        return CPU
    listed = next((rates for word, rates in CEILINGS.items() if word in name), UNKNOWN)
    measured = read_rates(name)
    return listed if measured is None else replace(listed, flops=measured[0], bandwidth=measured[1])


# ------------------------------------------------------------------------------------------- the choice


@dataclass(frozen=True, slots=True)
class Form:
    """What runs.

    Attributes:
        name: the form of attention.
        engine: `triton`, or `torch` where no kernel fits.
        backend: of dense attention, as asked of PyTorch; `auto` leaves it to PyTorch, empty where none runs.
        basis: what the choice rests on: `asked`, `measured` or `model`.
        fallback: why the engine is not Triton; empty where it is.
        variant: kernel of the absorbed form: the fastest of the tuning file up to `TUNED_QUERIES` queries, else the
            default of the device. Empty where no such kernel runs, and where the device's product name does not tell
            which one is the default.
        codes: whether kernels read an encoded cache's content themselves; otherwise it is decoded before them.
    """

    name: Name
    engine: Literal["triton", "torch"] = "torch"
    backend: str = "auto"
    basis: str = "asked"
    fallback: str = ""
    variant: str = ""
    codes: bool = False

    def identity(self) -> dict[str, Json]:
        """What belongs into a unit's identity and into its record."""
        asked = {"form": self.name, "engine": self.engine, "backend": self.backend, "variant": self.variant}
        return {**asked, "codes": True} if self.codes else dict(asked)


def choose(
    form: str, device: str, dtype: str, batch: int, lq: int, lk: int, heads: int, sizes: LatentSizes,
    d_v: int | None = None, *, strict: bool = False, thresholds: list[Threshold] | None = None, codes: bool = False,
) -> Form:  # fmt: skip
    """The form that runs for these sizes. Imports no torch.

    Args:
        form: `auto`, `expanded`, `absorbed` or `reference`.
        device: `cpu`, `cuda` or `cuda:1`. dtype: as in `bfloat16`.
        lq, lk: queries of a forward pass and keys that they see. d_v: of a head; d_nope + d_rope unless given.
        strict: raise instead of falling back to PyTorch on a CUDA device.
        thresholds: what was measured; read from the tuning file unless given.
        codes: whether the cache holds content in a code that kernels can read; they do in half precision.

    Raises:
        OptionError: an unknown form. NotAvailable: no kernel fits, and `strict`.
    """
    if form not in ("auto", *FORMS):
        raise OptionError(f"attention: {form!r} is not a form", "use auto, expanded, absorbed or reference")
    if form == "reference":
        return Form("reference", backend="")
    values = sizes.d_nope + sizes.d_rope if d_v is None else d_v
    call = Call.of(batch, lq, lk, heads, sizes, values, dtype)
    measured = read_thresholds(device_name(device)) if thresholds is None else thresholds
    nearest = _nearest(call, dtype, measured)
    name, basis = _pick(form, device, call, nearest)
    fallback = _obstacle(device, dtype, sizes, values)
    if fallback and strict and device.startswith("cuda"):
        raise NotAvailable(f"latent attention has no kernel here: {fallback}", "measure what runs, or change the sizes")
    backend = "" if name == "absorbed" and not fallback else "auto"
    if name == "expanded":
        backend = preferred_backend(device, dtype)
    if fallback:
        return Form(name, "torch", backend, basis, fallback)
    if codes and dtype in variants.HALF:
        arch = column(device_name(device))
        kernel = "" if arch is None or name != "absorbed" else variants.coded(arch, dtype).name
        return Form(name, "triton", backend, basis, variant=kernel, codes=True)
    return Form(name, "triton", backend, basis, variant=_variant(device, dtype, call, nearest, name))


def preferred_backend(device: str, dtype: str) -> str:
    """The backend of dense attention that every arm asks for: `cudnn` for half precision on CUDA, `efficient` for
    float32 there, else PyTorch's choice.

    cuDNN's is the fastest of PyTorch's that is published for Hopper, 595 TFLOP/s against 370 of `flash` (arXiv
    2407.08608).
    """
    if not device.startswith("cuda"):
        return "auto"
    return "cudnn" if dtype in variants.HALF else "efficient"


def _nearest(call: Call, dtype: str, thresholds: list[Threshold]) -> Threshold | None:
    """Of what was measured for these widths and heads in this dtype, that at the nearest number of keys."""
    sizes = (call.d_c, call.d_nope, call.d_rope, call.d_v)
    fitting = [t for t in thresholds if (t.heads, t.sizes, t.dtype) == (call.heads, sizes, dtype)]
    return min(fitting, key=lambda t: abs(math.log(t.keys / max(call.keys, 1))), default=None)


def _pick(form: str, device: str, call: Call, nearest: Threshold | None) -> tuple[Name, str]:
    """The form, and what its choice rests on."""
    if form == "expanded":
        return "expanded", "asked"
    if form == "absorbed":
        return "absorbed", "asked"
    if nearest is not None:
        return ("absorbed" if call.queries <= nearest.queries else "expanded"), "measured"
    cost = call.seconds(ceilings(device_name(device)))
    return ("absorbed" if cost["absorbed"] < cost["expanded"] else "expanded"), "model"


def _variant(device: str, dtype: str, call: Call, nearest: Threshold | None, name: Name) -> str:
    """See `Form.variant`. A name in the tuning file that this table or device does not have counts for nothing."""
    if name != "absorbed":
        return ""
    arch = column(device_name(device))
    tuned = nearest.variant if nearest is not None and call.queries <= TUNED_QUERIES else ""
    if any(v.name == tuned and dtype in v.dtypes and arch in (None, v.arch) for v in variants.TABLE):
        return tuned
    return "" if arch is None else variants.select(arch, dtype, call.queries * call.heads).name


def _obstacle(device: str, dtype: str, sizes: LatentSizes, d_v: int) -> str:
    """Why the Triton kernels cannot run; empty when they can."""
    if not device.startswith("cuda"):
        return f"{device} is no CUDA device"
    if missing := no_triton():
        return missing
    if dtype not in (*variants.HALF, "float32"):
        return f"dtype {dtype} has no kernel"
    try:
        variants.pieces(sizes.d_c, sizes.d_rope)
    except OptionError as error:
        return error.message
    for name, width in (("d_nope", sizes.d_nope), ("d_v", d_v)):
        if width % 16 or not 16 <= width <= variants.WIDEST_HEAD:
            return f"{name}={width} is not a multiple of 16 from 16 to {variants.WIDEST_HEAD}"
    return ""
