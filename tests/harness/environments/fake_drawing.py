"""A drawing without packages: one number for each file that is wanted; `ViT-L-14/openai` cannot be drawn."""

from pathlib import Path


def setup(options, weights, device):
    if "ViT-L-14/openai" in options["groups"]:
        raise ImportError("no package draws this")
    for path, links in options["files"].items():
        for name in (path, *links):
            (Path(weights) / name).parent.mkdir(parents=True, exist_ok=True)
            (Path(weights) / name).write_text("0.25")
