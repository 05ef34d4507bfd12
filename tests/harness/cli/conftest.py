"""Commands as a user types them."""

from __future__ import annotations

from pathlib import Path

import pytest
from typed_commands import SUITE, Harness, Result

from harness.cli.main import main


@pytest.fixture
def harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Harness:
    """Types a command in a folder with the suite `suite.yaml`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "suite.yaml").write_text(SUITE)

    def call(*arguments: str) -> Result:
        with pytest.raises(SystemExit) as caught:
            main(list(arguments))
        code = caught.value.code
        text = capsys.readouterr()
        return Result(code if isinstance(code, int) else 0, text.out, text.err)

    return call
