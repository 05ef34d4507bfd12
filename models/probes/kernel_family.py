"""Latent attention as the kernels probe drives it: every form of a shape on the same fresh inputs, with its truth."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from harness.contracts import Availability, Json
from harness.contracts.kernels import Bench, Case, Compile, Crossing, Dtype, Error, Shape
from harness.errors import NotAvailable, OptionError, nearest
from videomla_models.ops import choice, variants
from videomla_models.probes.kernel_chunks import Setting
from videomla_models.spec.config import LatentSizes, TransformerConfig
from videomla_models.spec.limits import LIMITS, ROW_LIMIT

if TYPE_CHECKING:
    from torch import Tensor

BLOCK_SCORES = 1 << 26
"""Scores of the float64 reference at a time, 512 MB."""
INTERPRETED = ("float16", "float32")
"""Dtypes in which Triton's interpreter computes what a device does."""
SPARE = 48
"""Unwritten slots behind the keys, which hold NaN."""


@dataclass(frozen=True, slots=True)
class Widths:
    """Heads and widths of one layer; as in `LatentSizes`, and `d_v` of a head's values."""

    heads: int = 12
    d_c: int = 192
    d_nope: int = 96
    d_rope: int = 32
    d_v: int = 128

    @property
    def latent(self) -> LatentSizes:
        """As the choice of form takes them."""
        return LatentSizes(d_c=self.d_c, d_nope=self.d_nope, d_rope=self.d_rope)


