"""What both of VBench's readers make of clips, here and in the package; runs inside the vbench environment."""

import contextlib
import json
import sys
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).parents[2]))


def means(pixels):
    return pixels.reshape(-1, 3).mean(0).tolist()


def seen(path):
    """Colours by either reader and by the package, and how many of eight frames random access gives otherwise."""
    from vbench.utils import get_frame_indices, load_video

    from harness.metrics.vbench_job import frames

    batches = list(frames.decode(path, 4, "cpu"))
    decord = np.concatenate([batch.rgb for batch in batches])
    opencv = np.concatenate([batch.opencv.rgb for batch in batches])
    numbers = [int(number) for number in get_frame_indices(8, len(decord), sample="middle")]
    jumping = frames.pixels_of(frames.open_decord(path).get_batch(numbers))
    return {
        "frames": len(decord),
        "decord": means(decord),
        "opencv": means(opencv),
        "package": means(load_video(path, return_tensor=False)),
        "jumping differs": sum(not np.array_equal(*pair) for pair in zip(jumping, decord[numbers], strict=True)),
        "shared": all(batch.opencv is batch for batch in batches),
    }


def names(request):
    """For each dimension, how many prompts of the package's list have just the clips that the folder holds."""
    from vbench import VBench

    judge = VBench("cpu", request["info"], request["out"])
    rows = {}
    for dimension in request["dimensions"]:
        judge.build_full_info_json(request["folder"], "names", [dimension])
        entries = json.loads((Path(request["out"]) / "names_full_info.json").read_text())
        rows[dimension] = [len(entry["video_list"]) for entry in entries]
    return rows


def main() -> None:
    request = json.load(sys.stdin)
    with contextlib.redirect_stdout(sys.stderr):
        answer = names(request) if "folder" in request else [seen(path) for path in request["paths"]]
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
