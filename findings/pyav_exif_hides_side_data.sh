#!/usr/bin/env bash
# PyAV 18.1.0 (FFmpeg 8): one kind of side data that is younger than PyAV's own list makes all side data of a frame
# unreadable. A picture with an EXIF orientation has two kinds, EXIF and the display matrix made of it: listing them, or
# asking for the matrix alone, raises `ValueError: 31 is not a valid Type`. So a reader that takes the matrix from the
# side data, as flips need, finds none for phone pictures. `frame.rotation` still gives the angle, -90.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet av==18.1.0 numpy==2.4.6 pillow==12.0.0

cat > "$folder/side_data.py" <<'PYTHON'
import io
import sys

import av
from av.sidedata.sidedata import Type
from PIL import Image

ORIENTATION, TURNED = 274, 6


def first_frame(exif):
    file = io.BytesIO()
    Image.new("RGB", (64, 48), (200, 30, 30)).save(file, "JPEG", exif=exif)
    file.seek(0)
    with av.open(file) as container:
        return next(container.decode(video=0))


def says(frame):
    try:
        return str(frame.side_data.get(Type.DISPLAYMATRIX))
    except ValueError as error:
        return f"ValueError: {error}"


turned = Image.Exif()
turned[ORIENTATION] = TURNED
plain, upright = first_frame(Image.Exif()), first_frame(turned)
print(f"PyAV {av.__version__}: without EXIF {says(plain)}; with an orientation {says(upright)}, rotation {upright.rotation}")
expected = (says(plain), says(upright), upright.rotation) == ("None", "ValueError: 31 is not a valid Type", -90)
sys.exit(0 if expected else 1)
PYTHON
"$folder/venv/bin/python" "$folder/side_data.py"
