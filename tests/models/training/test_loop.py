"""The loop: a broken training goes on as an unbroken one, and stops at what is not finite with its last state kept."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import small_world
import torch
from torch import Tensor

from harness.errors import StorageError, WeightsError
from videomla_models.training.consistency import Consistency
from videomla_models.training.distribution_matching import CRITIC, DistributionMatching
from videomla_models.training.loop import GENERATOR, Diverged, Learner, Loop, Rate, Stage
from videomla_models.training.optimisers import adamw, muon
from videomla_models.training.options import ConsistencyOptions, MatchingOptions, TeacherForcingOptions
from videomla_models.training.teacher_forcing import TeacherForcing


def forcing() -> Stage:
    network = small_world.network()
    options = TeacherForcingOptions(
        stage="teacher_forcing", steps=4, shift=4.0, text_drop=0.1, context_noise=0.1, noisy_context=0.5
    )
    return TeacherForcing(
        Learner(network, muon(network, 2e-3, 1e-3), 0.9), small_world.data(), small_world.clips(), options, 1
    )


def distilling() -> Stage:
    student, teacher, target = (small_world.network(silent=False) for _ in range(3))
    learner = Learner(student, adamw(student, 1e-3), 0.9)
    options = ConsistencyOptions(stage="consistency", steps=4, guidance=2.0)
    target.requires_grad_(False)
    return Consistency(learner, teacher, target, small_world.data(), small_world.clips(), options, 1)


def matching() -> Stage:
    generator, critic = small_world.network(silent=False), small_world.network(small_world.DENSE, silent=False)
    learners = Learner(generator, adamw(generator, 1e-3), 0.9), Learner(critic, adamw(critic, 1e-3))
    teacher = small_world.network(small_world.DENSE, seed=1, silent=False)
    options = MatchingOptions(stage="distribution_matching", steps=4, updates=2)
    return DistributionMatching(*learners, teacher, small_world.data(2), small_world.clips(), options, 1)


STAGES = {"teacher forcing": forcing, "consistency": distilling, "distribution matching": matching}
RATE = Rate(4, warmup=2, decay=0.5)


@pytest.mark.parametrize("make", STAGES.values(), ids=STAGES.keys())
def test_resuming_is_exact_in_every_stage(make: Callable[[], Stage], tmp_path: Path) -> None:
    unbroken = Loop(make(), RATE, {"of": "test"})
    unbroken.run(tmp_path / "unbroken")
    broken = Loop(make(), RATE, {"of": "test"})
    for _ in range(3):
        broken.advance()
    broken.save(tmp_path / "state")
    resumed = Loop(make(), RATE, {"of": "test"})
    resumed.run(tmp_path / "state")
    assert resumed.step == unbroken.step == 4
    assert resumed.losses == unbroken.losses
    for name, learner in unbroken.stage.learners.items():
        ours, theirs = resumed.stage.learners[name].result(), learner.result()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[tensor], theirs[tensor]) for tensor in ours)


def test_every_learner_moves_and_its_average_follows() -> None:
    loop = Loop(matching(), Rate(2), {})
    before = {name: learner.result()["head.head.weight"].clone() for name, learner in loop.stage.learners.items()}
    first, second = loop.advance(), loop.advance()
    assert set(first) == {GENERATOR, CRITIC}
    assert set(second) == {CRITIC}
    for name, learner in loop.stage.learners.items():
        assert not torch.equal(learner.result()["head.head.weight"], before[name])
    generator = loop.stage.learners[GENERATOR]
    last = dict(generator.network.named_parameters())["head.head.weight"]
    # The first update weighs a tenth of the old average: 1 / 10.
    assert torch.allclose(generator.result()["head.head.weight"], before[GENERATOR].lerp(last.detach(), 0.9))


class Scripted(Stage):
    """The mean square of a weight times numbers that the test gives."""

    def __init__(self, factors: list[float]) -> None:
        network = small_world.network()
        self.learners = {GENERATOR: Learner(network, adamw(network, 1e-2))}
        self.factors = factors

    def losses(self, step: int) -> Iterator[tuple[str, Tensor]]:
        weight = self.learners[GENERATOR].network.head.head.weight
        yield GENERATOR, self.factors[step] * (weight - 1).square().mean()


@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_state(factor: float, tmp_path: Path) -> None:
    state = tmp_path / "state"
    with pytest.raises(Diverged, match="at step 3"):
        Loop(Scripted([1, 1, 1, factor, 1]), Rate(5), {}).run(state, save_every=2)
    mended = Loop(Scripted([1, 1, 1, 1, 1]), Rate(5), {})
    mended.resume(state)
    assert mended.step == 2
    assert all(torch.isfinite(t).all() for t in mended.stage.learners[GENERATOR].result().values())


def test_a_gradient_that_is_not_finite_stops_before_the_weights_follow_it() -> None:
    class Steep(Scripted):
        def losses(self, step: int) -> Iterator[tuple[str, Tensor]]:
            weight = self.learners[GENERATOR].network.head.head.weight
            yield GENERATOR, (weight * 0).sum().sqrt()

    loop = Loop(Steep([]), Rate(5), {})
    with pytest.raises(Diverged, match="gradient is not finite at step 0"):
        loop.advance()
    assert all(torch.isfinite(t).all() for t in loop.stage.learners[GENERATOR].result().values())


def test_a_full_disk_is_one_line_and_the_state_before_it_stays(tmp_path: Path) -> None:
    state, loop = tmp_path / "state", Loop(Scripted([1] * 9), Rate(9), {})
    loop.advance()
    loop.save(state)
    kept, limits = state.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(kept) // 2, limits[1]))
    try:
        with pytest.raises(StorageError, match="cannot be written"):
            loop.save(state)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert state.read_bytes() == kept
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_states_of_another_recipe_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    state = tmp_path / "state"
    Loop(Scripted([]), Rate(5), {"rate": 1}).save(state)
    with pytest.raises(WeightsError, match="another recipe"):
        Loop(Scripted([]), Rate(5), {"rate": 2}).resume(state)
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="damaged"):
        Loop(Scripted([]), Rate(5), {"rate": 1}).resume(state)


MEMBERS = ("step", "seconds", "losses", "learners")


@pytest.mark.parametrize("lost", MEMBERS)
def test_a_state_without_one_of_its_members_is_refused(lost: str, tmp_path: Path) -> None:
    state = tmp_path / "state"
    Loop(Scripted([]), Rate(5), {}).save(state)
    torch.save({name: value for name, value in torch.load(state).items() if name != lost}, state)
    with pytest.raises(WeightsError, match="damaged or no training state"):
        Loop(Scripted([]), Rate(5), {}).resume(state)


@pytest.mark.parametrize(
    "change",
    [
        {"step": -1}, {"step": 6}, {"step": True}, {"step": "1"}, {"seconds": float("nan")}, {"seconds": None},
        {"losses": {}}, {"losses": [1.0]}, {"losses": {GENERATOR: ["x"]}}, {"losses": {GENERATOR: 3}},
        {"learners": []}, {"learners": {GENERATOR: None}}, {"learners": {GENERATOR: {"network": {}}}},
    ],
    ids=str,
)  # fmt: skip
def test_a_state_with_a_member_of_another_kind_is_refused(change: dict[str, object], tmp_path: Path) -> None:
    state, loop = tmp_path / "state", Loop(Scripted([]), Rate(5), {})
    loop.save(state)
    torch.save(torch.load(state) | change, state)
    with pytest.raises(WeightsError, match="damaged or no training state"):
        loop.resume(state)
    assert (loop.step, loop.seconds, loop.losses) == (0, 0.0, {GENERATOR: []})


def test_states_that_are_pipes_or_no_pickles_are_refused(tmp_path: Path) -> None:
    state = tmp_path / "state"
    for content in (b"", b"PK", b"\x80\x02.", b"\x80\x02N.", b"garbage"):
        state.write_bytes(content)
        with pytest.raises(WeightsError, match="damaged or no training state"):
            Loop(Scripted([]), Rate(5), {}).resume(state)
    state.unlink()
    os.mkfifo(state)
    with pytest.raises(WeightsError, match="damaged or no training state"):
        Loop(Scripted([]), Rate(5), {}).resume(state)


def test_progress_says_step_loss_pace_and_time_left(tmp_path: Path) -> None:
    lines: list[str] = []
    Loop(Scripted([1] * 4), Rate(4), {}).run(tmp_path / "state", report=lines.append, report_every=2)
    assert [line.split("  ")[0] for line in lines] == ["step 2 of 4", "step 4 of 4"]
    assert all("loss generator" in line and "s a step" in line and "min left" in line for line in lines)


def test_rate_by_hand() -> None:
    rate = Rate(100, warmup=10, decay=0.4)
    assert [rate(step) for step in (0, 9, 50, 80, 99)] == pytest.approx([0.1, 1.0, 1.0, 0.5, 0.025])
    assert [Rate(3)(step) for step in range(3)] == [1.0, 1.0, 1.0]
