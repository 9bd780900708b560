"""Figures of Matplotlib as SVG: the same numbers give the same text, byte for byte, and labels stay text."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_RC = {
    "svg.fonttype": "none",  # text stays text: small files, and a reader's own font
    "svg.hashsalt": "deqverify",  # ids that are hashes of what they name, and not random
}


def svg(figure: Figure, transparent: bool = False) -> str:
    """``figure`` as an SVG file's text, without a date and without the comments that Matplotlib leaves beside each
    label; ``transparent``: without its white background."""
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context(_RC):
        figure.savefig(buffer, format="svg", transparent=transparent, metadata={"Date": None, "Creator": None})
    return re.sub(r"<!--.*?-->\n?|\s+$", "", buffer.getvalue(), flags=re.DOTALL) + "\n"


def save(figure: Figure, path: Path) -> None:
    """Writes ``figure``; the suffix of ``path`` says the format, SVG without one. ValueError for one that Matplotlib
    does not know."""
    kind = path.suffix.removeprefix(".") or "svg"
    if kind == "svg":
        path.write_text(svg(figure), encoding="utf-8")
    else:
        figure.savefig(path, format=kind, dpi=150)