class LatentAttentionBench(Bench):
    """VideoMLA's attention on a full cache: through dispatch in either form, kernel by kernel, and dense beside it."""

    version = "1"

    def __init__(self, dtype: Dtype, sizes: Mapping[str, int], device: str) -> None:
        names = [field.name for field in fields(Widths)]
        for name in sizes:
            if name not in names:
                raise OptionError(f"latent attention has no size {name!r}", nearest(name, names))
            if sizes[name] < 1:
                raise OptionError(f"size {name}={sizes[name]} is not positive")
        self.dtype, self.widths, self.device = dtype, Widths(**sizes), device

    def identity(self) -> Mapping[str, Json]:
        """The kernels that are tried."""
        return {"kernels": [variant.name for variant in variants.TABLE]}

    def available(self) -> Availability:
        """On a CUDA device with Triton, or in Triton's interpreter."""
        if self.device.startswith("cuda"):
            try:
                self._choose("absorbed", Shape(1, 1, 1), strict=True)
            except NotAvailable as reason:
                return Availability(False, reason.message, reason.fix)
            return Availability(True)
        if os.environ.get("TRITON_INTERPRET") == "1":
            if self.dtype not in INTERPRETED:
                no_check = (
                    f"Triton's interpreter multiplies the bit patterns of {self.dtype}, so no kernel is checked in it"
                )
                return Availability(False, no_check, f"set dtype to {' or '.join(INTERPRETED)}, or use a CUDA device")
            return Availability(True)
        return Availability(
            False, f"Triton kernels do not run on {self.device}", "set TRITON_INTERPRET=1 to check them"
        )

    def chosen(self, shape: Shape, crossings: Sequence[Crossing] = ()) -> str:
        """What `attention: auto` runs."""
        return self._choose("auto", shape, thresholds=self._thresholds(crossings) if crossings else None).name

    def _choose(
        self, form: str, shape: Shape, strict: bool = False, thresholds: list[choice.Threshold] | None = None
    ) -> choice.Form:
        w = self.widths
        return choice.choose(
            form, self.device, self.dtype, shape.batch, shape.queries, shape.keys, w.heads, w.latent, w.d_v,
            strict=strict, thresholds=thresholds,
        )  # fmt: skip

    def _thresholds(self, crossings: Sequence[Crossing]) -> list[choice.Threshold]:
        heads, sizes, dtype = self._measured
        return [choice.Threshold(c.keys, c.queries, heads, sizes, dtype, c.variant) for c in crossings]

    @property
    def _measured(self) -> tuple[int, tuple[int, int, int, int], str]:
        w = self.widths
        return w.heads, (w.d_c, w.d_nope, w.d_rope, w.d_v), self.dtype

    def keep(self, crossings: Sequence[Crossing], flops: float, moved: float) -> str:
        """Into the tuning file, in place of what stood there for this device, dtype and widths; says what was kept."""
        name, new = choice.device_name(self.device), self._thresholds(crossings)
        others = [t for t in choice.read_thresholds(name) if (t.heads, t.sizes, t.dtype) != self._measured]
        if choice.write_thresholds(name, [*others, *new], rates=(flops, moved)) is None:
            return "nothing: the driver gives this device no name to keep it under"
        return f"{len(new)} crossings for {name}"

    def cases(self, shape: Shape, seed: int) -> Iterator[Case]:
        """Both forms through dispatch, each kernel alone, the expansion alone, dense by backend."""
        inputs = Inputs.draw(self.dtype, self.widths, self.device, shape, seed)
        w = self.widths
        call = choice.Call.of(shape.batch, shape.queries, shape.keys, w.heads, w.latent, w.d_v, self.dtype)
        yield self._through_dispatch(inputs, "absorbed", shape, _sum(call.absorbed(), call.projections()))
        yield self._through_dispatch(inputs, "expanded", shape, _sum(call.expansion(), call.dense()))
        for variant in self._variants():
            yield self._kernel(inputs, variant, call.absorbed())
        yield self._expansion(inputs, call.expansion())
        for backend in ("cudnn", "flash", "efficient") if self.device.startswith("cuda") else ("auto",):
            yield self._dense(inputs, backend, call.dense())

    def chunks(self, seed: int, compile: Compile = "none") -> Iterator[tuple[Shape, Case]]:
        """The 1.3B model with these widths at 832 x 480: all passes of a chunk, dense and in both latent forms."""
        w, third = self.widths, self.widths.d_rope // 6
        latent = replace(w.latent, pairs=(w.d_rope // 2 - 2 * third, third, third))
        config = TransformerConfig(dim=w.heads * w.d_v, heads=w.heads, latent=latent)
        return Setting(config, self.dtype, self.device, self._choose, compile=compile).cases(seed)

    def _variants(self) -> list[variants.Variant]:
        arch: int | None = 80
        if self.device.startswith("cuda"):
            import torch

            arch = variants.architecture(torch.cuda.get_device_capability(self.device))
        return [v for v in variants.TABLE if v.arch == arch and self.dtype in v.dtypes]

    def _case(
        self, form: str, work: tuple[int, int], call: Callable[[], object], check: Callable[[], Error],
        detail: Mapping[str, Json] | None = None,
    ) -> Case:  # fmt: skip
        limit = LIMITS[self.dtype]
        return Case(form, float(work[0]), float(work[1]), call, check, limit, ROW_LIMIT * limit, detail or {})

    def _through_dispatch(self, inputs: Inputs, name: choice.Name, shape: Shape, work: tuple[int, int]) -> Case:
        from videomla_models.ops.latent import Attention

        if self.device.startswith("cuda"):
            form = self._choose(name, shape)
        else:
            form = choice.Form(name, "triton", "auto" if name == "expanded" else "")
        runner = Attention(form, strict=True)

        def call() -> Tensor:
            return runner.attend(inputs.q_nope, inputs.q_rope, inputs.c, inputs.r, inputs.k_up, inputs.v_up)

        def check() -> Error:
            runner.workspace.poison()
            inputs.spoil()
            with fresh_memory_is_nan() if form.name == "absorbed" else nullcontext():
                return inputs.error(call())

        detail = {name: value for name, value in form.identity().items() if name != "form"}
        return self._case(name, work, call, check, detail)

    def _kernel(self, inputs: Inputs, variant: variants.Variant, work: tuple[int, int]) -> Case:
        from videomla_models.ops.triton_absorbed import absorbed
        from videomla_models.ops.triton_expand import Workspace

        space, w = Workspace(), self.widths
        out = inputs.absorbed_query.new_empty(*inputs.q_nope.shape[:3], w.d_c)
        scale = (w.d_nope + w.d_rope) ** -0.5

        def call() -> Tensor:
            return absorbed(inputs.absorbed_query, inputs.c, inputs.r, scale, variant=variant, out=out, workspace=space)

        def check() -> Error:
            call()
            out.fill_(math.nan)
            space.poison()
            return inputs.error(inputs.mapped(call()))

        rows = inputs.q_nope.shape[1] * w.heads
        default = variants.select(variant.arch, self.dtype, rows).name == variant.name
        return self._case(f"absorbed:{variant.name}", work, call, check, {"default": default})

    def _expansion(self, inputs: Inputs, work: tuple[int, int]) -> Case:
        from videomla_models.ops.triton_expand import Workspace, expand

        space = Workspace()

        def call() -> tuple[Tensor, Tensor]:
            return expand(inputs.c, inputs.r, inputs.k_up, inputs.v_up, workspace=space)

        def check() -> Error:
            call()
            space.poison()
            return inputs.expansion_error(*call())

        return self._case("expansion", work, call, check)

    def _dense(self, inputs: Inputs, backend: str, work: tuple[int, int]) -> Case:
        from videomla_models.ops.sdpa import attend

        scale = inputs.query.shape[-1] ** -0.5

        def call() -> Tensor:
            return attend(inputs.query, *inputs.keys_and_values, scale, backend)

        def check() -> Error:
            inputs.spoil()
            return inputs.error(call().transpose(1, 2))

        return self._case(f"dense:{backend}", work, call, check, {"backend": backend})


@dataclass
class Inputs:
    """Random inputs of one shape. Content latents and keys have unit size, as behind their norms.

    Attributes:
        q_nope: [B, Lq, H, d_nope]. q_rope: [B, Lq, H, d_rope]. c: [B, Lk, d_c]. r: [B, Lk, d_rope]; both are the
            first slots of a longer buffer that holds NaN behind them. k_up: [H, d_nope, d_c]. v_up: [H, d_v, d_c].
    """

    q_nope: Tensor
    q_rope: Tensor
    c: Tensor
    r: Tensor
    k_up: Tensor
    v_up: Tensor

    @staticmethod
    def draw(dtype: Dtype, w: Widths, device: str, shape: Shape, seed: int) -> Inputs:
        """The same on every run with `seed`."""
        import torch

        g = torch.Generator(device).manual_seed(seed)

        def normal(*size: int, spare: int = 0) -> Tensor:
            numbers = torch.randn(size[0], size[1] + spare, *size[2:], generator=g, device=device)
            numbers[:, size[1] :] = math.nan
            return numbers.to(getattr(torch, dtype))[:, : size[1]]

        b, q, k, h = shape.batch, shape.queries, shape.keys, w.heads
        q_nope, q_rope = normal(b, q, h, w.d_nope), normal(b, q, h, w.d_rope)
        c, r = normal(b, k, w.d_c, spare=SPARE), normal(b, k, w.d_rope, spare=SPARE)
        k_up, v_up = (normal(h, d, w.d_c) * w.d_c**-0.5 for d in (w.d_nope, w.d_v))
        return Inputs(q_nope, q_rope, c, r, k_up, v_up)

    @cached_property
    def query(self) -> Tensor:
        """[B, H, Lq, d_nope + d_rope], of the expanded form."""
        import torch

        return torch.cat([self.q_nope, self.q_rope], -1).transpose(1, 2).contiguous()

    @cached_property
    def absorbed_query(self) -> Tensor:
        """[B, Lq, H, d_c + d_rope], each head's key map taken in."""
        import torch

        return torch.cat([torch.einsum("blhn,hnc->blhc", self.q_nope, self.k_up), self.q_rope], -1)

    @cached_property
    def keys_and_values(self) -> tuple[Tensor, Tensor]:
        """[B, H, Lk, ...] each, contiguous, as a dense cache holds them."""
        from videomla_models.ops import torch_forms

        k, v = torch_forms.expand(self.c, self.r, self.k_up, self.v_up)
        return k.contiguous(), v.contiguous()

    @cached_property
    def expected(self) -> Tensor:
        """Float64 [B, Lq, H, d_v], block by block."""
        import torch

        from videomla_models.ops.reference import latent_attention

        batch, queries, heads = self.q_nope.shape[:3]
        step = max(1, BLOCK_SCORES // (heads * self.c.shape[1]))
        return torch.cat([
            torch.cat([
                latent_attention(
                    self.q_nope[b : b + 1, at : at + step], self.q_rope[b : b + 1, at : at + step],
                    self.c[b : b + 1], self.r[b : b + 1], self.k_up, self.v_up,
                )
                for at in range(0, queries, step)
            ], 1)
            for b in range(batch)
        ])  # fmt: skip

    def mapped(self, mixed: Tensor) -> Tensor:
        """Float64 [B, Lq, H, d_v] from sums of latents [B, Lq, H, d_c]."""
        import torch

        return torch.einsum("blhc,hvc->blhv", mixed.double(), self.v_up.double())

    def error(self, out: Tensor) -> Error:
        """Of an output [B, Lq, H, d_v]."""
        return _error(out.double(), self.expected)

    def expansion_error(self, k: Tensor, v: Tensor) -> Error:
        """Of rebuilt keys and values [B, H, Lk, ...]; the worse of the two."""
        from videomla_models.ops import torch_forms

        errors = [Error(0.0, 0.0)]
        for b in range(k.shape[0]):
            one = slice(b, b + 1)
            exact = torch_forms.expand(*(t.double() for t in (self.c[one], self.r[one], self.k_up, self.v_up)))
            errors += [_error(rebuilt[one].double(), truth) for rebuilt, truth in zip((k, v), exact, strict=True)]
        return Error.worst(errors)

    def spoil(self) -> None:
        """Leave NaN in the memory that torch is likely to hand out for the next output of this size."""
        import torch

        d_v = self.v_up.shape[1]
        for _ in range(2):
            torch.full((*self.q_nope.shape[:3], d_v), math.nan, dtype=self.q_nope.dtype, device=self.q_nope.device)


@contextmanager
def fresh_memory_is_nan() -> Iterator[None]:
    """Have PyTorch fill all memory that it hands out without a value, so that an output nobody writes shows.

    PyTorch does so in its deterministic mode alone, which here only warns: no operator is refused or exchanged.
    """
    import torch

    memory: Any = torch.utils.deterministic
    mode = torch.get_deterministic_debug_mode()
    fill = memory.fill_uninitialized_memory
    torch.set_deterministic_debug_mode("warn")
    memory.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
        memory.fill_uninitialized_memory = fill


def _error(out: Tensor, exact: Tensor) -> Error:
    from videomla_models.ops.reference import distance

    if not bool(out.isfinite().all()):
        return Error(math.inf, math.inf)
    whole, row = distance(out, exact)
    return Error(float(whole), float(row))


def _sum(first: tuple[int, int], second: tuple[int, int]) -> tuple[int, int]:
    return first[0] + second[0], first[1] + second[1]
