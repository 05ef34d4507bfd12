"""`harness kernels`: compiles every kernel for every target, without a device, and lists what came of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from models.kernels.compile_gate import Row

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
    """Compile the attention kernels for sm_80, sm_90 and sm_100; no GPU is needed.

    Exits 1 where registers spill, a limit of shared or tensor memory is exceeded, the matrix units are not used, or
    the compiler dropped warp specialisation.
    """
    from harness.errors import NotAvailable
    from models.kernels.device import LEAST_TRITON, no_triton

    if missing := no_triton():
        least = ".".join(map(str, LEAST_TRITON))
        raise NotAvailable(f"{missing}, so no kernel can be compiled", f"pip install 'triton>={least}' (Linux)")
    from models.kernels import compile_gate, variants

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
