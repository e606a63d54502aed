"""What a command prints where its input is wrong."""

from __future__ import annotations

import pytest

from iac_lightning.cli import main


def test_a_value_is_cut_where_it_would_bury_the_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "experiments/demo/cnn.yaml", f"trainer.max_epochs={'n' * 90_000}"]) == 2
    printed = capsys.readouterr().err
    assert "trainer.max_epochs = 'nnn" in printed
    assert "expected" in printed
    assert len(printed) < 1000
