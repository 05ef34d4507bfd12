"""Names of a low-rank update in the layouts it is published in, mapped to modules and parameters of the network.

Sources: peft (`X.lora_A.weight`), huggingface/diffusers `lora_conversion_utils.py` (`transformer.`, `diffusion_model.`,
`.diff`, `.diff_b`), kohya-ss and musubi-tuner (`lora_unet_blocks_0_self_attn_q.lora_down.weight`, `.alpha`), ComfyUI
`lora.py`. Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from harness.errors import WeightsError
from videomla_models.checkpoints.names import BLOCK, TOP, from_diffusers, unwrap

LONGEST = 300
"""Characters of a name."""
SHOWN = 10

_PREFIXES = ("diffusion_model.", "transformer.", "generator.", "dit.", "pipe.", "unet.")
_LEAF = re.compile(
    r"(?P<module>.+?)"
    r"(?:\.lora_(?P<peft>[AB])(?:\.(?!weight$|bias$)[\w-]+)?(?:\.weight)?"  # with an adapter's name or without
    r"|[._]lora[._](?P<way>down|up)\.weight"
    r"|\.(?P<other>alpha|diff|diff_b))"
)
_FLAT = re.compile(r"(?:lora_unet_?|lora_transformer|lycoris)_(?:blocks_(\d+)_)?(.+)")
_FOREIGN = {
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    ".hada_": "LoHa",
    ".lokr_": "LoKr",
    ".lora_mid.": "LoCon with a middle map",
    ".oft_": "OFT",
    ".boft_": "BOFT",
    ".ia3_": "IA3",
    "vera_lambda": "VeRA",
    ".a1.weight": "GLoRA",
    ".set_weight": "replaced weights",
    ".reshape_weight": "a LoRA of a network with other sizes",
    "lora_embedding_": "a LoRA of an embedding",
    ".lora_B.bias": "a LoRA with biases",
    "lora_te": "a LoRA of a text encoder",
    "text_encoder": "a LoRA of a text encoder",
    "transformer_2.": "a LoRA of Wan2.2's second transformer",
    "single_transformer_blocks": "a LoRA of FLUX",
    "double_blocks": "a LoRA of FLUX or HunyuanVideo",
    "up_blocks": "a LoRA of a U-Net",
    "input_blocks": "a LoRA of a U-Net",
}


@dataclass(slots=True)
class Update:
    """Stored names of what is added to one module: a product of two maps, or whole differences. Empty where absent."""

    down: str = ""
    up: str = ""
    alpha: str = ""
    diff: str = ""
    diff_b: str = ""


def read_names(source: str, names: Iterable[str]) -> dict[str, Update]:
    """What a file of stored `names` adds to each module, by the module's name in Wan2.1's layout.

    Raises `WeightsError` naming the layout of an update that is not read, and names that are in none.
    """
    stored = list(names)
    for name in stored:
        for mark, layout in _FOREIGN.items():
            if mark in name:
                raise WeightsError(
                    f"{source} is {layout} ({name[:LONGEST]}), which is not merged", "merge it where it was trained"
                )
    parsed = {name: _LEAF.fullmatch(name) if len(name) <= LONGEST else None for name in stored}
    unknown = [name for name, match in parsed.items() if match is None]
    modules = {name: _dotted(match["module"]) for name, match in parsed.items() if match}
    diffusers = any(f".{mark}." in f".{name}." for name in modules.values() for mark in _DIFFUSERS)
    updates: dict[str, Update] = {}
    for name, match in parsed.items():
        if match is None:
            continue
        module = from_diffusers(modules[name]) if diffusers else modules[name]
        kind = {"A": "down", "B": "up", None: match["way"]}[match["peft"]] or match["other"]
        update = updates.setdefault(module, Update())
        if getattr(update, kind):
            raise WeightsError(f"{source}: {getattr(update, kind)} and {name} are both of {module}", "keep one of them")
        setattr(update, kind, name)
    if unknown or not updates:
        shown = ", ".join(name[:LONGEST] for name in unknown[:SHOWN]) or "none"
        raise WeightsError(
            f"{source} is no LoRA; its unknown names are {shown}", "give pairs of lora_A/lora_B or lora_down/lora_up"
        )
    return updates


_DIFFUSERS = ("attn1", "attn2", "ffn.net", "condition_embedder", "scale_shift_table", "proj_out")


def _flat_names() -> dict[tuple[bool, str], str]:
    """Modules in Wan2.1's layout by whether they are a block's and their names with underscores, in either layout."""
    flat = {}
    for in_block, table in ((True, BLOCK), (False, TOP)):
        for theirs, ours in table.items():
            flat[in_block, ours.replace(".", "_")] = ours
            if not theirs.startswith("norm"):
                flat[in_block, theirs.replace(".", "_")] = ours
    return flat


_FLAT_NAMES = _flat_names()


def _dotted(module: str) -> str:
    """A module's name without prefixes, its parts parted by dots."""
    if match := _FLAT.fullmatch(module):
        ours = _FLAT_NAMES.get((match[1] is not None, match[2]), match[2])
        return ours if match[1] is None else f"blocks.{match[1]}.{ours}"
    while True:
        bare = unwrap(module)
        for prefix in _PREFIXES:
            bare = bare.removeprefix(prefix)
        if bare == module:
            return module
        module = bare
