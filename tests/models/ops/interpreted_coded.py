"""Kernels that read encoded latents, in Triton's interpreter against float64; run by `test_interpreter.py`.

What is encoded here is decoded by the codec in float64, so that kernel and truth start from the same numbers.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.errors import OptionError
from videomla_models.network.attention.latent import LatentAttention
from videomla_models.network.cache import Grid, StreamCache
from videomla_models.network.storage import decode, encode
from videomla_models.ops import triton_coded, variants
from videomla_models.ops.choice import Form
from videomla_models.ops.encoded import Segment
from videomla_models.ops.latent import Attention
from videomla_models.ops.reference import absorbed_attention
from videomla_models.ops.rope import RotaryTable
from videomla_models.spec.config import LatentSizes
from videomla_models.spec.storage import Code, Storage
from videomla_models.spec.window import WindowPolicy

FLOAT32, FLOAT16 = 1e-6, 7e-4
TOKENS, FRAMES = 8, 5


def segment(code: Code, d_c: int, dtype: torch.dtype, seed: int, batch: int = 2) -> tuple[Segment, Tensor]:
    """Frames in a code with their keys, and the latents as the code has them, float64 [B, rows, d_c]."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, FRAMES, TOKENS, d_c, generator=g) * torch.linspace(0.2, 3, d_c)
    keys = torch.randn(batch, FRAMES * TOKENS, 16, generator=g).to(dtype)
    codes, scales = (t.flatten(1, 2) for t in encode(x, code))
    tokens = TOKENS if code.group == "channel" else 1
    group = {"channel": 1, "token": d_c}.get(code.group, code.group)  # type: ignore[call-overload]
    wide = decode(encode(x, code), code, torch.float64).flatten(1, 2)
    return Segment(codes, keys, scales, tokens, group), wide.to(dtype).double()


def exact(rows: int, d_c: int, dtype: torch.dtype, batch: int = 2) -> tuple[Segment, Tensor]:
    g = torch.Generator().manual_seed(rows)
    latents, keys = (torch.randn(batch, rows, width, generator=g).to(dtype) for width in (d_c, 16))
    return Segment(latents, keys), latents.double()


def window(kind: Any, group: Any, d_c: int, dtype: torch.dtype) -> tuple[list[Segment], Tensor, Tensor]:
    """Two encoded runs of frames around an exact one, as a ring has them."""
    code = Code(kind, group)
    parts = [segment(code, d_c, dtype, 0), exact(13, d_c, dtype), segment(code, d_c, dtype, 1)]
    segments = [part for part, _ in parts]
    return segments, torch.cat([wide for _, wide in parts], 1), torch.cat([s.keys for s in segments], 1)


CODES = [
    ("int8", "channel", 48),
    ("int4", "channel", 80),
    ("int4", 32, 64),
    ("int8", "token", 32),
    ("int4", "token", 192),
]
by_code = pytest.mark.parametrize(("kind", "group", "d_c"), CODES)
by_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float16])


def taking(dtype: torch.dtype, arch: int = 80) -> variants.CodedVariant:
    name = str(dtype).removeprefix("torch.")
    variant = variants.coded(arch, "float16")
    return variants.CodedVariant(variant.name, arch, 32, 16, 4, 1, (name,), variant.separate)


@by_code
@by_dtype
def test_absorbed_attention_on_codes(kind: Any, group: Any, d_c: int, dtype: torch.dtype) -> None:
    segments, latents, keys = window(kind, group, d_c, dtype)
    query = torch.randn(2, 7, 3, d_c + 16, generator=torch.Generator().manual_seed(2)).to(dtype)
    out = triton_coded.absorbed(query, segments, 0.1, variant=taking(dtype, 100 if d_c == 80 else 80))
    expected = absorbed_attention(query[..., :d_c], query[..., d_c:], latents, keys, 0.1)
    assert (out.double() - expected).norm() <= (FLOAT32 if dtype == torch.float32 else FLOAT16) * expected.norm()


