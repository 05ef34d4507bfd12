"""Bad input is refused before any launch, with the name of what is wrong."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")
from harness.errors import NotAvailable, OptionError
from videomla_models.ops import checks, triton_absorbed, triton_expand, variants

Q, C, R = (2, 5, 3, 48), (2, 20, 32), (2, 20, 16)


def call(q: Tensor, c: Tensor, r: Tensor, **extra: object) -> Tensor:
    return triton_absorbed.absorbed(q, c, r, extra.pop("scale", 0.2), **extra)  # type: ignore[arg-type]


def good() -> tuple[Tensor, Tensor, Tensor]:
    return torch.zeros(Q), torch.zeros(C), torch.zeros(R)


@pytest.mark.parametrize(
    ("d_c", "d_rope", "name"), [(24, 16, "d_c=24"), (32, 24, "d_rope=24"), (208, 16, "d_c=208"), (32, 48, "d_rope=48")]
)
def test_widths(d_c: int, d_rope: int, name: str) -> None:
    q, c, r = torch.zeros(2, 5, 3, d_c + d_rope), torch.zeros(2, 20, d_c), torch.zeros(2, 20, d_rope)
    with pytest.raises(OptionError, match=f"{name} is not a multiple of 16 from 16 to"):
        call(q, c, r)


@pytest.mark.parametrize("filled", [0, -1, 21])
def test_a_window_larger_than_the_cache(filled: int) -> None:
    with pytest.raises(OptionError, match=f"filled={filled} is not from 1 to 20"):
        call(*good(), filled=filled)


def test_mixed_dtypes() -> None:
    q, c, r = good()
    with pytest.raises(OptionError, match=r"c is torch.float16 but query is torch.float32"):
        call(q, c.half(), r)


def test_mixed_devices() -> None:
    q, c, r = good()
    with pytest.raises(OptionError, match="r is on meta but query is on cpu"):
        call(q, c, r.to("meta"))


@pytest.mark.parametrize("which", [0, 1, 2])
def test_tensors_with_gaps(which: int) -> None:
    tensors = list(good())
    tensors[which] = torch.zeros(*tensors[which].shape[:-1], 2 * tensors[which].shape[-1])[..., ::2]
    with pytest.raises(OptionError, match=("query", "c", "r")[which] + " is not contiguous"):
        call(*tensors)


def test_permuted_queries() -> None:
    q, c, r = good()
    with pytest.raises(OptionError, match="query is not contiguous"):
        call(q.transpose(1, 2).contiguous().transpose(1, 2), c, r)


def test_misaligned_tensors() -> None:
    q, c, r = good()
    shifted = torch.zeros(c.numel() + 1)[1:].view(c.shape)
    with pytest.raises(OptionError, match="c does not start on a 16-byte boundary"):
        call(q, shifted, r)


@pytest.mark.parametrize("change", [lambda q, c, r: (q, c, r[:, :19]), lambda q, c, r: (q[..., :40], c, r),
                                    lambda q, c, r: (q, c[:1], r), lambda q, c, r: (q[0], c, r)])  # fmt: skip
def test_shapes(change: Callable[..., tuple[Tensor, Tensor, Tensor]]) -> None:
    with pytest.raises(OptionError, match=r"shape|must be"):
        call(*change(*good()))


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_scales(scale: float) -> None:
    with pytest.raises(OptionError, match="is not a positive number"):
        call(*good(), scale=scale)


def test_good_input_on_a_cpu_is_not_launched() -> None:
    with pytest.raises(NotAvailable, match="do not run on cpu"):
        call(*good())


def test_variants_that_do_not_take_the_dtype() -> None:
    with pytest.raises(OptionError, match="takes bfloat16 or float16, not float32"):
        call(*good(), variant=variants.named("sm80-128x32"))
    with pytest.raises(OptionError, match="no latent-attention kernel"):
        call(*(t.double() for t in good()))


@pytest.mark.parametrize(
    ("name", "capability", "words"),
    [("sm90-64x64", (8, 0), "not for compute capability 8.0"), ("sm80-128x32", (9, 0), "use one of sm90-128x128,"),
     ("sm100-64x64", (12, 0), "use one of sm80-128x32"), ("sm80-128x32", (7, 5), "need compute capability 8.0")],
)  # fmt: skip
def test_variants_of_another_architecture(name: str, capability: tuple[int, int], words: str) -> None:
    with pytest.raises((OptionError, NotAvailable)) as refused:
        checks.made_for(variants.named(name), capability)
    assert words in str(refused.value)


def test_variants_of_this_architecture() -> None:
    for variant in variants.TABLE:
        checks.made_for(variant, (variant.arch // 10, 0))
    checks.made_for(variants.named("sm80-128x32"), (8, 9))


def test_more_frames_than_the_rope_tables_hold() -> None:
    table = torch.zeros(19, 8)
    with pytest.raises(OptionError, match="rope tables hold 19 tokens, the window 20"):
        triton_expand.rope_prepass(torch.zeros(R), table, table)
    with pytest.raises(OptionError, match="17 pairs, not 1 to 8"):
        triton_expand.rope_prepass(torch.zeros(R), torch.zeros(20, 17), torch.zeros(20, 17))
    with pytest.raises(OptionError, match=r"not torch\.float32 on cpu"):
        triton_expand.rope_prepass(torch.zeros(R), torch.zeros(20, 8).double(), torch.zeros(20, 8).double())


def test_expansion_maps() -> None:
    c, r = torch.zeros(C), torch.zeros(R)
    with pytest.raises(OptionError, match="d_nope=20 is not a multiple of 16"):
        triton_expand.expand(c, r, torch.zeros(3, 20, 32), torch.zeros(3, 32, 32))
    with pytest.raises(OptionError, match="d_v=144 is not a multiple of 16 from 16 to 128"):
        triton_expand.expand(c, r, torch.zeros(3, 16, 32), torch.zeros(3, 144, 32))
    with pytest.raises(OptionError, match=r"v_up has shape \[2, 32, 32\], not \[3, 32, 32\]"):
        triton_expand.expand(c, r, torch.zeros(3, 16, 32), torch.zeros(2, 32, 32))
    with pytest.raises(OptionError, match="k_up is not contiguous"):
        triton_expand.expand(c, r, torch.zeros(3, 32, 16).transpose(1, 2), torch.zeros(3, 32, 32))


def test_variant_table() -> None:
    assert len({v.name for v in variants.TABLE}) == len(variants.TABLE)
    assert variants.pieces(192, 32) == (128, 64, 32)
    assert variants.pieces(176, 32) == (128, 64, 32)
    assert variants.pieces(128, 16) == (128, 0, 16)
    capabilities = [(7, 5), (8, 0), (8, 9), (9, 0), (10, 0), (12, 0)]
    assert [variants.architecture(c) for c in capabilities] == [None, 80, 80, 90, 100, 80]
    for arch in variants.ARCHITECTURES:
        for dtype in ("bfloat16", "float16", "float32"):
            for rows in (1, 64, 65, 56160):
                chosen = variants.select(arch, dtype, rows)
                assert (chosen.arch, chosen.specialise) == (arch, False)
                assert dtype in chosen.dtypes
    assert variants.select(90, "bfloat16", 12).block_m == 64
    assert variants.select(90, "bfloat16", 768).block_m == 128
    with pytest.raises(OptionError, match="known: sm80-128x32"):
        variants.named("sm75")


@pytest.mark.parametrize(("tiles", "batch", "keys", "processors"), [(6, 1, 256, 132), (439, 1, 74, 132), (1, 1, 1, 132),
                                                                      (147, 4, 110, 132), (1, 16, 3, 8)])  # fmt: skip
def test_splits_cover_the_keys_without_an_empty_part(tiles: int, batch: int, keys: int, processors: int) -> None:
    parts, each = variants.splits(tiles, batch, keys, processors)
    assert (parts - 1) * each < keys <= parts * each
    waves = -(-tiles * batch * parts // processors)
    assert waves * each <= -(-tiles * batch // processors) * keys


def test_one_short_request_is_split_to_fill_the_chip() -> None:
    parts, _ = variants.splits(6, 1, 256, 132)
    assert 19 <= parts <= 22
