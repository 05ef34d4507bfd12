"""Draw random weights for VBench's dimensions in the files and formats that its loaders read, inside its environment.

Where a loader takes any width, the network is narrow and shallow unless true shapes are asked for: DINO, DINOv2, and
OpenAI's CLIPs. All others are as large as published, ViCLIP, the action recogniser, the captioner and DreamSim's CLIPs
as pieces of a few runs of numbers.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from random_numbers import archive, folded, randomise, save, uninitialised
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
WORD_LIST = "ViCLIP/bpe_simple_vocab_16e6.txt.gz"
BERT = "huggingface/hub/models--bert-base-uncased"
BERT_COMMIT = "86b5e0934494bd15c9632b12f734a8a67f723594"
EMPTY_CODE = '"""Nothing: hubconf.py has it all."""\n'


def setup(options: dict[str, Any], weights: str, device: str) -> None:
    """Draw what is not in the folder `weights` yet.

    `options` holds `groups`, dimensions or their long-range halves, and `files`, the manifest's for them: the places
    that must also hold each. With `true_shapes` every network has its published shape.
    """
    root, true_shapes = Path(weights), bool(options.get("true_shapes"))
    word_list(root)
    os.environ["VBENCH_CACHE_DIR"] = str(root)  # of which the package makes use while it is imported
    needed: dict[str, Callable[[], None]] = {}
    for group in options["groups"]:
        needed.update(_drawers(root, group, true_shapes))
    with uninitialised():
        for path, draw in needed.items():
            if not (root / path).exists():
                draw()
    complete(root, options["files"])


def _drawers(root: Path, group: str, true_shapes: bool) -> dict[str, Callable[[], None]]:
    """What draws the files of a group, by one of them; nothing for the detector, which needs detectron2."""
    narrow = {} if true_shapes else SMALL
    towers = {32: ((768, 12), (512, 12)), 14: ((1024, 24), (768, 12))}
    sizes = towers if true_shapes else dict.fromkeys(towers, ((64, 2), (64, 2)))
    dino = {DINO: lambda: hub_network(root / DINO, HUB, narrow, "dino_vitb16", 1)}
    viclip_file = {VICLIP: lambda: viclip(root)}
    b32 = {CLIP_B32: lambda: clip_archive(root / CLIP_B32, 2, 32, *sizes[32], 512)}
    by_group: Mapping[str, dict[str, Callable[[], None]]] = {
        "subject_consistency": dino,
        "background_consistency": b32,
        "appearance_style": b32,
        "aesthetic_quality": {
            CLIP_L14: lambda: clip_archive(root / CLIP_L14, 3, 14, *sizes[14], 768),
            HEAD: lambda: save(randomise(nn.Linear(768, 1), 4, 20.0).state_dict(), root / HEAD),
        },
        "imaging_quality": {MUSIQ_FILE: lambda: musiq(root)},
        "motion_smoothness": {AMT: lambda: amt(root)},
        "dynamic_degree": {RAFT_FILE: lambda: raft(root)},
        "temporal_style": viclip_file,
        "overall_consistency": viclip_file,
        "human_action": {UMT: lambda: umt(root)},
        "scene": {f"{BERT}/refs/main": lambda: bert(root), TAG2TEXT: lambda: tag2text(root)},
        "long_subject_consistency": {
            DINO_2: lambda: hub_network(root / DINO_2, HUB_2, narrow, "dinov2_vitb14", 10),
            "long_tables/subject_mapping_table.yaml": lambda: table(root, "subject", 12),
        },
        "long_background_consistency": {
            **dino,
            "dreamsim_model/ensemble_lora": lambda: dreamsim(root, 768 if true_shapes else SMALL["embed_dim"]),
            "long_tables/background_mapping_table.yaml": lambda: table(root, "background", 13),
        },
    }
    return by_group.get(group, {})


DINO = "dino_model/dino_vitbase16_pretrain.pth"
DINO_2 = "dinov2_model/dinov2_vitb14_pretrain.pth"
CLIP_B32, CLIP_L14 = "clip_model/ViT-B-32.pt", "clip_model/ViT-L-14.pt"
HEAD = "aesthetic_model/emb_reader/sa_0_4_vit_l_14_linear.pth"
MUSIQ_FILE = "pyiqa_model/musiq_spaq_ckpt-358bb6af.pth"
AMT = "amt_model/amt-s.pth"
RAFT_FILE = "raft_model/models/raft-things.pth"
VICLIP = "ViCLIP/ViClip-InternVid-10M-FLT.pth"
UMT = "umt_model/l16_ptk710_ftk710_ftk400_f16_res224.pth"
TAG2TEXT = "caption_model/tag2text_swin_14m.pth"


def complete(root: Path, files: Mapping[str, Sequence[str]]) -> None:
    """Code that the networks do without, as empty files, and each file's further places."""
    for path, places in files.items():
        if not (root / path).exists():
            if not path.endswith(".py"):
                continue  # of a network that is not drawn
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(EMPTY_CODE)
        for place in places:
            (root / place).parent.mkdir(parents=True, exist_ok=True)
            if not (root / place).exists():
                (root / place).symlink_to(root / path)


