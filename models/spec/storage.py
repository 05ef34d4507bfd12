"""How a cache's numbers are stored, as data: their kind, what shares a scale, and the bytes of it all; torch-free."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from pydantic import Field

from harness.contracts import Options
from harness.errors import OptionError
from videomla_models.spec.config import TransformerConfig
from videomla_models.spec.window import WindowPolicy

Kind = Literal["exact", "bf16", "fp8_e4m3", "int8", "int4", "int2"]
Group = Literal["channel", "token", 32, 64]
BITS = {"bf16": 16, "fp8_e4m3": 8, "int8": 8, "int4": 4, "int2": 2}
SCALE_BYTES = 2
"""A scale, and the least value of an asymmetric group, is a float16."""


class CacheOptions(Options):
    """How the cache is stored. A finished chunk is encoded once, in its clean pass; the chunk at work stands exact.

    Attributes:
        content: of values, or of content latents: `exact` is the model's `dtype`.
        key: of keys, or of the rope key that all heads share.
        group: numbers that share a scale: all tokens of a latent frame in one `channel`, all channels of a `token` (of
            each head), or so many neighbouring channels of a token.
        key_group: the same for keys, where it differs.
        symmetric: levels lie evenly around 0; otherwise between a group's least and largest number.
        residual_rounds: how often what is left over is stored as well, in the same kind and groups (Quant VideoGen).
        hadamard: channels are mixed by a Walsh-Hadamard matrix before, in blocks of the largest power of two that
            divides them, and unmixed after.
        sink: `exact`, with the averages behind it, or `coded` as all others. recent_chunks: how many of the latest
            chunks are kept exact as well.
        rotated: keys are encoded `before` or `after` rotary positions turn them; as the window keeps them unless given.
    """

    content: Kind = "exact"
    key: Kind = "exact"
    group: Group = "channel"
    key_group: Group | None = None
    symmetric: bool = True
    residual_rounds: int = Field(default=0, ge=0, le=3)
    hadamard: bool = False
    sink: Literal["exact", "coded"] = "coded"
    recent_chunks: int = Field(default=0, ge=0)
    rotated: Literal["before", "after"] | None = None

    def policy(self, policy: WindowPolicy) -> WindowPolicy:
        """`policy` with its keys rotated at read or write, as `rotated` says; `OptionError` where they cannot be."""
        if self.rotated is None:
            return policy
        if policy.schedule == "rolling":
            raise OptionError("cache.rotated: the rolling schedule keeps its anchor unrotated alone", "leave it out")
        if self.rotated == "after" and (policy.positions == "relative" or policy.sink_kind == "average"):
            raise OptionError("cache.rotated after: keys of this window turn again", "set cache.rotated to before")
        return replace(policy, rotation="read" if self.rotated == "before" else "write")

    def storage(self, config: TransformerConfig, policy: WindowPolicy, chunk: int) -> Storage:
        """These options for a network and its window. Raises `OptionError` for what does not fit them."""
        if self == CacheOptions():
            return EXACT
        code = Code(self.content, self.group, self.symmetric, self.residual_rounds, self.hadamard)
        key = replace(code, kind=self.key, group=self.key_group or self.group)
        storage = Storage(code, key, policy.fixed if self.sink == "exact" else 0, self.recent_chunks * chunk)
        storage.check(config, policy, chunk)
        return storage


@dataclass(frozen=True, slots=True)
class Code:
    """How one part of a layer's entries is stored; the attributes are those of `CacheOptions`.

    Attributes:
        rounds: further ones, each of which stores what those before it have left over.
    """

    kind: Kind = "exact"
    group: Group = "channel"
    symmetric: bool = True
    rounds: int = 0
    hadamard: bool = False

    @property
    def scaled(self) -> bool:
        """Whether groups have a scale."""
        return self.kind not in ("exact", "bf16")

    @property
    def readable(self) -> bool:
        """Whether attention's kernels read it: integers of 8 or 4 bits, symmetric, of one round, unmixed."""
        return self.kind in ("int8", "int4") and self.symmetric and not self.rounds and not self.hadamard

    def check(self, part: str, width: int) -> None:
        """Raise `OptionError` where `width` channels, of a head where there are heads, cannot be stored so."""
        if not self.scaled:
            return
        option = "key_group" if part == "key" else "group"
        if isinstance(self.group, int) and width % self.group:
            raise OptionError(
                f"cache.{option} {self.group} does not divide the {width} channels of its {part}",
                f"set cache.{option} to channel or token, or to a divisor of {width}",
            )
        packed = 8 // BITS[self.kind]
        if width % packed:
            raise OptionError(
                f"cache.{part} {self.kind} packs {packed} numbers into a byte, and its {part} has {width} channels",
                "choose int8 or fp8_e4m3",
            )
        if self.kind == "fp8_e4m3" and not self.symmetric:
            raise OptionError(
                "cache.symmetric false needs levels at equal distances, which fp8_e4m3 has not",
                "choose int8, int4 or int2",
            )

    def frame_bytes(self, tokens: int, heads: int, width: int, element_bytes: int) -> int:
        """Bytes of one latent frame of `tokens` tokens with `heads` x `width` numbers each, scales included.

        Args:
            element_bytes: of a number that is stored exactly.
        """
        numbers = tokens * heads * width
        if self.kind == "exact":
            return numbers * element_bytes
        if self.kind == "bf16":
            return numbers * 2
        if self.group == "channel":
            groups = heads * width
        else:
            groups = tokens * heads * (1 if self.group == "token" else width // self.group)
        scales = groups * SCALE_BYTES * (1 if self.symmetric else 2)
        return (self.rounds + 1) * (numbers * BITS[self.kind] // 8 + scales)


@dataclass(frozen=True, slots=True)
class Storage:
    """How a layer's entries are stored.

    Attributes:
        content: values, or content latents. key: keys, or the rope key that all heads share.
        sink: first frames that are kept exact, in place of a code: the sink and the averages behind it.
        recent: latest frames that are kept exact, beside their code, so that none has to be made when they age.
        in_kernel: whether attention's kernels read content codes themselves; otherwise all are decoded before.
    """

    content: Code = Code()
    key: Code = Code()
    sink: int = 0
    recent: int = 0
    in_kernel: bool = False

    @property
    def coded(self) -> bool:
        """Whether any part is stored otherwise than the model computes it."""
        return any(code.kind != "exact" for code in (self.content, self.key))

    def check(self, config: TransformerConfig, policy: WindowPolicy, chunk: int) -> None:
        """Raise `OptionError` for what network or window cannot do."""
        if not self.coded:
            raise OptionError("cache says how, but both its parts are exact", "name a kind for one, or leave cache out")
        if config.attention == "linear":
            raise OptionError("cache needs entries, and linear attention keeps a state", "leave it out")
        if not (self.content.scaled or self.key.scaled) and replace(self.content, kind="exact") != Code():
            raise OptionError(
                "cache.group, symmetric, residual_rounds and hadamard belong to kinds with scales",
                "choose int8, int4, int2 or fp8_e4m3, or leave them out",
            )
        for part, (_, width) in parts(config).items():
            code: Code = getattr(self, part)
            code.check(part, width)
        if policy.front or policy.by_head:
            raise OptionError(
                "a bank, an anchor, a choice of tokens and classes of heads work on entries as they are",
                "leave cache out, or choose another window policy",
            )
        if self.recent and (policy.rolls or policy.average_rates):
            raise OptionError(
                "averages and frames that come back would pass for the latest ones", "set cache.recent_chunks to 0"
            )
        if (policy.sink_kind == "average" or policy.average_rates) and not self.sink:
            raise OptionError(
                "an average moves by less than a code's steps, and would stand still", "set cache.sink to exact"
            )
        self._check_reads(policy, chunk)

    def _check_reads(self, policy: WindowPolicy, chunk: int) -> None:
        """Raise `OptionError` where nothing is read in codes, or more is kept exact than the window holds.

        The chunk at work reads the window less itself; what leaves for an average is read once more.
        """
        capacity = policy.capacity(chunk)
        besides = capacity - chunk - policy.fixed
        in_codes = policy.fixed - self.sink + max(0, besides - self.recent)
        if not in_codes and not (policy.sink_kind == "average" or policy.average_rates):
            most, frames = (besides - 1) // chunk, policy.frames + self.recent + 1 - besides
            frames += -frames % chunk if policy.schedule == "restart" else 0
            ways = [f"cache.recent_chunks to at most {most}"] if self.recent and most >= 0 else []
            ways += ["cache.sink to coded"] if self.sink and self.recent < besides + chunk else []
            raise OptionError(
                f"cache leaves nothing to read in codes: in a window of {capacity} frames a chunk of {chunk} reads "
                f"{capacity - chunk}, and a sink of {self.sink} and the {self.recent} latest are kept exact",
                f"set {', or '.join([*ways, f'policy.frames to at least {frames}'])}",
            )
        if self.recent and self.recent >= besides + chunk:
            raise OptionError(
                f"cache.recent_chunks keeps {self.recent} frames exact, all that a window of {capacity} holds behind "
                f"its sink of {policy.sink}",
                f"set cache.recent_chunks to at most {(besides + chunk - 1) // chunk}",
            )

    def layer_bytes(self, config: TransformerConfig, tokens: int, capacity: int, element_bytes: int) -> int:
        """Bytes of one layer's entries of one request, its window of `capacity` frames full."""
        total = 0
        for part, (heads, width) in parts(config).items():
            code: Code = getattr(self, part)
            exact = Code().frame_bytes(tokens, heads, width, element_bytes)
            if code.kind == "exact":
                total += capacity * exact
            else:
                coded = code.frame_bytes(tokens, heads, width, element_bytes)
                total += (capacity - self.sink) * coded + (self.sink + self.recent) * exact
        return total

    def decoded_scalars(self, config: TransformerConfig) -> int:
        """Numbers of a token that attention reads from a decoded copy."""
        decoded = {"key"} if self.in_kernel else {"key", "content"}
        of_part = {part: heads * width for part, (heads, width) in parts(config).items() if part in decoded}
        return sum(width for part, width in of_part.items() if getattr(self, part).kind != "exact")

    def effective_bits(self, config: TransformerConfig, tokens: int, capacity: int, element_bytes: int) -> float:
        """Bits of storage for each number of `capacity` frames, scales and exact frames included."""
        numbers = capacity * tokens * config.cached_scalars
        return 8 * self.layer_bytes(config, tokens, capacity, element_bytes) / numbers


EXACT = Storage()
"""Every number as the model computes it."""


def parts(config: TransformerConfig) -> dict[str, tuple[int, int]]:
    """Heads and channels of a head of either part of a layer's entries."""
    if config.attention == "latent":
        return {"content": (1, config.latent.d_c), "key": (1, config.latent.d_rope)}
    return {"content": (config.heads, config.head_dim), "key": (config.heads, config.head_dim)}
