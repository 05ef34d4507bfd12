#!/usr/bin/env bash
# One H.264 file of 8 bits and 4:2:0 gives the same RGB, bit for bit, in PyAV 18.1.0, OpenCV 5.0.0.93, decord 0.6.0 and
# imageio-ffmpeg 0.8.1. Of the same clip in 10 bits no two of them agree: they are 40 to 44 dB apart, as far as the clip is
# from its source. In 4:4:4 they agree in 10 bits too, so it is the chroma that each enlarges in its own way. A PSNR near
# 40 dB between two 10-bit clips may tell of nothing but two readers. Nothing warns.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet av==18.1.0 numpy==2.4.6 decord==0.6.0 imageio==2.38.1 imageio-ffmpeg==0.8.1 \
    opencv-python-headless==5.0.0.93

cat > "$folder/readers.py" <<'PYTHON'
import itertools
import sys

import av
import cv2
import decord
import imageio.v3 as iio
import numpy as np

y, x = np.mgrid[:96, :128]
waves = np.sin(x / 17 + y / 29), np.cos(x / 23 - y / 11), np.sin(x / 9) * np.cos(y / 13)
picture = np.stack([128 + 80 * wave for wave in waves], -1).astype(np.uint8)


def read_all(path, pixels):
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=16, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 128, 96, pixels
        for _ in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    with av.open(path) as container:
        by_av = next(container.decode(video=0)).to_ndarray(format="rgb24")
    return {
        "PyAV": by_av,
        "OpenCV": cv2.VideoCapture(path).read()[1][..., ::-1],
        "decord": decord.VideoReader(path)[0].asnumpy(),
        "imageio-ffmpeg": iio.imread(path, plugin="FFMPEG", index=0),
    }


def psnr(one, other):
    error = np.square(one.astype(float) - other).mean()
    return np.inf if error == 0 else 10 * np.log10(255**2 / error)


print(f"PyAV {av.__version__}, OpenCV {cv2.__version__}, decord {decord.__version__}")
ranges = {}
for pixels in ("yuv420p", "yuv420p10le", "yuv444p10le"):
    frames = read_all(f"{sys.argv[1]}/{pixels}.mp4", pixels)
    apart = {f"{a}/{b}": psnr(frames[a], frames[b]) for a, b in itertools.combinations(frames, 2)}
    ranges[pixels] = min(apart.values()), max(apart.values())
    to_source = min(psnr(frame, picture) for frame in frames.values())
    print(f"{pixels}: {', '.join(f'{pair} {value:.1f}' for pair, value in apart.items())} dB; to the source {to_source:.1f}")
alike = ranges["yuv420p"][0] == ranges["yuv444p10le"][0] == np.inf
sys.exit(None if alike and ranges["yuv420p10le"][1] < 45 else "the readers agree otherwise now")
PYTHON
"$folder/venv/bin/python" "$folder/readers.py" "$folder"
