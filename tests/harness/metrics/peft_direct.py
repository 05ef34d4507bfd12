"""Run inside the quality environment, which has peft: saves updates and what peft merges them to."""

import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from torch import nn

WIDTH = 8


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH) for _ in range(4))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self_attn, self.cross_attn = Attention(), Attention()
        self.ffn = nn.Sequential(nn.Linear(WIDTH, 12), nn.GELU(), nn.Linear(12, WIDTH))


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch_embedding = nn.Conv2d(4, WIDTH, 2)
        self.blocks = nn.ModuleList(Block() for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


CONFIGS = {
    "alpha": {"r": 4, "lora_alpha": 8},
    "rank stabilised": {"r": 4, "lora_alpha": 8, "use_rslora": True},
    "patterns": {
        "r": 4,
        "lora_alpha": 6,
        "rank_pattern": {"self_attn.k": 2, "ffn.0": 3},
        "alpha_pattern": {"self_attn.k": 5, "ffn.2": 1.5, "blocks.1.cross_attn.o": 12},
    },
    "patterns, rank stabilised": {
        "r": 2,
        "lora_alpha": 3,
        "use_rslora": True,
        "rank_pattern": {"o": 4},
        "alpha_pattern": {"o": 2.5, "self_attn.o": 100},
    },
    "convolution": {"r": 3, "lora_alpha": 7, "target_modules": ["patch_embedding", "q"]},
}


def make(folder: Path, config: dict) -> None:
    torch.manual_seed(0)
    network = Network()
    save_file({name: tensor.clone() for name, tensor in network.state_dict().items()}, folder / "base.safetensors")
    model = get_peft_model(network, LoraConfig(**{"target_modules": ["q", "k", "o", "ffn.0", "ffn.2"], **config}))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter)
    model.save_pretrained(str(folder / "adapter"))
    merged = model.merge_and_unload()
    save_file({name: tensor.clone() for name, tensor in merged.state_dict().items()}, folder / "merged.safetensors")


for name, config in CONFIGS.items():
    place = Path(sys.argv[1]) / name
    place.mkdir()
    make(place, config)
print("{}")
