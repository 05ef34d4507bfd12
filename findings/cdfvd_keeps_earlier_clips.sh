#!/usr/bin/env bash
# cd-fvd 0.1.1: a second compute_fvd(real, fake) of one object is not the score of its second arguments. The statistics of
# both sides are never emptied, so that it is the score of all clips given so far; and once n_fake clips are in, 2,048 by
# default, later ones are left out and the number is the first arm's, to the last digit. No warning. A loop over arms with
# one object, as loading the network once suggests, so prints wrong or equal FVDs. empty_fake_stats() before each call
# helps. (The network has random weights here, in the true format.)
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet cd-fvd==0.1.1 torch==2.13.0 torchvision==0.28.0 numpy==2.4.6 \
    scipy==1.17.1 einops==0.8.2

cat > "$folder/fvd.py" <<'PYTHON'
import importlib.metadata
import sys
import warnings

import numpy as np
import torch

if torch.version.cuda is None:
    # torchvision's compiled part needs CUDA; without it the signatures that its import refers to must be there.
    declared = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        declared.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from cdfvd import fvd
from cdfvd.third_party.i3d.pytorch_i3d import InceptionI3d

warnings.simplefilter("ignore")
torch.manual_seed(0)
network = InceptionI3d(400, in_channels=3)
for layer in network.modules():
    if isinstance(layer, torch.nn.Conv3d):
        torch.nn.init.kaiming_normal_(layer.weight)
torch.save(network.state_dict(), sys.argv[1])
rng = np.random.default_rng(0)


def clips(low, high):
    """Four clips of nine frames: coarse blocks of random colours between two levels."""
    return np.kron(rng.integers(low, high, (4, 9, 4, 4, 3)), np.ones((1, 1, 8, 8, 1))).astype(np.uint8)


def scorer(**options):
    return fvd.cdfvd("i3d", ckpt_path=sys.argv[1], device="cpu", **options)


real, near, flat = clips(0, 256), clips(0, 256), clips(100, 120)
alone = scorer().compute_fvd(real, flat)
one, few = scorer(), scorer(n_fake=4)
in_turn = [one.compute_fvd(real, arm) for arm in (near, flat)]
when_full = [few.compute_fvd(real, arm) for arm in (near, flat)]
one.empty_real_stats()
one.empty_fake_stats()
emptied = one.compute_fvd(real, flat)
print(f"cd-fvd {importlib.metadata.version('cd-fvd')}, FVD of the second arm: {alone:.2f} by an object of its own; "
      f"{in_turn[1]:.2f} by one that has scored the first, at {in_turn[0]:.2f}; {emptied:.2f} by it when emptied; "
      f"with n_fake=4 {when_full[0]:.2f} and then {when_full[1]:.2f}")
as_seen = in_turn[1] < 0.7 * alone and when_full[0] == when_full[1] == in_turn[0] and np.isclose(emptied, alone)
sys.exit(None if as_seen else "cd-fvd scores the second arm otherwise now")
PYTHON
"$folder/venv/bin/python" "$folder/fvd.py" "$folder/i3d.pt"
