"""HPSv3 protocols against the hpsv3 package called directly, on the small random network that rehearsals draw."""

import json
from pathlib import Path

import numpy as np
import pytest
from quality_clips import camera, in_environment, moving, write
from safetensors.torch import load_file, save_file

from harness.contracts import registry
from harness.environments.worker.client import JobFault
from harness.execute.scorers import scorer_for

pytestmark = pytest.mark.quality
DIRECT = Path(__file__).with_name("hpsv3_direct.py")
PROMPT = "a red disc crosses a wall, 'slowly'"


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    switched = write(folder / "s.mp4", moving(7), "a disc", ((4, "a quite different and longer prompt"),))
    return {
        "moving": write(folder / "m_-.mp4", moving(7), PROMPT),
        "camera": write(folder / "c.mp4", camera(3), "a man"),
        "switched": switched,
    }


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    root = tmp_path_factory.mktemp("hpsv3 weights")
    registry.metrics.create("hpsv3/keyframes", {}).draw(root)
    state = load_file(root / "hpsv3" / "HPSv3.safetensors")
    del state[next(iter(state))]
    save_file(state, root / "hpsv3" / "lacking.safetensors")
    return root / "hpsv3"


@pytest.fixture(scope="module")
def truths(weights, clips):
    """The package's own (mu, sigma) of every frame."""
    asked = [(name, clip.prompt) for name, clip in clips.items()] + [("switched", clips["switched"].switches[0][1])]
    tasks = [[str(clips[name].path.with_suffix(".npy")), prompt] for name, prompt in asked]
    given = in_environment("quality", DIRECT, weights, json.dumps(tasks))
    return {key: np.array(rows) for key, rows in zip(asked, given, strict=True)}


def scorer(weights, protocol, **more):
    own = {"checkpoint": str(weights / "HPSv3.safetensors"), "base": str(weights / "Qwen2-VL-7B-Instruct")}
    options = {**own, "batch": 1, **more}
    return scorer_for(f"hpsv3/{protocol}", options, "cpu")


@pytest.fixture(scope="module")
def every(weights, truths):
    made = scorer(weights, "mean_of_frames", n=None)
    yield made
    made.close()


@pytest.mark.parametrize("name", ["moving", "camera"])
def test_every_frame_equals_the_package(clips, truths, every, name):
    truth = truths[name, clips[name].prompt]
    values = every.score(clips[name])
    assert every.samples()["mu_per_frame"] == pytest.approx(truth[:, 0], abs=1e-6)
    assert every.samples()["sigma_per_frame"] == pytest.approx(truth[:, 1], abs=1e-6)
    assert values["mu"] == pytest.approx(truth[:, 0].mean(), abs=1e-6)
    assert values["sigma"] == pytest.approx(truth[:, 1].mean(), abs=1e-6)
    assert np.ptp(truth[:, 0]) > 1e-4
    assert every.notes()["packages"]["hpsv3"] == "1.0.0"
    assert every.notes()["packages"]["transformers"] == "4.45.2"


def test_the_protocols_differ_as_their_names_say(weights, clips, truths, every):
    mu = truths["moving", PROMPT][:, 0]
    wanted = {
        ("mean_of_frames", ("n", 3)): mu[[0, 3, 6]].mean(),
        ("keyframes", ("n", 2)): mu[[1, 5]].mean(),
        ("best_share", ("p", 0.3)): np.sort(mu)[-3:].mean(),
    }
    found = {}
    for protocol, (option, value) in wanted:
        made = scorer(weights, protocol, **{option: value})
        assert made._scorer._worker is every._scorer._worker
        found[protocol, (option, value)] = made.score(clips["moving"])["mu"]
        made.close()
    assert found == pytest.approx(wanted, abs=1e-6)


def test_each_frame_is_judged_by_the_prompt_in_force(clips, truths, every):
    clip = clips["switched"]
    first, second = truths["switched", clip.prompt][:, 0], truths["switched", clip.switches[0][1]][:, 0]
    every.score(clip)
    assert every.samples()["mu_per_frame"] == pytest.approx([*first[:4], *second[4:]], abs=1e-6)
    assert abs(first[4] - second[4]) > 1e-4


def test_batches_change_no_more_than_rounding(weights, clips, truths):
    made = scorer(weights, "mean_of_frames", n=None, batch=3)
    made.score(clips["moving"])
    truth = truths["moving", PROMPT][:, 0]
    assert made.samples()["mu_per_frame"] == pytest.approx(truth, abs=1e-4)
    made.close()


def test_no_prompt_no_score_and_the_rest_goes_on(clips, every, tmp_path):
    with pytest.raises(JobFault, match="no prompt"):
        every.score(write(tmp_path / "bare.mp4", moving(2), ""))
    assert np.isfinite(every.score(clips["camera"])["mu"])


def test_a_checkpoint_that_lacks_a_tensor_is_no_score(weights, every):
    with pytest.raises(JobFault, match="Missing key"):
        scorer(weights, "keyframes", checkpoint=str(weights / "lacking.safetensors"))
