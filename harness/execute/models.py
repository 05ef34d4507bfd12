"""The one model that a process has loaded: for its clips, or anew for every measurement."""

from __future__ import annotations

import traceback
from collections.abc import Callable

from harness.contracts import VideoModel, registry
from harness.runs.plan import Arm
from harness.system import devices
from harness.system.files import folder_kept


class Models:
    """The one model that is loaded. A load that failed is not tried again for every unit."""

    def __init__(self, device: str, say: Callable[[str], None]) -> None:
        self.device, self.say = device, say
        self._label: str | None = None
        self._model: VideoModel | None = None
        self._fault: BaseException | None = None
        self._imported: set[str] = set()

    def get(self, arm: Arm, doing: str = "loading") -> VideoModel:
        """The model of `arm`, loaded on first use; progress calls that `doing`. Raises what loading raised."""
        if self._label != arm.label:
            self.unload()
            self._label = arm.label
            self.say(f"{doing} {arm.label}")
            try:
                with folder_kept():
                    model = registry.models.create(arm.name, arm.options)
                    model.load(self.device)
            except (Exception, SystemExit) as fault:
                # The frames of a failed load would keep its tensors alive until the next model.
                traceback.clear_frames(fault.__traceback__)
                self._fault = fault
                raise
            self._model = model
            self._imported.add(arm.label)
        if self._model is None:
            raise self._fault or RuntimeError("no model is loaded")
        return self._model

    def renew(self, arm: Arm | None) -> None:
        """Free the model and its memory, so that a measurement loads its own and begins with an empty device.

        On a CPU the memory of the whole process is measured, and modules that loading imports would count as weights.
        So an arm that this process has not loaded yet is first loaded once for its modules. Raises what loading raised.
        """
        self._clear()
        if arm is not None and self.device == "cpu" and arm.label not in self._imported:
            self.get(arm, doing="importing")
            self._clear()

    def _clear(self) -> None:
        if self._model is not None:
            self.unload()
        devices.give_back(self.device)

    def unload(self) -> None:
        """Free the model, if one is loaded."""
        model, self._model, self._label, self._fault = self._model, None, None, None
        if model is not None:
            try:
                with folder_kept():
                    model.unload()
            except Exception as fault:  # noqa: BLE001 - a plug-in may raise anything, and its records are written
                self.say(f"unloading failed: {type(fault).__name__}: {fault}")
