"""Spectra of attention maps and activations: singular values, energy kept at a width, effective rank."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from harness.errors import OptionError, WeightsError
from videomla_models.checkpoints.load import Checkpoint

OPERATORS = ("stacked", "composed")
MAPS = {"stacked": ("k", "v"), "composed": ("k_up", "v_up", "kv_down")}
"""Weights of a self-attention that make up its key and value operator."""


TOO_LARGE = "give weights whose squares float64 holds: the file is damaged, or training diverged"


@contextmanager
def decomposing(name: str) -> Iterator[None]:
    """Raise `WeightsError`, which begins with `name`, where what is decomposed inside is too large for float64."""
    try:
        yield
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        raise WeightsError(f"{name}: no singular values in float64", TOO_LARGE) from error
    except WeightsError as error:
        raise WeightsError(f"{name}: {error.message}", error.fix) from error


def solvable(matrix: Tensor) -> Tensor:
    """`matrix`, to be decomposed. Raises `WeightsError` for numbers that are not finite."""
    if not bool(torch.isfinite(matrix).all()):
        raise WeightsError("maps or products of them that are not finite in float64", TOO_LARGE)
    return matrix


def _squares(singular: Tensor) -> Tensor:
    squares = singular.double().square()
    if not bool(torch.isfinite(squares.sum())):
        raise WeightsError("singular values whose squares float64 does not hold", TOO_LARGE)
    return squares


def energy(singular: Tensor, width: int) -> float:
    """Share of the sum of squared singular values that the `width` largest carry; 1 beyond their number.

    Args:
        singular: [n], in descending order.

    Raises `WeightsError` where float64 does not hold the squares.
    """
    squares = _squares(singular)
    total = float(squares.sum())
    return float(squares[:width].sum()) / total if total else 1.0


def effective_rank(singular: Tensor, share: float) -> int:
    """The smallest width whose energy reaches `share` (r_tau of the VideoMLA paper, with squared singular values).

    Args:
        singular: [n], in descending order. share: in (0, 1].

    Raises `WeightsError` where float64 does not hold the squares.
    """
    if not 0.0 < share <= 1.0:
        raise OptionError(f"share is {share}", "it must be above 0 and at most 1")
    squares = _squares(singular)
    if not bool(squares.any()):
        return 0
    # The slack forgives the rounding of a sum that reaches the share exactly.
    reached = squares.cumsum(0) >= (share - 1e-12) * squares.sum()
    return int(reached.nonzero()[0]) + 1


def singular_values(matrix: Tensor) -> Tensor:
    """Singular values in float64, descending. Raises `WeightsError` for numbers that are not finite."""
    singular: Tensor = torch.linalg.svdvals(solvable(matrix.double()))
    return singular


def product_singular_values(left: Tensor, right: Tensor) -> Tensor:
    """Singular values of `left @ right` ([m, r] and [r, n]) in float64 without forming the product: r of them."""
    inner_left = torch.linalg.qr(left.double(), mode="r").R
    inner_right = torch.linalg.qr(right.double().T, mode="r").R
    return singular_values(inner_left @ inner_right.T)


def layer_count(checkpoint: Checkpoint) -> int:
    """Transformer blocks in a checkpoint. Raises `WeightsError` when they are not numbered 0, 1, 2, …"""
    numbers = {int(match[1]) for name in checkpoint.shapes if (match := re.match(r"blocks\.([0-9]{1,6})\.", name))}
    if not numbers or numbers != set(range(len(numbers))):
        raise WeightsError(
            f"{checkpoint.source.name} holds blocks {sorted(numbers)[:10]}", "give a checkpoint of the whole model"
        )
    return len(numbers)


def operator_of(checkpoint: Checkpoint) -> str:
    """`stacked` for a dense checkpoint, `composed` for a VideoMLA one."""
    return "composed" if "blocks.0.self_attn.kv_down.weight" in checkpoint else "stacked"


def key_value_spectrum(checkpoint: Checkpoint, layer: int) -> Tensor:
    """Singular values of one layer's key and value operator, in float64, descending; see `operator_spectrum`.

    Raises `WeightsError` for maps that are absent, or have none in float64.
    """
    read = f"blocks.{layer}.self_attn.{{}}.weight".format
    maps = {name: checkpoint.read(read(name)) for name in MAPS[operator_of(checkpoint)]}
    with decomposing(f"{checkpoint.source.name}, layer {layer}"):
        return operator_spectrum(maps)


def checkpoint_shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    """Shapes of the first layer's maps by name, as `random_spectra` takes them."""
    read = "blocks.0.self_attn.{}.weight".format
    return {name: checkpoint.shapes[read(name)] for name in MAPS[operator_of(checkpoint)]}


