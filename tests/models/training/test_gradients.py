"""The gradient of a self-rollout against central differences in float64, the past held as it was cached.

The truth shares no cache with the product: each chunk's last pass is run by itself, over the raw entries that the clean
passes before it made, in order of time, rotated by the float64 reference.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from videomla_models.network.attention.context import AttendWindow, Context
from videomla_models.network.build import randomise
from videomla_models.network.cache import Grid
from videomla_models.network.transformer import VideoTransformer
from videomla_models.ops import reference
from videomla_models.ops.choice import Name
from videomla_models.ops.rope import RotaryTable
from videomla_models.rollout.rollout import Prompt, SeededNoise
from videomla_models.spec.config import LatentSizes, SamplerConfig, TransformerConfig
from videomla_models.spec.window import WindowPolicy
from videomla_models.training.distribution_matching import SelfRollout

GRID, CHUNK, CHUNKS, WINDOW, SINK = Grid(1, 3), 2, 4, 5, 1
CONFIG = TransformerConfig(
    dim=16,
    heads=2,
    layers=2,
    ffn=12,
    in_channels=4,
    text_width=6,
    text_tokens=3,
    freq_dim=8,
    rope_theta=16.0,
    latent=LatentSizes(d_c=5, d_q=10, d_nope=2, d_rope=6, pairs=(1, 1, 1)),
)
STEP = 1e-4
Entries = list[tuple[Tensor, Tensor]]


@dataclass
class Pass:
    """A chunk's last denoising pass, and the entries that its clean pass made, layer by layer."""

    given: Tensor
    timestep: float
    entries: Entries = field(default_factory=list)


class Noted:
    """A context that also notes the entries it is given."""

    def __init__(self, context: Context, entries: Entries) -> None:
        self.context, self.entries = context, entries

    def attend(
        self, layer: int, query: Tensor, positional: Tensor, content: Tensor, attend_window: AttendWindow
    ) -> Tensor:
        self.entries.append((positional.detach().clone(), content.detach().clone()))
        return self.context.attend(layer, query, positional, content, attend_window)


class NotedRollout(SelfRollout):
    """Notes what each chunk's last denoising pass was given, and what its clean pass cached."""

    passes: list[Pass]

    def _forward(self, x: Tensor, timestep: float, prompt: Prompt, context: Any) -> Tensor:
        if context.clean:
            return super()._forward(x, timestep, prompt, Noted(context, self.passes[-1].entries))
        chunk = len([done for done in self.passes if done.entries])
        self.passes[chunk:] = [Pass(x.detach().clone(), timestep)]
        return super()._forward(x, timestep, prompt, context)


