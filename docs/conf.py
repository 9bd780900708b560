"""Sphinx's settings for the site. ``make site`` (tools/site.py) writes its pages to ``build/site/source`` first."""

import re
from importlib.metadata import version
from typing import Any

project = "deqverify"
author = "the authors of deqverify"
version = release = version("deqverify")
extensions = ["myst_parser", "sphinx.ext.autodoc"]

html_theme = "furo"
html_title = f"deqverify {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False
html_show_search_summary = False  # summaries are fetched, which a browser refuses from file://
pygments_style, pygments_dark_style = "tango", "monokai"

myst_heading_anchors = 4
nitpicky = False  # annotations name private classes, which have no page

autodoc_typehints = "signature"
autodoc_member_order = "bysource"


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", literally)


def literally(app: Any, what: str, name: str, found: object, options: object, lines: list[str]) -> None:
    """``*`` and ``|`` of a docstring are mathematics and shapes, not emphasis and substitutions."""
    parts = re.split(r"(``.*?``|:[a-z]+:`[^`]*`)", "\n".join(lines), flags=re.DOTALL)
    parts[::2] = [re.sub(r"(?m)^( *\* )|([*|])", _kept_or_escaped, part) for part in parts[::2]]
    lines[:] = "".join(parts).split("\n")


def _kept_or_escaped(found: re.Match[str]) -> str:
    """The mark of a list's item stays one."""
    return found[1] or f"\\{found[2]}"
