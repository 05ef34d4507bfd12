"""Runs `interpreted.py` under Triton's interpreter, which has to be switched on before triton is imported."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
HERE = Path(__file__).parent


def interpreted(*options: str, file: str = "interpreted.py") -> int:
    """How many tests passed; all of those chosen must."""
    env = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, str(HERE / file)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, cwd=HERE.parents[2], check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed, done.stdout
    assert "skipped" not in done.stdout
    return int(passed[1])


def test_kernels_against_the_reference() -> None:
    assert interpreted() >= 40


def test_kernels_that_read_codes_against_float64() -> None:
    assert interpreted(file="interpreted_coded.py") >= 22


@pytest.mark.slow
def test_kernels_against_the_reference_in_larger_sweeps() -> None:
    assert interpreted("-m", "slow") >= 70
