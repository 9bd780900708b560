"""The documentation site: its sources are whole; built, its pages open in a browser without a network.

The second part is asked for by ``make site-check``, which builds the site first and sets ``DEQVERIFY_SITE``.
"""

from __future__ import annotations

import os
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urlsplit

import pytest

from deqverify import laws
from deqverify.cells import cells
from tests.conftest import PATIENCE
from tools.formulas import is_formula, mathml, prose, typeset
from tools.site import BUILD, ORDER, ROOT, contents, moved, places
from tools.site_pages import cell_page, law_page

asked = pytest.mark.skipif(not os.environ.get("DEQVERIFY_SITE"), reason="asked for by make site-check")
HTML = BUILD / "html"


def shown(element: str) -> str:
    """The characters of MathML, which has to be well-formed, scripts in brackets."""
    tree = ElementTree.fromstring(element)
    marks = {"msub": "_", "msup": "^", "msqrt": "√", "mover": "ˆ"}

    def text(node: ElementTree.Element) -> str:
        inner = "".join(map(text, node))
        return f"{marks[node.tag]}[{inner}]" if node.tag in marks else (node.text or "") + inner

    return text(tree)


@pytest.mark.parametrize(
    ("formula", "characters"),
    [
        ("γᵏ", "^[γk]"),
        ("z_{k+1} = f(z_k)", "_[zk+1]=f(_[zk])"),
        ("√L₀ ≤ η·2", "√[_[L0]]≤η·2"),
        ("L*", "^[L∗]"),
        ("J_kWᵀx_k", "_[Jk]^[WT]_[xk]"),
        ("BU⁻¹ < dF", "B^[U−1]<dF"),
        ("ẑ", "ˆ[z^]"),
        ("‖v‖_𝒢", "‖v_[‖𝒢]"),
        ("tanh(|x|)", "tanh(|x|)"),
    ],
)
def test_a_formula_is_typeset(formula: str, characters: str) -> None:
    assert shown(mathml(formula)) == characters


def test_a_long_formula_may_be_broken_outside_of_brackets() -> None:
    pieces = mathml("‖A‖² + ‖B‖² ≥ 2κ(L − L*)").split("> <")
    assert len(pieces) == 3
    assert len(mathml("‖A‖² + ‖B‖² ≥ 2κ(L − L*)", display=True).split("> <")) == 1
    assert "</math> <math>" not in mathml("L − L*")


def test_no_formula_of_the_theory_leaves_what_markdown_would_read() -> None:
    spans = re.findall(r"(?<!`)`([^`]+)`(?!`)", (ROOT / "docs" / "theory.md").read_text(encoding="utf-8"))
    formulas = {span for span in spans if is_formula(span)}
    assert len(formulas) > 300
    assert {f for f in formulas if re.search(r"[*_`\[\]]", re.sub(r"<[^>]*>", "", mathml(f)))} == set()


def test_formulas_are_told_from_code_and_from_words() -> None:
    assert all(map(is_formula, ("A", "z*", "γᵏ", "g = vec G", "‖ẑ − z*‖₁")))
    assert not any(map(is_formula, ("Errors.z", "theory: mass", "--law", "rtol", "max_iter", "float64", "z_error")))
    said = prose("‖W‖ < 1 for a data point, and L(T) − L* is small")
    assert re.sub(r"<math>.*?</math>", "@", said) == "@ for a data point, and @ is small"
    assert typeset("`A`\n\n```python\n`A`\n```\n").endswith("</math>\n\n```python\n`A`\n```\n")


def test_every_page_leads_somewhere_and_to_what_is_there() -> None:
    known = places()
    for old in known:
        moved((ROOT / old).read_text(encoding="utf-8"), old, known)
    with pytest.raises(ValueError, match=r"README\.md: the link docs/nothing\.md leads to nothing"):
        moved("[x](docs/nothing.md)", "README.md", known)
    text, files = moved("[a](theory.md#mass) [b](../CONTRIBUTING.md) `[c](d)` [e](laws.md)", "docs/api.md", known)
    assert text == "[a](theory.md#mass) [b](contributing.md) `[c](d)` [e](laws/index.md)"
    assert not files
    assert moved("[s](../deqverify/reporting/schema.json)", "docs/api.md", known)[1] == {
        "deqverify/reporting/schema.json"
    }


def test_a_page_that_is_not_listed_comes_last_and_one_that_is_missing_is_left_out() -> None:
    found = contents({"index", "install", "news"})
    assert re.findall(r"^\w[\w/]*$", found, flags=re.MULTILINE) == ["install", "news"]
    listed = [page for group in ORDER.values() for page in group]
    assert len(listed) == len(set(listed))


def test_a_page_of_a_law_and_of_a_cell_say_what_the_docstrings_say() -> None:
    ours = [law for law in laws().values() if law.ours]
    page = law_page(laws()["gradient-x"], ours)
    assert "Catches an adjoint solve that\nstopped early" in page
    assert "../theory.md#allowed-gradient" in page
    assert 'href="adjoint-certificate.html"' in page
    assert "fault[" in page
    assert "(m, m)" in cell_page(cells()["tanh"])
    for cell in cells().values():
        assert '<p class="formula"><math display="block">' in cell_page(cell)


def built() -> list[Path]:
    return sorted(path for path in HTML.rglob("*.html") if not {"_static", "_downloads"} & {*path.parts})


@asked
def test_links_resolve_and_nothing_comes_from_elsewhere() -> None:
    pages = {path: path.read_text(encoding="utf-8") for path in built()}
    assert len(pages) > 100
    anchors = {path: set(map(unescape, re.findall(r'\bid="([^"]*)"', text))) for path, text in pages.items()}
    broken = []
    for path, text in pages.items():
        assert not re.search(r'(?:src|srcset)="(?:https?:)?//|@import|url\((?!["\']?data:)', text), path
        assert not re.search(r'<link (?![^>]*rel="canonical")[^>]*href="(?:https?:)?//', text), path
        for target in re.findall(r'\bhref="([^"]*)"', text):
            if urlsplit(target).scheme or target == "#":
                continue
            name, anchor = urldefrag(unescape(target))
            file = (path.parent / unquote(urlsplit(name).path)).resolve() if name else path
            if not file.exists() or (anchor and file in anchors and unquote(anchor) not in anchors[file]):
                broken.append((path.name, target))
    assert broken == []


@pytest.fixture(params=[(1400, "light"), (400, "dark")], ids=str)
def page(request: pytest.FixtureRequest, browser: Any) -> Iterator[Any]:
    """A page of the browser, in which whatever is said on the console or asked for elsewhere fails the test."""
    width, scheme = request.param
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.set_default_timeout(PATIENCE)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda asked: said.append(asked.url) if not asked.url.startswith(("file:", "data:")) else None)
    yield page
    page.close()
    assert said == []


@asked
@pytest.mark.parametrize(
    "name", ["index", "pytorch", "theory", "findings", "api", "laws/index", "laws/trust-region", "cells/conv", "ci"]
)
def test_a_page_fits_its_window(page: Any, name: str) -> None:
    page.goto((HTML / f"{name}.html").as_uri())
    assert page.locator("h1").count() == 1
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    if name in ("theory", "laws/trust-region", "cells/conv"):
        assert page.locator("math").first.bounding_box()["height"] > 5  # shown, and not empty


@asked
def test_the_search_works_from_a_disk(page: Any) -> None:
    page.goto((HTML / "search.html").as_uri() + "?q=phantom")
    page.locator("#search-results li a[href^='findings.html']").first.wait_for()
