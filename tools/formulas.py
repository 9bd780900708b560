"""Formulas as the project writes them, in characters such as ``‖ẑ − z*‖₁ ≤ γᵏ``, typeset as MathML.

Browsers show MathML by themselves: no script, no font and no network is needed. What it does: letters become italic,
words of three letters and more upright, raised and lowered characters and ``_k`` become scripts, accents go over
their letter. It knows no fractions; ``a/b`` stays on the line.
"""

from __future__ import annotations

import re
import unicodedata

ACCENTS = {"\u0302": "^", "\u0303": "~", "\u0304": "¯", "\u0307": "˙"}
BELOW = {"\u0332": "¯"}
RAISED = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ᵀᵏᴷᵖʲⁿ′″"
LOWERED = "₀₁₂₃₄₅₆₇₈₉₊₋"
FENCES = "()[]{}|‖⟨⟩"
OPERATORS = "+−-=<>≤≥≠≈±·×∘⊗∗*/,;:→↦←∈≻⪰⊥∞…∂∇ΣΠ√@"
HALVES = "½¼¾"

WHOLE = 16
"""Characters up to which a formula is not broken over lines."""

SUBSCRIPT = re.compile(r"_(\{[^}]*\}|(?:min|max|[A-Z]{1,2}|d[A-Z]|:?[ijkln]{1,2}:?|\d+|[^\W_]|∞)(?:,[a-z])?)")
ATOM = re.compile(r"\d+(?:\.\d+)?|[a-z]{3,}|[^\W_]")

_OF_CODE = re.compile(r"[A-Za-z]{2,}\.[a-z]|\(\)|^theory:|^--|\w_[a-z]{4,}|[\"'@]|/[a-z]{4,}|\w\d{2}|\bfault\b")
_PLAIN = re.compile(r"[A-Za-z](?:_\w|\*)?")
_WORDS_MARKS = "–—’“”éöüŁ§…"
_LETTERS = re.compile(r"\(?(?:(?:min|max)\()?[A-Z]?[A-Za-z](?:\*|\([\w*]+\))*\)?|vec|[A-Z]?\([A-Z]\([0A-Z]\)")
"""Formulas of letters and brackets alone, such as ``Pz*``, ``W(t)`` or a half of ``min(p, n)``."""

_LINKING = re.compile(r"[-−+=<>≤≥·/×⊗∘]|[\d.]+")


def is_formula(code: str) -> bool:
    """Whether a span of code is mathematics, and not a name, an option or a command."""
    if _OF_CODE.search(code):
        return False
    return bool(_PLAIN.fullmatch(code)) or not code.isascii() or bool(re.search(r"\w.* [=<>+] .*\w", code))


def mathml(formula: str, display: bool = False) -> str:
    """``formula`` as MathML that is safe within Markdown: one element, or several between which a line may break."""
    formula = unicodedata.normalize("NFC", formula.strip())
    if display:
        return f'<math display="block"><mrow>{"".join(_row(formula))}</mrow></math>'
    return " ".join(f"<math><mrow>{''.join(_row(piece))}</mrow></math>" for piece in _pieces(formula))


def _pieces(formula: str) -> list[str]:
    """A long formula, cut after operators outside of brackets: no browser breaks a line within MathML."""
    pieces, start, depth = [], 0, 0
    for at, sign in enumerate(formula):
        depth += (sign in "([{⟨") - (sign in ")]}⟩")
        spaced = formula[at - 1 : at] == " " and formula[at + 1 : at + 2] == " "
        if (
            len(formula) > WHOLE
            and depth == 0
            and spaced
            and sign in "=<>≤≥+−⪰"
            and formula[start:at].count("|") % 2 == 0
        ):
            pieces.append(formula[start : at + 1])
            start = at + 2
    return [*pieces, formula[start:]]


def typeset(text: str) -> str:
    """A page with every span of code that is a formula as MathML. Spans in fenced blocks stay."""
    parts = re.split(r"(^ *```.*?^ *```$)", text, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if k % 2 else _SPAN.sub(_typeset_span, part) for k, part in enumerate(parts))


_SPAN = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", flags=re.DOTALL)


def _typeset_span(found: re.Match[str]) -> str:
    code = " ".join(found[2].replace("\n> ", "\n").split())
    return mathml(code) if is_formula(code) else found[0]


def prose(text: str) -> str:
    """A sentence with formulas in it that are not marked as such, these as MathML."""
    words = text.split()
    kinds = [_kind(word) for word in words]
    out: list[str] = []
    k = 0
    while k < len(words):
        end = k
        while end < len(words) and kinds[end] != "word":
            end += 1
            if words[end - 1][-1] in ",;:." and _closed(" ".join(words[k:end])):
                break
        if "formula" not in kinds[k:end]:
            out.append(_escaped(words[k]))
            k += 1
            continue
        run = " ".join(words[k:end])
        core = run.rstrip(",;:.") if not run.endswith("…") else run
        out.append(mathml(core) + run[len(core) :])
        k = end
    return " ".join(out)