def word_list(root: Path) -> None:
    """The package's vocabulary, which openai-clip ships too."""
    path = root / WORD_LIST
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        clip_file = importlib.import_module("clip").__file__ or ""
        path.symlink_to(Path(clip_file).with_name(path.name))


def clip_archive(
    path: Path, seed: int, patch: int, vision: tuple[int, int], text: tuple[int, int], features: int
) -> None:
    """A TorchScript archive with the names, shapes and half precision of OpenAI's files."""
    from clip.model import CLIP

    width, layers = vision
    network = CLIP(features, 224, layers, width, patch, 77, 49408, text[0], text[0] // 64, text[1])
    randomise(network, seed)
    network.logit_scale.data.fill_(4.6)
    archive(network.state_dict(), path, input_resolution=224, context_length=77, vocab_size=49408)


def hub_network(checkpoint: Path, code: str, shape: Mapping[str, int], model: str, seed: int) -> None:
    """A torch.hub folder with its code, and the checkpoint beside it."""
    folder = checkpoint.parent
    hub = folder / f"facebookresearch_{folder.name.removesuffix('_model')}_main"
    hub.mkdir(parents=True, exist_ok=True)
    (hub / "hubconf.py").write_text(code.replace("{shape}", repr(dict(shape))))
    load: Any = torch.hub.load
    network = load(str(hub), model, source="local", pretrained=False)
    save(randomise(network, seed).state_dict(), checkpoint)


def musiq(root: Path) -> None:
    """The assessor of pictures, with scores about 50."""
    from pyiqa.archs.musiq_arch import MUSIQ

    network: Any = randomise(MUSIQ(pretrained=False), 5)
    nn.init.constant_(network.head.bias, 50.0)
    network.head.weight.data *= 40
    save(network.state_dict(), root / MUSIQ_FILE)


def amt(root: Path) -> None:
    """The interpolator of frames."""
    from omegaconf import OmegaConf
    from vbench.third_party.amt.utils.build_utils import build_from_cfg

    package = Path(importlib.import_module("vbench").__file__ or "").parent
    network = build_from_cfg(OmegaConf.load(package / "third_party/amt/cfgs/AMT-S.yaml").network)
    save({"state_dict": randomise(network, 6, 0.7).state_dict()}, root / AMT)


def raft(root: Path) -> None:
    """The optical flow."""
    from easydict import EasyDict
    from vbench.third_party.RAFT.core.raft import RAFT

    network: Any = randomise(RAFT(EasyDict(small=False, mixed_precision=False, alternate_corr=False)), 7, 0.7)
    for tensor in network.update_block.flow_head.conv2.parameters():
        tensor.data *= 0.1  # flows of 4 to 5 pixels: 128 pixels high a clip counts as moving, 256 high as static
    state = {f"module.{name}": tensor for name, tensor in network.state_dict().items()}
    save(state, root / RAFT_FILE)


def viclip(root: Path) -> None:
    """ViCLIP in true shapes, half precision on disk."""
    from vbench.third_party.ViCLIP.simple_tokenizer import SimpleTokenizer
    from vbench.third_party.ViCLIP.viclip import ViCLIP

    network = ViCLIP(tokenizer=SimpleTokenizer(), pretrain=None)
    save({"model": folded(network.state_dict(), 8, torch.float16)}, root / VICLIP)


def umt(root: Path) -> None:
    """The action recogniser in true shapes, half precision on disk as published."""
    import vbench.human_action  # noqa: F401
    from timm.models import create_model
    from vbench.third_party.umt.models import modeling_finetune

    modeling_finetune.trunc_normal_ = lambda tensor, *args, **kwargs: tensor
    options = {"num_classes": 400, "all_frames": 16, "tubelet_size": 1, "use_learnable_pos_emb": False}
    network = create_model("vit_large_patch16_224", pretrained=False, use_mean_pooling=True, **options)
    save(folded(network.state_dict(), 9, torch.float16), root / UMT)


def table(root: Path, name: str, seed: int) -> None:
    """A quantile table: 101 points, rising values, nothing at nothing."""
    steps = torch.rand(99, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    values = [0.0, *(0.6 + 0.4 * steps.cumsum(0) / (steps.sum() + 1)).tolist(), 1.0]
    rows = [f"{point / 100}: {value}" for point, value in enumerate(values)]
    (root / "long_tables").mkdir(parents=True, exist_ok=True)
    (root / "long_tables" / f"{name}_mapping_table.yaml").write_text("\n".join(rows) + "\n")


def dreamsim(root: Path, width: int) -> None:
    """DreamSim's ensemble as its archive holds it; `width` is that of the DINO that it takes from torch.hub."""
    from dreamsim.feature_extraction.vision_transformer import vit_base
    from safetensors.torch import save_file

    folder = root / "dreamsim_model"
    numbers = torch.randn(3 * 2**20, generator=torch.Generator().manual_seed(11))
    matrices, vectors = numbers / 768**0.5, numbers[: 2**14] * 0.1
    network: Any = vit_base(patch_size=16)
    network.pos_drop = nn.LayerNorm(network.embed_dim)
    for seed, name in enumerate(("clip", "open_clip")):
        state = {"proj": torch.empty(768, 512), **network.state_dict()}
        for index, (key, tensor) in enumerate(state.items()):
            run = matrices if tensor.ndim > 1 else vectors
            start = 4096 * index % (run.numel() - tensor.numel()) + seed
            state[key] = run[start : start + tensor.numel()].view(tensor.shape)
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


def bert(root: Path) -> None:
    """The text model of the captioner: two layers, which are all that it reads, and a vocabulary of single letters."""
    from safetensors.torch import save_file
    from transformers import BertConfig, BertModel

    folder = root / BERT / "snapshots" / BERT_COMMIT
    folder.mkdir(parents=True, exist_ok=True)
    config = BertConfig(num_hidden_layers=2)
    network = randomise(BertModel(config), 14)
    config.save_pretrained(str(folder))
    state = {f"bert.{name}": tensor.contiguous() for name, tensor in network.state_dict().items()}
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    words = ["[PAD]", *(f"[unused{n}]" for n in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words += [*letters, *(f"##{letter}" for letter in letters), "|"]
    words += [f"[unused{n}]" for n in range(99, 99 + config.vocab_size - len(words))]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))
    (root / BERT / "refs").mkdir(exist_ok=True)
    (root / BERT / "refs" / "main").write_text(BERT_COMMIT)


def tag2text(root: Path) -> None:
    """The captioner in true shapes, half precision on disk."""
    module = importlib.import_module("vbench.third_party.tag2Text.tag2text")
    network = module.tag2text_caption(image_size=384, vit="swin_b")
    save({"model": folded(network.state_dict(), 15, torch.float16)}, root / TAG2TEXT)
