"""Scores the four detector dimensions here and by the package's functions, with a stand-in for the GRiT network alone.

GRiT needs detectron2, which no package index has. What stands in for it answers by the brightness of the frame; the
package's own loading of frames, counting and scoring are the real ones. Runs inside the vbench environment.
"""

import contextlib
import importlib
import importlib.machinery
import json
import os
import sys
import types
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).parents[2]))


class Detector:
    """Sees a red dog in bright frames, and beside it a cat in very bright ones."""

    def __init__(self, device):
        self.device = device

    def initialize_model(self, model_weight):
        assert os.path.isfile(model_weight)

    initialize_model_det = initialize_model

    def run_caption_tensor(self, frame):
        level = float(np.asarray(frame, np.float64).mean())
        dog = ("a red dog" if level < 140 else "a blue dog", [0, 0, 30, 20], ["dog", "cat"] if level > 120 else ["dog"])
        cat = ("cat", [60 - level / 10, 0, 90, 20], ["cat"])
        named = ("dog", [0, 0, 30, 20 + level / 10], ["dog"])
        found = [dog, cat, named] if level > 100 else [dog] if level > 80 else []
        return found, None


def main() -> None:
    request = json.load(sys.stdin)
    with contextlib.redirect_stdout(sys.stderr):
        grit = types.ModuleType("vbench.third_party.grit_model")
        grit.DenseCaptioning = Detector
        sys.modules["vbench.third_party.grit_model"] = grit
        detectron2 = types.ModuleType("detectron2")
        detectron2.__spec__ = importlib.machinery.ModuleSpec("detectron2", None)
        sys.modules["detectron2"] = detectron2
        from harness.metrics.vbench_job.loading import Networks
        from harness.metrics.vbench_job.scoring import score_clip

        answers = {}
        for name, (prompt, facts) in request["dimensions"].items():
            ours = score_clip(Networks(Path(request["root"]), "cpu"), request["path"], [name], prompt, {name: facts})
            module = importlib.import_module(f"vbench.{name}")
            row = {"prompt": prompt, "video_list": [request["path"]], "auxiliary_info": facts}
            _, results = getattr(module, name)(Detector("cpu"), [row], "cpu")
            answers[name] = [ours[name], float(results[0]["video_results"])]
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