def _kind(word: str) -> str:
    """``word``, ``formula``, or ``link``: what belongs to a formula beside one, an operator or a number."""
    core = word.rstrip(",;:.")
    if _LINKING.fullmatch(core):
        return "link"
    symbols = any(not character.isascii() and character not in _WORDS_MARKS for character in core)
    indexed = "|" in core or re.search(r"[A-Za-z)]_(?!\w{4,})[\w{]", core)
    return "formula" if symbols or indexed or (_LETTERS.fullmatch(core) and core != "a") else "word"


def _closed(text: str) -> bool:
    """Whether no bracket is open at the end: a comma there is one of the sentence."""
    return text.count("(") == text.count(")") and text.count("⟨") == text.count("⟩")


def _row(text: str) -> list[str]:
    """The elements of a formula from left to right."""
    out: list[str] = []
    at, after_atom = 0, False
    while at < len(text):
        if text[at] == " ":
            at += 1
            if after_atom and at < len(text) and (text[at].isalnum() or text[at] in "⟨(‖|∂∇"):
                out.append('<mspace width="0.28em"></mspace>')
            continue
        element, at, atom = _element(text, at)
        element, at = _scripts(element, text, at, atom)
        out.append(element)
        after_atom = atom
    return out


def _element(text: str, at: int) -> tuple[str, int, bool]:
    """The next element, where it ends, and whether it is one that scripts and products belong to."""
    sign = text[at]
    if sign in HALVES:
        return f"<mn>{sign}</mn>", at + 1, True
    if sign == "√" and at + 1 < len(text) and ATOM.match(text, at + 1):
        inner, end, atom = _element(text, at + 1)
        inner, end = _scripts(inner, text, end, atom)
        return f"<msqrt>{inner}</msqrt>", end, True
    if sign in FENCES:
        return f'<mo stretchy="false" lspace="0" rspace="0">{_escaped(sign)}</mo>', at + 1, sign in ")]}|‖⟩"
    if sign in "∂∇":
        return f'<mi mathvariant="normal">{sign}</mi>', at + 1, False
    found = ATOM.match(text, at)
    if found is None or sign in OPERATORS:
        return f"<mo>{_escaped('−' if sign == '-' else sign)}</mo>", at + 1, sign in "Σ∞"
    if sign.isdecimal():
        return f"<mn>{found[0]}</mn>", found.end(), True
    if len(found[0]) > 1:
        return f"<mi>{found[0]}</mi>", found.end(), True
    return _accented(text, at)


def _accented(text: str, at: int) -> tuple[str, int, bool]:
    """A letter with what stands over and below it."""
    end = at + 1
    while end < len(text) and unicodedata.combining(text[end]):
        end += 1
    letter, *marks = unicodedata.normalize("NFD", text[at:end])
    element = f"<mi>{_escaped(letter)}</mi>"
    for mark in marks:
        if mark in BELOW:
            element = f'<munder accentunder="true">{element}<mo stretchy="false">{_escaped(BELOW[mark])}</mo></munder>'
        else:
            accent = _escaped(ACCENTS.get(mark, mark))
            element = f'<mover accent="true">{element}<mo stretchy="false">{accent}</mo></mover>'
    return element, end, True


def _scripts(element: str, text: str, at: int, atom: bool) -> tuple[str, int]:
    """``element`` with the indices and powers that follow it directly."""
    below = above = ""
    while at < len(text):
        if found := SUBSCRIPT.match(text, at):
            below += found[1].strip("{}")
            at = found.end()
        elif text[at] in LOWERED:
            below += unicodedata.normalize("NFKC", text[at])
            at += 1
        elif text[at] in RAISED:
            above += text[at] if text[at] in "′″" else unicodedata.normalize("NFKC", text[at])
            at += 1
        elif text[at] == "*" and atom:  # z*, L*: no product is written so
            above += "∗"
            at += 1
        else:
            break
    scripts = [f"<mrow>{''.join(_row(script))}</mrow>" for script in (below, above) if script]
    tag = {(True, True): "msubsup", (True, False): "msub", (False, True): "msup"}.get((bool(below), bool(above)))
    return (f"<{tag}>{element}{''.join(scripts)}</{tag}>" if tag else element), at


def _escaped(text: str) -> str:
    """Characters that HTML or Markdown would read as their own, as numbers."""
    return re.sub(r"[&<>*_|\[\]`~^{}\\$]", lambda found: f"&#{ord(found[0])};", text)