def network_shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """As `checkpoint_shapes`, of a transformer."""
    return {name: tuple(weight.shape) for name, weight in _maps(network, 0).items()}


def random_spectra(shapes: Mapping[str, tuple[int, ...]], draws: int) -> list[Tensor]:
    """`operator_spectrum` of maps [out, in] with independent normal entries of variance 1/in, drawn `draws` times.

    A network's first weights are such maps, so this is also the spectrum of one that was never trained.
    """
    spectra = []
    for seed in range(draws):
        generator = torch.Generator().manual_seed(seed)
        maps = {
            name: torch.randn(shape, generator=generator, dtype=torch.float64) * shape[1] ** -0.5
            for name, shape in shapes.items()
        }
        spectra.append(operator_spectrum(maps))
    return spectra


def network_spectra(network: nn.Module) -> dict[str, Tensor]:
    """`operator_spectrum` of every block of a transformer, by layer number as two digits.

    Raises `OptionError` for a network whose attention is neither dense nor latent, and `WeightsError` for numbers that
    float64 cannot decompose.
    """
    names = [name for name, _ in network.named_parameters()]
    layers = sum(1 for name in names if re.match(r"blocks\.\d+\.self_attn\.o\.weight$", name))
    spectra = {}
    for layer in range(layers):
        with decomposing(f"layer {layer}"):
            spectra[f"{layer:02}"] = operator_spectrum(_maps(network, layer))
    return spectra


def _maps(network: nn.Module, layer: int) -> dict[str, Tensor]:
    weights = dict(network.named_parameters())
    named = {name: f"blocks.{layer}.self_attn.{name}.weight" for kind in OPERATORS for name in MAPS[kind]}
    return {name: weights[full].detach() for name, full in named.items() if full in weights}


def operator_spectrum(maps: Mapping[str, Tensor]) -> Tensor:
    """Singular values of an attention's map from tokens to keys and values, in float64, descending.

    Args:
        maps: weights [out, in] by name. Dense (`k`, `v`): the stacked [W_K; W_V]. VideoMLA (`k_up`, `v_up`,
            `kv_down`): the composed [W_K_up W_KV_down; W_V_up W_KV_down], without the norm between them (paper,
            spectral analysis).
    """
    if "kv_down" in maps:
        return product_singular_values(torch.cat([maps["k_up"], maps["v_up"]]), maps["kv_down"])
    if "k" not in maps:
        raise OptionError("this attention has neither keys and values nor a latent", "choose dense or latent attention")
    return singular_values(torch.cat([maps["k"], maps["v"]]))


class Gram:
    """X^T X of a matrix X [tokens, width] that arrives in pieces; memory does not grow with the tokens."""

    def __init__(self) -> None:
        self.tokens = 0
        self._sum: Tensor | None = None
        self._rows: Tensor | None = None

    def add(self, piece: Tensor) -> None:
        """Take in activations [..., width], any float type."""
        rows = piece.detach().reshape(-1, piece.shape[-1]).double()
        self._sum = rows.T @ rows if self._sum is None else self._sum.addmm_(rows.T, rows)
        self._rows = rows.sum(0) if self._rows is None else self._rows.add_(rows.sum(0))
        self.tokens += rows.shape[0]

    def singular_values(self, centred: bool = False) -> Tensor:
        """Singular values of X, or of X less the mean of its rows, float64, descending.

        Raises `OptionError` before the first piece, and `WeightsError` where they are not finite or too large.
        """
        if self._sum is None or self._rows is None:
            raise OptionError("no activations were recorded", "run the model inside `recorded`")
        products = self._sum
        if centred:
            products = products - torch.outer(self._rows, self._rows) / self.tokens
        with decomposing("activations"):
            squares: Tensor = torch.linalg.eigvalsh(solvable(products))
        return squares.flip(0).clamp_min(0.0).sqrt().cpu()


@contextmanager
def recorded(module: nn.Module, names: Sequence[str]) -> Iterator[Mapping[str, Gram]]:
    """Accumulate the outputs of the submodules `names` over every forward pass inside the context.

    Raises `OptionError` for a name that `module` does not have.
    """
    grams = {name: Gram() for name in names}
    handles = []

    def hook(gram: Gram) -> object:
        return lambda _module, _inputs, output: gram.add(output)

    try:
        for name, gram in grams.items():
            try:
                target = module.get_submodule(name)
            except AttributeError as error:
                raise OptionError(f"the model has no submodule {name!r}", "see model.named_modules()") from error
            handles.append(target.register_forward_hook(hook(gram)))  # type: ignore[arg-type]
        yield grams
    finally:
        for handle in handles:
            handle.remove()
