"""Sphinx's settings for the site. ``make site`` (tools/site.py) writes its pages to ``build/site/source`` first."""

from importlib.metadata import version

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
