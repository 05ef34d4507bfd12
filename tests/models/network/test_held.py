"""What a stream holds, by walking the live objects after a rollout, against the card and against arithmetic by hand."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import CodeType, GeneratorType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.contracts import registry
from videomla_models.adapters.transformer_model import StreamingModel
from videomla_models.network.build import build, random_embeddings
from videomla_models.network.cache import Grid, storage_bytes
from videomla_models.network.heads import HeadedCache
from videomla_models.network.transformer import Modulations, VideoTransformer
from videomla_models.ops.rope import RotaryTable, Rotation
from videomla_models.rollout.rolling import RollingRollout
from videomla_models.rollout.rollout import Prompt, Rollout, SeededNoise
from videomla_models.spec.published_models import PUBLISHED

FLOAT = 4
CPU = torch.device("cpu")
LATENT = ("videomla-1.3b", "toy/videomla")
MODELS = [
    *((name, form) for name in LATENT for form in ("expanded", "absorbed")),
    *((name, "auto") for name in (*PUBLISHED, "toy/dense", "toy/linear") if name not in LATENT),
]


def of_a_rollout(code: CodeType) -> bool:
    """Whether a suspended generator is one of the rollout's."""
    return code.co_filename.endswith(("rollout.py", "rolling.py"))


def storages(tensors: Iterable[Tensor]) -> set[int]:
    return {t.untyped_storage()._cdata for t in tensors}


def alive() -> tuple[list[object], list[Tensor]]:
    """Every object that Python's collector knows, and the tensors among them."""
    gc.collect()
    things = gc.get_objects()
    return things, [thing for thing in things if type(thing) in (Tensor, torch.nn.Parameter)]


@dataclass
class Held:
    """Bytes by name, measured on storage; `other` are tensors that belong to nothing named."""

    cache: int
    text_keys: int
    latents: int
    transient: int
    other: list[Tensor]


