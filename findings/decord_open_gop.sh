#!/usr/bin/env bash
# decord 0.6.0 returns other frames than those asked for in H.265 clips with open groups of pictures, which is how
# libx265 encodes by default; decoding in order by PyAV 18.1.0 gives each its own. No error is raised. Matters to every
# metric that samples frames with decord (VBench does). Linux x86-64, where decord has wheels.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet av==18.1.0 numpy==1.26.4 decord==0.6.0

cat > "$folder/compare.py" <<'PYTHON'
import av, decord, numpy as np, random, sys

path, count = sys.argv[1], 81
with av.open(path, "w") as container:
    stream = container.add_stream("libx265", rate=16)
    stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
    stream.options = {"x265-params": "keyint=20:min-keyint=20:open-gop=1:log-level=none", "crf": "10"}
    for index in range(count):
        # The grey of a frame tells its number.
        frame = np.full((96, 128, 3), 10 + 2 * index, np.uint8)
        frame[:, : 16 + index] = 255 - 2 * index
        container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
    container.mux(stream.encode())
with av.open(path) as container:
    ordered = [frame.to_ndarray(format="gray").astype(int) for frame in container.decode(video=0)]
reader = decord.VideoReader(path)
asked = list(range(count))
random.Random(0).shuffle(asked)
other = 0
for index in asked:
    grey = reader[index].asnumpy().mean(-1)
    nearest = min(range(count), key=lambda at: np.abs(ordered[at] - grey).mean())
    other += nearest != index
print(f"decord {decord.__version__}: {len(ordered)} frames decoded in order, {len(reader)} counted by decord; "
      f"{other} of {count} asked for at random were another frame")
sys.exit(0 if other > 0 else 1)
PYTHON
"$folder/venv/bin/python" "$folder/compare.py" "$folder/clip.mp4"
