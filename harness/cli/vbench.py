"""`harness vbench`: VBench's own files, read as VBench's own scripts read them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Read result files that VBench itself wrote.", no_args_is_help=True)


@app.callback()
def vbench_() -> None:
    """Read result files that VBench itself wrote."""


@app.command()
def totals(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Its *_eval_results.json, or folders of them.")
    ],
    percent: Annotated[bool, typer.Option("--percent", help="All values of the files are from 0 to 100.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Every number as JSON.")] = False,
) -> Iterator[str]:
    """Print Quality, Semantic and Total of one model from VBench's own result FILEs.

    Ranges and weights are those of VBench's leaderboard script, and so are the numbers. That script takes a dimension
    which is not there for 0; here a total that lacks one is not made. Ends with 3 where none can be made.
    """
    from tabulate import tabulate

    from harness.errors import Incomplete
    from harness.metrics import vbench_totals as vbench
    from harness.metrics.vbench_results import read_results

    raw = read_results(files, percent=percent)
    scores: dict[str, float] = {}
    lacking: dict[str, str] = {}
    for name, (needed, formula) in vbench.FORMULAS.items():
        if absent := [dimension for dimension in needed if dimension not in raw]:
            lacking[name] = f"lacks {', '.join(absent)}"
        else:
            scores[name] = formula(raw)
    if as_json:
        normalised = {name: vbench.normalised(name, value) for name, value in raw.items()}
        yield json.dumps({"raw": raw, "normalised": normalised, "scores": scores, "lacking": lacking}, indent=1)
    else:
        rows = [
            (name, f"{value:.10g}", f"{vbench.normalised(name, value):.10g}", f"{vbench.WEIGHTS[name]:g}")
            for name, value in raw.items()
        ]
        yield tabulate(rows, ("dimension", "raw", "normalised", "weight"), tablefmt="simple", disable_numparse=True)
        yield ""
        results = [(name.replace("_", " "), f"{value:.10g}") for name, value in scores.items()]
        results += [(name.replace("_", " "), f"not available: {reason}") for name, reason in lacking.items()]
        yield tabulate(results, ("score", "value"), tablefmt="simple", disable_numparse=True)
    if not scores:
        raise Incomplete(
            f"no score can be made of {len(raw)} of VBench's {len(vbench.DIMENSIONS)} dimensions",
            "name the result files of the others too",
        )
