"""The contract of a family of kernels, which the kernels probe times; its entry points are `harness.kernels`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from harness.contracts.base import Availability, Json
from harness.contracts.model import Spans

Dtype = Literal["bfloat16", "float16", "float32"]

Compile = Literal["none", "blocks", "graph"]
"""How a whole chunk runs: as written, each block by `torch.compile`, or its launches recorded as a CUDA graph."""


@dataclass(frozen=True, slots=True)
class Shape:
    """One call: `batch` requests of `queries` each, that see `keys` keys."""

    batch: int
    queries: int
    keys: int

    def __str__(self) -> str:
        return f"B {self.batch}, Lq {self.queries}, Lk {self.keys}"


@dataclass(frozen=True, slots=True)
class Error:
    """How far an output lies from the float64 reference, by norms.

    Attributes:
        relative: over the whole output; infinite where anything is not finite.
        worst_row: the largest over single rows, which the norm of a large output would hide.
    """

    relative: float
    worst_row: float

    @staticmethod
    def worst(errors: Iterable[Error]) -> Error:
        """The largest of each."""
        errors = list(errors)
        return Error(max(error.relative for error in errors), max(error.worst_row for error in errors))


@dataclass(frozen=True, slots=True)
class Case:
    """One way of computing one shape, on inputs that are there already.

    Attributes:
        form: as in `absorbed`, `expanded`, `dense:cudnn` or `absorbed:sm90-128x128` (the kernel of that name alone).
        flops, bytes: that the form cannot do without; every tensor is read or written once.
        call: computes it; what is timed.
        check: poisons every buffer that the call writes to, calls it and compares. Raises `NotAvailable` where the
            form does not run here.
        limit: relative error allowed; `limit_row` for a single row.
        detail: what else a record should say, as the backend; `default: true` for the kernel that runs unless a tuning
            file names another.
        staged: makes the same call and names its steps; None where it has none, or none that stay apart.
        compiled: how many graphs have been compiled so far; None where nothing is.
    """

    form: str
    flops: float
    bytes: float
    call: Callable[[], object]
    check: Callable[[], Error]
    limit: float
    limit_row: float
    detail: Mapping[str, Json] = field(default_factory=dict)
    staged: Callable[[Spans], object] | None = None
    compiled: Callable[[], int] | None = None


@dataclass(frozen=True, slots=True)
class Crossing:
    """Measured at `keys` keys: up to `queries` queries the absorbed form was the faster one.

    `variant` is the fastest kernel for so many queries; empty where only one was tried.
    """

    keys: int
    queries: int
    variant: str = ""


class Bench(ABC):
    """A family of kernels.

    Attributes:
        version: changes whenever a result could change.

    Args:
        dtype: of the inputs. sizes: widths, by the family's own names. device: `cpu`, `cuda` or `cuda:1`.
    """

    version: ClassVar[str] = "1"

    @abstractmethod
    def __init__(self, dtype: Dtype, sizes: Mapping[str, int], device: str) -> None:
        """Check the sizes; allocates nothing. Raises `OptionError`."""

    @abstractmethod
    def identity(self) -> Mapping[str, Json]:
        """What decides a result beyond version and options. Imports no torch."""

    @abstractmethod
    def available(self) -> Availability:
        """Whether the kernels run on the device, without measuring time."""

    @abstractmethod
    def cases(self, shape: Shape, seed: int) -> Iterator[Case]:
        """Every form of `shape`, all on the same fresh random inputs."""

    def chunks(self, seed: int, compile: Compile = "none") -> Iterator[tuple[Shape, Case]]:
        """Whole chunks of the network that the family serves, as `chunk:dense` or `chunk:absorbed`; none by default.

        The check of such a case covers every pass of the chunk, run as `compile` says, the same for every case. Its
        check raises `NotAvailable` where it cannot run so.
        """
        return iter(())

    @abstractmethod
    def chosen(self, shape: Shape, crossings: Sequence[Crossing] = ()) -> str:
        """The form that dispatch picks for `shape` by itself; as though `crossings` had been kept, where given."""

    @abstractmethod
    def keep(self, crossings: Sequence[Crossing], flops: float, moved: float) -> str:
        """Let dispatch use what was measured on this device from now on; says what was kept.

        `flops` and `moved` are the device's ceilings, FLOP/s and bytes/s.
        """