class Handed:
    """Keys and values that attention over `keys` of them was handed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, keys: int) -> None:
        self.last: list[Tensor] = []
        usual = F.scaled_dot_product_attention

        def noting(q: Tensor, k: Tensor, v: Tensor, **rest: float) -> Tensor:
            if k.shape[2] == keys:
                self.last = [k, v]
            return usual(q, k, v, **rest)

        monkeypatch.setattr(F, "scaled_dot_product_attention", noting)


def model(
    name: str,
    form: str,
    guidance: float = 1.0,
    cache: dict[str, object] | None = None,
    policy: dict[str, object] | None = None,
) -> StreamingModel:
    options: dict[str, object] = {"dtype": "float32", "attention": form, "weights": "random", "cache": cache or {}}
    options |= {"policy": policy} if policy else {}
    if name.startswith("toy/"):
        options |= {"guidance": guidance}
    else:
        options |= {"network": "tiny", "height": 32, "width": 48, "codec": "preview"}
    made = registry.models.create(name, options)
    assert isinstance(made, StreamingModel)
    return made


def roll(made: StreamingModel, network: VideoTransformer) -> Iterator[tuple[Rollout, Prompt, Tensor]]:
    """A rollout, its prompt and each of its chunks, for longer than the window."""
    config, work = made.network_config(), made.workload()
    height, width = made.latent_size()
    kind = RollingRollout if made.window_policy().schedule == "rolling" else Rollout
    grid = Grid(height // config.patch[1], width // config.patch[2])
    storage = made.storage()
    rollout = kind(network, made.window_policy(), made.chunk, made.sampler_config(), grid, storage=storage)
    texts = ("a", "") if made.sampler_config().guidance != 1 else ("a",)
    with torch.inference_mode():
        prompt = network.prompt(random_embeddings(config.text_tokens, config.text_width)(texts))
    noise = SeededNoise((0,), (config.in_channels, height, width), CPU, torch.float32)
    # The rolling schedule ends with fewer chunks in flight, so it is left before.
    frames = (
        -(-(work.window + made.window_policy().bank_recent) // work.chunk) + max(4, len(made.sampler_config().steps))
    ) * work.chunk
    for chunk in rollout.run(noise, prompt, frames):
        yield rollout, prompt, chunk


def held(handed: Handed, rollout: Rollout, prompt: Prompt, chunk: Tensor, before: set[int]) -> Held:
    things, tensors = alive()
    # What the suspended rollout works on; a dictionary there holds the chunks in flight.
    frames = [
        g.gi_frame.f_locals for g in things if type(g) is GeneratorType and g.gi_frame and of_a_rollout(g.gi_code)
    ]
    local = [thing for frame in frames for thing in frame.values()]
    flying = [t for thing in local if type(thing) is dict for t in thing.values() if isinstance(t, Tensor)]
    cache, text, kept = rollout.cache.tensors(), [t for pair in prompt for t in pair], [*rollout.finished, *flying]
    transient = [
        *handed.last,
        *([] if rollout.cache.rotated_keys is None else [rollout.cache.rotated_keys]),
        *rollout.cache.decoded.values(),
    ]
    transient = [t for t in transient if not storages([t]) & storages(cache)]
    angles = [t for thing in things if type(thing) is Rotation for t in (thing.cos, thing.sin, thing.phase)]
    angles += [t for thing in things if type(thing) is RotaryTable for t in thing.axes]
    bank = rollout.cache.bank
    apart = [*rollout.cache.selection.queries.values(), *(t for t in (bank.means, bank.fresh) if t is not None)]
    if isinstance(rollout.cache, HeadedCache):
        apart += [heads for layer in rollout.cache.heads for heads in layer.values()]
    of_times = [t for thing in things if type(thing) is Modulations for of in (*thing.blocks, thing.head) for t in of]
    now = [
        chunk,
        *(schedule.table for schedule in rollout.schedules),
        *(thing for thing in local if type(thing) is Tensor),
    ]
    known = before | storages([*cache, *text, *kept, *transient, *angles, *apart, *of_times, *now])
    other = [t for t in tensors if t.untyped_storage()._cdata not in known]
    return Held(*(storage_bytes(part) for part in (cache, text, kept, transient)), other)


@pytest.mark.parametrize(("name", "form"), MODELS)
def test_what_is_alive_is_what_the_card_says(name: str, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check(model(name, form), monkeypatch)


@pytest.mark.parametrize("name", ["toy/dense", "toy/videomla", "longlive"])
def test_an_encoded_cache_holds_what_the_card_says(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check(model(name, "expanded", cache={"content": "int4", "key": "int8", "sink": "exact"}), monkeypatch)


AVERAGES: dict[str, object] = {"frames": 9, "average_rates": [0.01, 0.1]}
ROLLING: dict[str, object] = {"frames": 9, "sink": 0, "sink_kind": "ping_pong"}
HEADS: dict[str, object] = {"head_classes": ["slcs", "ssss", "llcc", "clcl", "sccc"], "head_from": 2, "frames": 7}
AT_WRITE: dict[str, object] = {"rotation": "write", "positions": "absolute"}
POLICIES: list[tuple[str, dict[str, object]]] = [
    *((name, policy) for name in ("toy/dense", "toy/videomla") for policy in (AVERAGES, ROLLING)),
    *((name, {"bank": 2, "bank_every": 1, "bank_by": "similarity"}) for name in ("toy/dense", "toy/videomla")),
    ("toy/videomla", {"bank": 2, "bank_every": 1, "bank_by": "similarity", "bank_pool": 4}),
    ("toy/dense", {**AT_WRITE, "select": 2, "select_by": "frame", "select_at": "clean"}),
    ("toy/videomla", {**AT_WRITE, "select": 2, "select_at": "clean"}),
    ("toy/dense", {**HEADS, **AT_WRITE}),
]


@pytest.mark.parametrize(("name", "policy"), POLICIES)
def test_what_a_policy_keeps_is_what_the_card_says(
    name: str, policy: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    check(model(name, "expanded", policy=policy), monkeypatch)


@pytest.mark.parametrize("policy", [AVERAGES, ROLLING], ids=["averages", "ping_pong"])
@pytest.mark.parametrize("name", ["toy/dense", "toy/videomla"])
def test_what_a_policy_keeps_may_be_encoded(
    name: str, policy: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = {"content": "int8", "key": "int8", "sink": "exact" if "average_rates" in policy else "coded"}
    check(model(name, "expanded", cache=cache, policy=policy), monkeypatch)


@pytest.mark.parametrize("name", ["toy/dense", "toy/videomla"])
def test_guidance_holds_everything_twice(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check(model(name, "expanded", guidance=2.0), monkeypatch)


def check(made: StreamingModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured, printed, and by hand."""
    config, policy, work, card = made.network_config(), made.window_policy(), made.workload(), made.describe()
    seen = work.window - (policy.sink if policy.schedule == "rolling" else 0)
    network = build(config, None, "float32", "cpu").eval().requires_grad_(False)
    network.use_form("absorbed" if card.details["attention_form"] == "absorbed" else "expanded")
    # Absorbed maps belong to the network; constants of four bytes, which a first stream makes, to the process.
    next(roll(made, network))
    before = storages(alive()[1])
    handed = Handed(monkeypatch, seen * work.tokens)
    stream = roll(made, network)
    for _ in range(-(-(work.window + policy.bank_recent) // work.chunk) + (3 if policy.bank_pool else 1)):
        rollout, prompt, chunk = next(stream)
    found = held(handed, rollout, prompt, chunk, before)
    assert not found.other
    copies = 2 if made.sampler_config().guidance != 1 else 1
    scalars = config.latent.d_c + config.latent.d_rope if config.attention == "latent" else 2 * config.dim
    tokens = (work.window + work.spare) * work.tokens
    assert found.cache == rollout.cache.bytes()
    if policy.head_current:
        # What heads see that are told apart as the rollout goes is known to be at most so much.
        assert found.cache <= (card.cache_bytes or 0)
    else:
        assert found.cache == card.cache_bytes
    if config.attention == "linear":
        assert card.cache_bytes == copies * FLOAT * config.layers * config.dim * (config.head_dim + 1)
    elif not made.storage().coded and not policy.by_head:
        assert card.cache_bytes == copies * FLOAT * config.layers * tokens * scalars
    text = copies * FLOAT * config.layers * 2 * config.text_tokens * config.dim
    assert found.text_keys == text
    width = config.dim if config.attention == "dense" else config.cached_scalars
    apart = {"queries": FLOAT * config.layers * width} if policy.select_at == "clean" else {}
    if policy.bank_by == "latents":
        bank = rollout.cache.bank
        assert bank.means is not None
        assert bank.fresh is not None
        apart["means"] = storage_bytes([bank.means, bank.fresh])
    assert card.details["kept_beside_cache_bytes"] == {"text_keys": text, "latents": found.latents, **apart}
    parts = card.details["transient"]
    assert isinstance(parts, dict)
    assert found.transient == card.transient_bytes == sum(parts.values())  # type: ignore[arg-type]


def test_transient_bytes_by_hand() -> None:
    """`toy/videomla`: 6 frames of 16 tokens, 4 heads of 24 + 24 and values of 192, rope keys of 24."""
    expanded, absorbed = (
        model("toy/videomla", form).describe().details["transient"] for form in ("expanded", "absorbed")
    )
    assert expanded == {"rotated": 96 * 24 * 4, "gathered": 0, "rebuilt": 96 * (4 * 48 + 192) * 4}
    assert absorbed == {"rotated": 96 * 24 * 4, "gathered": 96 * 56 * 4, "rebuilt": 0}