@by_code
@by_dtype
def test_expansion_of_codes(kind: Any, group: Any, d_c: int, dtype: torch.dtype) -> None:
    segments, latents, keys = window(kind, group, d_c, dtype)
    g = torch.Generator().manual_seed(3)
    k_up, v_up = ((torch.randn(2, width, d_c, generator=g) / d_c**0.5).to(dtype) for width in (48, 32))
    k, v = triton_coded.expand(segments, k_up, v_up)
    limit = FLOAT32 if dtype == torch.float32 else FLOAT16
    for out, up in ((k[..., :48], k_up), (v, v_up)):
        expected = torch.einsum("bkc,hdc->bhkd", latents, up.double())
        assert (out.double() - expected).norm() <= limit * expected.norm()
    assert torch.equal(k[..., 48:], keys[:, None].expand(-1, 2, -1, -1))


def test_full_widths_in_the_tiles_that_run() -> None:
    d_c, dtype = 192, torch.float16
    segments, latents, keys = window("int4", "channel", d_c, dtype)
    query = torch.randn(2, 3, 2, d_c + 16, generator=torch.Generator().manual_seed(2)).to(dtype)
    for arch in variants.ARCHITECTURES:
        out = triton_coded.absorbed(query, segments, 0.1, variant=variants.coded(arch, "float16"))
        expected = absorbed_attention(query[..., :d_c], query[..., d_c:], latents, keys, 0.1)
        assert (out.double() - expected).norm() <= FLOAT16 * expected.norm()


def test_segments_that_do_not_fit_are_refused() -> None:
    good, _ = segment(Code("int4"), 32, torch.float16, 0)
    query = torch.zeros(2, 3, 2, 48, dtype=torch.float16)
    assert good.scales is not None
    wrong = [
        Segment(good.latents[:, :-1], good.keys[:, :-1], good.scales, TOKENS, 1),
        Segment(good.latents, good.keys, good.scales.float(), TOKENS, 1),
        Segment(good.latents, good.keys, good.scales[:, :-1], TOKENS, 1),
        Segment(good.latents.int(), good.keys, good.scales, TOKENS, 1),
        Segment(good.latents, good.keys.float(), good.scales, TOKENS, 1),
    ]
    for one in wrong:
        with pytest.raises(OptionError):
            triton_coded.absorbed(query, [one], 0.1)


GRID = Grid(2, 4)


def streamed(form: Any, storage: Storage) -> list[Tensor]:
    """What a layer gives in each pass of seven chunks of one frame, in a window of four with a sink."""
    sizes = LatentSizes(d_c=32, d_q=24, d_nope=16, d_rope=16, pairs=(3, 3, 2))
    torch.manual_seed(0)
    layer = LatentAttention(64, 2, 1e-6, sizes).half().requires_grad_(False)
    layer.use(Attention(Form(form, "triton"), strict=True))
    policy = WindowPolicy(4, 1, rotation="read", positions="relative")
    cache = StreamCache(1, policy, policy.capacity(1), GRID, RotaryTable(32, (3, 3, 2)), storage)
    outputs = []
    for frame in range(7):
        context = cache.chunk(frame, 1, torch.device("cpu"))
        for clean in (False, True):
            context.clean = clean
            x = torch.randn(2, GRID.tokens, 64, generator=torch.Generator().manual_seed(2 * frame + clean)).half()
            with torch.inference_mode():
                outputs.append(layer(x, 0, context))
    assert ("content" in cache.decoded) != storage.in_kernel
    return outputs


@pytest.mark.parametrize("form", ["absorbed", "expanded"])
@pytest.mark.parametrize(("kind", "sink", "recent"), [("int4", 0, 0), ("int8", 1, 1)])
def test_a_stream_on_codes_is_that_on_decoded_latents(form: str, kind: Any, sink: int, recent: int) -> None:
    """Sink, recent frames, evictions and the ring's wrap, without a window in full precision."""
    storage = Storage(Code(kind), Code("int8", "token"), sink, recent)
    on_codes = streamed(form, dataclasses.replace(storage, in_kernel=True))
    for out, decoded in zip(on_codes, streamed(form, storage), strict=True):
        assert (out - decoded).norm() <= 2e-3 * decoded.norm()
