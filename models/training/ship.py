"""Ships a training as a small model: `python -m videomla_models.training.ship CHECKPOINT NAME`.

Writes `NAME.safetensors` (float16) and `NAME.json`, the record of how the weights came about, stage by stage. A
training that was stopped ships from one of the checkpoints that its `keep` left.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from harness.errors import HarnessError, WeightsError
from harness.system.digests import file_sha256
from harness.system.files import write_atomic
from videomla_models.checkpoints.convert import in_dtype
from videomla_models.training.chain import curve, finished
from videomla_models.training.data import FIRST_TRAINING_SEED
from videomla_models.training.header import Header, read_header

log = logging.getLogger(__name__)


def ship(checkpoint: Path, target: Path, stages: Path) -> dict[str, Any]:
    """Write `target`.safetensors and `target`.json; returns the record.

    Args:
        checkpoint: what `harness train` wrote at the end of a chain, or kept in its last stage. stages: the folder of
            all stages beside its run.

    Raises:
        WeightsError: `checkpoint` is none of those, float16 does not hold its numbers, or a stage of its
            chain is not in `stages`.
    """
    header = read_header(checkpoint)
    chain = header.chain
    weights = in_dtype("", load_file(checkpoint), torch.float16)
    folders = [stages / chain.key(number) for number in range(len(chain.stages))]
    done = [_whole(folder) for folder in folders[:-1]]
    stopped = header.step < chain.stages[-1].steps
    done.append(_kept(folders[-1], checkpoint, header) if stopped else _whole(folders[-1]))
    path = target.with_name(f"{target.name}.safetensors")
    save_file(weights, path)
    kept = ("stage", "steps", "seconds", "sha256", "losses")
    start = chain.start.origin.file
    record = {
        "model": f"{chain.data.world}/{target.name.removeprefix(f'{chain.data.world}_')}",
        "chain": chain.model_dump(mode="json"),
        "start": file_sha256(Path(start)) if start else "",
        "first_training_seed": FIRST_TRAINING_SEED,
        "stages": [{name: stage[name] for name in kept} | {"updates": stage.get("updates", {})} for stage in done],
        "losses_are_means_of": "equal parts of a stage",
        "parameters": sum(tensor.numel() for tensor in weights.values()),
        "sha256": file_sha256(path),
        "torch": torch.__version__,
        "machine": platform.machine(),
    }
    write_atomic(target.with_name(f"{target.name}.json"), json.dumps(record, indent=1) + "\n")
    return record


def _whole(folder: Path) -> dict[str, Any]:
    """What a stage says of itself. Raises `WeightsError` where it is not whole."""
    done = finished(folder)
    if done is None:
        raise WeightsError(f"{folder} holds no finished stage", "finish it first: harness train RECIPE")
    return asdict(done)


def _kept(folder: Path, checkpoint: Path, header: Header) -> dict[str, Any]:
    """As a stage would say it that ended with a checkpoint of its way; seconds at the mean pace of its saved state."""
    state = torch.load(folder / "state", weights_only=True)
    return {
        "stage": str(header.stage.stage),
        "steps": header.step,
        "seconds": round(state["seconds"] * header.step / state["step"], 1),
        "sha256": file_sha256(checkpoint),
        "losses": {name: curve(values[: header.step]) for name, values in state["losses"].items()},
        "updates": {name: len(values[: header.step]) for name, values in state["losses"].items()},
    }


def main() -> None:
    """Command line of shipping."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", type=Path, help="as runs/training/toy/checkpoints/dense-0/….safetensors")
    parser.add_argument("name", type=Path, help="as models/small_world/checkpoints/dense")
    parser.add_argument("--stages", type=Path, default=Path("runs/training/stages"))
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        record = ship(given.checkpoint, given.name, given.stages)
    except (HarnessError, OSError) as error:
        parser.error(str(error))
    log.info("%s: %d parameters, %s", record["model"], record["parameters"], record["sha256"][:12])


if __name__ == "__main__":
    main()
