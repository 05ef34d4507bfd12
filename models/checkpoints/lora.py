"""A low-rank update, or whole differences, merged into weights while they are read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from harness.errors import WeightsError
from videomla_models.checkpoints.checks import check_finite, listed, shown
from videomla_models.checkpoints.locate import Source
from videomla_models.checkpoints.lora_config import lora_digests, stated_number, stated_strength, trained_factor
from videomla_models.checkpoints.lora_names import Update, read_names
from videomla_models.checkpoints.tensors import open_tensors

PART = "generator_lora"
"""The entry under which LongLive's `lora.pt` keeps it."""
SAME = 1e-6
"""Relative difference of two factors that counts as none."""


class Lora:
    """W + factor * B A, in any layout that `read_names` takes.

    The factor of a map is what is stated: alpha / rank, by the tensor `.alpha`, `adapter_config.json`, the header of a
    safetensors file or `alpha`; 1 where nothing states it, as peft's and diffusers' own files then mean.

    Args:
        source: its files. alpha: of every map.

    Raises:
        WeightsError: it is in no layout that can be merged, its configuration is, or `alpha` is no finite number.
    """

    def __init__(self, source: Source, alpha: float | None = None) -> None:
        self.source = source
        self.alpha = stated_number(source.name, "lora_alpha", alpha)
        self._file = open_tensors(source, parts=(PART,))
        self._modules = read_names(source.name, self._file.shapes)
        self._strength = stated_strength(source)
        self._added: dict[str, tuple[str, Update]] = {}
        folded = trained_factor(self._file.metadata)
        unsaid = alpha is None and self._strength is None and not any(one.alpha for one in self._modules.values())
        if unsaid and folded is not None and not math.isclose(folded, 1.0):
            raise WeightsError(
                f"{source.name} was trained with alpha / rank = {folded:g}, and has no .alpha tensors",
                "set lora_alpha: to the rank where the factor is in the weights already, else to the alpha",
            )

    def digests(self) -> dict[str, str]:
        """SHA-256 by file name."""
        return lora_digests(self.source)

    def fit(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Refuse an update whose maps are incomplete or do not fit weights of these shapes, by name."""
        wrong: list[str] = []
        for module, update in self._modules.items():
            weight = module if module in shapes else f"{module}.weight"
            wrong += self._misfits(update, weight, f"{module}.bias", shapes)
            if update.down or update.up or update.diff:
                self._added[weight] = module, update
            if update.diff_b:
                self._added[f"{module}.bias"] = module, Update(diff=update.diff_b)
        if wrong:
            raise WeightsError(
                f"{self.source.name} does not fit its base: {listed(wrong)}", "give the base it was trained on"
            )

    def _misfits(self, update: Update, weight: str, bias: str, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
        have, base = self._file.shapes, shapes.get(weight, ())
        if update.down or update.up or update.alpha:
            down, up = have.get(update.down, ()), have.get(update.up, ())
            # Maps of a convolution are a product, too, where the second has no extent in space or time.
            fits = len(down) > 1 and len(up) > 1 and up[1] == down[0] > 0 and math.prod(up[2:]) == 1
            if not fits or not base or (up[0], math.prod(down[1:])) != (base[0], math.prod(base[1:])):
                yield f"{weight} (A {shown(down)}, B {shown(up)}, base {shown(base)})"
            elif update.diff:
                yield f"{weight} (both a product and a difference)"
        for name, target in ((update.diff, weight), (update.diff_b, bias)):
            if name and have[name] != shapes.get(target):
                yield f"{target} (difference {shown(have[name])}, base {shown(shapes.get(target, ()))})"

    def merge(self, name: str, weight: Tensor) -> Tensor:
        """`weight` plus its update, computed in float32, in `weight`'s dtype.

        Raises `WeightsError` for an update that cannot be read, and for a sum that the dtype does not hold.
        """
        if name not in self._added:
            return weight
        merged = self._merged(*self._added[name], weight).to(weight.dtype)
        check_finite(f"{self.source.name} merged", name, merged, "give the base and the alpha that it was trained with")
        return merged

    def _merged(self, module: str, update: Update, weight: Tensor) -> Tensor:
        if update.diff:
            return weight.float() + self._read(update.diff).float()
        down, up = self._read(update.down).float().flatten(1), self._read(update.up).float().flatten(1)
        flat = weight.float().flatten(1)
        merged = torch.addmm(flat, up, down, alpha=self._factor(module, update, down.shape[0]))
        return merged.reshape(weight.shape)

    def _factor(self, module: str, update: Update, rank: int) -> float:
        stated = {}
        if self.alpha is not None:
            stated["lora_alpha"] = self.alpha / rank
        if update.alpha:
            alpha = self._read(update.alpha)
            if alpha.numel() != 1:
                raise WeightsError(f"{self.source.name}: {update.alpha} is no single number", "copy it again")
            stated[update.alpha] = (stated_number(self.source.name, update.alpha, float(alpha)) or 0.0) / rank
        if self._strength is not None:
            stated[self._strength.origin] = self._strength.factor(module, rank)
        factors = list(stated.values())
        if any(not math.isclose(factor, factors[0], rel_tol=SAME) for factor in factors):
            said = ", ".join(f"{origin} gives {factor:g}" for origin, factor in stated.items())
            raise WeightsError(
                f"{self.source.name}: the factor of {module} is stated twice: {said}",
                "leave lora_alpha out, or take away what is not of this update",
            )
        return factors[0] if factors else 1.0

    def _read(self, name: str) -> Tensor:
        tensor = self._file.read(name)
        check_finite(self.source.name, name, tensor)
        if not tensor.is_floating_point() and (tensor.numel() != 1 or tensor.is_complex()):
            kind = str(tensor.dtype).removeprefix("torch.")
            raise WeightsError(f"{self.source.name}: {name} is {kind}", "give maps in a floating-point dtype")
        return tensor
