"""Teacher forcing: all chunks of a clip are denoised at once, each against clean earlier ones in its window.

A clean and a noisy copy of the clip run through the network side by side. Each chunk attends to just the frames, at
just the positions, that the streaming cache would show it, so training and rollout compute the same function.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.attention.context import Kernel, rotate_tail
from models.attention.dense import TextKeys
from models.cache import Grid
from models.rope import RotaryTable, Rotation, rotate
from models.transformer import VideoTransformer
from models.window import Ring, WindowPolicy

SMALLEST_SIGMA = 0.1
"""Floor of the noise level that divides the flow of a network that predicts the clean latent."""


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
    frame before chunks are gathered. An averaged sink and the rolling schedule have no parallel form.
    """

    def __init__(
        self, policy: WindowPolicy, chunk: int, chunks: int, grid: Grid, table: RotaryTable, device: torch.device
    ) -> None:
        self.grid, self.absolute = grid, policy.positions == "absolute"
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

    def attend(self, layer: int, query: Tensor, key: Tensor, rest: Tensor, kernel: Kernel) -> Tensor:
        """Fold each group's chunks into the batch, attend, and put the frames back in order."""
        if self.absolute:
            query, key = rotate_tail(query, self.rotation), rotate(key, self.rotation)
        parts = []
        for group in self.groups:
            q = self._gather(query, group.queries, group.chunks)
            k = self._gather(key, group.keys, group.chunks)
            if not self.absolute:
                q, k = rotate_tail(q, group.query_rotation), rotate(k, group.key_rotation)
            out = kernel(q, k, self._gather(rest, group.keys, group.chunks))
            parts.append(out.view(query.shape[0], -1, self.grid.tokens, out.shape[-1]))
        return torch.cat(parts, dim=1)[:, self.restore].flatten(1, 2)

    def _gather(self, x: Tensor, frames: Tensor, chunks: int) -> Tensor:
        """Tokens of `frames`, with each chunk a batch element: [B, L, ...] to [B * chunks, tokens, ...]."""
        framed = x.view(x.shape[0], -1, self.grid.tokens, *x.shape[2:])[:, frames]
        return framed.reshape(x.shape[0] * chunks, -1, *x.shape[2:])


def shifted(uniform: Tensor, shift: float) -> Tensor:
    """Noise levels from uniform numbers: s u / (1 + (s - 1) u), as the sampler's schedule."""
    return shift * uniform / (1 + (shift - 1) * uniform)


def flow_matching_loss(
    network: VideoTransformer,
    context: TeacherForcingContext,
    latents: Tensor,
    prompt: list[TextKeys],
    sigmas: Tensor,
    noise: Tensor,
    weight: Tensor,
    context_noise: Tensor,
) -> Tensor:
    """Weighted squared error of the flow that follows from the predicted clean latents.

    Args:
        network: predicts clean latents. context: for this clip length.
        latents: [B, F, C, H, W], whole chunks. prompt: from `network.prompt`.
        sigmas: noise level of every chunk, [B, chunks]. noise: as `latents`.
        weight: of each latent value, broadcast against `latents`.
        context_noise: added to the clean copy, as its frames [B, F - chunk, C, H, W].

    Returns:
        Scalar: mean of weight * ((predicted clean - clean) / max(sigma, SMALLEST_SIGMA))^2.
    """
    chunk = latents.shape[1] // sigmas.shape[1]
    levels = sigmas.repeat_interleave(chunk, dim=1)
    wide = levels[:, :, None, None, None]
    noisy = torch.lerp(latents, noise, wide)
    clean = latents[:, : latents.shape[1] - chunk] + context_noise
    steps = torch.cat([levels.new_zeros(clean.shape[:2]), 1000 * levels], dim=1)
    output = network(torch.cat([clean, noisy], dim=1), steps, prompt, context)
    error = (output[:, clean.shape[1] :] - latents) / wide.clamp_min(SMALLEST_SIGMA)
    loss: Tensor = (weight * error.square()).mean()
    return loss
