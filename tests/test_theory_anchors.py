"""docs/theory.md is what the project cites: references resolve, every law has a source, symbols are defined."""

from __future__ import annotations

import re
from pathlib import Path

from deqverify import laws
from deqverify.reporting.explain import explain, page
from deqverify.reporting.glossary import GLOSSARY, linked, symbols

ROOT = Path(__file__).parent.parent
THEORY = (ROOT / "docs" / "theory.md").read_text(encoding="utf-8")
ANCHORS = re.findall(r'<a id="([^"]*)"></a>', THEORY)
REFERENCE = re.compile(r"\btheory:\s+\[?([a-z][a-z0-9-]*)")
"""As in ``theory: mass``; a type annotation, which begins with a capital, is none."""

OTHER_SOURCES = re.compile(r"the protocol|the implementation's own claim|IEEE 754|Python array API")


def own_files() -> list[Path]:
    """What the project says of itself: code, pages and settings, without what is generated or installed."""
    folders = ("deqverify", "properties", "tests", "tools", "asv_benchmarks", "docs")
    found = [
        path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".md", ".toml")
    ]
    return [*found, *ROOT.glob("*.md"), *ROOT.glob("*.toml"), ROOT / "Makefile"]


def test_every_reference_resolves() -> None:
    texts = {path.relative_to(ROOT): path.read_text(encoding="utf-8") for path in own_files()}
    assert [
        (path, name) for path, text in texts.items() for name in REFERENCE.findall(text) if name not in ANCHORS
    ] == []
    private = "THEORY" + ".md"  # notes that no reader has
    assert [path for path, text in texts.items() if private in text] == []


def test_references_are_seen_across_lines_and_in_links() -> None:
    assert REFERENCE.findall("theory: mass, theory:\n    zero-mass; theory: [rate](x), theory: Bound") == [
        "mass",
        "zero-mass",
        "rate",
    ]


def test_anchors_are_unique_and_name_what_stands_below() -> None:
    assert len(ANCHORS) == len(set(ANCHORS)) >= 40
    assert set(re.findall(r"\]\(#([^)]*)\)", THEORY)) <= set(ANCHORS)
    statements = re.findall(r'<a id="([^"]*)"></a>\n### (.*)\n> ', THEORY)
    assert all(anchor == name for anchor, name in statements)
    assert len(statements) == THEORY.count("\n### ")


def test_every_law_has_a_source_that_a_reader_can_open() -> None:
    for law in laws().values():
        assert REFERENCE.search(law.source) or OTHER_SOURCES.search(law.source), law.id


def test_links_of_the_generated_page_lead_to_anchors() -> None:
    found = re.findall(r"\]\(theory\.md#([^)]*)\)", page())
    assert found
    assert set(found) <= set(ANCHORS)
    assert linked("(theory: zero-mass), said", "t.md") == "(theory: [zero-mass](t.md#zero-mass)), said"


def test_symbols_are_found_in_formulas_and_not_in_words() -> None:
    assert set(symbols("W = BU⁻¹ and gᵀDg")) == {"S", "U", "W", "L₀", "J_k", "D"}  # with those of definitions
    assert not symbols("Solve with BLAS, L-BFGS or Dormand–Prince; D²⟨c, x⟩ and ∂z; Up to four Words")
    assert list(symbols("τ")) == ["S", "τ"]


def test_every_symbol_of_the_glossary_is_one_of_the_theory() -> None:
    notation = THEORY[THEORY.index("## Notation") : THEORY.index("## The equilibrium")]
    assert [symbol for symbol in GLOSSARY if f"`{symbol}`" not in notation and symbol != "ẑ"] == []
    assert all(f"- `{symbol}`: " in page() for symbol in GLOSSARY)


def test_explain_defines_the_symbols_of_its_law_and_no_others() -> None:
    text = explain(laws()["dissipation-floor"])
    for symbol in ("κ", "λ̲", "L*", "D"):
        assert f"- `{symbol}`: {GLOSSARY[symbol]}" in text
    assert "`𝒢`:" not in text
    assert "Symbols" not in explain(laws()["answers"])
