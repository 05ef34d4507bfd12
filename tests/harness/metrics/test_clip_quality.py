"""CLIP scores against open_clip called directly, with random weights in the files that open_clip reads."""

import json
from pathlib import Path

import numpy as np
import pytest
from quality_clips import camera, in_environment, moving, write

from harness.environments.weights.manifest import read_manifest
from harness.environments.worker.client import JobFault
from harness.errors import NotAvailable
from harness.execute.scorers import scorer_for

pytestmark = pytest.mark.quality
DIRECT = Path(__file__).with_name("clip_direct.py")
PROMPT = 'a red disc, "fast" & round, crosses a colourful wall'


OPENAI = {
    "mean": [0.48145466, 0.4578275, 0.40821073],
    "std": [0.26862954, 0.26130258, 0.27577711],
    "interpolation": "bicubic",
    "resize": "shortest",
    "quick_gelu": False,
}
OTHER = {**OPENAI, "mean": [0.5, 0.4, 0.3], "std": [0.5, 0.6, 0.7], "interpolation": "bilinear"}
CASES = {
    "plain": ("state.pt", "moving", OPENAI),
    "camera": ("state.pt", "camera", OPENAI),
    "odd size": ("state.pt", "odd", OPENAI),
    "wrapped, squashed": ("wrapped.pt", "camera", {**OPENAI, "resize": "squash"}),
    "TorchScript, bordered": ("script.pt", "odd", {**OPENAI, "resize": "longest", "quick_gelu": True}),
    "other colours": ("state.pt", "odd", OTHER),
    "switches": ("state.pt", "switches", OPENAI),
}
SWITCHED = ["a disc", "a car, at night", "snow"]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    switches = ((6, SWITCHED[1]), (12, SWITCHED[2]))
    return {
        "moving": write(folder / "moving.mp4", moving(), PROMPT),
        "camera": write(folder / f"a_b-c 'd' {'x' * 200}.mp4", camera(9), "a man talks in a car"),
        "odd": write(folder / "odd.mp4", moving(5, 97, 61), PROMPT),
        "switches": write(folder / "switches.mp4", moving(16), SWITCHED[0], switches, rate=4.0),
        "single": write(folder / "one.mp4", moving(1), PROMPT),
        "still": write(folder / "still.mp4", np.repeat(moving(1), 6, axis=0), PROMPT),
    }


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return tmp_path_factory.mktemp("clip weights")


@pytest.fixture(scope="module")
def truths(weights, clips):
    """open_clip's own numbers for every case; writes the checkpoints on the way."""
    asked = [
        [
            str(weights / file),
            str(clips[name].path.with_suffix(".npy")),
            preparation,
            [clips[name].prompt, *(text for _, text in clips[name].switches)],
        ]
        for file, name, preparation in CASES.values()
    ]
    return dict(zip(CASES, answered(weights, asked)["scores"], strict=True))


def answered(weights, asked):
    return in_environment("quality", DIRECT, weights, json.dumps(asked))


def options(checkpoint, **more):
    return {"model": "ViT-S-32-alt", "checkpoint": str(checkpoint), "frames": None, **OPENAI, **more}


@pytest.fixture(scope="module")
def scorer(weights, truths):
    """The plain scorer, open while the module's tests run, so that they share its worker."""
    made = scorer_for("clip/score", options(weights / "state.pt"), "cpu")
    yield made
    made.close()


@pytest.mark.parametrize("case", [name for name in CASES if name != "switches"])
def test_equal_to_open_clip_itself(weights, clips, truths, scorer, case):
    file, name, preparation = CASES[case]
    own = scorer_for("clip/score", options(weights / file, batch=4, **preparation), "cpu")
    assert own._scorer._worker is scorer._scorer._worker
    values = own.score(clips[name])
    cosines = np.array(truths[case]["cosines"])[:, 0]
    assert values["clip_t"] == pytest.approx(cosines.mean(), abs=1e-6)
    assert values["clip_f"] == pytest.approx(np.mean(truths[case]["pairs"]), abs=1e-6)
    assert own.samples()["clip_t_per_frame"] == pytest.approx(cosines, abs=1e-6)
    assert own.samples()["clip_f_by_distance"][0] == pytest.approx(values["clip_f"], abs=1e-6)
    assert own.samples()["clip_f_distances"] == [float(lag) for lag in range(1, len(cosines))]
    assert own.notes()["packages"]["open_clip_torch"] == "3.3.0"
    assert {name: own.notes()["preparation"][name] for name in preparation} == {
        name: tuple(value) if isinstance(value, list) else value for name, value in preparation.items()
    }
    own.close()
    assert abs(values["clip_t"]) < 1
    assert values["clip_f"] < 1 - 1e-6


