"""Calls the vbench package directly, a dimension at a time, and answers each; runs inside its environment."""

import contextlib
import importlib
import io
import json
import sys
import tempfile

import torch


@contextlib.contextmanager
def seen_classes():
    """The classes that the action recogniser is at least 0.85 sure of, caught on their way to the comparison."""
    classes, topk = [], torch.topk

    def caught(*given, **named):
        found = topk(*given, **named)
        pairs = zip(found.values.flatten().tolist(), found.indices.flatten().tolist(), strict=True)
        classes.extend(index for sure, index in pairs if round(sure, 4) >= 0.85)
        return found

    torch.topk = caught
    try:
        yield classes
    finally:
        torch.topk = topk


def score(row):
    """The package's answer for one row."""
    from vbench.utils import init_submodules

    name = row["dimension"]
    info = {"prompt_en": row["prompt"], "dimension": [name], "video_list": row["paths"]}
    if row.get("auxiliary"):
        info["auxiliary_info"] = row["auxiliary"]
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump([info], file)
        file.flush()
        compute = getattr(importlib.import_module(f"vbench.{name}"), f"compute_{name}")
        with contextlib.redirect_stderr(io.StringIO()), seen_classes() as classes:
            overall, results = compute(file.name, "cpu", init_submodules([name], local=True)[name])
    videos = [float(result["video_results"]) for result in results]
    assert [result["video_path"] for result in results] == row["paths"]
    return {"overall": float(overall), "videos": videos, "classes": classes}


def main() -> None:
    for row in json.load(sys.stdin)["rows"]:
        with contextlib.redirect_stdout(sys.stderr):
            answer = score(row)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
