"""Tokens of latent attention that are chosen, against float64 written from the formulas of every head."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from harness.contracts import registry
from harness.errors import OptionError
from videomla_models.network.attention.latent import LatentAttention
from videomla_models.network.cache import Grid, StreamCache
from videomla_models.ops import reference
from videomla_models.ops.rope import RotaryTable
from videomla_models.spec.config import LatentSizes, TransformerConfig
from videomla_models.spec.window import WindowPolicy, check_fit

SIZES = LatentSizes(d_c=10, d_q=14, d_nope=8, d_rope=6, pairs=(1, 1, 1))
HEADS, DIM, GRID = 3, 36, Grid(2, 2)
TABLE = RotaryTable(12, SIZES.pairs)
CHUNKS = 6


class Streamed:
    """A layer of latent attention on its streaming cache, a noisy pass and a clean one a chunk."""

    def __init__(self, policy: WindowPolicy, form: Literal["expanded", "absorbed"]) -> None:
        torch.manual_seed(0)
        self.layer = LatentAttention(DIM, HEADS, 1e-6, SIZES).double().requires_grad_(False)
        self.layer.use(form)
        self.cache = StreamCache(1, policy, policy.capacity(3), GRID, TABLE)
        self.cache.selection.into_latent = lambda _, queries: self.layer.into_latent(queries)
        self.inputs: dict[tuple[int, bool], Tensor] = {}
        self.latents: list[Tensor] = []

    def chunk(self, first: int) -> list[tuple[int, int]]:
        """[frame, place] of every token that the chunk's first pass sees."""
        context, shown = self.cache.chunk(first, 3, torch.device("cpu")), []
        attend = context.attend

        def watched(layer: int, query: Tensor, key: Tensor, latent: Tensor, attend_window: Any) -> Tensor:
            def noted(*window: Tensor) -> Tensor:
                shown.append(window[2].clone())
                return attend_window(*window)

            return attend(layer, query, key, latent, noted)

        context.attend = watched  # type: ignore[method-assign]
        for clean in (False, True):
            context.clean = clean
            x = torch.randn(1, 3 * GRID.tokens, DIM, dtype=torch.float64)
            self.inputs[first, clean] = x.clone()
            self.layer(x, 0, context)
        self.cache.finish(first, 3)
        own = self.layer.kv_norm(self.layer.kv_down(self.inputs[first, True][0]))
        self.latents += list(own)
        noisy = self.layer.kv_norm(self.layer.kv_down(self.inputs[first, False][0]))
        known = torch.stack([*self.latents[: first * GRID.tokens], *noisy])
        places = torch.cdist(shown[0][0], known).argmin(1).tolist()
        return [divmod(place, GRID.tokens) for place in places]

    def turned(self, x: Tensor, first: int) -> Tensor:
        return reference.rotate(x, TABLE.angles(range(first, first + 3), GRID.height, GRID.width))

    def queries(self, first: int, clean: bool) -> Tensor:
        """Of a pass, every head's: [L, H, d_nope + d_rope]."""
        latent = self.layer.q_norm(self.layer.q_down(self.inputs[first, clean]))
        nope = self.layer.q_up(latent).view(1, -1, HEADS, SIZES.d_nope)
        rope = self.layer.q_rope(latent).view(1, -1, HEADS, SIZES.d_rope)
        return torch.cat([nope, self.turned(rope, first)], -1)[0]

    def keys(self, first: int) -> Tensor:
        """Of a chunk's clean pass, every head's: [L, H, d_nope + d_rope]."""
        x = self.inputs[first, True]
        latent = self.layer.kv_norm(self.layer.kv_down(x))
        nope = self.layer.k_up(latent).view(1, -1, HEADS, SIZES.d_nope)
        rope = self.turned(self.layer.k_rope(x).unsqueeze(2), first).expand(-1, -1, HEADS, -1)
        return torch.cat([nope, rope], -1)[0]


