#!/usr/bin/env bash
# pytorch-msssim 1.0.0 and torchmetrics 1.9.0 take a clip as [batch, channel, time, height, width], but their SSIM of it is
# not the mean over its frames: the Gaussian window reaches over 11 frames as well. A clip that flickers is then worse
# than one with noise, where the mean over frames says the opposite, so results of the two ways cannot stand in one
# table. Of a clip of 10 frames pytorch-msssim leaves the time out, with a warning about smoothing, and gives the mean.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 pytorch-msssim==1.0.0 torchmetrics==1.9.0

cat > "$folder/ssim.py" <<'PYTHON'
import sys
import warnings

import torch
from pytorch_msssim import ssim
from torchmetrics.functional.image import structural_similarity_index_measure as metrics_ssim

FRAMES = 16
warnings.simplefilter("ignore")
torch.manual_seed(0)
picture = 0.4 + 0.2 * torch.nn.functional.interpolate(torch.rand(1, 3, 8, 8), size=(32, 32), mode="bilinear")
clip = picture.unsqueeze(2).expand(1, 3, FRAMES, 32, 32).contiguous()
sign = torch.tensor([1.0, -1.0]).repeat(FRAMES // 2).view(1, 1, FRAMES, 1, 1)
flickers, noisy = clip + 0.1 * sign, clip + 0.02 * torch.randn(clip.shape)

ways = {
    "pytorch-msssim": lambda a, b: ssim(a, b, data_range=1.0),
    "torchmetrics": lambda a, b: metrics_ssim(a, b, data_range=1.0),
}
as_said = True
for name, way in ways.items():
    for_frames = [
        torch.stack([way(bad[:, :, t], clip[:, :, t]) for t in range(FRAMES)]).mean() for bad in (flickers, noisy)
    ]
    whole = [way(bad, clip) for bad in (flickers, noisy)]
    print(
        f"{name}: mean over frames {for_frames[0]:.3f} flickers, {for_frames[1]:.3f} noise; "
        f"as one tensor {whole[0]:.3f} and {whole[1]:.3f}"
    )
    as_said &= bool(for_frames[0] > for_frames[1] and whole[0] < whole[1])
few = slice(0, 10)
by_frames = torch.stack([ssim(flickers[:, :, t], clip[:, :, t], data_range=1.0) for t in range(10)]).mean()
short = ssim(flickers[:, :, few], clip[:, :, few], data_range=1.0)
print(f"pytorch-msssim, 10 frames: {by_frames:.3f} by frames, {short:.3f} as one tensor")
sys.exit(0 if as_said and abs(by_frames - short) < 1e-3 else 1)
PYTHON
"$folder/venv/bin/python" "$folder/ssim.py"
