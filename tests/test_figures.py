"""Figures as SVG: the same text each time, and what is written is what the suffix says."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

from matplotlib.figure import Figure

from deqverify.figures import save, svg


def drawn() -> Figure:
    figure = Figure(figsize=(2.0, 2.0))
    axes = figure.subplots()
    axes.loglog([0.1, 1.0], [0.1, 2.0], marker="o", label="a line")  # markers have ids, powers of ten comments
    axes.set_title("a title")
    axes.legend()
    return figure


def test_the_same_figure_gives_the_same_text_without_a_date_and_with_labels_that_stay_text() -> None:
    text = svg(drawn())
    assert text == svg(drawn())
    assert text.startswith("<?xml")
    assert text.endswith("</svg>\n")
    assert ">a title</text>" in text
    assert "<!--" not in text
    assert str(datetime.date.today()) not in text


def test_only_a_transparent_figure_lacks_its_white_background() -> None:
    white = 'style="fill: #ffffff"'
    assert white in svg(drawn())
    assert white not in svg(drawn(), transparent=True)


@pytest.mark.parametrize(("name", "start"), [("f.svg", b"<?xml"), ("f", b"<?xml"), ("f.png", b"\x89PNG")])
def test_the_suffix_says_the_format(name: str, start: bytes, tmp_path: Path) -> None:
    save(drawn(), tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(start)


def test_an_unknown_suffix_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="doc"):
        save(drawn(), tmp_path / "f.doc")
