"""CLIP scores through open_clip; runs inside the `quality` environment."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import job_frames
import open_clip
import torch
from PIL import Image


class Network:
    """A CLIP model with its tokenizer and image transform, in float32 and without gradients."""

    def __init__(self, options: dict[str, Any], weights: str, device: str) -> None:
        path = Path(options["checkpoint"] or Path(weights) / options["file"])
        if not path.is_file():
            raise FileNotFoundError(f"no CLIP weights at {path}")
        name = options["model"]
        if name not in open_clip.list_models():
            raise ValueError(f"open_clip knows no model {name!r}")
        if open_clip.get_model_config(name).get("quick_gelu", False) and not options["quick_gelu"]:
            raise ValueError(f"{name} has QuickGELU by open_clip's configuration, and quick_gelu is false")
        model, _, self.transform = open_clip.create_model_and_transforms(
            name,
            precision="fp32",
            # Left to itself, open_clip gives OpenAI's weights another activation than they were trained with.
            force_quick_gelu=options["quick_gelu"],
            image_mean=tuple(options["mean"]),
            image_std=tuple(options["std"]),
            image_interpolation=options["interpolation"],
            image_resize_mode=options["resize"],
        )
        load(model, path, bool(options["assumed"]))
        self.model = model.to(device).eval()
        self.tokenizer = open_clip.get_tokenizer(name)
        self.device = device
        self.batch = options["batch"]
        self.key = json.dumps(options, sort_keys=True)

    @torch.inference_mode()
    def images(self, clip: Any, numbers: list[int]) -> torch.Tensor:
        """Unit features of frames, float32 [frames, width]; each frame goes through the network once a clip."""
        feature_by_number: dict[int, torch.Tensor] = clip.shared.setdefault(("clip", self.key), {})
        absent = [number for number in dict.fromkeys(numbers) if number not in feature_by_number]
        for start in range(0, len(absent), self.batch):
            numbers_of_batch = absent[start : start + self.batch]
            pixels = [self.transform(Image.fromarray(frame)) for frame in job_frames.read(clip, numbers_of_batch)]
            features = self.model.encode_image(torch.stack(pixels).to(self.device), normalize=True).float().cpu()
            feature_by_number.update(zip(numbers_of_batch, features, strict=True))
        return torch.stack([feature_by_number[number] for number in numbers])

    @torch.inference_mode()
    def text(self, prompt: str) -> torch.Tensor:
        """Unit features of a prompt, float32 [width]."""
        if not prompt.strip():
            raise ValueError("the clip has no prompt, which CLIP-T compares its frames with")
        features: torch.Tensor = self.model.encode_text(self.tokenizer([prompt]).to(self.device), normalize=True)
        return features[0].float().cpu()

    def lengths(self, prompts: Iterable[str]) -> dict[str, list[float]]:
        """Tokens of each whole prompt, start and end included, and how many of them the network reads."""
        tokens = [float(whole_length(self.tokenizer, prompt)) for prompt in prompts]
        return {"prompt_tokens": tokens, "prompt_limit": [float(self.tokenizer.context_length or DEFAULT_LENGTH)]}


DEFAULT_LENGTH = 77
"""Tokens that open_clip's own tokenizer reads where the network's configuration does not say."""


def whole_length(tokenizer: Any, prompt: str) -> int:
    """Tokens of a whole prompt, those that frame it included, by open_clip's own tokenizer or one of Hugging Face."""
    if hasattr(tokenizer, "encode"):
        return len(tokenizer.encode(prompt)) + 2
    text = tokenizer.clean_fn(prompt)
    if getattr(tokenizer, "tokenizer_mode", "") == "clips":
        return len(tokenizer.tokenizer(text, add_special_tokens=False).input_ids) + 3
    return len(tokenizer.tokenizer(text).input_ids)


