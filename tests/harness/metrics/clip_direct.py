"""Run inside the quality environment: makes random CLIP checkpoints, and scores frames with open_clip directly."""

import json
import sys

import numpy as np
import open_clip
import torch
from PIL import Image

MODEL = "ViT-S-32-alt"


class Holder(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def script_of(state: dict, scalars: dict) -> torch.jit.ScriptModule:
    """A TorchScript archive with these weights, in half precision as OpenAI publishes them, and its scalars."""
    root = Holder()
    for name, value in {**state, **scalars}.items():
        *path, last = name.split(".")
        place = root
        for part in path:
            if part not in place._modules:
                place.add_module(part, Holder())
            place = place._modules[part]
        place.register_buffer(last, value.half() if value.is_floating_point() else value)
    return torch.jit.script(root)


def make(folder: str) -> None:
    torch.manual_seed(0)
    state = open_clip.create_model(MODEL, precision="fp32").state_dict()
    torch.save(state, f"{folder}/state.pt")
    torch.save({"state_dict": {"module." + name: value for name, value in state.items()}}, f"{folder}/wrapped.pt")
    script_of(state, {"input_resolution": torch.tensor(224), "vocab_size": torch.tensor(49408)}).save(
        f"{folder}/script.pt"
    )
    script_of(state, {}).save(f"{folder}/other.pt")
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
