"""Start-up file of the metric environments: lets a CUDA build of torchvision be imported beside a CPU-only torch.

torchvision's registry publishes one wheel, whose compiled part links to CUDA. Beside a CPU-only torch that part does
not load, the operators that it would have defined are missing, and `import torchvision` stops at `operator
torchvision::nms does not exist`. Built environments run this file at start-up, by a `.pth` line. It does nothing until
`torchvision` is first imported; then, and only if torch has no CUDA and the compiled part does not load, it declares
the signatures of `nms` and `qnms`, the two that torchvision refers to while it is imported. Whatever needs the compiled
part (`nms`, `roi_align`, image and video readers) still raises where it is called.

Standard library only: this file is copied alone into the environment's site-packages.
"""

import importlib.abc
import importlib.machinery
import sys


class _BeforeTorchvision(importlib.abc.MetaPathFinder):
    """Declares the missing operators just before `torchvision` is first looked for; after that it does nothing.

    It stays among the finders. Taking one out while Python walks the list would make it skip the next.
    """

    waiting = True

    def find_spec(self, name, path=None, target=None):  # type: ignore[no-untyped-def]
        if name == "torchvision" and self.waiting:
            self.waiting = False
            declare_operators()


def declare_operators() -> bool:
    """Declare `torchvision::nms` and `::qnms` where torchvision's own compiled part cannot; True if it did."""
    spec = importlib.machinery.PathFinder.find_spec("torch")
    if spec is None:
        return False
    import torch

    if torch.version.cuda is not None or _loads_compiled_part():
        return False
    schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    library.define("nms" + schema)  # type: ignore[no-untyped-call]
    library.define("qnms" + schema)  # type: ignore[no-untyped-call]
    _kept.append(library)
    return True


_kept: list = []  # type: ignore[type-arg]
"""The operator library lives as long as this list: torch unregisters a library that is collected."""


def _loads_compiled_part() -> bool:
    import pathlib

    import torch

    spec = importlib.machinery.PathFinder.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        return True
    parts = sorted(pathlib.Path(spec.submodule_search_locations[0]).glob("_C*.so"))
    if not parts:
        return False
    try:
        torch.ops.load_library(str(parts[0]))  # type: ignore[no-untyped-call]
    except OSError:
        return False
    return True


def install() -> None:
    """Wait for `torchvision`, once; called by the environment's `.pth` file, which Python may read twice."""
    if "torchvision" not in sys.modules and not any(isinstance(f, _BeforeTorchvision) for f in sys.meta_path):
        sys.meta_path.insert(0, _BeforeTorchvision())
