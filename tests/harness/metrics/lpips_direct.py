"""Run inside the quality environment: LPIPS by torchvision's own layers, with the weights of a folder."""

import json
import sys

import numpy as np
import torch
from torchvision.models import alexnet


def main(folder: str, first: str, second: str) -> None:
    network = alexnet(weights=None).eval()
    network.load_state_dict(torch.load(f"{folder}/alexnet-owt-7be5be79.pth", weights_only=True))
    heads = torch.load(f"{folder}/alex.pth", weights_only=True)
    distances = []
    for pair in zip(np.load(first), np.load(second), strict=True):
        features = []
        for frame in pair:
            x = torch.from_numpy(frame).double().permute(2, 0, 1)[None] / 127.5 - 1
            shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
            x = (x - shift.view(3, 1, 1)) / scale.view(3, 1, 1)
            taken = []
            for layer in network.double().features:
                x = layer(x)
                if isinstance(layer, torch.nn.ReLU):
                    taken.append(x[0] / x[0].norm(dim=0).add(1e-10))
            features.append(taken)
        total = 0.0
        for (name, weight), one, other in zip(heads.items(), *features, strict=True):
            assert name.startswith("lin")
            total += float(((one - other) ** 2 * weight[0].double()).sum(0).mean())
        distances.append(total)
    print(json.dumps({"distances": distances}))


with torch.inference_mode():
    main(*sys.argv[1:])
