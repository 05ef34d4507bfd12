"""The start-up file of the metric environments, beside a torchvision whose compiled part is missing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

STARTUP = Path(__file__).parents[3] / "harness" / "environments"

PROGRAM = """
import importlib.util, startup
startup.install(); startup.install()  # a .pth file may be read twice
assert importlib.util.find_spec("torchvision") is not None  # as transformers asks before it imports
import torchvision, torch
print(torch._C._dispatch_has_kernel("torchvision::nms") or bool(torch.ops.torchvision.nms))
"""


@pytest.mark.skipif(torch.version.cuda is not None, reason="a CUDA build of torch needs no stand-in operators")
def test_the_operators_are_declared_once_however_often_torchvision_is_looked_for(tmp_path):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").touch()
    settings = {**os.environ, "PYTHONPATH": os.pathsep.join([str(STARTUP), str(tmp_path)])}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=settings, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "True"
