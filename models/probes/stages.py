"""Names for the steps of a network's pass, put around them only while somebody asks where the time goes.

A name costs the host as much as a small launch, so the network itself carries none.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from importlib import import_module
from operator import attrgetter
from typing import Any

from harness.contracts import Spans

STEPS = (
    ("torch.nn.functional", "linear", "projections"),
    ("videomla_models.network.transformer", "Block._modulated", "modulation"),
    ("videomla_models.network.transformer", "Block._gated", "modulation"),
    ("videomla_models.network.transformer", "InplaceGELU.forward", "activation"),
    ("videomla_models.network.attention.dense", "RMSNorm.forward", "norms"),
    ("videomla_models.network.cache", "StreamCache.chunk", "rope"),
    ("videomla_models.network.cache", "rotate", "rope"),
    ("videomla_models.network.cache", "rotate_first", "rope"),
    ("videomla_models.network.cache", "rotate_tail", "rope"),
    ("videomla_models.network.cache", "LayerCache.write", "cache_writes"),
    ("videomla_models.network.attention.dense", "attend_with_preferred", "attention"),
    ("videomla_models.ops.latent", "Attention.expanded", "attention"),
    ("videomla_models.ops.latent", "Attention.absorbed", "attention"),
    ("videomla_models.ops.latent", "Attention._expand", "expansion"),
    ("videomla_models.ops.torch_forms", "expand", "expansion"),
)
"""(module, function, stage). Of steps inside each other the inner one counts: keys rotated while they are written are
rope, the products that rebuild keys and values are the expansion."""


@contextmanager
def named(spans: Spans) -> Iterator[None]:
    """Report every step of `STEPS` to `spans` while the context lasts, whichever network makes it in this process."""
    with ExitStack() as stack:
        for module, path, stage in STEPS:
            *outer, name = path.split(".")
            owner = attrgetter(".".join(outer))(import_module(module)) if outer else import_module(module)
            original = inspect.getattr_static(owner, name)
            stack.callback(setattr, owner, name, original)
            setattr(owner, name, _around(original, stage, spans))
        yield


def _around(function: Any, stage: str, spans: Spans) -> Any:
    if isinstance(function, staticmethod):
        return staticmethod(_around(function.__func__, stage, spans))
    plain: Callable[..., Any] = function

    @wraps(plain)
    def call(*arguments: Any, **named: Any) -> Any:
        with spans(stage):
            return plain(*arguments, **named)

    return call
