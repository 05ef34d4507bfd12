"""Banks, chosen tokens and windows of heads, against float64 written from the formulas and by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from harness.errors import OptionError
from videomla_models.network.attention.dense import TextKeys
from videomla_models.network.cache import ChunkContext, Grid
from videomla_models.network.heads import HeadedCache, classify, stream_cache
from videomla_models.network.transformer import VideoTransformer
from videomla_models.ops.rope import RotaryTable
from videomla_models.rollout import replay
from videomla_models.rollout.rollout import Rollout
from videomla_models.spec.config import SamplerConfig
from videomla_models.spec.published_models import PUBLISHED
from videomla_models.spec.window import WindowPolicy

CPU = torch.device("cpu")
GRID = Grid(1, 2)
TABLE = RotaryTable(12)
HEADS, WIDTH = 3, 12
TRACES = Path(__file__).parents[2] / "data" / "traces"


class Run:
    """A cache that is fed drawn entries, three frames a chunk, a noisy pass and a clean one; it notes what is seen.

    Contents are frame numbers and, in the channels after, the token's place in its frame; so each pass shows which
    tokens it sees.
    """

    def __init__(self, policy: WindowPolicy, batch: int = 1, prompt: list[TextKeys] | None = None) -> None:
        self.cache = stream_cache(1, policy, 3, GRID, TABLE)
        self.batch, self.prompt = batch, prompt
        self.drawn = torch.Generator().manual_seed(0)
        self.keys: dict[int, Tensor] = {}
        self.queries: dict[int, Tensor] = {}
        self.latents: dict[int, Tensor] = {}
        self.positions: tuple[list[int], list[int]] = [], []
        self.seen: list[dict[int, list[list[int]]]] = []

    def chunk(self, first: int) -> dict[int, list[list[int]]]:
        """One chunk; of the first pass, what each head of clip 0 sees: by head, [frame, place] of every token."""
        context = self.cache.chunk(first, 3, CPU, self.prompt)
        tokens = 3 * GRID.tokens
        shown: list[tuple[int, Tensor]] = []

        def attend_window(query: Tensor, keys: Tensor, contents: Tensor) -> Tensor:
            shown.append((query.shape[2], contents.clone()))
            return torch.zeros(*query.shape[:2], query.shape[2] * WIDTH)

        for clean in (False, True):
            context.clean = clean
            query, key = (torch.randn(self.batch, tokens, HEADS, WIDTH, generator=self.drawn) for _ in range(2))
            content = torch.zeros(self.batch, tokens, HEADS, WIDTH)
            content[..., 0] = torch.arange(first, first + 3).repeat_interleave(GRID.tokens).view(1, -1, 1)
            content[..., 1] = torch.arange(GRID.tokens).repeat(3).view(1, -1, 1)
            content[..., 2] = torch.arange(HEADS)
            self.queries[2 * first + clean], self.keys[first] = query.clone(), key.clone()
            context.attend(0, query, key.clone(), content, attend_window)
            if not clean:
                by_head = {
                    int(contents[0, 0, head, 2]): contents[0, :, head, :2].long().tolist()
                    for count, contents in shown
                    for head in range(count)
                }
                if isinstance(context, ChunkContext):
                    self.positions = context.positions, self.cache.bank.positions("relative")
                self.clips = [sorted({int(f) for f in c[:, 0, 0]}) for _, contents in shown[:1] for c in contents]
        self.latents[first] = torch.randn(self.batch, 3, 4, 2, 3, generator=self.drawn)
        self.cache.finish(first, 3, self.latents[first])
        self.seen.append(by_head)
        return by_head

    def key(self, frame: int, place: int) -> Tensor:
        """Clip 0's key of a token, rotated, [H, d]."""
        first = frame // 3 * 3
        return self.rotated(first, self.keys[first])[0, (frame - first) * GRID.tokens + place]

    def frames(self, chunks: int) -> list[list[int]]:
        """Frames that head 0 sees in each chunk."""
        return [sorted({frame for frame, _ in self.chunk(3 * i)[0]}) for i in range(chunks)]

    def rotated(self, first: int, tensor: Tensor) -> Tensor:
        """Float64, at the absolute positions of a chunk."""
        angles = TABLE.angles(range(first, first + 3), GRID.height, GRID.width)
        turned = torch.polar(torch.ones_like(angles), angles)[:, None]
        pairs = torch.view_as_complex(tensor.double().unflatten(-1, (-1, 2)).contiguous())
        return torch.view_as_real(pairs * turned).flatten(-2)


