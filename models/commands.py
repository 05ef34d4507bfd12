"""Commands that need the models themselves: `harness verify-trace`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import typer


def verify_trace(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A reference rollout.")],
    latents: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the replayed latents here, as safetensors.")
    ] = None,
    form: Annotated[Literal["expanded", "absorbed"], typer.Option(help="Form of latent attention.")] = "expanded",
) -> Iterator[str]:
    """Replay the reference rollout FILE; exit 0 only when its latents agree within 5e-5.

    A rollout that multiplies rounding is compared chunk by chunk on the recorded past; the output says so.
    """
    from models.trace import TOLERANCE, save_latents, verify

    result = verify(file, form)
    if latents is not None:
        save_latents(result, latents)
    if result.difference is None:
        yield f"{file.name}: {result.family}, replayed; it records no latents to compare with"
        raise typer.Exit(3)
    yield f"{file.name}: {result.family}, largest difference {result.difference:.1e}"
    if result.on_recorded_past is not None:
        yield f"  chunk by chunk on the recorded past: {result.on_recorded_past:.1e} (this rollout multiplies rounding)"
    yield f"  {'agrees' if result.passes else 'does not agree'} within {TOLERANCE:.0e}"
    if not result.passes:
        raise typer.Exit(1)
