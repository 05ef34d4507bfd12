"""The vbench environment's job: sets the package up once, then scores clip after clip."""

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any


def _own(module: str) -> Any:
    """A sibling of this file, imported under a name of its own, so that nothing of the core need be on the path."""
    folder = Path(__file__).resolve().parent
    if "vbench_job" not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            "vbench_job", folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        if spec is None or spec.loader is None:
            raise ImportError(f"{folder} is no package")
        package = importlib.util.module_from_spec(spec)
        sys.modules["vbench_job"] = package
        spec.loader.exec_module(package)
    return importlib.import_module(f"vbench_job.{module}")


def setup(options: dict[str, Any], weights: str, device: str) -> Any:
    """The state of one metric: the networks of `weights` are shared by all metrics of this process.

    Options: `job` (`short` or `long`) and what that job's `Plan` takes.
    """
    os.environ.setdefault("TORCH_HOME", str(Path(weights) / "torch"))
    networks = _own("loading").shared(Path(weights), device)
    plan_options = dict(options)
    job = plan_options.pop("job")
    return _own(f"{job}_job").Plan(networks, **plan_options)


def score(state: Any, clip: Any) -> dict[str, Any]:
    """The numbers of one clip."""
    scores: dict[str, Any] = state.score(clip)
    return scores