class Frozen:
    """What chunk `number` sees: the window's past frames as they were cached, and its own entries."""

    def __init__(self, passes: list[Pass], number: int, table: RotaryTable, positions: str) -> None:
        past = range(number * CHUNK)
        recent = WINDOW - SINK - CHUNK
        self.frames = [*past[:SINK], *past[SINK:][-recent:]]
        own = range(number * CHUNK, (number + 1) * CHUNK)
        places = [*self.frames, *own] if positions == "absolute" else list(range(len(self.frames) + CHUNK))
        self.passes, self.angles = passes, table.angles(places, GRID.height, GRID.width)

    def _past(self, layer: int, part: int) -> list[Tensor]:
        tokens = GRID.tokens
        chosen = [(self.passes[f // CHUNK].entries[layer][part], f % CHUNK) for f in self.frames]
        return [entries[:, at * tokens : (at + 1) * tokens] for entries, at in chosen]

    def attend(
        self, layer: int, query: Tensor, positional: Tensor, content: Tensor, attend_window: AttendWindow
    ) -> Tensor:
        keys = reference.rotate(torch.cat([*self._past(layer, 0), positional], 1), self.angles)
        width, own = 2 * self.angles.shape[1], self.angles[-query.shape[1] :]
        query = torch.cat([query[..., :-width], reference.rotate(query[..., -width:], own)], -1)
        return attend_window(query, keys, torch.cat([*self._past(layer, 1), content], 1))


class Truth(nn.Module):
    """The weighted sum of each chunk, [chunks], as a function of the network's weights."""

    def __init__(self, network: VideoTransformer) -> None:
        super().__init__()
        self.network = network

    def forward(self, text: Tensor, passes: list[Pass], positions: str, weight: Tensor) -> Tensor:
        """Each chunk's last pass once more."""
        network, prompt = self.network, self.network.prompt(text)
        found = []
        for number, done in enumerate(passes):
            context = Frozen(passes, number, network.rotary_table(), positions)
            out = network(done.given, torch.full((1, 1), done.timestep), prompt, context)
            found.append((weight[:, number * CHUNK : (number + 1) * CHUNK] * out).sum())
        return torch.stack(found)


def quotients(
    network: VideoTransformer, text: Tensor, passes: list[Pass], positions: str, weight: Tensor
) -> dict[str, tuple[Tensor, Tensor]]:
    """For each parameter a direction of length one, and the difference quotient of each chunk's sum along it.

    All of them in one call: networks that differ in one parameter each, side by side.
    """
    generator = torch.Generator().manual_seed(5)
    weights = {name: p.detach() for name, p in Truth(network).named_parameters()}
    directions, moved = dict[str, Tensor](), dict[str, Tensor]()
    for place, (name, tensor) in enumerate(weights.items()):
        direction = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        directions[name] = direction / direction.norm()
        moved[name] = tensor.repeat(2 * len(weights), *[1] * tensor.dim())
        moved[name][2 * place] += STEP * directions[name]
        moved[name][2 * place + 1] -= STEP * directions[name]

    whole = Truth(network)

    def sums(own: dict[str, Tensor]) -> Tensor:
        made: Tensor = torch.func.functional_call(whole, own, (text, passes, positions, weight))
        return made

    with sdpa_kernel([SDPBackend.MATH]):
        found = torch.func.vmap(sums)(moved).detach()
    each = (found[::2] - found[1::2]) / (2 * STEP)
    return {name: (directions[name], one) for name, one in zip(weights, each, strict=True)}


FORMS: dict[str, tuple[Name, ...]] = {"dense": ("expanded",), "latent": ("expanded", "absorbed")}
ROTATIONS: dict[str, tuple[Literal["read", "write"], ...]] = {"relative": ("read",), "absolute": ("read", "write")}


@pytest.mark.parametrize("last", range(4))
@pytest.mark.parametrize("positions", ["relative", "absolute"])
@pytest.mark.parametrize("attention", ["dense", "latent"])
def test_gradients_are_those_of_the_last_pass_over_a_frozen_past(
    attention: str, positions: Literal["relative", "absolute"], last: int
) -> None:
    network = VideoTransformer(replace(CONFIG, attention=attention))
    randomise(network, 1)
    network.double()
    generator = torch.Generator().manual_seed(2)
    text = torch.randn(2, 3, 6, generator=generator, dtype=torch.float64)
    weight = torch.randn(2, CHUNK * CHUNKS, 4, 2, 6, generator=generator, dtype=torch.float64)
    expected: dict[str, tuple[Tensor, Tensor]] = {}
    for rotation, form in itertools.product(ROTATIONS[positions], FORMS[attention]):
        network.use_form(form)
        policy = WindowPolicy(WINDOW, SINK, rotation=rotation, positions=positions)
        rollout = NotedRollout(network, policy, CHUNK, SamplerConfig(prediction="clean"), GRID)
        rollout.passes, rollout.last, rollout.learning = [], last, True
        noise = SeededNoise((3, 4), (4, 2, 6), torch.device("cpu"), torch.float64)
        clip = torch.cat(list(rollout.chunks(noise, network.prompt(text), CHUNK * CHUNKS)), 1)
        sums = torch.stack([part.sum() for part in (weight * clip).split(CHUNK, 1)])
        expected = expected or quotients(network, text, rollout.passes, positions, weight)
        for chunks in range(1, CHUNKS + 1):
            gradients = torch.autograd.grad(sums[:chunks].sum(), list(network.parameters()), retain_graph=True)
            for (name, (direction, each)), gradient in zip(expected.items(), gradients, strict=True):
                slope, quotient = (gradient * direction).sum(), each[:chunks].sum()
                # The product's angles are float32.
                assert abs(slope - quotient) < 1e-6 * gradient.norm(), (rotation, form, chunks, name)