@pytest.mark.parametrize("form", ["expanded", "absorbed"])
@pytest.mark.parametrize("at", ["first", "clean"])
@pytest.mark.parametrize("by", ["token", "patch", "frame"])
def test_latents_that_the_queries_of_all_heads_score_highest_outlive_their_frames(
    by: Literal["token", "patch", "frame"], at: Literal["first", "clean"], form: Literal["expanded", "absorbed"]
) -> None:
    run = Streamed(WindowPolicy(7, 1, select=2, select_by=by, select_at=at, select_patches=2), form)
    size = {"token": 1, "patch": 2, "frame": 4}[by]
    chosen: set[tuple[int, int]] = set()
    gone = 1
    for first in range(0, 3 * CHUNKS, 3):
        shown = run.chunk(first)
        leaving = list(range(gone, first + 3 - 6))
        if leaving:
            gone = leaving[-1] + 1
            asking = run.queries(first, False) if at == "first" else run.queries(first - 3, True)
            candidates = [*chosen, *((frame, place) for frame in leaving for place in range(GRID.tokens))]
            worth: dict[tuple[int, int], float] = {}
            for frame, place in candidates:
                key = run.keys(frame // 3 * 3)[frame % 3 * GRID.tokens + place]
                group = frame, place // size
                worth[group] = worth.get(group, 0.0) + float(torch.einsum("lhd,hd->", asking, key))
            best = sorted(worth, key=worth.__getitem__)[-(2 * GRID.tokens // size) :]
            chosen = {(frame, place) for frame, place in candidates if (frame, place // size) in best}
        window = {(frame, place) for frame in [0, *range(gone, first + 3)] for place in range(GRID.tokens)}
        assert len(shown) == len(set(shown))
        assert set(shown) == window | chosen, first


def test_changed_latents_stay_until_the_next_ones_leave() -> None:
    run = Streamed(WindowPolicy(5, 1, select=1, select_by="token", select_score="change"), "expanded")
    for first in range(0, 3 * CHUNKS, 3):
        shown = run.chunk(first)
        # The chunk before has left but for its last frame, and so has the last frame of the one before that.
        leaving = [frame for frame in range(first - 4, first - 1) if frame > 0]
        kept: set[tuple[int, int]] = set()
        if leaving:
            entries = {
                frame: torch.cat(
                    [
                        torch.stack(run.latents[frame * GRID.tokens : (frame + 1) * GRID.tokens]),
                        run.keys(frame // 3 * 3)[frame % 3 * GRID.tokens :][: GRID.tokens, 0, SIZES.d_nope :],
                    ],
                    -1,
                )
                for frame in (*leaving, leaving[-1] + 1)
            }
            alike = {
                (frame, place): float(torch.cosine_similarity(entries[frame][place], entries[frame + 1][place], dim=0))
                for frame in leaving
                for place in range(GRID.tokens)
            }
            kept = set(sorted(alike, key=alike.__getitem__)[: GRID.tokens])
        frames = {0, first - 1, *range(first, first + 3)} - {-1}
        assert set(shown) == {(frame, place) for frame in frames for place in range(GRID.tokens)} | kept, first


LATENT = TransformerConfig(dim=DIM, heads=HEADS, layers=2, attention="latent", latent=SIZES)


@pytest.mark.parametrize("policy", [{"select": 1, "select_by": "head"}, {"head_classes": ("slc",) * 2, "sink": 1}])
def test_heads_that_share_a_latent_have_no_windows_of_their_own(policy: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="share one latent") as fault:
        check_fit(WindowPolicy(7, **policy), LATENT)
    assert "\n" not in fault.value.message


def test_chosen_latents_cost_what_the_card_says() -> None:
    policy = {"rotation": "write", "positions": "absolute", "select": 2, "select_at": "clean"}
    card = registry.models.create("videomla-1.3b", {"policy": policy, "weights": "random"}).describe()
    # Six frames and two frames of tokens, 1,560 tokens of 192 + 32 numbers in 30 layers, in bfloat16.
    assert card.cache_bytes == 8 * 1560 * 224 * 30 * 2
    assert card.details["kept_beside_cache_bytes"]["queries"] == 224 * 30 * 2  # type: ignore[index,call-overload]
