"""The long-range half of VBench-Long's consistency: features of pieces, and the tables that bring them to one scale.

vbench2_beta_long compares the first frames of a clip's pieces by DINOv2 (subject) and DreamSim (background), and maps
that similarity, which is lower than that of neighbouring frames, by a table of quantiles to their scale.
"""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .frames import Batch
from .loading import Networks, WeightsFault, tensors
from .upstream_package import long_package

TABLES: Mapping[str, str] = {"subject_consistency": "subject_table", "background_consistency": "background_table"}
"""The entry in `FILES` of each dimension's table."""

DREAMSIM_ENTRIES: Mapping[str, str] = {
    "dreamsim_dino": "student",
    "dreamsim_clip": "state_dict",
    "dreamsim_open_clip": "state_dict",
}
"""The networks that DreamSim adapts, and under which entry a checkpoint keeps its tensors."""


def dinov2_feature(networks: Networks, batch: Batch, index: int) -> torch.Tensor:
    """DINOv2 features [1, 768] of one frame of a batch."""
    prepare = long_package().utils.dinov2_transform(224)
    with torch.inference_mode():
        features: torch.Tensor = networks.dinov2(prepare(batch.floats()[index : index + 1]))
    return features


def dreamsim(networks: Networks) -> Any:
    """DreamSim's ensemble; its `embed` takes frames [n, 3, 224, 224] in 0 to 1 to features [n, 1792]."""
    if "dreamsim" not in networks.others:
        networks.others["dreamsim"] = networks.ready(load_dreamsim(networks))
    return networks.others["dreamsim"]


def dreamsim_feature(networks: Networks, batch: Batch, index: int) -> torch.Tensor:
    """DreamSim features [1, 1792] of one frame of a batch."""
    prepare = long_package().utils.dreamsim_transform(224)
    with torch.inference_mode():
        features: torch.Tensor = dreamsim(networks).embed(prepare(batch.floats()[index : index + 1]))
    return features


# -------------------------------------------------------------------------------------------------- tables


def mapped(path: Path, similarity: float) -> float:
    """`similarity` by the table `path`: linear between its points, the end's value beyond them.

    vbench2_beta_long/utils.py, fuse_inclip_clip2clip. Raises `WeightsFault` for a file that is no such table.
    """
    points, values = read_table(path)
    return float(np.interp(similarity, points, values))


def read_table(path: Path) -> tuple[list[float], list[float]]:
    """Points, rising, and values of a table from similarity to score, both within 0 to 1."""
    import yaml

    if not path.is_file():
        raise WeightsFault(f"{path} is missing")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise WeightsFault(f"{path} is no table of similarities: it cannot be read as YAML") from error
    pairs = list(content.items()) if isinstance(content, Mapping) else []
    numbers = all(isinstance(number, float | int) and 0 <= number <= 1 for pair in pairs for number in pair)
    if len(pairs) < 2 or not numbers:
        raise WeightsFault(f"{path} is no table of similarities: it wants two or more pairs of numbers from 0 to 1")
    points, values = zip(*sorted(pairs), strict=True)
    return [float(point) for point in points], [float(value) for value in values]


# ------------------------------------------------------------------------------------------------- networks


@contextlib.contextmanager
def hub_from_files(networks: Networks) -> Iterator[None]:
    """Have torch.hub load the DINO and the DINOv2 of the weights folder, without asking a host or moving its folder."""
    hub: Any = torch.hub
    load, set_dir = hub.load, hub.set_dir

    def load_from_files(repo_or_dir: str, model: str, *args: Any, **kwargs: Any) -> Any:
        if repo_or_dir == "facebookresearch/dinov2":
            return networks.dinov2
        if repo_or_dir == "facebookresearch/dino:main":
            return networks.from_hub("dino", model)
        return load(repo_or_dir, model, *args, **kwargs)

    hub.load, hub.set_dir = load_from_files, lambda folder: None
    try:
        yield
    finally:
        hub.load, hub.set_dir = load, set_dir


def load_dreamsim(networks: Networks) -> Any:
    """The package's own network from the weights folder. Raises `WeightsFault` where a file is missing or wrong.

    The package silently accepts an adapter that fits no layer, so its names are compared here.
    """
    for name, entry in DREAMSIM_ENTRIES.items():
        tensors(networks.path(name), entry)
    networks.file("dreamsim_config")
    adapter = networks.file("dreamsim_lora")
    from dreamsim import dreamsim
    from peft import get_peft_model_state_dict
    from safetensors import SafetensorError, safe_open

    try:
        with hub_from_files(networks):
            network, _ = dreamsim(device=networks.device, cache_dir=str(adapter.parents[1]))
        with safe_open(str(adapter), "pt") as opened:
            names = set(opened.keys())
    except WeightsFault:
        raise
    except (RuntimeError, KeyError, TypeError, ValueError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsFault(f"{adapter.parents[1]} holds no DreamSim ensemble: {cause}") from error
    own = set(get_peft_model_state_dict(network))
    if names != own:
        raise WeightsFault(
            f"{adapter} is no adapter of DreamSim's ensemble: {len(own - names)} of {len(own)} tensors are missing, "
            f"{len(names - own)} are unknown"
        )
    return network
