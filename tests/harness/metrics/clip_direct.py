"""Run inside the quality environment: makes random CLIP checkpoints, and scores frames with open_clip directly."""

import json
import sys
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image

sys.path.append(str(Path(__file__).parents[3] / "harness" / "metrics" / "drawing"))
from random_numbers import archive

MODEL = "ViT-S-32-alt"


def make(folder: str) -> None:
    torch.manual_seed(0)
    state = open_clip.create_model(MODEL, precision="fp32").state_dict()
    torch.save(state, f"{folder}/state.pt")
    torch.save({"state_dict": {"module." + name: value for name, value in state.items()}}, f"{folder}/wrapped.pt")
    archive(state, Path(folder) / "script.pt", input_resolution=224, vocab_size=49408)
    archive(state, Path(folder) / "other.pt")
    torch.save({}, f"{folder}/empty.pt")
    del state["visual.proj"]
    torch.save(state, f"{folder}/lacking.pt")


@torch.no_grad()
def score(checkpoint: str, frames: str, preparation: dict, prompts: list[str]) -> dict:
    """Features one frame at a time, and the cosines of them all."""
    model, _, transform = open_clip.create_model_and_transforms(
        MODEL,
        pretrained=checkpoint,
        weights_only=False,
        force_quick_gelu=preparation["quick_gelu"],
        image_mean=preparation["mean"],
        image_std=preparation["std"],
        image_interpolation=preparation["interpolation"],
        image_resize_mode=preparation["resize"],
    )
    model.eval()
    images = []
    for pixels in np.load(frames):
        features = model.encode_image(transform(Image.fromarray(pixels)).unsqueeze(0))
        images.append(features / features.norm(dim=-1, keepdim=True))
    tokenizer = open_clip.get_tokenizer(MODEL)
    texts = model.encode_text(tokenizer(prompts))
    texts = texts / texts.norm(dim=-1, keepdim=True)
    images = torch.cat(images)
    pairs = torch.nn.functional.cosine_similarity(images[:-1], images[1:], dim=-1)
    return {"cosines": (images @ texts.T).tolist(), "pairs": pairs.tolist()}


make(sys.argv[1])
words = {
    "mean": "mean",
    "std": "std",
    "interpolation": "interpolation",
    "resize_mode": "resize",
    "quick_gelu": "quick_gelu",
}
published = {
    f"{model}/{tag}": {
        words[name]: value for name, value in open_clip.get_pretrained_cfg(model, tag).items() if name in words
    }
    for model, tag in open_clip.list_pretrained()
}
print(json.dumps({"scores": [score(*task) for task in json.loads(sys.argv[2])], "published": published}))
