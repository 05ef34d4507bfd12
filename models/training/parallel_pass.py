"""What the chunks of a training clip see: all of them at once, each against clean earlier ones in its window.

A clean and a noisy copy of the clip run through the network side by side. Each chunk attends to just the frames, at
just the positions, that the streaming cache would show it, so training and rollout compute the same function.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from videomla_models.network.attention.context import AttendWindow, rotate_tail
from videomla_models.network.attention.dense import TextKeys
from videomla_models.network.attention.linear import read, summed
from videomla_models.network.cache import Grid
from videomla_models.network.transformer import VideoTransformer
from videomla_models.ops.rope import RotaryTable, Rotation, rotate
from videomla_models.spec.ring import Ring
from videomla_models.spec.window import WindowPolicy


@dataclass(frozen=True, slots=True)
class Batch:
    """Clips to train on.

    Attributes:
        latents: [B, F, C, H, W], whole chunks. text: embeddings [B, text tokens, text width].
        weight: of each latent value in a loss, broadcast against `latents`.
    """

    latents: Tensor
    text: Tensor
    weight: Tensor


class Data(Protocol):
    """Where clips come from; a batch is a function of the step alone."""

    def batch(self, step: int, text_drop: float = 0.0) -> Batch:
        """The clips of one step, of all processes together; a share `text_drop` of them has no prompt."""
        ...

    def no_prompt(self, clips: int) -> Tensor:
        """Embeddings of the empty prompt, [clips, text tokens, text width]."""
        ...


@dataclass(frozen=True, slots=True)
class Clips:
    """The shape of training clips.

    Attributes:
        policy: the window of deployment. chunk: latent frames per chunk. chunks: per clip. grid: tokens of a frame.
        prediction: what the network's output means, `flow` or `clean`.
    """

    policy: WindowPolicy
    chunk: int
    chunks: int
    grid: Grid
    prediction: str = "clean"

    def context(self, network: VideoTransformer) -> TeacherForcingContext:
        """The parallel pass of `network` over such clips."""
        device = network.patch_embedding.weight.device
        return TeacherForcingContext(self.policy, self.chunk, self.chunks, self.grid, network.rotary_table(), device)


@dataclass(frozen=True, slots=True)
class _Group:
    """Chunks that see equally many frames: indices of their query and key frames, [chunks * n], and rotations."""

    chunks: int
    queries: Tensor
    keys: Tensor
    query_rotation: Rotation
    key_rotation: Rotation


class TeacherForcingContext:
    """What the frames of [clean chunks 0 … n-2 | noisy chunks 0 … n-1] attend to under a window policy.

    Relative positions are ranks within the window, the same for all chunks of a group; absolute ones are given to every
    frame before chunks are gathered. Linear attention sees all earlier chunks, whatever the window. An averaged sink
    and the rolling schedule have no parallel form.
    """

    def __init__(
        self, policy: WindowPolicy, chunk: int, chunks: int, grid: Grid, table: RotaryTable, device: torch.device
    ) -> None:
        self.grid, self.chunks, self.absolute = grid, chunks, policy.positions == "absolute"
        clean = (chunks - 1) * chunk
        ring = Ring(policy.capacity(chunk), policy.sink)
        seen: dict[int, list[tuple[list[int], list[int]]]] = {}
        for index in range(chunks):
            own = range(index * chunk, (index + 1) * chunk)
            ring.place(own.start, chunk)
            context = sorted(set(ring.slots) - set(own))
            noisy = [clean + frame for frame in own]
            seen.setdefault(len(context), []).append((noisy, context + noisy))
            if index < chunks - 1:
                seen[len(context)].append((list(own), context + list(own)))

        def rotation(frames: Sequence[int]) -> Rotation:
            return table(frames, grid.height, grid.width, device)

        self.groups = [
            _Group(
                chunks=len(members),
                queries=torch.tensor([f for queries, _ in members for f in queries], device=device),
                keys=torch.tensor([f for _, keys in members for f in keys], device=device),
                query_rotation=rotation(range(count, count + chunk)),
                key_rotation=rotation(range(count + chunk)),
            )
            for count, members in seen.items()
        ]
        order = torch.cat([group.queries for group in self.groups])
        self.restore = torch.argsort(order)
        self.rotation = rotation([*range(clean), *range(clean + chunk)])

    def attend(
        self, layer: int, query: Tensor, positional: Tensor, content: Tensor, attend_window: AttendWindow
    ) -> Tensor:
        """Fold each group's chunks into the batch, attend, and put the frames back in order."""
        if self.absolute:
            query, positional = rotate_tail(query, self.rotation), rotate(positional, self.rotation)
        parts = []
        for group in self.groups:
            q = self._gather(query, group.queries, group.chunks)
            k = self._gather(positional, group.keys, group.chunks)
            if not self.absolute:
                q, k = rotate_tail(q, group.query_rotation), rotate(k, group.key_rotation)
            out = attend_window(q, k, self._gather(content, group.keys, group.chunks))
            parts.append(out.view(query.shape[0], -1, self.grid.tokens, out.shape[-1]))
        return torch.cat(parts, dim=1)[:, self.restore].flatten(1, 2)

    def recur(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Each chunk, clean or noisy, attends to the state of all clean ones before it and to itself."""
        tensors = (query, rotate(query, self.rotation), key, rotate(key, self.rotation), value)
        # Chunks in order, the clean ones first: [B, 2 * chunks - 1, tokens of a chunk, H, d].
        count = 2 * self.chunks - 1
        query, turned, *own = (x.reshape(x.shape[0], count, -1, *x.shape[2:]) for x in tensors)
        states = []
        for part in summed(own[0], own[1], own[2]):
            upto = part[:, : self.chunks - 1].cumsum(1)
            before = torch.cat([torch.zeros_like(part[:, :1]), upto], 1)
            states.append(part + torch.cat([before[:, :-1], before], 1))
        return read(query, turned, (states[0], states[1])).flatten(1, 2)

    def _gather(self, x: Tensor, frames: Tensor, chunks: int) -> Tensor:
        """Tokens of `frames`, with each chunk a batch element: [B, L, ...] to [B * chunks, tokens, ...]."""
        framed = x.view(x.shape[0], -1, self.grid.tokens, *x.shape[2:])[:, frames]
        return framed.reshape(x.shape[0] * chunks, -1, *x.shape[2:])


def denoised(
    network: VideoTransformer,
    context: TeacherForcingContext,
    past: Tensor,
    noisy: Tensor,
    sigmas: Tensor,
    prompt: list[TextKeys],
    prediction: str,
) -> Tensor:
    """The clean latents that `network` predicts for every chunk, given the clean frames before it.

    Args:
        past: clean frames [B, F - chunk, C, H, W]. noisy: [B, F, C, H, W] at the noise levels `sigmas` [B, chunks].
        prompt: from `network.prompt`. prediction: as in `Clips`.

    Returns:
        [B, F, C, H, W], of the dtype of `noisy` also where products are of another one.
    """
    levels = sigmas.repeat_interleave(noisy.shape[1] // sigmas.shape[1], dim=1)
    steps = torch.cat([levels.new_zeros(past.shape[:2]), 1000 * levels], dim=1)
    output: Tensor = network(torch.cat([past, noisy], dim=1), steps, prompt, context)[:, past.shape[1] :].to(noisy)
    return output if prediction == "clean" else noisy - levels[:, :, None, None, None] * output
