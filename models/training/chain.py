"""Runs a chain of stages: each in a folder named by the digest of all that decides it, so that chains share stages.

ROOT/<key>/state   ROOT/<key>/model.safetensors   ROOT/<key>/step-000500.safetensors   ROOT/<key>/stage.json
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import TypeAdapter
from pydantic_core import from_json
from torch import Tensor

from harness.contracts import Json
from harness.errors import OptionError, StorageError, WeightsError
from harness.system.digests import file_sha256
from harness.system.files import read_limited, write_atomic
from videomla_models.checkpoints import convert
from videomla_models.checkpoints.load import load_into, open_checkpoint
from videomla_models.checkpoints.spectrum import operator_of
from videomla_models.checkpoints.tensors import save_tensors
from videomla_models.network.cache import Grid
from videomla_models.network.compiled import require_compiler
from videomla_models.network.transformer import VideoTransformer
from videomla_models.small_world.presets import PATCH
from videomla_models.small_world.world import SIZE
from videomla_models.spec.config import TransformerConfig
from videomla_models.training import sharding
from videomla_models.training.consistency import Consistency
from videomla_models.training.data import MarkedData, ToyData, WorldData
from videomla_models.training.distribution_matching import DistributionMatching
from videomla_models.training.loop import GENERATOR, Learner, Loop, Rate, Stage
from videomla_models.training.optimisers import adamw, initialise, muon
from videomla_models.training.options import Chain, MatchingOptions, Origin, StageOptions, TeacherForcingOptions
from videomla_models.training.parallel_pass import Clips
from videomla_models.training.teacher_forcing import TeacherForcing

TRAINING_KEY = "training"
SAVE_EVERY = 100
LARGEST_RECORD = 16 << 20
"""Bytes of a stage's record; one of many kept steps has some hundred thousand."""
CURVE_POINTS = 100
"""Losses are recorded as means over this many equal parts of a stage."""

Weights = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Done:
    """A finished stage: where its checkpoint lies, and how it went.

    Attributes:
        losses: means over `CURVE_POINTS` parts of the stage, by learner. kept: file by step.
        updates: how often each learner was updated; empty in what older code wrote.
    """

    stage: str
    key: str
    path: Path
    sha256: str
    steps: int
    seconds: float
    parameters: int
    losses: dict[str, list[float]]
    kept: dict[str, str]
    updates: dict[str, int] = field(default_factory=dict)


def train(
    chain: Chain, root: Path, report: Callable[[str], None] = lambda line: None, device: str = "cpu"
) -> list[Done]:
    """Train what is not done yet, each stage from its last saved state; the finished stages in order.

    Raises:
        OptionError: the chain contradicts itself. WeightsError: an origin's weights are missing or do not fit.
        NotAvailable: there is no compiler for a fast one.
        Diverged: a loss is not finite. StorageError: the disk refuses a file.
    """
    for loc, problem in chain.problems():
        raise OptionError(f"{'.'.join(map(str, loc))}: {problem}")
    if chain.fast:
        require_compiler(torch.device(device))
    done: list[Done] = []
    with sharding.processes(torch.device(device)):
        for number in range(len(chain.stages)):
            folder = root / chain.key(number)
            with _alone(folder):
                whole = finished(folder)
                done.append(whole or _Run(chain, number, root, done, report, device).train(folder))
    return done


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One training at a time in `folder`: another one waits, and then finds it finished. `torchrun`'s share it."""
    if sharding.world()[0] > 0:
        sharding.barrier()
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            sharding.barrier()
            yield
    except OSError as error:
        raise StorageError(f"{folder} cannot be written: {error.strerror}", "make room, then run again") from error


def finished(folder: Path) -> Done | None:
    """What a stage's `folder` says of itself, if its checkpoint is there and as recorded."""
    try:
        content = from_json(read_limited(folder / "stage.json", LARGEST_RECORD), allow_inf_nan=False)
        done = TypeAdapter(Done).validate_python(content | {"path": _inside(folder, content["path"])})
        whole = all(_inside(folder, name).is_file() for name in done.kept.values())
        # Not by its digest alone: a pipe would be waited for, and a device read without end.
        return done if whole and done.path.is_file() and file_sha256(done.path) == done.sha256 else None
    except (OSError, ValueError, TypeError, LookupError):
        return None


