"""Random weights in the files and formats that VBench's loaders read, in true shapes or the smallest accepted."""

import contextlib
import importlib
import itertools
import json
import sys
from pathlib import Path

import torch
from torch import nn

HUB = '''
import timm

dependencies = ["torch", "timm"]


def dino_vitb16(pretrained=True, **options):
    """The published network's parameters, under the same names and in the same shapes."""
    import torch

    network = timm.create_model("vit_base_patch16_224", num_classes=0, dynamic_img_size=True, **{shape})
    whole = lambda module, given: (given[0][..., : given[0].shape[-2] // 16 * 16, : given[0].shape[-1] // 16 * 16],)
    network.register_forward_pre_hook(whole)
    if pretrained:
        url = "https://dl.fbaipublicfiles.com/dino/dino_vitbase16_pretrain/dino_vitbase16_pretrain.pth"
        network.load_state_dict(torch.hub.load_state_dict_from_url(url, map_location="cpu"))
    return network
'''


HUB_2 = '''
import timm

dependencies = ["torch", "timm"]


def dinov2_vitb14(pretrained=True, **options):
    """The published network's parameters, under the same names and in the same shapes."""
    import torch

    network = timm.create_model("vit_base_patch14_dinov2", num_classes=0, dynamic_img_size=True, **{shape})
    network.mask_token = torch.nn.Parameter(torch.zeros(1, network.embed_dim))
    if pretrained:
        url = "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitb14/dinov2_vitb14_pretrain.pth"
        network.load_state_dict(torch.hub.load_state_dict_from_url(url, map_location="cpu"))
    return network
'''

SMALL = {"embed_dim": 64, "num_heads": 2}
"""In place of ViT-B's width. Its twelve blocks stay, as DreamSim reads the last by its number."""

PERIOD = 1_000_003
"""Random numbers drawn for a network, then repeated: large networks cost seconds otherwise."""


