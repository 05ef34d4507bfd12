"""Reads VBench checkpoints into the package's networks: no code in them runs, no key is missing, nothing downloads."""

from __future__ import annotations

import importlib
import os
import pickle
import sys
import tempfile
import types
from collections.abc import Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn


class WeightsFault(ValueError):
    """A checkpoint is missing, unreadable, or does not fit its network."""


FILES: Mapping[str, str] = {
    "dino": "dino_model/dino_vitbase16_pretrain.pth",
    "dino_code": "dino_model/facebookresearch_dino_main/hubconf.py",
    "clip_b32": "clip_model/ViT-B-32.pt",
    "clip_l14": "clip_model/ViT-L-14.pt",
    "aesthetic_head": "aesthetic_model/emb_reader/sa_0_4_vit_l_14_linear.pth",
    "musiq": "pyiqa_model/musiq_spaq_ckpt-358bb6af.pth",
    "amt": "amt_model/amt-s.pth",
    "raft": "raft_model/models/raft-things.pth",
    "viclip": "ViCLIP/ViClip-InternVid-10M-FLT.pth",
    "umt": "umt_model/l16_ptk710_ftk710_ftk400_f16_res224.pth",
    "grit": "grit_model/grit_b_densecap_objectdet.pth",
    "tag2text": "caption_model/tag2text_swin_14m.pth",
}
"""Each checkpoint's place below the weights folder: the layout of the package's own cache."""


def read(path: Path) -> Any:
    """What the checkpoint `path` holds, on the CPU. Only tensors and plain containers are read."""
    if not path.is_file():
        raise WeightsFault(f"{path} is missing")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsFault(f"{path} cannot be read as a checkpoint: {cause}") from error


def inner(held: Any, key: str, path: Path) -> Any:
    """`held[key]`, where a checkpoint keeps its weights one level down."""
    if not isinstance(held, Mapping) or key not in held:
        raise WeightsFault(f"{path} has no entry {key!r}")
    return held[key]


def fit(network: nn.Module, state: Any, path: Path, extra: bool = False) -> None:
    """Load `state` into `network`; a missing, wrongly shaped or (unless `extra`) unknown key is a `WeightsFault`."""
    if not isinstance(state, Mapping):
        raise WeightsFault(f"{path} holds a {type(state).__name__}, not weights by name")
    own = network.state_dict()
    missing = [key for key in own if key not in state]
    unknown = [] if extra else [key for key in state if key not in own]
    shaped = [key for key in own if key in state and state[key].shape != own[key].shape]
    for what, keys in (("lacks", missing), ("has unknown", unknown), ("has wrongly shaped", shaped)):
        if keys:
            raise WeightsFault(
                f"{path} is no checkpoint of {type(network).__name__}: it {what} {len(keys)} of {len(own)} tensors, "
                f"first {keys[0]!r}"
            )
    network.load_state_dict({key: state[key] for key in own})


def unprefixed(state: Any) -> Any:
    """`state` with the `module.` of data-parallel training taken off its keys."""
    if not isinstance(state, Mapping):
        return state
    return {key.removeprefix("module."): value for key, value in state.items()}


def offline_package() -> None:
    """Make `import vbench` need no network: it fetches a vocabulary on import that openai-clip ships too."""
    if "VBENCH_CACHE_DIR" not in os.environ and "vbench.utils" not in sys.modules:
        clip_file = importlib.import_module("clip").__file__ or ""
        cache = Path(tempfile.mkdtemp(prefix="vbench-cache-"))
        (cache / "ViCLIP").mkdir()
        (cache / "ViCLIP" / "bpe_simple_vocab_16e6.txt.gz").symlink_to(
            Path(clip_file).with_name("bpe_simple_vocab_16e6.txt.gz")
        )
        os.environ["VBENCH_CACHE_DIR"] = str(cache)


def old_numpy_names() -> None:
    """Give the action recogniser's data code the NumPy 1 module that it imports and does not use."""
    try:
        importlib.import_module("numpy.lib.function_base")
    except ModuleNotFoundError:
        stand_in = types.ModuleType("numpy.lib.function_base")
        stand_in.disp = print  # type: ignore[attr-defined]
        sys.modules["numpy.lib.function_base"] = stand_in


@cache
def shared(root: Path, device: str) -> Networks:
    """The networks of `root` on `device`, one set in a process."""
    return Networks(root, device)


