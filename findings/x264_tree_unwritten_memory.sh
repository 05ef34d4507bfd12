#!/usr/bin/env bash
# PyAV 18.1.0 (its own libx264): with the macroblock tree on, which every preset from `veryfast` up has, equal frames
# can give other bytes from one process to the next, since the encoder's result depends on what lay in the memory that
# it was given. glibc's MALLOC_PERTURB_ fills that memory: two fills, two files. With `mbtree=0` the files are equal.
# Seen on Linux x86-64. Matters to whoever names a clip by the digest of its file.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet av==18.1.0 numpy==2.4.6

cat > "$folder/encode.py" <<'PYTHON'
import hashlib, io, sys
import av
import numpy as np

rng = np.random.default_rng(0)
texture = rng.integers(0, 256, (64, 96, 3), np.uint8)
buffer = io.BytesIO()
with av.open(buffer, "w", format="mp4") as container:
    stream = container.add_stream("libx264", rate=16)
    stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
    stream.thread_count = 1
    stream.options = {"crf": "18", "preset": "medium", "x264-params": sys.argv[1]}
    for index in range(48):
        frame = np.roll(texture, (index, 2 * index), (0, 1))
        container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
    container.mux(stream.encode())
print(hashlib.sha256(buffer.getvalue()).hexdigest()[:16])
PYTHON

digest() { MALLOC_PERTURB_="$1" "$folder/venv/bin/python" "$folder/encode.py" "$2"; }
"$folder/venv/bin/python" -c 'import av; print("PyAV", av.__version__, "libavcodec", av.library_versions["libavcodec"])'
with_tree="$(for fill in 1 85 170 254; do digest "$fill" mbtree=1; done | sort -u | wc -l)"
without_tree="$(for fill in 1 85 170 254; do digest "$fill" mbtree=0; done | sort -u | wc -l)"
echo "different files from four fills of memory: $with_tree with the macroblock tree, $without_tree without"
test "$with_tree" -gt 1
test "$without_tree" -eq 1
