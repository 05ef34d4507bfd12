"""Scores clips here while counting what is decoded, loaded and computed; runs inside the vbench environment."""

import contextlib
import json
import sys
import weakref
from collections import Counter
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2]))

counts: Counter = Counter()
batches: list = []


def count_decoding(cv2, frames) -> None:
    real_open, real_make = cv2.VideoCapture, frames.Batch.__init__

    class Counted:
        def __init__(self, *given):
            self.capture = real_open(*given)

        def read(self):
            good, frame = self.capture.read()
            counts["frames decoded"] += good
            return good, frame

        def __getattr__(self, name):
            return getattr(self.capture, name)

    def made(batch, *given, **named):
        real_make(batch, *given, **named)
        batches.append(weakref.ref(batch))
        held = sum(len(one) for made in batches if (one := made()) is not None)
        counts["frames held"] = max(counts["frames held"], held)

    cv2.VideoCapture, frames.Batch.__init__ = Counted, made


def count_loading(loading) -> None:
    import clip

    for module, name in ((loading, "read"), (clip, "load")):
        real = getattr(module, name)

        def counted(*given, real=real, **named):
            counts["checkpoints read"] += 1
            return real(*given, **named)

        setattr(module, name, counted)


def count_forwards(networks) -> None:
    towers = {
        "dino": networks.dino,
        "clip_b32": networks.clip_b32.visual,
        "clip_l14": networks.clip_l14.visual,
        "musiq": networks.musiq,
        "raft": networks.raft.fnet,
    }
    for name, tower in towers.items():

        def seen(module, given, answer, name=name):
            counts[name] += len(given[0])
            counts["gradients"] += answer.requires_grad

        tower.register_forward_hook(seen)


def main() -> None:
    request = json.load(sys.stdin)
    with contextlib.redirect_stdout(sys.stderr):
        import cv2

        from harness.metrics.vbench_job import frames, loading, pieces, scoring

        scoring.BATCH_BYTES = request["batch_bytes"]
        count_decoding(cv2, frames)
        count_loading(loading)
        networks = loading.Networks(Path(request["root"]), "cpu")
        count_forwards(networks)
        answers = []
        for path in request["short"]:
            scoring.score_clip(networks, path, request["dimensions"], "", {})
            answers.append(dict(counts))
        loaded = counts["checkpoints read"]
        counts.clear()
        counts["checkpoints read"] = loaded
        pieces.score_pieces(networks, request["long"], request["long_dimensions"], request["seconds"])
        answers.append(dict(counts))
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
