"""A VideoMLA checkpoint under other names, checked against the network and written under ours."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import torch

from harness.errors import OptionError, WeightsError, nearest
from videomla_models.checkpoints.convert import CONFIG_KEY, RECIPE_KEY, check_pairs, check_shapes, network_config
from videomla_models.checkpoints.load import Checkpoint, check_names
from videomla_models.checkpoints.spectrum import operator_of
from videomla_models.checkpoints.tensors import save_tensors
from videomla_models.network.transformer import VideoTransformer
from videomla_models.spec.config import LatentSizes, TransformerConfig


def rename_file(
    checkpoint: Checkpoint, destination: Path, pairs: tuple[int, int, int], mapping: str
) -> TransformerConfig:
    """Write a VideoMLA checkpoint whose names are ours by now to `destination` (safetensors, the source's dtype).

    Args:
        pairs: rotary pairs for time, height and width, which no shape tells. mapping: text of the file that renamed it.

    Raises:
        WeightsError: tensors are missing, unexpected or misshapen. OptionError: `pairs` do not fit the rope key.
    """
    if destination.suffix != ".safetensors":
        raise OptionError(f"the output is {destination}", "give a name that ends in .safetensors")
    config = latent_config(checkpoint, pairs)
    with torch.device("meta"):
        network = VideoTransformer(config)
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    check_names(checkpoint.source.name, expected, checkpoint.shapes)
    recipe = {"map": mapping, "source": checkpoint.digests(), "part": checkpoint.part}
    state = {name: checkpoint.read(name).contiguous() for name in checkpoint.shapes}
    save_tensors(state, destination, {CONFIG_KEY: json.dumps(asdict(config)), RECIPE_KEY: json.dumps(recipe)})
    return config


def latent_config(checkpoint: Checkpoint, pairs: tuple[int, int, int]) -> TransformerConfig:
    """Sizes of a VideoMLA checkpoint from its shapes; see `rename_file`."""
    first = "blocks.0.self_attn."
    parts = {name: f"{first}{name}.weight" for name in ("q_down", "q_rope", "kv_down", "k_up", "k_rope")}
    missing = [name for name in parts.values() if name not in checkpoint]
    if operator_of(checkpoint) != "composed" or missing:
        raise WeightsError(
            f"{checkpoint.source.name} lacks {', '.join(missing)} after renaming",
            f"map these names as well; {nearest((missing or [first])[0], checkpoint.shapes)}",
        )
    check_shapes(checkpoint, dict.fromkeys(parts.values(), (0, 0)))
    rows = {name: checkpoint.shapes[full][0] for name, full in parts.items()}
    if rows["q_rope"] % rows["k_rope"] or rows["k_up"] % (heads := rows["q_rope"] // rows["k_rope"]):
        raise WeightsError(f"{checkpoint.source.name}: {rows} rows fit no number of heads", "check the mapping")
    if 2 * sum(pairs) != rows["k_rope"]:
        raise OptionError(
            f"pairs are {pairs}, the rope key has {rows['k_rope']} channels", "give --pairs, half of them"
        )
    sizes = LatentSizes(rows["kv_down"], rows["q_down"], rows["k_up"] // heads, rows["k_rope"], pairs)
    config = network_config(checkpoint, heads)
    check_pairs(pairs, config.head_dim)
    return replace(config, attention="latent", latent=sizes)