def load(model: torch.nn.Module, path: Path, assumed: bool) -> None:
    """Load a checkpoint strictly. Of pickles only tensors are read, and of TorchScript archives only the weights.

    Args:
        assumed: whether a TorchScript archive was taken for one of OpenAI's, and frames are prepared as for those.
    """
    try:
        if _is_script(path):
            state = torch.jit.load(str(path), map_location="cpu").state_dict()  # type: ignore[no-untyped-call]
            extra = ("input_resolution", "context_length", "vocab_size")
            if assumed and not any(name in state for name in extra):
                raise ValueError(f"{path} is no archive of OpenAI's; give mean, std, interpolation, resize, quick_gelu")
            model.load_state_dict({name: value for name, value in state.items() if name not in extra}, strict=True)
        else:
            open_clip.load_checkpoint(model, str(path), strict=True, weights_only=True)
    except StopIteration as error:
        raise ValueError(f"{path} holds no weights") from error
    except (RuntimeError, KeyError, EOFError, OSError) as error:
        raise ValueError(f"{path} does not fit the model: {str(error)[:600]}") from error


def _is_script(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


NETWORK_OPTIONS = (
    "model", "pretrained", "checkpoint", "file", "batch",
    "mean", "std", "interpolation", "resize", "quick_gelu", "assumed",
)  # fmt: skip
_networks: dict[str, Network] = {}
"""Networks by options, weights and device. The metrics of this job share them."""


def setup(options: dict[str, Any], weights: str, device: str) -> dict[str, Any]:
    """The network and what to do with it."""
    network_options = {name: options[name] for name in NETWORK_OPTIONS}
    key = json.dumps([network_options, weights, device])
    if key not in _networks:
        _networks[key] = Network(network_options, weights, device)
    return {"network": _networks[key], **options}


def score(state: dict[str, Any], clip: Any) -> dict[str, Any]:
    """The scores of the whole clip, or of its segments."""
    return segments(state, clip) if state["by"] == "segment" else whole(state, clip)


def whole(state: dict[str, Any], clip: Any) -> dict[str, Any]:
    """CLIP-T, each frame against the prompt in force at it, and CLIP-F between neighbours among the chosen frames."""
    network: Network = state["network"]
    numbers = job_frames.spread(clip.frames, state["frames"])
    images = network.images(clip, numbers)
    prompts = [job_frames.prompt_at(clip, number) for number in numbers]
    texts = {prompt: network.text(prompt) for prompt in dict.fromkeys(prompts)}
    to_text = (images * torch.stack([texts[prompt] for prompt in prompts])).sum(dim=1)
    to_next = (images[:-1] * images[1:]).sum(dim=1)
    distances, alike = job_frames.by_distance(images.numpy(), numbers)
    return {
        "clip_t": float(to_text.double().mean()),
        "clip_f": float(to_next.double().mean()) if len(to_next) else float("nan"),
        "frames": [float(number) for number in numbers],
        "clip_t_per_frame": to_text.tolist(),
        "clip_f_per_pair": to_next.tolist(),
        "clip_f_distances": distances,
        "clip_f_by_distance": alike,
        **network.lengths(texts),
    }


def segments(state: dict[str, Any], clip: Any) -> dict[str, Any]:
    """CLIP-T of each segment against its own prompt."""
    network: Network = state["network"]
    ranges = job_frames.cut(clip, state["seconds"])
    scores = []
    for start, end in ranges:
        numbers = [start + number for number in job_frames.spread(end - start, state["frames"])]
        text = network.text(job_frames.prompt_at(clip, start))
        scores.append(float((network.images(clip, numbers) @ text).double().mean()))
    by_segment = {f"segment_{number}": score for number, score in enumerate(scores, 1) if number <= state["segments"]}
    return {
        **{f"segment_{number}": float("nan") for number in range(1, state["segments"] + 1)},
        **by_segment,
        "mean": sum(scores) / len(scores),
        "first": scores[0],
        "last": scores[-1],
        "change": scores[-1] - scores[0],
        "segment_scores": scores,
        "segment_starts": [float(start) for start, _ in ranges],
        **network.lengths(dict.fromkeys(job_frames.prompt_at(clip, start) for start, _ in ranges)),
    }
