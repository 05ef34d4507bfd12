"""HPSv3 scores of a clip's frames through the hpsv3 package; runs inside the `quality` environment."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import hpsv3
import job_frames
import torch
import yaml
from PIL import Image


class Judge:
    """The package's inferencer on local files, without gradients; in its bfloat16 on a GPU, in float32 on a CPU."""

    def __init__(self, checkpoint: Path, base: Path, device: str, batch: int) -> None:
        for path in (checkpoint, base / "config.json"):
            if not path.is_file():
                raise FileNotFoundError(f"no HPSv3 weights at {path}")
        published = Path(hpsv3.__file__).with_name("config") / "HPSv3_7B.yaml"
        settings = yaml.safe_load(published.read_text(encoding="utf-8"))
        with tempfile.TemporaryDirectory() as folder:
            # The package reads the name of its base model from a file, and would fetch that name from the hub.
            settings |= {"model_name_or_path": str(base), "output_dir": folder, "report_to": "none"}
            if device == "cpu":
                # The package hands bfloat16 to its float32 head, and counts on CUDA's autocast to convert it.
                settings |= {"bf16": False, "torch_dtype": "float32"}
            config = Path(folder) / "HPSv3_7B.yaml"
            config.write_text(yaml.safe_dump(settings), encoding="utf-8")
            self.inferencer = hpsv3.HPSv3RewardInferencer(
                config_path=str(config), checkpoint_path=str(checkpoint), device=device
            )
        self.batch = batch
        self.key = json.dumps([str(checkpoint), str(base), batch])

    @torch.no_grad()
    def scores(self, clip: Any, numbers: list[int]) -> list[tuple[float, float]]:
        """(mu, sigma) of frames, each against the prompt in force at it; a frame is judged once a clip."""
        score_by_number: dict[int, tuple[float, float]] = clip.shared.setdefault(("hpsv3", self.key), {})
        numbers_by_prompt: dict[str, list[int]] = {}
        for number in dict.fromkeys(numbers):
            if number not in score_by_number:
                numbers_by_prompt.setdefault(job_frames.prompt_at(clip, number), []).append(number)
        for prompt, frames in numbers_by_prompt.items():
            if not prompt.strip():
                raise ValueError("the clip has no prompt, which HPSv3 judges its frames by")
            # Frames of one prompt have equally many tokens, so that nothing in a batch is padded.
            for start in range(0, len(frames), self.batch):
                numbers_of_batch = frames[start : start + self.batch]
                images = [Image.fromarray(frame) for frame in job_frames.read(clip, numbers_of_batch)]
                # Keywords: the order of these two differs between versions of the package.
                rewards = self.inferencer.reward(image_paths=images, prompts=[prompt] * len(images)).float().cpu()
                if rewards.shape != (len(numbers_of_batch), 2):
                    raise ValueError(f"the package gave {tuple(rewards.shape)} numbers, not (mu, sigma) a frame")
                score_by_number.update(
                    {
                        number: (float(row[0]), float(row[1]))
                        for number, row in zip(numbers_of_batch, rewards, strict=True)
                    }
                )
        return [score_by_number[number] for number in numbers]


_judges: dict[str, Judge] = {}
"""Models by what they are made from: the three protocols share one."""


def setup(options: dict[str, Any], weights: str, device: str) -> dict[str, Any]:
    """The judge and the protocol."""
    checkpoint = Path(options["checkpoint"] or Path(weights) / "HPSv3.safetensors")
    base = Path(options["base"] or Path(weights) / "Qwen2-VL-7B-Instruct")
    key = json.dumps([str(checkpoint), str(base), options["batch"], device])
    if key not in _judges:
        _judges[key] = Judge(checkpoint, base, device, options["batch"])
    return {"judge": _judges[key], **options}


def score(state: dict[str, Any], clip: Any) -> dict[str, Any]:
    """The protocol's mu and sigma, and those of every frame."""
    numbers = frame_numbers(state, clip.frames)
    frame_scores = state["judge"].scores(clip, numbers)
    places = list(range(len(frame_scores)))
    if state["protocol"] == "best_share":
        # 0.07 of 100 frames is 7.000000000000001 in floating point, which must not become 8.
        count = max(1, math.ceil(state["p"] * len(frame_scores) - 1e-9))
        places = sorted(places, key=lambda place: frame_scores[place][0], reverse=True)[:count]
    return {
        "mu": math.fsum(frame_scores[place][0] for place in places) / len(places),
        "sigma": math.fsum(frame_scores[place][1] for place in places) / len(places),
        "frames": [float(number) for number in numbers],
        "mu_per_frame": [mu for mu, _ in frame_scores],
        "sigma_per_frame": [sigma for _, sigma in frame_scores],
    }


def frame_numbers(state: dict[str, Any], count: int) -> list[int]:
    """The frames that the protocol looks at."""
    place = job_frames.middles if state["protocol"] == "keyframes" else job_frames.spread
    numbers: list[int] = place(count, state["n"])
    return numbers
