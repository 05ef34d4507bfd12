"""VBench-Long as published: its own code on one clip, faults included, for comparison with published rows.

It cuts the clip into files with lossy encoding and whole frames per second. It counts every piece as a video, and cuts
names at the first underscore. It leaves the comparison of pieces out of the score without its development flag, for a
clip of one piece, and for a name with an underscore.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .frames import ClipFault, decode, describe, whole
from .loading import Networks, read
from .long_range import TABLES, hub_from_files
from .long_range import dreamsim as dreamsim_of
from .pieces import drift
from .upstream_package import long_package

CHECKPOINTS = {
    "subject_consistency": ("dino", "dino_code"),
    "background_consistency": ("clip_b32",),
    "motion_smoothness": ("amt",),
    "dynamic_degree": ("raft",),
    "aesthetic_quality": ("clip_l14", "aesthetic_head"),
    "imaging_quality": ("musiq",),
}
"""What upstream would otherwise try to download."""

LONG_CHECKPOINTS = {
    "subject_consistency": ("dinov2", "dinov2_code", "subject_table"),
    "background_consistency": ("dreamsim_lora", "background_table"),
}
"""What its development flag needs besides."""


@contextlib.contextmanager
def _files_only(networks: Networks) -> Iterator[None]:
    """Have the package read the weights folder, without running anything in it, and ask no host.

    It asks DreamSim for a CUDA device whatever its own is. Here the network comes from the folder, on that device.
    """
    utils = importlib.import_module("vbench.utils")
    background = importlib.import_module("vbench2_beta_long.background_consistency")
    cache, dreamsim = utils.CACHE_DIR, background.dreamsim
    load, torch.load = torch.load, lambda file, *args, **kwargs: read(Path(file))
    utils.CACHE_DIR = str(networks.root)  # type: ignore[attr-defined]
    background.dreamsim = lambda **kwargs: (dreamsim_of(networks), None)  # type: ignore[attr-defined]
    try:
        with hub_from_files(networks):
            yield
    finally:
        utils.CACHE_DIR, torch.load = cache, load  # type: ignore[attr-defined]
        background.dreamsim = dreamsim  # type: ignore[attr-defined]


def run_upstream(
    networks: Networks, path: Path, dimensions: Sequence[str], weights: tuple[float, float], frames: int = 0
) -> dict[str, Any]:
    """Upstream's numbers for a folder that holds the one clip `path`, in the layout of `pieces.summary`.

    `weights` are of the in-clip and the long-range half; with one on the second it runs as with its development flag.

    Raises:
        WeightsFault: a checkpoint is missing, which upstream would try to download.
        ClipFault: the clip is damaged, or upstream's code fails on it.
    """
    for dimension in dimensions:
        for name in (*CHECKPOINTS[dimension], *(LONG_CHECKPOINTS.get(dimension, ()) if weights[1] else ())):
            networks.file(name)
    info = describe(str(path))
    whole(replace(info, frames=frames or info.frames), sum(len(batch) for batch in decode(str(path), 16, "cpu")))
    long = long_package().VBenchLong
    with tempfile.TemporaryDirectory(prefix="vbench-long-") as folder, _files_only(networks):
        videos = Path(folder) / "videos"
        videos.mkdir()
        (videos / path.name).symlink_to(path.resolve())
        try:
            results = evaluate(long, networks, videos, Path(folder) / "out", dimensions, weights)
        except (ZeroDivisionError, IndexError, AssertionError, TypeError, KeyError, OSError) as error:
            raise ClipFault(f"upstream fails on {path.name}: {type(error).__name__}: {error}") from error
    return _layout(results, weights[1] > 0)


def evaluate(
    long: Any, networks: Networks, videos: Path, out: Path, dimensions: Sequence[str], weights: tuple[float, float]
) -> dict[str, Any]:
    """VBenchLong.evaluate on a folder of clips, in mode `long_custom_input` with the defaults of its program."""
    out.mkdir(parents=True)
    dev = weights[1] > 0
    fusing = out / "weights.yaml"
    parts = zip(("w_inclip", "w_clip2clip"), weights, strict=True)
    fusing.write_text("".join(f"{name}_{which}: {weight}\n" for name, weight in parts for which in ("sb", "bg")))
    unused = out / "unused.yaml"
    unused.write_text("{0.01: 1.0, 1.0: 1.0}\n")
    tables = {name: str(networks.path(entry)) if dev else str(unused) for name, entry in TABLES.items()}
    info = Path(importlib.import_module("vbench").__file__ or "").parent / "VBench_full_info.json"
    options = {
        "sb_clip2clip_feat_extractor": "dinov2" if dev else "dino",
        "bg_clip2clip_feat_extractor": "dreamsim" if dev else "clip",
        "imaging_quality_preprocessing_mode": "longer",
        "clip_length_config": str(unused),
        "w_inclip": weights[0],
        "w_clip2clip": weights[1],
        "use_semantic_splitting": False,
        "slow_fast_eval_config": str(fusing),
        "dev_flag": dev,
        "sb_mapping_file_path": tables["subject_consistency"],
        "bg_mapping_file_path": tables["background_consistency"],
        "num_of_samples_per_prompt": 5,
        "static_filter_flag": False,
    }
    long(networks.device, str(info), str(out)).evaluate(
        str(videos), "run", dimension_list=list(dimensions), local=True, mode="long_custom_input", **options
    )
    results: dict[str, Any] = json.loads((out / "run_eval_results.json").read_text())
    return results


def _layout(results: dict[str, Any], dev: bool) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, result in results.items():
        scale = 100.0 if name == "imaging_quality" else 1.0
        rows = sorted(result[1], key=lambda row: str(row["video_path"]))
        scores = [float(row.get("inclip_score", row["video_results"])) / scale for row in rows]
        out[name] = float(result[0])
        out[f"{name}_by_piece"] = scores
        if name in TABLES:
            out[f"{name}_in_clip"] = float(np.mean(scores))
            out[f"{name}_clip_to_clip"] = float(rows[0].get("clip2clip_score", np.nan))
            if dev:
                out[f"{name}_long_range"] = float(rows[0].get("mapped_clip2clip_score", np.nan))
        out["pieces"] = float(len(rows))
    if "imaging_quality" in results:
        out["imaging_spread"], out["imaging_change"] = drift(out["imaging_quality_by_piece"])
    return out