# ---------------------------------------------------------------------------------------------------- banks


def test_a_bank_fills_with_first_frames_of_chunks_and_shows_them_beside_the_window() -> None:
    run = Run(WindowPolicy(6, bank=2, bank_every=2, bank_by="similarity"))
    seen = run.frames(5)
    # A frame every two chunks: the first of the chunk before, which the next chunk of the two replaces.
    assert seen[:2] == [[0, 1, 2], [0, 1, 2, 3, 4, 5]]
    assert seen[2] == [3, 4, 5, 6, 7, 8]
    assert seen[3] == [3, 6, 7, 8, 9, 10, 11]
    assert seen[4] == [3, 9, 10, 11, 12, 13, 14]


@pytest.mark.parametrize("by", ["prompt", "similarity"])
def test_the_frame_that_is_worth_least_gives_way_in_each_clip_apart(by: Literal["prompt", "similarity"]) -> None:
    text = torch.randn(2, 5, HEADS, WIDTH, generator=torch.Generator().manual_seed(3))
    run = Run(WindowPolicy(6, bank=2, bank_every=1, bank_by=by), 2, [(text, text)])
    for first in range(0, 12, 3):
        run.chunk(first)
    # Frames 0 and 3 fill it; then 6 comes for the worse of them, and 9 for the worse of those left.
    for clip in range(2):
        held = [0, 3]
        for fresh in (6, 9):

            def worth(frame: int, latest: int = fresh, clip: int = clip) -> float:
                means = {f: run.rotated(f, run.keys[f])[clip, : GRID.tokens].mean(0) for f in (frame, latest)}
                if by == "prompt":
                    return float((means[frame] * text[clip].double().mean(0)).sum(-1).mean())
                return float(torch.cosine_similarity(means[frame].flatten(), means[latest].flatten(), dim=0))

            held.remove(min(held, key=worth))
            held.append(fresh)
        run_seen = held
        if clip == 0:
            expected = [run_seen]
        else:
            expected.append(run_seen)
    run.chunk(12)
    for clip in range(2):
        assert set(run.clips[clip]) == {*expected[clip], 9, 10, 11, 12, 13, 14}


@pytest.mark.parametrize("by", ["prompt", "similarity"])
def test_a_bank_is_chosen_anew_from_all_that_is_remembered(by: Literal["prompt", "similarity"]) -> None:
    text = torch.randn(1, 5, HEADS, WIDTH, generator=torch.Generator().manual_seed(3))
    run = Run(WindowPolicy(6, bank=2, bank_every=1, bank_by=by, bank_pool=4), 1, [(text, text)])
    for first in range(0, 24, 3):
        shown = run.chunk(first)
        # Of four remembered frames, the first ones of the latest chunks, those of the window are not chosen again.
        pool = [frame for frame in range(max(0, first - 12), first, 3) if frame < first - 3]
        if first == 0 or not pool:
            assert {f for f, _ in shown[0]} == set(range(max(0, first - 3), first + 3))
            continue

        def worth(frame: int, latest: int = first - 3) -> float:
            means = {f: run.rotated(f, run.keys[f])[0, : GRID.tokens].mean(0) for f in (frame, latest)}
            if by == "prompt":
                return float((means[frame] * text[0].double().mean(0)).sum(-1).mean())
            return float(torch.cosine_similarity(means[frame].flatten(), means[latest].flatten(), dim=0))

        best = sorted(pool, key=worth)[-2:]
        assert {f for f, _ in shown[0]} == {*best, *range(first - 3, first + 3)}


