import sys
from pathlib import Path
from types import ModuleType

import pytest

from harness.contracts import registry

FAKE = Path(__file__).parents[2] / "data" / "fake_timed_model.py"


@pytest.fixture
def fake() -> ModuleType:
    """The module of the fake model, registered as a plug-in, its virtual time at zero."""
    registry.load_plugin(FAKE)
    module = sys.modules[registry.models.get("fake/timed").__module__]
    module.TIME.ns = 0
    return module


@pytest.fixture
def subject(fake):
    """Makes a `Subject` of the fake model from its options; `made` holds every model that was loaded."""
    from harness.contracts import Subject

    made = []

    def make(**options):
        def load():
            model = registry.models.create("fake/timed", options)
            model.load("cpu")
            made.append(model)
            return model

        card = registry.models.create("fake/timed", options).describe()
        return Subject("fake/timed", options, card, "cpu", load, (FAKE,))

    make.made = made
    return make
