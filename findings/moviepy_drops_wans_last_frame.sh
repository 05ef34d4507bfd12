#!/usr/bin/env bash
# moviepy 2.2.1 gives one frame too few of every clip of 4k + 1 frames at 16 a second, the lengths and the rate of Wan2.1:
# 81 become 80, in iter_frames() as in n_frames. It takes the duration from FFmpeg's text, which says 5.06 where 5.0625 s
# are meant, and 5.06 x 16 is less than 81. Clips of 80 or 96 frames keep all. Nothing warns. A mean over frames is of
# other frames than another reader's, and a clip that moviepy cuts or writes again is shorter by one.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet moviepy==2.2.1 imageio-ffmpeg==0.8.1 av==18.1.0 numpy==2.4.6

cat > "$folder/count.py" <<'PYTHON'
import importlib.metadata
import sys

import av
import numpy as np
from moviepy import VideoFileClip


def counts(path, frames):
    """How many frames PyAV and moviepy find, and how many moviepy says there are."""
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=16)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(frames):
            frame = np.full((48, 64, 3), 40 + index, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    with av.open(path) as container:
        decoded = sum(1 for _ in container.decode(video=0))
    clip = VideoFileClip(path)
    iterated, said = sum(1 for _ in clip.iter_frames()), clip.n_frames
    clip.close()
    return decoded, iterated, said


seen = {frames: counts(sys.argv[1], frames) for frames in (5, 21, 33, 49, 61, 77, 81, 121, 161, 16, 48, 80, 96)}
lost = [frames for frames, found in seen.items() if found == (frames, frames - 1, frames - 1)]
kept = [frames for frames, found in seen.items() if found == (frames,) * 3]
version = importlib.metadata.version("moviepy")
print(f"moviepy {version}, clips at 16 frames a second: one frame too few of {lost}; all of {kept}")
as_seen = lost == [frames for frames in seen if frames % 4 == 1] and kept == [frames for frames in seen if frames % 16 == 0]
sys.exit(None if as_seen else "moviepy counts otherwise now")
PYTHON
"$folder/venv/bin/python" "$folder/count.py" "$folder/clip.mp4"