@pytest.mark.parametrize("of", ["first", "all"])
def test_latents_choose_for_each_clip_among_frames_that_are_old_enough(of: Literal["first", "all"]) -> None:
    """LongLive-RAG: cosine of the latents' means over a frame, to the last frame's, in float64."""
    chosen: Any = {"bank": 2, "bank_every": 1, "bank_by": "latents", "bank_of": of, "bank_at": "zero"}
    policy = WindowPolicy(5, 1, rotation="read", positions="relative", bank_pool=11, bank_recent=7, span=8, **chosen)
    run = Run(policy, 2)
    told_apart = 0
    for first in range(0, 42, 3):
        run.chunk(first)
        remembered = [frame for frame in range(first) if of == "all" or frame % 3 == 0][-11:]
        old = [frame for frame in remembered if frame and frame < first - 7]
        means = {f: run.latents[f // 3 * 3][:, f % 3].double().mean((-2, -1)) for f in range(first)}
        best: list[set[int]] = []
        for clip in range(2):
            own = {frame: mean[clip] for frame, mean in means.items()}
            worth = {frame: float(torch.cosine_similarity(own[frame], own[first - 1], dim=0)) for frame in old}
            best.append(set(sorted(old, key=worth.__getitem__)[-2:]))
            assert set(run.clips[clip]) == best[clip] | {0, *range(max(0, first - 1), first + 3)}, (first, clip)
        told_apart += best[0] != best[1]
        # As in a window of eight frames, of which the sink and the latest four are seen.
        ring, bank = run.positions
        last = min(first + 2, 7)
        assert sorted(ring) == [0, *range(max(1, last - 3), last + 1)]
        assert bank == [0] * min(2, len(old))
    assert told_apart > 3


@pytest.mark.parametrize("rotation", ["write", "read"])
def test_the_first_frames_after_a_switch_stay_until_those_of_the_next(rotation: Literal["write", "read"]) -> None:
    run = Run(WindowPolicy(7, 1, switch="anchor", anchor=2, rotation=rotation))
    seen: dict[int, list[int]] = {}
    for first in range(0, 30, 3):
        if first in (6, 18):
            run.cache.anchor.marked = first
        seen[first] = sorted({frame for frame, _ in run.chunk(first)[0]})
    assert seen[9] == [0, 6, 7, 8, 9, 10, 11]
    assert seen[12] == [0, 6, 7, 9, 10, 11, 12, 13, 14]
    assert seen[21] == [0, 6, 7, 18, 19, 20, 21, 22, 23]
    assert seen[24] == [0, 18, 19, 21, 22, 23, 24, 25, 26]


def test_a_bank_by_prompt_needs_one() -> None:
    run = Run(WindowPolicy(6, bank=1, bank_every=1))
    run.chunk(0)
    run.chunk(3)
    with pytest.raises(OptionError, match="needs the prompt"):
        run.chunk(6)


# ------------------------------------------------------------------------------------------- chosen tokens


@pytest.mark.parametrize("at", ["first", "clean"])
@pytest.mark.parametrize("by", ["token", "head", "frame", "chunk"])
def test_tokens_that_the_queries_score_highest_outlive_their_frames(
    by: Literal["token", "head", "frame", "chunk"], at: Literal["first", "clean"]
) -> None:
    sink, budget = (3, 3) if by == "chunk" else (1, 2)
    run = Run(WindowPolicy(sink + 6, sink, select=budget, select_by=by, select_at=at))
    chosen: dict[int, set[tuple[int, int]]] = {head: set() for head in range(HEADS)}
    gone = sink
    for first in range(0, 21, 3):
        before = [set(tokens) for tokens in chosen.values()]
        shown = run.chunk(first)
        leaving = list(range(gone, first + 3 - 6))
        if leaving:
            gone = leaving[-1] + 1
            room = budget * GRID.tokens
            source = 2 * first if at == "first" else 2 * (first - 3) + 1
            queries = run.rotated(source // 2, run.queries[source])[0].sum(0)
            new = [(f, p) for f in leaving for p in range(GRID.tokens)]
            worth = {
                (frame, place): (run.key(frame, place) * queries).sum(-1)
                for head in range(HEADS)
                for frame, place in [*before[head], *new]
            }
            for head in range(HEADS):
                candidates = [*before[head], *new]
                if by == "head":
                    ranked = sorted(candidates, key=lambda t, h=head: -float(worth[t][h]))  # type: ignore[misc]
                elif by == "token":
                    ranked = sorted(candidates, key=lambda t: -float(worth[t].sum()))
                else:
                    of = {t: t[0] if by == "frame" else None for t in candidates}
                    sums = {f: sum(float(worth[t].sum()) for t in candidates if of[t] == f) for f in set(of.values())}
                    ranked = sorted(candidates, key=lambda t: (-sums[of[t]], t))
                if by == "chunk" and len(candidates) > room:
                    groups = [sorted(before[head]), new]
                    ranked = max(groups, key=lambda g: sum(float(worth[t].sum()) for t in g))
                chosen[head] = set(ranked[:room])
        window = {(f, p) for f in [*range(sink), *range(gone, first + 3)] for p in range(GRID.tokens)}
        for head in range(HEADS):
            tokens = [tuple(token) for token in shown[head]]
            assert len(tokens) == len(set(tokens))
            assert set(tokens) == window | chosen[head], (first, head)


# ------------------------------------------------------------------------------------------ windows of heads


def test_each_class_of_heads_sees_its_own_frames() -> None:
    run = Run(WindowPolicy(7, 1, head_classes=("slc",), head_from=2, head_recent=(3, 1)))
    for first in range(0, 15, 3):
        run.chunk(first)
    frames = [{head: sorted({f for f, _ in tokens}) for head, tokens in shown.items()} for shown in run.seen]
    assert frames[1] == {head: [0, 1, 2, 3, 4, 5] for head in range(3)}
    assert frames[2] == {0: [0, 6, 7, 8], 1: [3, 4, 5, 6, 7, 8], 2: [5, 6, 7, 8]}
    assert frames[4] == {0: [0, 12, 13, 14], 1: [9, 10, 11, 12, 13, 14], 2: [11, 12, 13, 14]}


def test_classes_that_hold_from_the_start_keep_no_whole_window() -> None:
    run = Run(WindowPolicy(7, 1, head_classes=("scc",)))
    run.chunk(0)
    shown = run.chunk(3)
    assert {head: sorted({f for f, _ in tokens}) for head, tokens in shown.items()} == {
        0: [0, 3, 4, 5],
        1: [2, 3, 4, 5],
        2: [2, 3, 4, 5],
    }
    # Four frames of two tokens, keys and values of twelve float32, for every head.
    assert run.cache.bytes() == HEADS * 4 * 2 * 2 * WIDTH * 4


def test_some_heads_see_changed_patches_beside_the_window() -> None:
    """Forcing-KV: of the frames that leave, what is least like the same place a frame later, of keys of those heads."""
    chosen: Any = {"select": 1, "select_by": "patch", "select_patches": 2, "select_score": "change"}
    run = Run(WindowPolicy(5, 1, head_classes=("wtt",), head_from=2, **chosen))
    for first in range(0, 18, 3):
        shown = run.chunk(first)
        window = [0, first - 1, *range(first, first + 3)] if first else [0, 1, 2]
        kept: set[tuple[int, int]] = set()
        if first >= 9:
            alike = {
                (frame, place): float(
                    torch.cosine_similarity(*(run.key(f, place)[1:].flatten() for f in (frame, frame + 1)), dim=0)
                )
                for frame in range(first - 4, first - 1)
                for place in range(GRID.tokens)
            }
            kept = set(sorted(alike, key=alike.__getitem__)[: GRID.tokens])
        for head in range(HEADS):
            whole = {(frame, place) for frame in window for place in range(GRID.tokens)}
            tokens = [tuple(token) for token in shown[head]]
            assert len(tokens) == len(set(tokens))
            assert set(tokens) == (whole if head == 0 else whole | kept), (first, head)
    # Five frames for one head and six for two, of two tokens, keys and values of twelve float32.
    assert run.cache.bytes() == (5 + 6 + 6) * 2 * 2 * WIDTH * 4


def test_heads_are_told_by_where_they_look() -> None:
    shares = torch.tensor([[[0.5, 0.1, 0.4], [0.1, 0.1, 0.8]], [[0.1, 0.6, 0.3], [0.2, 0.3, 0.5]]])
    # Shares of all: sink .556 .111 .111 .222, between .091 .091 .545 .273.
    assert classify(shares, 1) == ("sc", "ll")
    assert classify(shares, 2) == ("sc", "lc")
    assert classify(shares, 0) == ("ss", "ll")


def test_classes_found_online_are_those_of_the_public_code() -> None:
    """The recording names them; found anew from evenly spread queries they are the same, and so is the rollout."""
    path = TRACES / "dummy_forcing_la7_sink1.safetensors"
    spec, tensors = replay.read(path)
    recorded = tuple(spec["head_classes"])
    network = VideoTransformer(replay.network_config(spec))
    network.load_state_dict({n[len("weights.") :]: t for n, t in tensors.items() if n.startswith("weights.")})
    network.eval().requires_grad_(False)
    policy = replace(PUBLISHED["dummy-forcing"].window, frames=7, sink=1)
    rollout = Rollout(network, policy, 3, SamplerConfig(), Grid(2, 3))
    noise = replay.TraceNoise(tensors["noise"], list(tensors["renoise"].flatten(0, 1)))
    with torch.inference_mode():
        prompt = network.prompt(tensors["context"])
    latents = torch.cat(list(rollout.run(noise, prompt, int(spec["frames"]))), 1)
    assert isinstance(rollout.cache, HeadedCache)
    assert rollout.cache.classes == recorded
    assert (latents - tensors["latents"]).abs().max() <= replay.TOLERANCE
