import sys
from pathlib import Path
from types import ModuleType

import pytest

from harness import registry

FAKE = Path(__file__).parents[2] / "data" / "fake_timed_model.py"


@pytest.fixture
def fake() -> ModuleType:
    """The module of the fake model, registered as a plug-in, its virtual time at zero."""
    registry.load_plugin(FAKE)
    module = sys.modules[registry.models.get("fake/timed").__module__]
    module.TIME.ns = 0
    return module