def _inside(folder: Path, name: str) -> Path:
    """A file that a stage wrote. Raises `ValueError` for a path that leads elsewhere."""
    if Path(name).name != name:
        raise ValueError(f"{name} is no name of a file")
    return folder / name


class _Run:
    """One stage of a chain."""

    def __init__(
        self, chain: Chain, number: int, root: Path, before: list[Done], report: Callable[[str], None], device: str
    ) -> None:
        self.chain, self.number, self.root, self.before = chain, number, root, before
        self.options: Any = chain.stages[number]
        self.report, self.device = report, device
        self.precision = torch.bfloat16 if chain.precision == "bfloat16" else None
        self.config = chain.config()
        side = SIZE // PATCH // self.config.patch[1]
        self.clips = Clips(chain.policy(), chain.chunk, chain.data.chunks, Grid(side, side))

    def train(self, folder: Path) -> Done:
        """Train to the end of the budget and write the checkpoint."""
        options: StageOptions = self.options
        rate = Rate(options.steps, options.warmup, options.decay)
        loop = Loop(self._stage(), rate, {"key": self.chain.key(self.number)}, self.precision)
        name, kept = str(self.options.stage), dict[str, str]()

        def keep(step: int) -> None:
            if options.keep and (step % options.keep == 0 or step == 1):
                kept[str(step)] = f"step-{step:06}.safetensors"
                self._write(loop, folder / kept[str(step)])

        loop.run(folder / "state", SAVE_EVERY, lambda line: self.report(f"{name}  {line}"), each=keep)
        path = folder / "model.safetensors"
        parameters = self._write(loop, path)
        if options.keep:
            kept = {str(int(p.stem[5:])): p.name for p in sorted(folder.glob("step-*.safetensors"))}
        curves = {learner: curve(losses) for learner, losses in loop.losses.items()}
        updates = {learner: len(losses) for learner, losses in loop.losses.items()}
        seconds = round(loop.seconds, 1)
        done = Done(name, folder.name, path, file_sha256(path), loop.step, seconds, parameters, curves, kept, updates)
        body = json.dumps(asdict(done) | {"path": path.name}, indent=1)
        if sharding.world()[0] == 0:
            write_atomic(folder / "stage.json", body)
        sharding.own(folder / "state").unlink(missing_ok=True)
        sharding.barrier()
        return done

    def _write(self, loop: Loop, path: Path) -> int:
        """Write the result so far, the first process for all; the number of its parameters."""
        weights = {name: t.contiguous() for name, t in loop.stage.learners[GENERATOR].result().items()}
        body = self.chain.model_copy(update={"stages": self.chain.stages[: self.number + 1]}).model_dump(mode="json")
        # One entry, since safetensors writes several in any order and equal trainings must give equal files.
        about: dict[str, Json] = {**asdict(self.config), TRAINING_KEY: {"chain": body, "step": loop.step}}
        if sharding.world()[0] == 0:
            save_tensors(weights, path, {convert.CONFIG_KEY: json.dumps(about)})
        sharding.barrier()
        return sum(tensor.numel() for tensor in weights.values())

    # ---------------------------------------------------------------------------------- what is trained

    def _stage(self) -> Stage:
        options, data, seed = self.options, self._data(), self.chain.seed
        network = self._network(self.config, self._weights())
        learner = self._learner(network)
        if isinstance(options, TeacherForcingOptions):
            return TeacherForcing(learner, data, self.clips, options, seed)
        teacher = self._teacher(options.teacher)
        if isinstance(options, MatchingOptions):
            critic = self._teacher(options.teacher).requires_grad_(True)
            follows = Learner(critic, adamw(critic, options.critic_rate, options.betas, self.chain.fast))
            return DistributionMatching(learner, follows, teacher, data, self.clips, options, seed)
        target = self._network(self.config, self._weights()).requires_grad_(False)
        return Consistency(learner, teacher, target, data, self.clips, options, seed)

    def _data(self) -> WorldData:
        data, chain = self.chain.data, self.chain
        shared: dict[str, Any] = {name: getattr(data, name) for name in ("clips", "chunks", "foreground")}
        shared |= {"seed": chain.seed, "chunk": chain.chunk}
        if data.world == "marked":
            return MarkedData(**shared, kinds=data.kinds, gap=data.gap)
        return ToyData(**shared, crosses=data.crosses)

    def _learner(self, network: VideoTransformer) -> Learner:
        options, fast = self.options, self.chain.fast
        if getattr(options, "optimiser", "adamw") == "muon":
            if sharding.world()[1] > 1:
                raise OptionError("optimiser muon needs whole matrices", "choose adamw for several processes")
            optimisers = muon(network, options.rate, options.rate / 2, self.precision if fast else None, fast)
            return Learner(network, optimisers, options.average)
        return Learner(network, adamw(network, options.rate, options.betas, fast), options.average)

    def _network(self, config: TransformerConfig, weights: Weights | None) -> VideoTransformer:
        torch.manual_seed(self.chain.seed)
        network = VideoTransformer(config)
        initialise(network)
        if weights is not None:
            network.load_state_dict(weights)
        network = sharding.shard(network.to(self.device))
        if self.chain.fast and self.options.stage != "distribution_matching":
            network.compile(dynamic=False)
        return network

    def _weights(self) -> Weights | None:
        """Where this stage starts: the stage before, or the chain's own start."""
        if self.before:
            return load(self.before[-1].path, self.config)
        start = self.chain.start
        if start.kind == "random":
            return None
        path = self._origin(start.origin)
        if start.kind == "checkpoint":
            return load(path, self.config)
        return converted(path, self.config, "svd" if start.kind == "svd" else "random", self.chain.seed)

    def _teacher(self, origin: Origin) -> VideoTransformer:
        forced = [done.path for done in self.before if done.stage == "teacher_forcing"]
        if origin.chain or origin.file or not forced:
            path = self._origin(origin if origin.chain or origin.file else self.chain.start.origin)
        else:
            path = forced[-1]
        config = stored_config(path, self.config)
        ours = replace(self.config, attention=config.attention, latent=config.latent)
        if config != ours:
            raise WeightsError(f"the teacher {path.name} has other sizes than the student", "use equal sizes")
        return self._network(config, load(path, config)).requires_grad_(False)

    def _origin(self, origin: Origin) -> Path:
        """The file of an origin; its chain is trained first where it is not done."""
        if origin.chain is None:
            return Path(origin.file)
        self.report(f"{self.options.stage}  first, what it starts from or is taught by")
        return train(origin.chain, self.root, self.report, self.device)[-1].path