def randomise(network: nn.Module, seed: int, gain: float = 1.0) -> nn.Module:
    """Random weights that let signals through: matrices scaled by their fan-in, norms near one."""
    numbers = torch.randn(PERIOD, generator=torch.Generator().manual_seed(seed))
    used = 0
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if not tensor.is_floating_point() or "running_var" in name:
                continue
            start, used = used % PERIOD, used + tensor.numel()
            times = -(-(start + tensor.numel()) // PERIOD)
            drawn = numbers.repeat(times)[start : start + tensor.numel()].view(tensor.shape)
            if tensor.ndim > 1:
                tensor.copy_(drawn * (gain / tensor[0].numel() ** 0.5))
            else:
                tensor.copy_(drawn * 0.1 + (1.0 if name.endswith("weight") else 0.0))
    return network


@contextlib.contextmanager
def uninitialised():
    """Networks made inside keep whatever their memory held: they are about to be filled anyway."""
    names = ("trunc_normal_", "normal_", "uniform_", "xavier_uniform_", "kaiming_uniform_", "kaiming_normal_")
    before = {name: getattr(nn.init, name) for name in names}
    try:
        for name in names:
            setattr(nn.init, name, lambda tensor, *given, **named: tensor)
        yield
    finally:
        for name, function in before.items():
            setattr(nn.init, name, function)


def save(held: object, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(held, path)


def clip_archive(
    path: Path, seed: int, patch: int, vision: tuple[int, int], text: tuple[int, int], features: int
) -> None:
    """A TorchScript archive with the names, shapes and half precision of OpenAI's files."""
    from clip.model import CLIP

    width, layers = vision
    network = CLIP(features, 224, layers, width, patch, 77, 49408, text[0], text[0] // 64, text[1])
    randomise(network, seed)
    network.logit_scale.data.fill_(4.6)

    class Holder(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    def hold(module: nn.Module) -> nn.Module:
        holder = Holder()
        for name, tensor in module.named_parameters(recurse=False):
            holder.register_parameter(name, nn.Parameter(tensor.detach().half(), requires_grad=False))
        for name, child in module.named_children():
            holder.add_module(name, hold(child))
        return holder

    holder = hold(network)
    for name, number in (("input_resolution", 224), ("context_length", 77), ("vocab_size", 49408)):
        holder.register_buffer(name, torch.tensor(number))
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.jit.script(holder).save(str(path))


def hub_network(folder: Path, code: str, shape: dict[str, int], model: str, seed: int) -> None:
    """A torch.hub folder with its code, and the checkpoint beside it."""
    hub = folder / f"facebookresearch_{folder.name.removesuffix('_model')}_main"
    hub.mkdir(parents=True, exist_ok=True)
    (hub / "hubconf.py").write_text(code.replace("{shape}", repr(shape)))
    network = torch.hub.load(str(hub), model, source="local", pretrained=False)
    save(randomise(network, seed).state_dict(), folder / CHECKPOINTS[model])


CHECKPOINTS = {"dino_vitb16": "dino_vitbase16_pretrain.pth", "dinov2_vitb14": "dinov2_vitb14_pretrain.pth"}


def small(root: Path, true_shapes: bool = False) -> None:
    """Every checkpoint of the seven quality dimensions and appearance style."""
    shape = {} if true_shapes else SMALL
    hub_network(root / "dino_model", HUB, shape, "dino_vitb16", 1)
    hub_network(root / "dinov2_model", HUB_2, shape, "dinov2_vitb14", 10)
    b32 = ((768, 12), (512, 12)) if true_shapes else ((64, 2), (64, 2))
    l14 = ((1024, 24), (768, 12)) if true_shapes else ((64, 2), (64, 2))
    clip_archive(root / "clip_model" / "ViT-B-32.pt", 2, 32, *b32, 512)
    clip_archive(root / "clip_model" / "ViT-L-14.pt", 3, 14, *l14, 768)
    head = randomise(nn.Linear(768, 1), 4, 20.0)
    save(head.state_dict(), root / "aesthetic_model" / "emb_reader" / "sa_0_4_vit_l_14_linear.pth")
    from pyiqa.archs.musiq_arch import MUSIQ

    musiq = randomise(MUSIQ(pretrained=False), 5)
    nn.init.constant_(musiq.head.bias, 50.0)
    musiq.head.weight.data *= 40
    save(musiq.state_dict(), root / "pyiqa_model" / "musiq_spaq_ckpt-358bb6af.pth")
    motion(root)


def dreamsim(root: Path, width: int) -> None:
    """DreamSim's ensemble as its archive holds it; `width` is that of the DINO that it takes from torch.hub.

    Its two CLIPs are as large as published. Their tensors share one run of random numbers, so their files are small.
    """
    from dreamsim.feature_extraction.vision_transformer import vit_base
    from safetensors.torch import save_file

    folder = root / "dreamsim_model"
    numbers = torch.randn(3 * 2**20, generator=torch.Generator().manual_seed(11))
    matrices, vectors = numbers / 768**0.5, numbers[: 2**14] * 0.1
    network = vit_base(patch_size=16)
    network.pos_drop = nn.LayerNorm(network.embed_dim)
    for seed, name in enumerate(("clip", "open_clip")):
        state = {"proj": torch.empty(768, 512), **network.state_dict()}
        for index, (key, tensor) in enumerate(state.items()):
            held = matrices if tensor.ndim > 1 else vectors
            start = 4096 * index % (held.numel() - tensor.numel()) + seed
            state[key] = held[start : start + tensor.numel()].view(tensor.shape)
            if tensor.ndim == 1 and key.endswith("weight"):
                state[key] = 1.0 + state[key]
        save({"state_dict": state}, folder / f"{name}_vitb16_pretrain.pth.tar")
    head = {f"mlp.{layer}.{part}": torch.zeros(1) for layer in (0, 2, 4) for part in ("weight", "bias")}
    head["last_layer.weight"] = torch.zeros(1)
    student = {f"module.head.{name}": tensor for name, tensor in head.items()}
    save({"student": student}, folder / "dino_vitb16_pretrain.pth")
    lora = {}
    for extractor, wide in enumerate((width, 768, 768)):
        for block in range(12):
            place = f"base_model.model.extractor_list.{extractor}.model.blocks.{block}.attn.qkv"
            lora[f"{place}.lora_A.weight"] = matrices[: 16 * wide].reshape(16, wide).clone()
            lora[f"{place}.lora_B.weight"] = matrices[-3 * wide * 16 :].reshape(3 * wide, 16).clone()
    (folder / "ensemble_lora").mkdir()
    save_file(lora, folder / "ensemble_lora" / "adapter_model.safetensors", {"format": "pt"})
    config = {"peft_type": "LORA", "r": 16, "lora_alpha": 8, "lora_dropout": 0.3, "bias": "none"}
    config |= {"target_modules": ["qkv"], "inference_mode": True}
    (folder / "ensemble_lora" / "adapter_config.json").write_text(json.dumps(config))


def tables(root: Path) -> None:
    """The two quantile tables: 101 points, rising values, nothing at nothing."""
    for seed, name in enumerate(("subject", "background")):
        steps = torch.rand(99, generator=torch.Generator().manual_seed(12 + seed), dtype=torch.float64)
        values = [0.0, *(0.6 + 0.4 * steps.cumsum(0) / (steps.sum() + 1)).tolist(), 1.0]
        rows = [f"{point / 100}: {value}" for point, value in enumerate(values)]
        (root / "long_tables").mkdir(exist_ok=True)
        (root / "long_tables" / f"{name}_mapping_table.yaml").write_text("\n".join(rows) + "\n")


def motion(root: Path) -> None:
    """The interpolator's and the optical flow's checkpoints."""
    from easydict import EasyDict
    from omegaconf import OmegaConf
    from vbench.third_party.amt.utils.build_utils import build_from_cfg
    from vbench.third_party.RAFT.core.raft import RAFT

    package = Path(importlib.import_module("vbench").__file__).parent
    amt = build_from_cfg(OmegaConf.load(package / "third_party/amt/cfgs/AMT-S.yaml").network)
    save({"state_dict": randomise(amt, 6, 0.7).state_dict()}, root / "amt_model" / "amt-s.pth")
    raft = randomise(RAFT(EasyDict(small=False, mixed_precision=False, alternate_corr=False)), 7, 0.7)
    for tensor in raft.update_block.flow_head.conv2.parameters():
        tensor.data *= 0.1  # flows of 4 to 5 pixels: 128 pixels high a clip counts as moving, 256 high as static
    state = {f"module.{name}": tensor for name, tensor in raft.state_dict().items()}
    save(state, root / "raft_model" / "models" / "raft-things.pth")


def viclip(root: Path) -> None:
    """ViCLIP in true shapes, half precision on disk."""
    from vbench.third_party.ViCLIP.simple_tokenizer import SimpleTokenizer
    from vbench.third_party.ViCLIP.viclip import ViCLIP

    network = randomise(ViCLIP(tokenizer=SimpleTokenizer(), pretrain=None), 8)
    state = {name: tensor.half() for name, tensor in network.state_dict().items()}
    save({"model": state}, root / "ViCLIP" / "ViClip-InternVid-10M-FLT.pth")


def umt(root: Path) -> None:
    """The action recogniser in true shapes, half precision on disk as published."""
    import vbench.human_action  # noqa: F401
    from timm.models import create_model
    from vbench.third_party.umt.models import modeling_finetune

    modeling_finetune.trunc_normal_ = lambda tensor, *given, **named: tensor

    options = {"num_classes": 400, "all_frames": 16, "tubelet_size": 1, "use_learnable_pos_emb": False}
    network = create_model("vit_large_patch16_224", pretrained=False, use_mean_pooling=True, **options)
    state = {name: tensor.half() for name, tensor in randomise(network, 9).state_dict().items()}
    save(state, root / "umt_model" / "l16_ptk710_ftk710_ftk400_f16_res224.pth")


def links(root: Path) -> None:
    """The word list from openai-clip, and networks where torch.hub looks for downloads.

    Those are two folders: DreamSim moves torch.hub's to its own, for whatever the process loads after it.
    """
    word_list = root / "ViCLIP" / "bpe_simple_vocab_16e6.txt.gz"
    word_list.parent.mkdir(parents=True, exist_ok=True)
    word_list.symlink_to(Path(importlib.import_module("clip").__file__).with_name(word_list.name))
    for name, hub in itertools.product(("dino", "dinov2"), ("torch/hub", "dreamsim_model")):
        folder = root / f"{name}_model"
        (root / hub / "checkpoints").mkdir(parents=True, exist_ok=True)
        (checkpoint,) = folder.glob("*.pth")
        (root / hub / "checkpoints" / checkpoint.name).symlink_to(checkpoint)
        (code,) = folder.glob("facebookresearch_*")
        (root / hub / code.name).symlink_to(code)
    for name in ("utils.py", "vision_transformer.py"):
        (root / "dino_model" / "facebookresearch_dino_main" / name).write_text('"""Nothing: hubconf.py has it all."""')


def main() -> None:
    request = json.load(sys.stdin)
    root = Path(request["root"])
    with contextlib.redirect_stdout(sys.stderr), uninitialised():
        small(root, request["true_shapes"])
        if not request.get("quality_only"):
            dreamsim(root, 768 if request["true_shapes"] else SMALL["embed_dim"])
            tables(root)
        links(root)
        if not request.get("quality_only"):
            viclip(root)
            umt(root)
    print(json.dumps("done"))


if __name__ == "__main__":
    main()
