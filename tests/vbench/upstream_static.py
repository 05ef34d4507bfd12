"""Asks the package's own static filter about one clip; runs inside the vbench environment."""

import contextlib
import json
import os
import sys

import torch

torch.set_num_threads(1)


def main() -> None:
    request = json.load(sys.stdin)
    with contextlib.redirect_stdout(sys.stderr):
        from easydict import EasyDict
        from vbench.cli import static_filter

        static_filter.DEVICE = "cpu"
        model = f"{os.environ['VBENCH_CACHE_DIR']}/raft_model/models/raft-things.pth"
        options = EasyDict(model=model, small=False, mixed_precision=False, alternate_corr=False)
        static = static_filter.StaticFilter(options, "cpu").infer(request["path"])
    print(json.dumps(bool(static)))


if __name__ == "__main__":
    main()
