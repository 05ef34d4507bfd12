"""The committed suites of quality metrics load and plan, every metric, option, prompt file and column of them."""

from collections import Counter
from pathlib import Path

import numpy as np

from harness.runs import plan as planning
from harness.suite.load import load_suite
from harness.system import video

SUITES = Path(__file__).parents[3] / "suites"


def test_clip_hpsv3_plans_every_protocol_and_six_segments():
    weights = [f"models.{number}.options.weights=random" for number in range(4)]
    plan = planning.make(load_suite(SUITES / "clip_hpsv3.yaml", weights), "cpu")
    scored = Counter(str(unit.context["plugin"]) for unit in plan.units if unit.kind == "score")
    per_arm = {"clip/score": 40, "hpsv3/mean_of_frames": 40, "hpsv3/keyframes": 40, "hpsv3/best_share": 40}
    assert scored == {name: 4 * count for name, count in {**per_arm, "clip/segments": 4}.items()}
    minute = next(unit for unit in plan.units if unit.preimage.get("frames") == 957)
    assert len(minute.preimage["switches"]) == 5
    assert all(
        "yellow raincoat" in text for text in (minute.preimage["prompt"], *(t for _, t in minute.preimage["switches"]))
    )


def test_score_takes_a_folder_of_clips_made_elsewhere(tmp_path):
    prompt = "a 'red' fox_- in snow"
    video.write(tmp_path / f"{prompt}-0.mp4", [np.zeros((3, 16, 16, 3), np.uint8)], 8.0, 20, "ultrafast")
    (tmp_path / "prompts.txt").write_text(prompt + "\n")
    given = [f"models.0.options.path={tmp_path}", f"prompts.clips.file={tmp_path / 'prompts.txt'}"]
    plan = planning.make(load_suite(SUITES / "score.yaml", given), "cpu")
    assert Counter(unit.kind for unit in plan.units) == {"generate": 1, "score": 2}
