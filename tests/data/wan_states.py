"""Small random checkpoints of the transformer under published names, and modules that they fill."""

from pathlib import Path

import torch
from torch import Tensor, nn

from videomla_models.checkpoints.load import load_into, open_checkpoint

DIM, FFN = 8, 12


def wan_state(layers: int = 2, dim: int = DIM, seed: int = 0) -> dict[str, Tensor]:
    """A small random state dict in the original Wan2.1 names."""
    draw = torch.Generator().manual_seed(seed)
    shapes: dict[str, tuple[int, ...]] = {
        "patch_embedding.weight": (dim, 4, 1, 2, 2),
        "patch_embedding.bias": (dim,),
        "head.modulation": (1, 2, dim),
    }
    linears = {
        "text_embedding.0": (dim, 5),
        "text_embedding.2": (dim, dim),
        "time_embedding.0": (dim, 6),
        "time_embedding.2": (dim, dim),
        "time_projection.1": (6 * dim, dim),
        "head.head": (16, dim),
    }
    for block in (f"blocks.{i}" for i in range(layers)):
        shapes[f"{block}.modulation"] = (1, 6, dim)
        shapes |= {f"{block}.norm3.weight": (dim,), f"{block}.norm3.bias": (dim,)}
        linears |= {f"{block}.ffn.0": (FFN, dim), f"{block}.ffn.2": (dim, FFN)}
        for attention in (f"{block}.self_attn", f"{block}.cross_attn"):
            linears |= {f"{attention}.{name}": (dim, dim) for name in "qkvo"}
            shapes |= {f"{attention}.norm_{name}.weight": (dim,) for name in "qk"}
    for name, shape in linears.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}


def module_for(state: dict[str, Tensor]) -> nn.Module:
    """A module on the meta device with exactly the parameters of `state`."""
    root = nn.Module()
    for name, tensor in state.items():
        *path, leaf = name.split(".")
        owner = root
        for part in path:
            if part not in owner._modules:
                owner.add_module(part, nn.Module())
            owner = owner.get_submodule(part)
        owner.register_parameter(leaf, nn.Parameter(torch.empty(tensor.shape, device="meta")))
    return root


def loaded(source: Path, state: dict[str, Tensor], **options: object) -> dict[str, Tensor]:
    module = module_for(state)
    load_into(module, open_checkpoint(source, **options))  # type: ignore[arg-type]
    return {name: tensor.detach() for name, tensor in module.state_dict().items()}


def assert_same(found: dict[str, Tensor], state: dict[str, Tensor]) -> None:
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        assert torch.equal(found[name], tensor), name


def diffusers_name(name: str) -> str:
    """Written from the table of names in diffusers' converter, independently of the product's map."""
    top = {
        "time_embedding.0": "condition_embedder.time_embedder.linear_1",
        "time_embedding.2": "condition_embedder.time_embedder.linear_2",
        "text_embedding.0": "condition_embedder.text_embedder.linear_1",
        "text_embedding.2": "condition_embedder.text_embedder.linear_2",
        "time_projection.1": "condition_embedder.time_proj",
        "head.head": "proj_out",
    }
    for ours, theirs in top.items():
        name = name.replace(ours + ".", theirs + ".")
    name = name.replace("head.modulation", "scale_shift_table").replace(".modulation", ".scale_shift_table")
    name = name.replace(".norm3.", ".norm2.").replace(".ffn.0.", ".ffn.net.0.proj.").replace(".ffn.2.", ".ffn.net.2.")
    name = name.replace("self_attn", "attn1").replace("cross_attn", "attn2")
    for letter, long in zip("qkvo", ("to_q", "to_k", "to_v", "to_out.0"), strict=True):
        for attention in ("attn1", "attn2"):
            name = name.replace(f"{attention}.{letter}.", f"{attention}.{long}.")
    return name
