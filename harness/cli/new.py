"""`harness new model NAME`: an adapter that runs as it is, to be filled in, and its contract test."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from harness.errors import RegistryError

app = typer.Typer(help="Write the skeleton of a plug-in.", no_args_is_help=True)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*(/[A-Za-z0-9][A-Za-z0-9_.\-]*)?")

_ADAPTER = '''"""The video model `{name}` behind the harness's contract."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from harness.contracts import Frames, ModelCard, Options, Request, Spans, VideoModel, no_spans
from harness.contracts.registry import models


class {cls}Options(Options):
    """What a suite may set under `options:`. Every option is part of a clip's identity."""

    height: int = 32
    width: int = 32
    frames_per_chunk: int = 4


@models.register("{name}")
class {cls}(VideoModel):
    """Grey noise, until `load` and `stream` run the real model.

    Import torch inside `load` and `stream`, never at the top: planning must not need it.
    """

    version = "1"  # raise it whenever a change could alter a pixel
    schema = {cls}Options

    def describe(self) -> ModelCard:
        """The card; it allocates no weights. Name every weight file with its SHA-256 in `weight_digests`."""
        options: {cls}Options = self.options
        return ModelCard(
            family="{name}",
            height=options.height,
            width=options.width,
            frame_rate=16.0,
            frames_per_chunk=options.frames_per_chunk,
            weights="none",
        )

    def load(self, device: str) -> None:
        """Bring the weights to `device`."""

    def stream(self, request: Request, spans: Spans = no_spans) -> Iterator[Frames]:
        """Yield chunks, uint8 [batch, frames, height, width, 3], each as soon as its pixels are on the host."""
        options: {cls}Options = self.options
        draws = [np.random.default_rng(seed) for seed in request.seeds]
        for index, start in enumerate(range(0, request.frames, options.frames_per_chunk)):
            frames = min(options.frames_per_chunk, request.frames - start)
            with spans(f"chunk[{{index}}].denoise"):
                shape = (frames, options.height, options.width, 1)
                grey = np.stack([draw.integers(0, 256, shape, dtype=np.uint8) for draw in draws])
            yield np.repeat(grey, 3, axis=-1)

    def unload(self) -> None:
        """Free the weights."""
'''

_TEST = '''"""The contract test of `{name}`: what `harness check {name}` tries, as a test."""

from pathlib import Path

from harness.testing import check_model
from harness.contracts.registry import load_plugin

load_plugin(Path(__file__).with_name("{module}.py"))


def test_{module}_keeps_the_contract() -> None:
    """Every check passes, the live ones among them."""
    findings = check_model("{name}", live=True)
    assert [finding for finding in findings if finding.ok is False] == []
    assert any(finding.name.startswith("stream") and finding.ok for finding in findings)
'''


@app.callback()
def _new() -> None:
    """Write the skeleton of a plug-in."""


@app.command("model")
def model(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where to write it.")] = Path(),
) -> Iterator[str]:
    """Write an adapter for a video model, and its contract test."""
    from harness.contracts import registry
    from harness.system import files

    if not _NAME.fullmatch(name):
        raise RegistryError(f"{name!r} cannot name a model", "use letters, digits, _ . - and at most one /")
    if name in registry.models.names():
        raise RegistryError(f"model {name!r} is already registered", "choose another name")
    module = re.sub(r"\W+", "_", name.replace("/", "_")).strip("_").lower()
    if module[0].isdigit():
        module = f"model_{module}"
    cls = "".join(part.capitalize() for part in module.split("_"))
    adapter, test = out / f"{module}.py", out / f"test_{module}.py"
    for path in (adapter, test):
        if path.exists():
            raise RegistryError(f"{path} is already there", "move it away, or choose another name or --out DIR")
    files.write_atomic(adapter, _ADAPTER.format(name=name, cls=cls))
    files.write_atomic(test, _TEST.format(name=name, module=module))
    yield f"{adapter}\n{test}\ntry: harness check {name} --plugin {adapter}"
