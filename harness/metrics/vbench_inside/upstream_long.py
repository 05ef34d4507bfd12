"""VBench-Long as published: its own code on one clip, faults included, for comparison with published rows.

It cuts the clip into files with lossy encoding and whole frames per second, calls every piece a video of its own, cuts
names at the first underscore, and without its development flag leaves the comparison of pieces out of the score.
The package imports four things that are gone or optional today; they are stood in for here.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import tempfile
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .frames import ClipFault
from .loading import FILES, Networks, WeightsFault, read
from .pieces import CONSISTENCY, drift

CHECKPOINTS = {
    "subject_consistency": ("dino", "dino_code"),
    "background_consistency": ("clip_b32",),
    "motion_smoothness": ("amt",),
    "dynamic_degree": ("raft",),
    "aesthetic_quality": ("clip_l14", "aesthetic_head"),
    "imaging_quality": ("musiq",),
}
"""What upstream would otherwise try to download."""


def write_video(filename: str, video_array: Any, fps: float, **unused: Any) -> None:
    """What torchvision.io.write_video was until torchvision 0.28: x264 at its defaults, 4:2:0."""
    import av

    pixels = torch.as_tensor(video_array, dtype=torch.uint8).numpy(force=True)
    with av.open(filename, "w") as container:
        stream = container.add_stream("libx264", rate=int(np.round(fps)))
        stream.width, stream.height, stream.pix_fmt = pixels.shape[2], pixels.shape[1], "yuv420p"
        for picture in pixels:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode())


def _absent(name: str, attributes: Sequence[str]) -> None:
    """Enter a module whose attributes can be imported and raise when they are called, unless the real one is here."""
    try:
        importlib.import_module(name)
        return
    except ImportError:
        pass
    module = types.ModuleType(name)
    module.__path__ = []  # so that its submodules can be entered too

    def raising(*given: Any, **named: Any) -> Any:
        raise ImportError(f"{name} is not installed")

    for attribute in attributes:
        setattr(module, attribute, raising)
    sys.modules[name] = module


def package() -> Any:
    """The class VBenchLong of the installed package, which imports modules that may be missing."""
    _absent("moviepy", ())
    _absent("moviepy.editor", ("VideoFileClip",))
    _absent("scenedetect", ("open_video", "SceneManager", "split_video_ffmpeg"))
    _absent("scenedetect.detectors", ("ContentDetector",))
    _absent("scenedetect.video_splitter", ("split_video_ffmpeg",))
    _absent("dreamsim", ("dreamsim",))
    torchvision_io = importlib.import_module("torchvision.io")
    if not hasattr(torchvision_io, "write_video"):
        torchvision_io.write_video = write_video  # type: ignore[attr-defined]
    return importlib.import_module("vbench2_beta_long").VBenchLong


@contextlib.contextmanager
def _cache(root: Path) -> Iterator[None]:
    """The package reads its checkpoints below `root`, and without running anything in them."""
    utils = importlib.import_module("vbench.utils")
    before, utils.CACHE_DIR = utils.CACHE_DIR, str(root)  # type: ignore[attr-defined]
    load, torch.load = torch.load, lambda file, *given, **named: read(Path(file))
    try:
        yield
    finally:
        utils.CACHE_DIR, torch.load = before, load  # type: ignore[attr-defined]


def run_upstream(networks: Networks, path: Path, dimensions: Sequence[str]) -> dict[str, Any]:
    """Upstream's numbers for a folder that holds the one clip `path`, in the layout of `pieces.summary`.

    Raises:
        WeightsFault: a checkpoint is missing, which upstream would try to download.
        ClipFault: upstream's code fails on this clip.
    """
    for dimension in dimensions:
        for name in CHECKPOINTS[dimension]:
            if not (networks.root / FILES[name]).is_file():
                raise WeightsFault(f"{networks.root / FILES[name]} is missing")
    with tempfile.TemporaryDirectory(prefix="vbench-long-") as folder, _cache(networks.root):
        videos = Path(folder) / "videos"
        videos.mkdir()
        (videos / path.name).symlink_to(path.resolve())
        results = evaluate(networks.device, videos, Path(folder) / "out", dimensions)
    return _layout(results)


def evaluate(device: str, videos: Path, out: Path, dimensions: Sequence[str]) -> dict[str, Any]:
    """VBenchLong.evaluate on a folder of clips, in mode `long_custom_input` with the defaults of its program."""
    long = package()
    out.mkdir(parents=True)
    unused = out / "unused.yaml"
    unused.write_text("{0.01: 1.0, 1.0: 1.0}\n")
    info = Path(importlib.import_module("vbench").__file__ or "").parent / "VBench_full_info.json"
    options = {
        "sb_clip2clip_feat_extractor": "dino",
        "bg_clip2clip_feat_extractor": "clip",
        "imaging_quality_preprocessing_mode": "longer",
        "clip_length_config": str(unused),
        "w_inclip": 1.0,
        "w_clip2clip": 0.0,
        "use_semantic_splitting": False,
        "slow_fast_eval_config": str(unused),
        "dev_flag": False,
        "sb_mapping_file_path": str(unused),
        "bg_mapping_file_path": str(unused),
        "num_of_samples_per_prompt": 5,
        "static_filter_flag": False,
    }
    try:
        long(device, str(info), str(out)).evaluate(
            str(videos), "run", dimension_list=list(dimensions), local=True, mode="long_custom_input", **options
        )
    except (ZeroDivisionError, IndexError, AssertionError, TypeError, KeyError, OSError) as error:
        raise ClipFault(f"upstream fails on {os.listdir(videos)[0]}: {type(error).__name__}: {error}") from error
    held: dict[str, Any] = json.loads((out / "run_eval_results.json").read_text())
    return held


def _layout(results: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, result in results.items():
        scale = 100.0 if name == "imaging_quality" else 1.0
        rows = sorted(result[1], key=lambda row: str(row["video_path"]))
        out[name] = float(result[0])
        out[f"{name}_by_piece"] = [float(row["video_results"]) / scale for row in rows]
        if name in CONSISTENCY:
            out[f"{name}_clip_to_clip"] = float(rows[0]["clip2clip_score"])
        out["pieces"] = float(len(rows))
    if "imaging_quality" in results:
        out["imaging_spread"], out["imaging_change"] = drift(out["imaging_quality_by_piece"])
    return out
