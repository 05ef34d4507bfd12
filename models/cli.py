"""The commands that models add to `harness`: convert, verify-trace and kernels."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from videomla_models.ops.compile_gate import Row


def verify_trace(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A reference rollout.")],
    latents: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the replayed latents here, as safetensors.")
    ] = None,
    form: Annotated[
        Literal["expanded", "absorbed", "reference"], typer.Option(help="Form of latent attention.")
    ] = "expanded",
) -> Iterator[str]:
    """Replay a reference rollout and compare its latents.

    Exits 0 only when the latents of FILE agree within 5e-5.

    A rollout that multiplies rounding is also replayed in the recording's order of operations, and in the usual one
    chunk by chunk on the recorded past; the output says which is which, and so does the header of what is written.
    """
    from videomla_models.rollout.replay import TOLERANCE, save_latents, verify

    result = verify(file, form)
    if latents is not None:
        save_latents(result, latents)
    if result.difference is None:
        yield f"{file.name}: {result.family}, replayed; it records no latents to compare with"
        raise typer.Exit(3)
    yield f"{file.name}: {result.family}, largest difference {result.free_difference:.1e}"
    if result.on_recorded_past is not None:
        free = f"{result.difference:.1e} in the usual order of operations (this rollout multiplies rounding)"
        if result.in_order_difference is not None:
            free = f"{result.in_order_difference:.1e} in the recording's order of operations, {free}"
        yield f"  on its own past: {free}"
        yield f"  chunk by chunk on the recorded past, in the usual order: {result.on_recorded_past:.1e}"
    if latents is not None:
        yield f"  {latents}: the latents made on this past: {result.best[0]}"
    yield f"  {'agrees' if result.passes else 'does not agree'} within {TOLERANCE:.0e}"
    if not result.passes:
        raise typer.Exit(1)


Alpha = Annotated[float | None, typer.Option("--lora-alpha", help="Its alpha, where its files do not state it.")]


def convert(
    source: Annotated[str, typer.Argument(metavar="SRC", help="A dense checkpoint: a file, a folder or a Hub id.")],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="The file to write, as in videomla.safetensors.")],
    init: Annotated[Literal["svd", "random"], typer.Option(help="Truncated SVD of the dense maps, or random.")] = "svd",
    seed: Annotated[int, typer.Option(min=0, max=(1 << 63) - 1, help="Of the random start.")] = 0,
    d_c: Annotated[int, typer.Option("--d-c", help="Width of the cached content latent.")] = 192,
    d_q: Annotated[int, typer.Option("--d-q", help="Width of the query latent.")] = 768,
    d_nope: Annotated[int, typer.Option("--d-nope", help="Content channels of a head.")] = 96,
    d_rope: Annotated[int, typer.Option("--d-rope", help="Positional channels of a head.")] = 32,
    pairs: Annotated[str, typer.Option(help="Rotary pairs for time, height and width.")] = "6,5,5",
    qk_rms: Annotated[
        Literal["expected", "one"], typer.Option("--qk-rms", help="What replaces the query and key norms' 1/rms.")
    ] = "expected",
    latent_gain: Annotated[
        Literal["expected", "one"], typer.Option("--latent-gain", help="Gains of the two latent norms.")
    ] = "expected",
    heads: Annotated[int | None, typer.Option(help="Heads of the source; its width / 128 unless given.")] = None,
    ema: Annotated[bool | None, typer.Option("--ema/--no-ema", help="Averaged or raw weights, of both.")] = None,
    lora: Annotated[str | None, typer.Option(help="A low-rank update to merge first.")] = None,
    lora_alpha: Alpha = None,
    map_: Annotated[
        Path | None,
        typer.Option("--map", metavar="FILE", help="YAML or JSON, 'theirs: ours': names or regular expressions."),
    ] = None,
) -> Iterator[str]:
    """Turn dense attention into VideoMLA's latent attention.

    What the paper leaves open is kept in the file that is written.

    With --map, tensors whose names are in no known layout are renamed first: a key is a name, or a regular expression
    that matches names whole; a value is ours, with groups as \\1, or null to leave the tensor out. Attention that is
    latent already is checked and written as it is.
    """
    from harness.errors import OptionError
    from videomla_models.checkpoints.convert import LayerReport, Recipe, convert_file
    from videomla_models.checkpoints.load import open_checkpoint
    from videomla_models.checkpoints.name_mapping import read_name_map
    from videomla_models.network.renamed_checkpoint import rename_file
    from videomla_models.spec.config import LatentSizes

    try:
        time, height, width = (int(part) for part in pairs.split(","))
    except ValueError as error:
        raise OptionError(f"--pairs is {pairs!r}", "give three numbers, as in 6,5,5") from error
    sizes = LatentSizes(d_c=d_c, d_q=d_q, d_nope=d_nope, d_rope=d_rope, pairs=(time, height, width))
    recipe = Recipe(sizes, init=init, seed=seed, qk_rms=qk_rms, latent_gain=latent_gain)
    mapping = read_name_map(map_) if map_ else None
    checkpoint = open_checkpoint(source, "any" if mapping else "auto", ema, lora, lora_alpha, mapping)
    if mapping and "blocks.0.self_attn.k.weight" not in checkpoint:
        config = rename_file(checkpoint, destination, sizes.pairs, mapping.file.read_text(encoding="utf-8"))
        yield f"{destination}: {config.layers} layers under our names, {config.latent.cached_scalars} cached scalars"
        return
    reports: list[LayerReport] = []
    config = convert_file(checkpoint, destination, recipe, heads, reports.append)
    for report in reports if init == "svd" else ():
        shares = f"{report.key_value:.3f} of keys and values, {report.query:.3f} of queries"
        yield f"layer {report.layer:2}: energy kept {shares}"
    scalars = f"{config.latent.cached_scalars} cached scalars per token and layer instead of {2 * config.dim}"
    yield f"{destination}: {config.layers} layers, {scalars}"


COLUMNS = (
    ("target", 7), ("variant", 24), ("dtype", 9), ("split", 6), ("tile", 8), ("warps", 6), ("registers", 10),
    ("spills", 7), ("shared B", 9), ("TMEM", 5), ("matrix", 12), ("per key tile", 12),
)  # fmt: skip


def kernels(
    target: Annotated[
        list[str] | None, typer.Option(metavar="SM", help="As in sm_90; repeat it. All three unless given.")
    ] = None,
    variant: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this kernel; repeat it. All unless given.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, with the limits and versions.")] = False,
) -> Iterator[str]:
    """Compile and examine the attention kernels, without a GPU.

    Exits 1 where registers spill, a limit of shared or tensor memory is exceeded, the matrix units are not used, or
    the compiler dropped warp specialisation.
    """
    from harness.errors import NotAvailable
    from videomla_models.ops.device import LEAST_TRITON, no_triton

    if missing := no_triton():
        least = ".".join(map(str, LEAST_TRITON))
        raise NotAvailable(f"{missing}, so no kernel can be compiled", f"pip install 'triton>={least}' (Linux)")
    from videomla_models.ops import compile_gate, variants

    targets = [_target(text) for text in target or ()] or variants.ARCHITECTURES
    rows: list[Row] = []
    for row in compile_gate.gate(targets, names=variant or ()):
        if not as_json:
            if not rows:
                yield _line([name for name, _ in COLUMNS])
            yield _line(_cells(row))
            yield from (f"    {fault}" for fault in row.faults)
        rows.append(row)
    faulty = sum(bool(row.faults) for row in rows)
    if as_json:
        yield json.dumps({**compile_gate.header(), "faulty": faulty, "rows": [row.to_json() for row in rows]}, indent=1)
    else:
        yield f"{len(rows)} kernels compiled, {faulty} with a fault"
    if faulty:
        raise typer.Exit(1)


def _target(text: str) -> int:
    from harness.errors import OptionError

    digits = text.removeprefix("sm_")
    if not digits.isascii() or not digits.isdigit():
        raise OptionError(f"--target {text!r} is no target", "use sm_80, sm_90 or sm_100")
    return int(digits)


def _cells(row: Row) -> list[str]:
    return [
        row.target, row.variant, row.dtype, "yes" if row.split else "no", row.tile, str(row.warps),
        str(row.registers), str(row.spills), str(row.shared), str(row.tensor_memory), row.tensor_instruction or "-",
        str(row.per_key_tile or "-"),
    ]  # fmt: skip


def _line(cells: list[str]) -> str:
    return " ".join(cell.ljust(width) for cell, (_, width) in zip(cells, COLUMNS, strict=True)).rstrip()
