"""Run inside the quality environment: scores frames with the hpsv3 package by the small weights in a folder.

Usage: hpsv3_direct.py FOLDER TASKS, where TASKS is a JSON list of [frames.npy, prompt].
"""

import json
import sys
from pathlib import Path

import hpsv3
import numpy as np
import torch
import yaml
from PIL import Image

BASE = "Qwen2-VL-7B-Instruct"


def main(folder: Path, tasks: list) -> None:
    published = Path(hpsv3.__file__).with_name("config") / "HPSv3_7B.yaml"
    # bfloat16, as published, needs CUDA: on a CPU the package's own head then refuses its input.
    settings = yaml.safe_load(published.read_text()) | {"bf16": False, "torch_dtype": "float32"}
    config = folder / "tiny.yaml"
    config.write_text(yaml.safe_dump({**settings, "model_name_or_path": str(folder / BASE), "output_dir": str(folder)}))
    judge = hpsv3.HPSv3RewardInferencer(
        config_path=str(config), checkpoint_path=str(folder / "HPSv3.safetensors"), device="cpu"
    )
    given = []
    torch.set_grad_enabled(False)
    for frames, prompt in tasks:
        rows = [
            judge.reward(image_paths=[Image.fromarray(pixels)], prompts=[prompt])[0].tolist()
            for pixels in np.load(frames)
        ]
        given.append(rows)
    print("\n" + json.dumps(given))


main(Path(sys.argv[1]), json.loads(sys.argv[2]))
