"""Supported systems by name, and the Triton version that each release of torch requires."""

from __future__ import annotations

import platform
import sys

from harness.errors import HarnessError

SUPPORTED = {
    "linux-x86_64": "Linux x86-64",
    "linux-aarch64": "Linux aarch64",
    "macos-arm64": "macOS 14 or newer on Apple silicon",
}
"""What `constraints.txt` can be installed on, by the names that locks use."""

TRITON_OF_TORCH = {"2.13": "3.7.1", "2.14": "3.8.0", "2.15": "3.9.0"}
"""Triton that torch's public wheels for Linux require, to the version (their Requires-Dist), by torch's release.

These are the pairs that the kernels were compiled with (results/kernels). A build of torch without CUDA requires none.
"""


def here() -> str:
    """This machine's system as `SUPPORTED` names it; of another one a name of the same kind."""
    system = {"darwin": "macos"}.get(sys.platform, sys.platform)
    return f"{system}-{platform.machine().lower()}"


def described(name: str) -> str:
    """A system's name for people."""
    return SUPPORTED.get(name, name)


def on_linux() -> bool:
    """Whether this is Linux, which alone has /proc and enforces limits of memory."""
    return sys.platform == "linux"


def refuse_windows() -> None:
    """Raise `HarnessError` on Windows, which lacks the POSIX files and processes of a run."""
    if sys.platform in ("win32", "cygwin", "msys"):
        raise HarnessError("Windows is not supported; run it inside WSL2 (wsl --install), as on Linux")