class Networks:
    """The package's networks, each loaded on first use and kept.

    Args:
        root: folder of the checkpoints, laid out as `FILES`.
        device: `cpu` or `cuda`.
    """

    def __init__(self, root: Path, device: str) -> None:
        self.root, self.device = root, device
        self.others: dict[str, Any] = {}
        offline_package()

    def path(self, name: str) -> Path:
        """Where the checkpoint `name` lies."""
        return self.root / FILES[name]

    def ready(self, network: nn.Module) -> Any:
        """`network` on the device, without gradients, in evaluation mode."""
        return network.to(self.device).eval().requires_grad_(False)

    def hub(self, code: Path, model: str) -> Any:
        """A network from the torch.hub folder `code`, its weights not yet loaded."""
        if not (code / "hubconf.py").is_file():
            raise WeightsFault(f"{code} holds no hubconf.py")
        load: Any = torch.hub.load
        return load(str(code), model, source="local", pretrained=False)

    @cached_property
    def dino(self) -> Any:
        """DINO ViT-B/16: frames [n, 3, h, w] to features [n, 768]."""
        network = self.hub(self.path("dino_code").parent, "dino_vitb16")
        fit(network, read(self.path("dino")), self.path("dino"))
        return self.ready(network)

    def _clip(self, name: str, patch: int, width: int | None) -> Any:
        import clip

        path = self.path(name)
        if not path.is_file():
            raise WeightsFault(f"{path} is missing")
        try:
            network, _ = clip.load(str(path), device=self.device)
        except (RuntimeError, EOFError, pickle.UnpicklingError, KeyError, AttributeError) as error:
            raise WeightsFault(f"{path} is not the TorchScript archive that openai-clip reads") from error
        found = network.visual.conv1.weight.shape[-1]
        if found != patch:
            raise WeightsFault(f"{path} holds a CLIP with patches of {found} pixels where {patch} are wanted")
        if width is not None and network.visual.output_dim != width:
            raise WeightsFault(f"{path} holds a CLIP with {network.visual.output_dim} features, not {width}")
        return self.ready(network)

    @cached_property
    def clip_b32(self) -> Any:
        """CLIP ViT-B/32."""
        return self._clip("clip_b32", 32, None)

    @cached_property
    def clip_l14(self) -> Any:
        """CLIP ViT-L/14."""
        return self._clip("clip_l14", 14, 768)

    @cached_property
    def aesthetic_head(self) -> Any:
        """LAION's linear head on CLIP ViT-L/14."""
        head = nn.Linear(768, 1)
        fit(head, read(self.path("aesthetic_head")), self.path("aesthetic_head"))
        return self.ready(head)

    @cached_property
    def musiq(self) -> Any:
        """MUSIQ trained on SPAQ: frames [n, 3, h, w] in 0 to 1 to scores [n, 1] in 0 to 100."""
        from pyiqa.archs.musiq_arch import MUSIQ

        network = MUSIQ(pretrained=False)
        fit(network, unprefixed(read(self.path("musiq"))), self.path("musiq"))
        return self.ready(network)

    @cached_property
    def amt(self) -> Any:
        """AMT-S, the frame interpolator."""
        from omegaconf import OmegaConf
        from vbench.third_party.amt.utils.build_utils import build_from_cfg

        package = Path(importlib.import_module("vbench").__file__ or "").parent
        network = build_from_cfg(OmegaConf.load(package / "third_party/amt/cfgs/AMT-S.yaml").network)
        fit(network, inner(read(self.path("amt")), "state_dict", self.path("amt")), self.path("amt"))
        return self.ready(network)

    @cached_property
    def raft(self) -> Any:
        """RAFT trained on FlyingThings, the optical flow."""
        from easydict import EasyDict
        from vbench.third_party.RAFT.core.raft import RAFT

        network = RAFT(EasyDict(small=False, mixed_precision=False, alternate_corr=False))
        fit(network, unprefixed(read(self.path("raft"))), self.path("raft"))
        return self.ready(network)

    @cached_property
    def viclip(self) -> Any:
        """ViCLIP, video and text in one space."""
        from vbench.third_party.ViCLIP.simple_tokenizer import SimpleTokenizer
        from vbench.third_party.ViCLIP.viclip import ViCLIP

        network = ViCLIP(tokenizer=SimpleTokenizer(), pretrain=None)
        fit(network, inner(read(self.path("viclip")), "model", self.path("viclip")), self.path("viclip"))
        return self.ready(network)

    @cached_property
    def umt(self) -> Any:
        """UMT ViT-L/16 fine-tuned on Kinetics-400: 16 frames to 400 logits."""
        old_numpy_names()
        import vbench.human_action  # noqa: F401  (registers the network with timm)
        from timm.models import create_model

        network = create_model(
            "vit_large_patch16_224",
            pretrained=False,
            num_classes=400,
            all_frames=16,
            tubelet_size=1,
            use_learnable_pos_emb=False,
            drop_path_rate=0.2,
            use_mean_pooling=True,
            init_scale=0.001,
        )
        fit(network, read(self.path("umt")), self.path("umt"), extra=True)
        return self.ready(network)
