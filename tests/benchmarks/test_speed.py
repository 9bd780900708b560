"""The tool that measures the fast reference keeps its cost model where it is told to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from deqverify.reference.fast import calibrate
from deqverify.reference.fast.cost import METHODS, CostModel
from tools import speed


@pytest.fixture
def threads() -> Iterator[None]:
    """The tool sets the number of threads for its process, which is that of other tests here."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_what_is_calibrated_can_be_loaded_again(
    threads: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(calibrate, "SIZES", [(8, 2), (16, 2), (16, 4)])
    folder = tmp_path / "new" / "folder"
    speed.main(["calibrate", "--seconds", "0.01", "--save", str(folder)])
    kept = {model.where["dtype"]: model for model in map(CostModel.load, folder.iterdir())}
    assert set(kept) == {"float64", "float32"}
    for model in kept.values():
        assert model.where["device"] == "cpu"
        assert {*METHODS} >= {*model.times(16, 4, 0.9, 1e-6, 0.1)} >= {"lu", "mass"}
    assert "turn mass" in capsys.readouterr().out


def test_only_the_calibration_has_something_to_keep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        speed.main(["peers", "--save", str(tmp_path)])
    assert "--save: only calibrate" in capsys.readouterr().err
