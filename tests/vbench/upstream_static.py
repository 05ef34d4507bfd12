"""Asks the package's own static filter about clips; runs inside the vbench environment."""

import contextlib
import json
import sys

import torch

torch.set_num_threads(1)


def main() -> None:
    request = json.load(sys.stdin)
    with contextlib.redirect_stdout(sys.stderr):
        from easydict import EasyDict
        from vbench.cli import static_filter

        static_filter.DEVICE = "cpu"
        static = []
        for model, path in request["cases"]:
            options = EasyDict(model=model, small=False, mixed_precision=False, alternate_corr=False)
            static.append(bool(static_filter.StaticFilter(options, "cpu").infer(path)))
    print(json.dumps(static))


if __name__ == "__main__":
    main()