# -------------------------------------------------------------------------------------------- checkpoints


def stored_config(path: Path, otherwise: TransformerConfig) -> TransformerConfig:
    """Sizes in the header of a checkpoint that a training wrote.

    Args:
        otherwise: the sizes of a file without such a header, its kind of attention aside; `load` holds its tensors to
            them.

    Raises:
        WeightsError: the file is missing or damaged, or its header is.
    """
    from videomla_models.training.header import read_header

    try:
        return read_header(path).config
    except WeightsError:
        checkpoint = open_checkpoint(path)
        if convert.CONFIG_KEY in checkpoint.metadata:
            raise
        return replace(otherwise, attention="latent" if operator_of(checkpoint) == "composed" else "dense")


def load(path: Path, config: TransformerConfig) -> Weights:
    """The tensors of a checkpoint, which must fit `config`. Raises `WeightsError`."""
    with torch.device("meta"):
        network = VideoTransformer(config)
    load_into(network, open_checkpoint(path), torch.float32)
    return {name: p.detach() for name, p in network.named_parameters()}


def converted(path: Path, config: TransformerConfig, init: Literal["svd", "random"], seed: int) -> Weights:
    """A dense checkpoint's weights with latent attention, by truncated SVD or at random maps, as float32."""
    dense = stored_config(path, config)
    convert.check_latent(config.latent, dense)
    recipe = convert.Recipe(config.latent, init=init, seed=seed)
    draw, weights = torch.Generator().manual_seed(seed), load(path, dense)
    latent = {name: tensor for name, tensor in weights.items() if ".self_attn." not in name}
    for layer in range(dense.layers):
        prefix = f"blocks.{layer}.self_attn."
        own = {name.removeprefix(prefix): t for name, t in weights.items() if name.startswith(prefix)}
        maps, _ = convert.convert_layer(layer, own, recipe, dense, draw)
        latent |= convert.in_dtype(prefix, maps, torch.float32)
    return latent


def curve(losses: list[float]) -> list[float]:
    """Means over `CURVE_POINTS` equal parts, or the losses themselves where they are fewer."""
    count = min(CURVE_POINTS, len(losses))
    edges = [len(losses) * part // count for part in range(count + 1)] if count else [0]
    return [sum(losses[a:b]) / (b - a) for a, b in pairwise(edges)]
