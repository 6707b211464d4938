"""The quickstart's stages, which share a process."""

from __future__ import annotations

import pytest

from videowm.quickstart import in_this_process, main
from videowm.types import UserError


def test_stages_in_one_process(tmp_path, capsys):
    """Guards a stage that ends the whole quickstart, or that failed and is passed over: its exit code comes back."""
    assert in_this_process("videowm", ["config", "list"]) == 0
    assert in_this_process("videowm", ["train", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml" in capsys.readouterr().err


def test_a_stage_that_fails(tmp_path):
    """Guards the sentence on the stage that failed, also where it ran beside this process."""
    (tmp_path / "data").write_text("a file in the way")
    with pytest.raises(UserError, match="while it was to record"):
        main(tmp_path, workers=1)
