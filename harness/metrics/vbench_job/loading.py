"""Read VBench checkpoints into the package's networks. No code in them runs, no key is missing, nothing downloads."""

from __future__ import annotations

import importlib
import os
import pickle
import sys
import tempfile
import types
from collections.abc import Callable, Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .forwards import Musiq, lean_clip, lean_dino


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
    "dinov2": "dinov2_model/dinov2_vitb14_pretrain.pth",
    "dinov2_code": "dinov2_model/facebookresearch_dinov2_main/hubconf.py",
    "dreamsim_dino": "dreamsim_model/dino_vitb16_pretrain.pth",
    "dreamsim_clip": "dreamsim_model/clip_vitb16_pretrain.pth.tar",
    "dreamsim_open_clip": "dreamsim_model/open_clip_vitb16_pretrain.pth.tar",
    "dreamsim_config": "dreamsim_model/ensemble_lora/adapter_config.json",
    "dreamsim_lora": "dreamsim_model/ensemble_lora/adapter_model.safetensors",
    "subject_table": "long_tables/subject_mapping_table.yaml",
    "background_table": "long_tables/background_mapping_table.yaml",
}
"""Each checkpoint's place below the weights folder, in the layout of the package's own cache."""


class Inert:
    """Stands for any object in a checkpoint that is no tensor or container. It takes everything and does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        """As a list has it."""

    def extend(self, items: Any) -> None:
        """As a list has it."""


_STORAGES = ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Byte", "Bool")
_REBUILD = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter")
KNOWN = frozenset(
    {
        ("collections", "OrderedDict"),
        *(("torch._utils", name) for name in _REBUILD),
        *(("torch", name) for name in ("Size", "device", *(f"{kind}Storage" for kind in _STORAGES))),
    }
)
"""The only names that a checkpoint may load. Any other name becomes `Inert`."""


class Harmless(pickle.Unpickler):
    """An unpickler that runs nothing but what rebuilds tensors."""

    def find_class(self, module: str, name: str) -> Any:
        """The named class if it is `KNOWN`."""
        return super().find_class(module, name) if (module, name) in KNOWN else Inert


def _load(file: Any, **options: Any) -> Any:
    return Harmless(file, **options).load()


_torch_load = torch.load  # kept, as a run of upstream has `torch.load` replaced by what follows


def read(path: Path) -> Any:
    """The content of the checkpoint `path`, on the CPU. Nothing in it runs: foreign objects come back `Inert`.

    PyTorch's own `weights_only` would refuse files that carry a configuration beside the weights, as AMT's does.
    """
    if not path.is_file():
        raise WeightsFault(f"{path} is missing")
    # torch.load takes any module with these names for pickle's.
    safe = types.SimpleNamespace(Unpickler=Harmless, load=_load, __name__="harmless")
    try:
        return _torch_load(path, map_location="cpu", pickle_module=safe, weights_only=False)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsFault(f"{path} cannot be read as a checkpoint: {cause}") from error


def tensors(path: Path, entry: str = "") -> dict[str, torch.Tensor]:
    """The weights by name in the checkpoint `path`, below `entry` where it keeps them one level down.

    The `module.` of data-parallel training is taken off. Raises `WeightsFault` for anything else, or nothing at all.
    """
    content = read(path)
    if entry:
        if not isinstance(content, Mapping) or entry not in content:
            raise WeightsFault(f"{path} has no entry {entry!r}")
        content = content[entry]
    by_name = isinstance(content, Mapping) and all(isinstance(value, torch.Tensor) for value in content.values())
    if not by_name or not content:
        raise WeightsFault(f"{path} holds no weights by name")
    return {str(key).removeprefix("module."): value for key, value in content.items()}


def fit(network: nn.Module, state: Mapping[str, torch.Tensor], path: Path, extra: bool = False) -> None:
    """Load `state` into `network`; a missing, wrongly shaped or (unless `extra`) unknown key is a `WeightsFault`."""
    own = network.state_dict()
    absent = [key for key in own if key not in state]
    unknown = [] if extra else [key for key in state if key not in own]
    misshapen = [key for key in own if key in state and state[key].shape != own[key].shape]
    for what, keys in (("lacks", absent), ("has unknown", unknown), ("has wrongly shaped", misshapen)):
        if keys:
            raise WeightsFault(
                f"{path} is no checkpoint of {type(network).__name__}: it {what} {len(keys)} of {len(own)} tensors, "
                f"first {keys[0]!r}"
            )
    # Its own keys alone: a checkpoint may hold more where `extra` says so.
    network.load_state_dict({key: state[key] for key in own})


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

    def file(self, name: str) -> Path:
        """As `path`. Raises `WeightsFault` where nothing lies there."""
        if not self.path(name).is_file():
            raise WeightsFault(f"{self.path(name)} is missing")
        return self.path(name)

    def ready(self, network: nn.Module) -> Any:
        """`network` on the device, without gradients, in evaluation mode."""
        return network.to(self.device).eval().requires_grad_(False)

    def fitted(self, name: str, make: Callable[[], nn.Module], entry: str = "", extra: bool = False) -> Any:
        """The network that `make` makes, ready, with the checkpoint `name` in it; `entry`, `extra` as of `fit`."""
        # The file first: a network takes long to make.
        state, network = tensors(self.path(name), entry), make()
        fit(network, state, self.path(name), extra)
        return self.ready(network)

    def hub(self, code: Path, model: str) -> Any:
        """A network from the torch.hub folder `code`, its weights not yet loaded."""
        if not (code / "hubconf.py").is_file():
            raise WeightsFault(f"{code} holds no hubconf.py")
        load: Any = torch.hub.load
        return load(str(code), model, source="local", pretrained=False)

    def from_hub(self, name: str, model: str) -> Any:
        """The network `model` of torch.hub code, with the checkpoint `name` in it; a new one at every call."""
        return self.fitted(name, lambda: self.hub(self.path(f"{name}_code").parent, model))

    @cached_property
    def dino(self) -> Any:
        """DINO ViT-B/16: frames [n, 3, h, w] to features [n, 768]."""
        return lean_dino(self.from_hub("dino", "dino_vitb16"))

    @cached_property
    def dinov2(self) -> Any:
        """DINOv2 ViT-B/14: frames [n, 3, h, w], sides multiples of 14, to features [n, 768]."""
        return self.from_hub("dinov2", "dinov2_vitb14")

    def _clip(self, name: str, patch: int, width: int | None) -> Any:
        import clip

        path = self.file(name)
        try:
            network, _ = clip.load(str(path), device=self.device)
        except (RuntimeError, EOFError, pickle.UnpicklingError, KeyError, AttributeError) as error:
            raise WeightsFault(f"{path} is not the TorchScript archive that openai-clip reads") from error
        patch_here = network.visual.conv1.weight.shape[-1]
        if patch_here != patch:
            raise WeightsFault(f"{path} holds a CLIP with patches of {patch_here} pixels where {patch} are wanted")
        if width is not None and network.visual.output_dim != width:
            raise WeightsFault(f"{path} holds a CLIP with {network.visual.output_dim} features, not {width}")
        return self.ready(lean_clip(network))

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
        return self.fitted("aesthetic_head", lambda: nn.Linear(768, 1))

    @cached_property
    def musiq(self) -> Any:
        """MUSIQ trained on SPAQ: frames [n, 3, h, w] in 0 to 1 to scores [n, 1] in 0 to 100."""
        from pyiqa.archs.musiq_arch import MUSIQ

        return self.ready(Musiq(self.fitted("musiq", lambda: MUSIQ(pretrained=False))))

    @cached_property
    def amt(self) -> Any:
        """AMT-S, the frame interpolator."""
        from omegaconf import OmegaConf
        from vbench.third_party.amt.utils.build_utils import build_from_cfg

        package = Path(importlib.import_module("vbench").__file__ or "").parent
        config = OmegaConf.load(package / "third_party/amt/cfgs/AMT-S.yaml").network
        return self.fitted("amt", lambda: build_from_cfg(config), "state_dict")

    @cached_property
    def raft(self) -> Any:
        """RAFT trained on FlyingThings, the optical flow."""
        from easydict import EasyDict
        from vbench.third_party.RAFT.core.raft import RAFT

        options = EasyDict(small=False, mixed_precision=False, alternate_corr=False)
        return self.fitted("raft", lambda: RAFT(options))

    @cached_property
    def viclip(self) -> Any:
        """ViCLIP, video and text in one space."""
        from vbench.third_party.ViCLIP.simple_tokenizer import SimpleTokenizer
        from vbench.third_party.ViCLIP.viclip import ViCLIP

        return self.fitted("viclip", lambda: ViCLIP(tokenizer=SimpleTokenizer(), pretrain=None), "model")

    @cached_property
    def umt(self) -> Any:
        """UMT ViT-L/16 fine-tuned on Kinetics-400: 16 frames to 400 logits."""
        old_numpy_names()
        import vbench.human_action  # noqa: F401  (registers the network with timm)
        from timm.models import create_model

        sizes = {"num_classes": 400, "all_frames": 16, "tubelet_size": 1, "init_scale": 0.001}
        switches = {"pretrained": False, "use_learnable_pos_emb": False, "use_mean_pooling": True}
        return self.fitted(
            "umt", lambda: create_model("vit_large_patch16_224", drop_path_rate=0.2, **sizes, **switches), extra=True
        )
