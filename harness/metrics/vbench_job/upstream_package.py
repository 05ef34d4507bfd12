"""Import vbench2_beta_long, with stand-ins for modules that it imports and that today's environment lacks."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch


def write_video(filename: str, video_array: Any, fps: float, **unused: Any) -> None:
    """torchvision.io.write_video as it was until torchvision 0.28: x264 at its defaults, 4:2:0, but repeatable.

    x264's macroblock tree reads memory that it has not written. So upstream's own pieces change from run to run, and
    their similarity by some 1e-4. It is off here, as in this project's own clips.
    """
    import av

    pixels = torch.as_tensor(video_array, dtype=torch.uint8).numpy(force=True)
    with av.open(filename, "w") as container:
        stream = container.add_stream("libx264", rate=int(np.round(fps)))
        stream.width, stream.height, stream.pix_fmt = pixels.shape[2], pixels.shape[1], "yuv420p"
        stream.options = {"threads": "1", "x264-params": "mbtree=0"}
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

    def raising(*args: Any, **kwargs: Any) -> Any:
        raise ImportError(f"{name} is not installed")

    for attribute in attributes:
        setattr(module, attribute, raising)
    sys.modules[name] = module


def long_package() -> Any:
    """The module vbench2_beta_long, which imports three things that are gone or optional today."""
    _absent("moviepy", ())
    _absent("moviepy.editor", ("VideoFileClip",))
    _absent("scenedetect", ("open_video", "SceneManager", "split_video_ffmpeg"))
    _absent("scenedetect.detectors", ("ContentDetector",))
    _absent("scenedetect.video_splitter", ("split_video_ffmpeg",))
    torchvision_io = importlib.import_module("torchvision.io")
    if not hasattr(torchvision_io, "write_video"):
        torchvision_io.write_video = write_video  # type: ignore[attr-defined]
    return importlib.import_module("vbench2_beta_long")
