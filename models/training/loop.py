"""The loop that every training stage shares: update, average, record losses, keep a state to resume from, stop at NaN.

All randomness of a stage is a function of its seed and the step, so a state needs no generators and a resumed training
repeats an unbroken one bit by bit.
"""

from __future__ import annotations

import copy
import math
import pickle
import struct
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from harness.contracts import Json
from harness.errors import HarnessError, WeightsError
from harness.system.files import open_regular, write_atomic
from videomla_models.network.transformer import VideoTransformer
from videomla_models.training import sharding

DAMAGED = (
    ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError, StopIteration,
    TypeError, ValueError, pickle.PickleError, struct.error,
)  # fmt: skip
"""What comes of reading, and of going on from, a state with changed bytes or of another network."""
GENERATOR = "generator"
"""The learner whose averaged weights are the result of a stage."""


class Diverged(HarnessError):
    """A loss or gradient is not finite; what was saved last is untouched."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class Rate:
    """Share of the full learning rate at each of `steps` steps.

    Attributes:
        warmup: steps of linear rise. decay: share of the steps with linear fall to 0 at the end.
    """

    steps: int
    warmup: int = 0
    decay: float = 0.0

    def __call__(self, step: int) -> float:
        """Rise, plateau, fall; within 0 and 1."""
        left = (self.steps - step) / max(1.0, self.decay * self.steps)
        return min(1.0, (step + 1) / max(1, self.warmup), left)


class Learner:
    """A network that is being trained, its optimisers, and the running average of its weights.

    Args:
        network: sharded already where several processes train it.
        optimisers: each with its full learning rate.
        average: decay of the running average; 0 keeps none. It warms up as (1 + step) / (10 + step).
        clip: largest norm of the gradient.
    """

    def __init__(
        self,
        network: VideoTransformer,
        optimisers: Sequence[tuple[torch.optim.Optimizer, float]],
        average: float = 0.0,
        clip: float = 1.0,
    ) -> None:
        self.network, self.optimisers, self.decay, self.clip = network, list(optimisers), average, clip
        self.average = {name: p.detach().clone() for name, p in network.named_parameters()} if average else {}

    def update(self, share: float, step: int) -> None:
        """Follow the gradients that have been made, at `share` of the full learning rates."""
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.clip)
        if not math.isfinite(sharding.value(norm)):
            raise Diverged(f"the gradient is not finite at step {step}", RESTART)
        for optimiser, full in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = full * share
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        if self.average:
            decay = min(self.decay, (1 + step) / (10 + step))
            weights = [p.detach() for p in self.network.parameters()]
            torch._foreach_lerp_(list(self.average.values()), weights, 1 - decay)

    def result(self) -> dict[str, Tensor]:
        """The averaged weights, or the last ones where no average is kept: whole tensors on the CPU."""
        weights = self.average or dict(self.network.named_parameters())
        return {name: sharding.whole(tensor) for name, tensor in weights.items()}

    def state(self) -> dict[str, object]:
        """What `restore` takes."""
        return {
            "network": self.network.state_dict(),
            "average": self.average,
            "optimisers": [optimiser.state_dict() for optimiser, _ in self.optimisers],
        }

    def restore(self, state: Mapping[str, object]) -> None:
        """Go on from `state`, in place."""
        saved: dict[str, object] = dict(state)
        self.network.load_state_dict(saved["network"])  # type: ignore[arg-type]
        with torch.no_grad():
            for name, tensor in self.average.items():
                tensor.copy_(saved["average"][name])  # type: ignore[index]
        for (optimiser, _), kept in zip(self.optimisers, saved["optimisers"], strict=True):  # type: ignore[call-overload]
            optimiser.load_state_dict(kept)


RESTART = "the last saved state is kept: lower the learning rate, or start from an earlier checkpoint"


class Stage(ABC):
    """One way to train.

    Attributes:
        learners: what it trains, by name; `GENERATOR` among them.
    """

    learners: dict[str, Learner]

    @abstractmethod
    def losses(self, step: int) -> Iterator[tuple[str, Tensor]]:
        """The losses of one step, each with the learner that follows it before the next one is asked for."""


class Loop:
    """A stage on its way: the step, the losses so far, and the state that a resumed training starts from.

    Args:
        stage: what is trained. rate: share of the learning rates by step; its `steps` are the budget.
        recipe: everything that decides the result; a state of another one is refused.
        autocast: type that matrix products are made in, None for that of the weights.
    """

    def __init__(
        self, stage: Stage, rate: Rate, recipe: Mapping[str, Json], autocast: torch.dtype | None = None
    ) -> None:
        self.stage, self.rate, self.recipe, self.autocast = stage, rate, dict(recipe), autocast
        self.step, self.seconds = 0, 0.0
        self.resumed_at = (0, 0.0)
        self.losses: dict[str, list[float]] = {name: [] for name in stage.learners}

    def advance(self) -> dict[str, float]:
        """One step; its loss by learner. Raises `Diverged` where one is not finite."""
        started, losses = time.perf_counter(), dict[str, float]()
        waiting = self.stage.losses(self.step)
        while (turn := self._next(waiting)) is not None:
            name, loss = turn
            value = sharding.mean(loss.detach())
            if not math.isfinite(value):
                raise Diverged(f"the loss of the {name} is {value} at step {self.step}", RESTART)
            loss.backward()  # type: ignore[no-untyped-call]
            self.stage.learners[name].update(self.rate(self.step), self.step)
            losses[name] = value
        self.step += 1
        for name, value in losses.items():
            self.losses[name].append(value)
        self.seconds += time.perf_counter() - started
        return losses

    def _next(self, waiting: Iterator[tuple[str, Tensor]]) -> tuple[str, Tensor] | None:
        kind = self.stage.learners[GENERATOR].network.patch_embedding.weight.device.type
        with torch.autocast(kind, self.autocast, enabled=self.autocast is not None):
            return next(waiting, None)

    def run(
        self,
        state: Path,
        save_every: int = 200,
        report: Callable[[str], None] = lambda line: None,
        report_every: int = 50,
        each: Callable[[int], None] = lambda step: None,
    ) -> None:
        """Go on to the end of the budget; from the state in `state` if there is one, which is kept up to date.

        Args:
            report: takes progress lines. each: called with the number of steps done, after each of them.

        Raises:
            Diverged: a loss is not finite; `state` still holds the last good one.
            StorageError: the disk refuses the state; the one before it is kept.
            WeightsError: the state belongs to another recipe, or is damaged.
        """
        if sharding.own(state).exists():
            self.resume(state)
        while self.step < self.rate.steps:
            self.advance()
            if self.step % report_every == 0:
                report(self.progress(report_every))
            each(self.step)
            if self.step % save_every == 0 or self.step == self.rate.steps:
                self.save(state)

    def progress(self, window: int) -> str:
        """One line: step, mean losses of the last `window` values, pace since the training went on, time left."""
        means = "  ".join(f"{name} {sum(v[-window:]) / len(v[-window:]):.4f}" for name, v in self.losses.items() if v)
        steps, seconds = self.resumed_at
        pace = (self.seconds - seconds) / (self.step - steps)
        left = pace * (self.rate.steps - self.step) / 60
        return f"step {self.step} of {self.rate.steps}  loss {means}  {pace:.2f} s a step  {left:.0f} min left"

    def save(self, path: Path) -> None:
        """Write the whole state, each process its own part; a crash leaves the old one or the new one."""
        state = {
            "recipe": self.recipe,
            "step": self.step,
            "seconds": self.seconds,
            "losses": self.losses,
            "learners": {name: learner.state() for name, learner in self.stage.learners.items()},
        }
        write_atomic(sharding.own(path), lambda file: torch.save(state, file))

    def resume(self, path: Path) -> None:
        """Go on from a saved state. Raises `WeightsError` when it belongs to another recipe or is damaged."""
        mine = sharding.own(path)
        try:
            with open_regular(mine):
                state = torch.load(mine, weights_only=True)
            if state["recipe"] != self.recipe:
                raise WeightsError(f"{mine} was made by another recipe", "delete it, or write to another folder")
            step, seconds, losses = state["step"], state["seconds"], copy.deepcopy(state["losses"])
            self._check(step, seconds, losses)
            for name, learner in self.stage.learners.items():
                learner.restore(state["learners"][name])
        except DAMAGED as error:
            raise WeightsError(f"{mine} is damaged or no training state", "delete it to start anew") from error
        self.step, self.seconds, self.losses = step, seconds, losses
        self.resumed_at = step, seconds

    def _check(self, step: object, seconds: object, losses: object) -> None:
        """Raise `ValueError` for what no loop of this stage saved."""
        counted = type(step) is int and 0 <= step <= self.rate.steps
        timed = type(seconds) is float and 0 <= seconds < math.inf
        named = isinstance(losses, dict) and losses.keys() == self.losses.keys()
        if not (counted and timed and named):
            raise ValueError(f"step {step!r:.40} after {seconds!r:.40} s")
        if any(not isinstance(loss, float) for of in losses.values() for loss in of):  # type: ignore[attr-defined]
            raise ValueError("losses that are no numbers")
