"""Which weights of a training checkpoint are meant: averaged or raw, of the network or of what was trained beside it.

A checkpoint holds them as entries of a dictionary (`generator_ema`, `ema`, `state_dict`), or side by side under
prefixes of their names (`generator.model.`, `model.diffusion_model.`, `critic.`). Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from harness.errors import WeightsError

ANCHOR = "patch_embedding.weight"
"""A tensor that every network of this family has once, in the layouts of Wan2.1 and of diffusers."""
AVERAGED = ("generator_ema", "ema", "model_ema", "ema_model", "ema_state_dict", "state_dict_ema", "params_ema")
"""Entries with averages over training steps, in the order in which they are looked for. Others with `ema` as a word
of their name are averages too."""
RAW = (
    "generator", "model", "state_dict", "model_state_dict", "module", "params", "transformer", "dit", "net", "network",
)  # fmt: skip
"""Entries with the weights of the last step, in order."""
DEEPEST = 4
"""Dictionaries within each other, as in `ema`, `state_dict`."""
SHOWN = 10

_EMA = re.compile(r"(?<![a-z])ema(?![a-z])", re.IGNORECASE)
_BESIDE = re.compile(
    r"(?<![a-z])(?:critic|teacher|score|discriminator|guidance|optimi[sz]er|lora|vae|text_encoders?)(?![a-z])",
    re.IGNORECASE,
)


def is_averaged(name: str) -> bool:
    """Whether the name of an entry, a prefix or a file says that its weights are averaged: `ema` as a word of it."""
    return _EMA.search(name) is not None


def choose_entry(
    source: str, content: Mapping[Any, Any], ema: bool | None, parts: tuple[str, ...] = (), depth: int = 0
) -> tuple[str, Mapping[Any, Any]]:
    """The entry of a pickled dictionary whose weights are meant, by its name; the whole dictionary under an empty one.

    An average is taken where `ema` asks for it, where nothing else is there, and where `generator_ema` stands beside
    `generator`. Raw weights may come back although `ema` asks for averages, as prefixes of names can tell them apart
    too; `check_averaged` refuses the rest.

    Args:
        parts: names to look for first.

    Raises:
        WeightsError: several entries could be meant, or none.
    """
    nested = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, dict)}
    for name in parts:
        if name in nested:
            return name, nested[name]
    own = {name: value for name, value in nested.items() if value and not _BESIDE.search(name)}
    averaged = [name for name in dict.fromkeys((*AVERAGED, *own)) if name in own and is_averaged(name)]
    raw = [name for name in RAW if name in own]
    together = averaged[:1] == ["generator_ema"] and raw[:1] == ["generator"]
    for name in _decided(source, averaged, raw, ema, together)[:1]:
        if depth == DEEPEST:
            break
        inner, state = choose_entry(source, nested[name], None if name in averaged else ema, depth=depth + 1)
        return f"{name}.{inner}" if inner else name, state
    if nested and len(nested) == len(content):
        raise WeightsError(
            f"{source} holds {_listed(nested)}, none of which is a network's weights",
            f"give the checkpoint of a generator, with an entry such as {RAW[0]} or {AVERAGED[0]}",
        )
    return "", content


def network_names(source: str, stored: Iterable[str], ema: bool | None) -> dict[str, str]:
    """Names below the prefix of the network that is meant, each with its name in the file.

    The network is found by its `patch_embedding`. Where it stands under a prefix, what lies outside belongs to other
    parts (a VAE, a critic). Names without that tensor stay as they are.

    Args:
        ema: as in `choose_entry`; None also where an entry was chosen by it.

    Raises:
        WeightsError: several networks could be meant.
    """
    stored = list(stored)
    prefixes = dict.fromkeys(name.removesuffix(ANCHOR) for name in stored if f".{name}".endswith(f".{ANCHOR}"))
    own = [prefix for prefix in prefixes if not _BESIDE.search(prefix)]
    raw = [prefix for prefix in own if not is_averaged(prefix)]
    averaged = [prefix for prefix in own if is_averaged(prefix)]
    # Some trainers flatten the names of averages, so that they cannot be read; they are not passed over in silence.
    unread = [] if averaged else sorted({name.split(".")[0] for name in stored if is_averaged(name.split(".")[0])})
    together = all(p.startswith("generator_ema.") for p in averaged) and all(p.startswith("generator.") for p in raw)
    chosen = _decided(source, averaged or (unread if ema is None else []), raw, ema, together and not unread)
    if len(chosen) > 1:
        raise WeightsError(f"{source} holds several networks: {_listed(chosen)}", "give a file with one of them")
    prefix = chosen[0] if chosen else ""
    others = tuple(other for other in prefixes if len(other) > len(prefix))
    return {
        name.removeprefix(prefix): name for name in stored if name.startswith(prefix) and not name.startswith(others)
    }


def part_names(source: str, stored: Iterable[str], anchors: Iterable[str]) -> dict[str, str]:
    """Names below the prefix under which the first of `anchors` stands, each with its name in the file.

    For an encoder or a VAE in a file of its own or of a whole pipeline; empty where no anchor is there.

    Raises:
        WeightsError: an anchor stands under several prefixes.
    """
    stored = list(stored)
    for anchor in anchors:
        prefixes = [name.removesuffix(anchor) for name in stored if f".{name}".endswith(f".{anchor}")]
        if len(prefixes) > 1:
            raise WeightsError(f"{source} holds several: {_listed(prefixes)}", "give a file with one of them")
        if prefixes:
            start = prefixes[0]
            return {name.removeprefix(start): name for name in stored if name.startswith(start)}
    return {}


def check_averaged(source: str, file: Path, part: str, names: Collection[str], entries: Iterable[str]) -> None:
    """Refuse weights that nothing calls averaged: neither their entry, nor the prefix of their names, nor the file.

    Args:
        part: the entry that was taken. names: those in the file that were taken. entries: all that the file holds.

    Raises:
        WeightsError: `ema` asks for averages, and these are none.
    """
    if is_averaged(part) or is_averaged(file.stem) or (names and all(is_averaged(name) for name in names)):
        return
    held = _listed(entries)
    raise WeightsError(
        f"{source} has no averaged weights, as under {AVERAGED[0]} or {AVERAGED[1]}" + (held and f"; it holds {held}"),
        "set ema to false for raw weights, or leave it out",
    )


def _decided(source: str, averaged: list[str], raw: list[str], ema: bool | None, together: bool) -> list[str]:
    """Those of the two kinds that are meant. `together`: averages and raw weights of one published form, where the
    average is preferred unasked."""
    if averaged and raw and ema is None and not together:
        raise WeightsError(
            f"{source} holds averaged weights ({_listed(averaged)}) and raw ones ({_listed(raw)})",
            "set ema to true or false, or give a file with one of them",
        )
    if averaged and not raw and ema is False:
        raise WeightsError(f"{source} holds averaged weights alone ({_listed(averaged)})", "leave ema out")
    return averaged if averaged and ema is not False else raw


def _listed(names: Iterable[str]) -> str:
    shown = [name.rstrip(".") or "names without a prefix" for name in names]
    return ", ".join(shown[:SHOWN]) + (f", … {len(shown) - SHOWN} more" if len(shown) > SHOWN else "")
