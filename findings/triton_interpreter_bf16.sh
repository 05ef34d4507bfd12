#!/usr/bin/env bash
# Triton 3.7.1 (the one that torch 2.13.0 takes): under TRITON_INTERPRET=1 bfloat16 is not what compiled kernels compute
# with. `tl.dot` of two bfloat16 tiles multiplies their bit patterns as integers, so that 16 x 1 x 1 is 4,228,120,576,
# and a cast from float32 cuts the lower bits off where a device rounds to the nearest: 1.006 becomes 1.0 instead of
# 1.0078. Neither raises or warns. A kernel that is tested on a CPU in bfloat16 so fails, or passes with twice the error;
# float16 and float32 are right.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 triton==3.7.1 numpy==2.4.6

cat > "$folder/kernels.py" <<'PYTHON'
import sys

import torch
import triton
import triton.language as tl

SIDE = 16


@triton.jit
def product(a, b, out, SIDE: tl.constexpr):
    place = tl.arange(0, SIDE)[:, None] * SIDE + tl.arange(0, SIDE)[None]
    tl.store(out + place, tl.dot(tl.load(a + place), tl.load(b + place)))


@triton.jit
def narrow(a, out, SIDE: tl.constexpr):
    place = tl.arange(0, SIDE)
    tl.store(out + place, tl.load(a + place).to(tl.bfloat16))


def dot_of_ones(dtype):
    ones, out = torch.ones(SIDE, SIDE, dtype=dtype), torch.zeros(SIDE, SIDE)
    product[(1,)](ones, ones, out, SIDE)
    return out[0, 0].item()


value = torch.full((SIDE,), 1.006)
cast = torch.zeros(SIDE, dtype=torch.bfloat16)
narrow[(1,)](value, cast, SIDE)
got, right = cast[0].item(), value.to(torch.bfloat16)[0].item()
dots = {str(dtype)[6:]: dot_of_ones(dtype) for dtype in (torch.float32, torch.float16, torch.bfloat16)}
print(f"triton {triton.__version__}: 16 x 1 x 1 is {dots}; 1.006 in bfloat16 is {got}, by torch {right}")
as_seen = dots["float32"] == dots["float16"] == SIDE and dots["bfloat16"] == SIDE * 0x3F80**2
sys.exit(0 if as_seen and got == 1.0 and right == 1.0078125 else 1)
PYTHON
TRITON_INTERPRET=1 "$folder/venv/bin/python" "$folder/kernels.py"