def test_chosen_frames_switched_prompts_and_segments(weights, clips, truths, scorer):
    truth = np.array(truths["switches"]["cosines"])
    sparse = scorer_for("clip/score", options(weights / "state.pt", frames=4), "cpu")
    numbers, against = [0, 5, 10, 15], [0, 0, 1, 2]
    assert sparse.score(clips["switches"])["clip_t"] == pytest.approx(truth[numbers, against].mean(), abs=1e-6)
    assert sparse.samples()["frames"] == numbers
    sparse.close()

    by_segment = scorer_for("clip/segments", options(weights / "state.pt", seconds=1.0), "cpu")
    values = by_segment.score(clips["switches"])
    parts = [(0, 4, 0), (4, 6, 0), (6, 10, 1), (10, 12, 1), (12, 16, 2)]
    wanted = [truth[start:end, column].mean() for start, end, column in parts]
    assert by_segment.samples()["segment_scores"] == pytest.approx(wanted, abs=1e-6)
    assert len(by_segment.samples()["prompt_tokens"]) == 3
    assert values["segment_3"] == pytest.approx(wanted[2], abs=1e-6)
    assert np.isnan(values["segment_6"])
    assert values["mean"] == pytest.approx(np.mean(wanted), abs=1e-6)
    assert values["change"] == pytest.approx(wanted[-1] - wanted[0], abs=1e-6)
    by_segment.close()


def test_what_must_hold(clips, scorer, tmp_path):
    # A still clip's frames differ by what the codec adds; its neighbours all but coincide.
    assert scorer.score(clips["still"])["clip_f"] > 0.9999
    assert np.isnan(scorer.score(clips["single"])["clip_f"])
    first = scorer.score(clips["moving"])
    assert scorer.score(clips["moving"]) == pytest.approx(first, abs=1e-7)
    assert "prompts_cut" not in scorer.notes()
    # What differs only after the 77 tokens that the network reads changes no score, and the record says so.
    long, short = (
        scorer.score(write(tmp_path / f"{end}.mp4", moving(2), "very " * 200 + end)) for end in ("long", "short")
    )
    assert long == short
    assert scorer.samples()["prompt_tokens"][0] > 200
    assert scorer.samples()["prompt_limit"] == [77]
    assert scorer.notes()["prompts_cut"] == 1


def test_bad_clips_fail_alone(clips, scorer, tmp_path):
    with pytest.raises(JobFault, match="no prompt"):
        scorer.score(write(tmp_path / "bare.mp4", moving(3), "  "))
    torn = write(tmp_path / "torn.mp4", camera(), "a man")
    torn.path.write_bytes(torn.path.read_bytes()[:-6000])
    with pytest.raises(JobFault) as caught:
        scorer.score(torn)
    assert caught.value.kind == "ClipError"
    gone = write(tmp_path / "gone.mp4", moving(3), "a disc")
    gone.path.unlink()
    with pytest.raises(JobFault, match="No such file"):
        scorer.score(gone)
    assert scorer.score(clips["single"])["clip_t"] < 1


@pytest.mark.parametrize("file", ["empty.pt", "lacking.pt"])
def test_a_wrong_checkpoint_is_no_score(weights, scorer, file):
    with pytest.raises(JobFault, match=r"holds no weights|visual\.proj"):
        scorer_for("clip/score", options(weights / file), "cpu")


def test_a_missing_checkpoint_is_not_available(weights):
    with pytest.raises(NotAvailable, match="does not exist"):
        scorer_for("clip/score", options(weights / "none.pt"), "cpu")


def test_an_archive_runs_as_openai_s_do_unasked(weights, clips, truths):
    bare = {"model": "ViT-S-32-alt", "checkpoint": str(weights / "script.pt"), "frames": None, "resize": "longest"}
    own = scorer_for("clip/score", bare, "cpu")
    cosines = np.array(truths["TorchScript, bordered"]["cosines"])[:, 0]
    assert own.score(clips["odd"])["clip_t"] == pytest.approx(cosines.mean(), abs=1e-6)
    own.close()
    with pytest.raises(JobFault, match=r"is no archive of OpenAI's"):
        scorer_for("clip/score", {**bare, "checkpoint": str(weights / "other.pt")}, "cpu")


def test_published_tags_are_prepared_for_as_open_clip_does(weights):
    published = answered(weights, [])["published"]
    for file in read_manifest().get("clip").files:
        (group,) = file.groups
        assert file.preparation.model_dump(mode="json") == {"quick_gelu": False, **published[group]}
