"""Every registered model, metric and probe keeps its contract: the checks behind `harness check`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness import testing
from harness.contracts import Json, Options, registry
from harness.errors import OptionError
from harness.system import video


def own(kind: registry.Registry[Any]) -> list[str]:
    """The names of this project's own; other tests may have brought fakes before these tests are collected."""
    return [name for name in kind.names() if kind.get(name).__module__.split(".")[0] in ("harness", "videomla_models")]


WRITER = """
import sys, numpy as np
from pathlib import Path
from zlib import crc32
from harness.system import video
out, frames, seed, prompt = sys.argv[1:]
draw = np.random.default_rng([int(seed), crc32(prompt.encode())])
pixels = np.repeat(draw.integers(0, 256, (int(frames), 16, 1, 1), np.uint8), 16, 2).repeat(3, 3)
video.write(Path(out), [pixels], 16.0, 8, "ultrafast")
"""


def options_for(name: str, folder: Path) -> dict[str, Json]:
    """Options of the models that do nothing without any."""
    prompt = "a red circle moves slowly to the left on a navy background"
    if name == "folder":
        for seed in (0, 1):
            pixels = np.full((80, 16, 16, 3), 40 + seed, np.uint8)
            video.write(folder / f"{prompt}-{seed}.mp4", [pixels], 16.0, 8, "ultrafast")
        return {"path": str(folder)}
    if name == "command":
        (folder / "writer.py").write_text(WRITER)
        argv = ["{python}", str(folder / "writer.py"), "{out}", "{frames}", "{seed}", "{prompt}"]
        return {"argv": argv, "python": sys.executable, "height": 16, "width": 16, "chunk": 4}
    if "network" in registry.models.get(name).schema.model_fields:
        return {"network": "tiny", "codec": "preview", "height": 32, "width": 48, "dtype": "float32"}
    return {}


def required(schema: type[Options]) -> list[str]:
    return [name for name, field in schema.model_fields.items() if field.is_required()]


def verdict(findings: list[testing.Finding]) -> None:
    failed = [f"{finding.name}: {finding.detail}" for finding in findings if finding.ok is False]
    assert not failed, failed
    assert any(finding.ok for finding in findings)


def run_or_refuse(kind: Any, name: str, checks: Any, options: dict[str, Json]) -> None:
    """Check the plug-in, or, where it needs options that this test has not, see that it says which."""
    missing = [option for option in required(kind.get(name).schema) if option not in options]
    if not missing:
        return verdict(checks(name, options))
    with pytest.raises(OptionError, match=f"'{missing[0]}'"):
        checks(name, options)
    return None


@pytest.mark.parametrize("name", own(registry.models))
def test_model(name: str, tmp_path: Path) -> None:
    run_or_refuse(registry.models, name, testing.check_model, options_for(name, tmp_path))


@pytest.mark.parametrize("name", own(registry.models))
def test_a_model_with_a_cache_has_a_reference(name: str, tmp_path: Path) -> None:
    options = options_for(name, tmp_path)
    if required(registry.models.get(name).schema) and not options:
        pytest.skip("needs files of a training")
    model: Any = registry.models.create(name, options)
    if model.describe().cached_scalars is None or model.network_config().attention == "linear":
        pytest.skip("no transformer of this project, or one whose attention has no reference")
    found = {finding.name: finding.ok for finding in testing.check_model(name, options)}
    assert found["agreement with its reference"] is True


@pytest.mark.parametrize("name", own(registry.metrics))
def test_metric(name: str) -> None:
    run_or_refuse(registry.metrics, name, testing.check_metric, {})


@pytest.mark.parametrize("name", own(registry.probes))
def test_probe(name: str) -> None:
    run_or_refuse(registry.probes, name, testing.check_probe, {})


def test_constructing_any_of_them_imports_no_torch() -> None:
    program = (
        "import sys; from harness.contracts import registry\n"
        "for kind in (registry.models, registry.metrics, registry.probes):\n"
        "    for name in kind:\n"
        "        cls = kind.get(name)\n"
        "        if not any(field.is_required() for field in cls.schema.model_fields.values()):\n"
        "            kind.create(name, {})\n"
        "        assert 'torch' not in sys.modules, name\n"
    )
    done: Any = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
