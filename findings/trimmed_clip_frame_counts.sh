#!/usr/bin/env bash
# A clip that was cut without encoding it again keeps the frames before its start, hidden by the file's edit list. One of
# 60 frames, behind 10 hidden, has 60 by iterating (PyAV 18.1.0, OpenCV 5.0.0.93) but 70 by decord 0.6.0, whose last ten
# repeat the last picture, so that a mean over frames is another one. OpenCV's CAP_PROP_FRAME_COUNT says 70 as well. Nothing
# warns. VBench reads with decord; clips cut from films to stand beside generated ones are often made so.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet av==18.1.0 numpy==2.4.6 decord==0.6.0 imageio-ffmpeg==0.8.1 \
    opencv-python-headless==5.0.0.93

cat > "$folder/count.py" <<'PYTHON'
import subprocess
import sys

import av
import cv2
import decord
import imageio_ffmpeg
import numpy as np

whole, trimmed = sys.argv[1], sys.argv[2]
with av.open(whole, "w") as container:
    stream = container.add_stream("libx264", rate=16, options={"g": "12"})
    stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
    for index in range(81):
        # The grey of a frame tells its number.
        frame = np.full((96, 128, 3), 40 + 2 * index, np.uint8)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
    container.mux(stream.encode())
ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
subprocess.run([ffmpeg, "-v", "error", "-ss", "1.3", "-i", whole, "-c", "copy", trimmed], check=True)

with av.open(trimmed) as container:
    greys = [frame.to_ndarray(format="rgb24").mean() for frame in container.decode(video=0)]
capture = cv2.VideoCapture(trimmed)
promised, read = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0
while capture.read()[0]:
    read += 1
reader = decord.VideoReader(trimmed)
by_decord = [reader[index].asnumpy().mean() for index in range(len(reader))]
repeated = sum(abs(grey - greys[-1]) < 0.5 for grey in by_decord) - 1
print(f"PyAV {av.__version__}: {len(greys)} frames; OpenCV {cv2.__version__}: {read}, of {promised} promised")
print(f"decord {decord.__version__}: {len(by_decord)}, the last one {repeated} times more")
print(f"mean grey: {np.mean(greys):.2f} PyAV, {np.mean(by_decord):.2f} decord")
as_seen = (len(greys), read, promised, len(by_decord)) == (60, 60, 70, 70)
sys.exit(None if as_seen and repeated == 10 else "the readers count otherwise now")
PYTHON
"$folder/venv/bin/python" "$folder/count.py" "$folder/whole.mp4" "$folder/trimmed.mp4"
