"""What can be said of the CUDA device and of Triton without importing torch or triton."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

LEAST_TRITON = (3, 7)
"""The oldest release whose compiler passes the whole gate, which is also the least that is declared."""

UNNAMED = "cuda"
"""Name of a device that the driver does not tell; nothing measured on one is kept, as the next may be another."""

COLUMNS: Mapping[str, int] = {
    "A100": 80, "A800": 80, "H100": 90, "H200": 90, "H800": 90, "H20": 90, "B200": 100, "B300": 100,
}  # fmt: skip
"""Column of the table of kernels by a word of the product name (NVIDIA, CUDA GPU compute capability: 8.0, 9.0, 10.0
and 10.3)."""


def device_name(device: str, proc: Path = Path("/proc/driver/nvidia/gpus")) -> str:
    """The product name of `device`, read without torch.

    Returns `cpu`, or `UNNAMED` where the driver does not tell or the machine's GPUs are not all of one product: the
    order in which CUDA numbers them is its own.
    """
    if not device.startswith("cuda"):
        return "cpu"
    names = set()
    for folder in proc.glob("*"):
        try:
            text = (folder / "information").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return UNNAMED
        model = re.search(r"^Model:\s*(\S.*?)\s*$", text, re.MULTILINE)
        names.add(model[1] if model else UNNAMED)
    return names.pop() if len(names) == 1 else UNNAMED


def column(name: str) -> int | None:
    """80, 90 or 100 for a product name, as `variants.architecture` has it of a capability; None where unknown."""
    return next((arch for word, arch in COLUMNS.items() if word in name), None)


def no_triton() -> str:
    """Why Triton's kernels cannot be used in this environment; empty where they can. Imports nothing."""
    spec = find_spec("triton")
    if spec is None or spec.origin is None:
        return "triton is not installed"
    # The package goes by several names in the indexes, so its metadata is no help.
    text = Path(spec.origin).read_text(encoding="utf-8")
    version = re.search(r"""^__version__ = ["']((\d+)\.(\d+)[^"']*)""", text, re.MULTILINE)
    if version and (int(version[2]), int(version[3])) < LEAST_TRITON:
        return f"triton {version[1]} is older than {'.'.join(map(str, LEAST_TRITON))}"
    return ""
