"""Runs latent attention in the form that was chosen, and says once where PyTorch runs instead of a kernel."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from harness.contracts import counted_as
from harness.errors import NotAvailable
from videomla_models.ops import checks, reference, sdpa, torch_forms
from videomla_models.ops.choice import Form, choose
from videomla_models.ops.device import no_triton
from videomla_models.ops.encoded import EncodedLatents
from videomla_models.ops.rope import Rotation, rotate
from videomla_models.ops.sdpa import say_once
from videomla_models.ops.step import step
from videomla_models.spec.cost import attention_flops

if TYPE_CHECKING:
    from videomla_models.ops.triton_expand import Workspace

__all__ = ["Attention", "Form", "choose"]

T = TypeVar("T")


class Attention:
    """Latent attention in one form, shared by the layers of a network, whose rebuilt keys and values it holds.

    Args:
        form: from `choice.choose`.
        strict: raise `NotAvailable` where the kernel of `form` cannot run instead of falling back; for measurements.
    """

    def __init__(self, form: Form, strict: bool = False) -> None:
        self.form, self.strict = form, strict
        self._workspace: Workspace | None = None
        if form.fallback:
            self._fall_back(form.fallback)

    @step("attention")
    def expanded(self, query: Tensor, c: Tensor | EncodedLatents, r: Tensor, k_up: Tensor, v_up: Tensor) -> Tensor:
        """Rebuild keys and values of every head, then dense attention (paper App. D.4).

        Args:
            query: [B, Lq, H, d_nope + d_rope], rotated. c: [B, S, d_c], or encoded. r: rotated, [B, S, d_rope].
            k_up: [H, d_nope, d_c]. v_up: [H, d_v, d_c].

        Returns:
            [B, Lq, H, d_v].

        Raises:
            OptionError: shapes, dtypes or devices that do not fit.
        """
        if isinstance(c, EncodedLatents):
            k, v = self._on_codes(
                c,
                lambda codes: self._expand_codes(codes, r, k_up, v_up),
                lambda numbers: torch_forms.expand(numbers, r, k_up, v_up),
            )
            return self._dense(query, k, v)
        checks.plain(query, c, r, k_up, v_up)
        # The kernel's keys and values lie in buffers that the next layer overwrites, so it serves no backward pass.
        k, v = self._kernel(
            lambda: self._expand(c, r, k_up, v_up), lambda: torch_forms.expand(c, r, k_up, v_up),
            query, c, r, k_up, v_up,
        )  # fmt: skip
        return self._dense(query, k, v)

    def _dense(self, query: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, scale, backend = query.transpose(1, 2), query.shape[-1] ** -0.5, self.form.backend or "auto"
        try:
            out = sdpa.attend(q, k, v, scale, backend)
        except NotAvailable as error:
            self._fall_back(error.message)
            out = sdpa.attend(q, k, v, scale)
        return out.transpose(1, 2)

    @step("attention")
    def absorbed(self, query: Tensor, c: Tensor | EncodedLatents, r: Tensor, scale: float) -> Tensor:
        """Attention of every head on the latents (paper App. E).

        Args:
            query: [B, Lq, H, d_c + d_rope], absorbed, rotated. c: [B, S, d_c], or encoded. r: rotated, [B, S, d_rope].
            scale: 1/sqrt(d_nope + d_rope) of the expanded form.

        Returns:
            [B, Lq, H, d_c].

        Raises:
            OptionError: shapes, dtypes or devices that do not fit.
        """
        if isinstance(c, EncodedLatents):
            return self._on_codes(
                c,
                lambda codes: self._absorb_codes(query, codes, r, scale),
                lambda numbers: torch_forms.absorbed(query, numbers, r, scale),
            )
        checks.plain(query, c, r)
        return self._kernel(
            lambda: self._absorb(query, c, r, scale), lambda: torch_forms.absorbed(query, c, r, scale), query, c, r
        )

    def attend(self, q_nope: Tensor, q_rope: Tensor, c: Tensor, r: Tensor, k_up: Tensor, v_up: Tensor) -> Tensor:
        """The same function of the same arguments in whichever form is set.

        Args:
            q_nope: [B, Lq, H, d_nope]. q_rope: rotated, [B, Lq, H, d_rope]. c: [B, S, d_c]. r: rotated, [B, S, d_rope].
            k_up: [H, d_nope, d_c]. v_up: [H, d_v, d_c].

        Returns:
            [B, Lq, H, d_v] in the dtype of `q_nope`.

        Raises:
            OptionError: shapes, dtypes or devices that do not fit.
        """
        checks.attend(q_nope, q_rope, c, r, k_up, v_up)
        if self.form.name == "reference":
            return reference.latent_attention(q_nope, q_rope, c, r, k_up, v_up).to(q_nope.dtype)
        if self.form.name == "expanded":
            return self.expanded(torch.cat([q_nope, q_rope], -1), c, r, k_up, v_up)
        query = torch.cat([torch.einsum("blhn,hnc->blhc", q_nope, k_up), q_rope], -1)
        mixed = self.absorbed(query, c, r, (q_nope.shape[-1] + q_rope.shape[-1]) ** -0.5)
        return torch.einsum("blhc,hvc->blhv", mixed, v_up)

    def _on_codes(self, latents: EncodedLatents, fast: Callable[[EncodedLatents], T], slow: Callable[[Tensor], T]) -> T:
        if self.form.engine != "triton":
            return slow(latents.decoded())
        try:
            return fast(latents)
        except NotAvailable as error:
            self._fall_back(error.message)
            return slow(latents.decoded())

    def _kernel(self, fast: Callable[[], T], slow: Callable[[], T], *sources: Tensor) -> T:
        if self.form.engine != "triton" or (torch.is_grad_enabled() and any(t.requires_grad for t in sources)):
            return slow()
        try:
            return fast()
        except NotAvailable as error:
            self._fall_back(error.message)
            return slow()

    @property
    def workspace(self) -> Workspace:
        """The buffers that the kernels of all layers share."""
        from videomla_models.ops import triton_expand

        self._workspace = self._workspace or triton_expand.Workspace()
        return self._workspace

    @step("expansion")
    def _expand(self, c: Tensor, r: Tensor, k_up: Tensor, v_up: Tensor) -> tuple[Tensor, Tensor]:
        from videomla_models.ops import triton_expand

        heads, d_nope, d_c = k_up.shape
        flops = 2 * c.shape[0] * c.shape[1] * heads * d_c * (d_nope + v_up.shape[1])
        with counted_as("latent_expansion", flops):
            return triton_expand.expand(c, r, k_up.contiguous(), v_up.contiguous(), workspace=self.workspace)

    def _absorb(self, query: Tensor, c: Tensor, r: Tensor, scale: float) -> Tensor:
        from videomla_models.ops import triton_absorbed, variants

        variant = variants.named(self.form.variant) if self.form.variant else None
        batch, queries, heads, width = query.shape
        with counted_as("latent_attention", attention_flops(batch, queries, c.shape[1], heads, width, c.shape[2])):
            return triton_absorbed.absorbed(query.contiguous(), c, r, scale, variant=variant, workspace=self.workspace)

    @step("expansion")
    def _expand_codes(self, latents: EncodedLatents, r: Tensor, k_up: Tensor, v_up: Tensor) -> tuple[Tensor, Tensor]:
        from videomla_models.ops import triton_coded

        heads, d_nope, d_c = k_up.shape
        flops = 2 * r.shape[0] * latents.rows * heads * d_c * (d_nope + v_up.shape[1])
        with counted_as("latent_expansion", flops):
            up = k_up.contiguous(), v_up.contiguous()
            return triton_coded.expand(latents.segments(r), *up, workspace=self.workspace)

    def _absorb_codes(self, query: Tensor, latents: EncodedLatents, r: Tensor, scale: float) -> Tensor:
        from videomla_models.ops import triton_coded

        batch, queries, heads, width = query.shape
        flops = attention_flops(batch, queries, latents.rows, heads, width, latents.width)
        with counted_as("latent_attention", flops):
            return triton_coded.absorbed(query.contiguous(), latents.segments(r), scale, workspace=self.workspace)

    def _fall_back(self, reason: str) -> None:
        if self.strict:
            raise NotAvailable(
                f"latent attention ({self.form.name}) would fall back to PyTorch: {reason}",
                "a measurement times what was asked for; choose another form, or measure on a CUDA device",
            )
        say_once(f"latent attention ({self.form.name}) runs in PyTorch: {reason}")


@step("rope")
def rotate_first(keys: Tensor, rotation: Rotation, out: Tensor | None = None) -> Tensor:
    """Rotate the first pairs of keys that all heads share, as many as `rotation` has, and copy the others.

    By the kernel where it runs, else in PyTorch; both rotate in float32 and round once.

    Args:
        keys: [B, L, p]. out: [B, L, p], where to write; new unless given, by PyTorch and differentiable.

    Returns:
        [B, L, p].
    """
    width = 2 * rotation.cos.shape[-1]
    if out is None:
        return torch.cat([rotate(keys[..., :width], rotation), keys[..., width:]], -1)
    if _has_kernel(keys):
        from videomla_models.ops import triton_expand

        return triton_expand.rope_prepass(keys, rotation.cos, rotation.sin, out=out)
    if width == keys.shape[2]:
        return rotate(keys, rotation, out)
    out.copy_(keys)
    out[..., :width] = rotate(keys[..., :width], rotation)
    return out


def _has_kernel(keys: Tensor) -> bool:
    if keys.shape[2] % 16 or keys.dtype not in (torch.bfloat16, torch.float16, torch.float32):
        return False
    # A layer asks in every pass, so neither a file nor Triton itself is opened for the answer.
    interpreted = os.environ.get("TRITON_INTERPRET") == "1" and keys.dtype != torch.bfloat16
    return (keys.device.type == "cuda" or interpreted) and not _triton_is_missing()


_triton_is_missing = cache(no_triton)
