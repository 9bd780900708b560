"""Laws for readers: one law with an example, and the page of all laws, both from the same docstrings."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any

from deqverify.cells import LinearSoftmaxCell
from deqverify.describing import arguments_code, describe_evidence
from deqverify.implementations.failures import Reported, TargetFailure
from deqverify.implementations.loading import load
from deqverify.implementations.subject import Subject
from deqverify.needs import NEEDS
from deqverify.registry import ANY_LINEAR, Law, laws
from deqverify.reporting.glossary import GLOSSARY, linked, symbols
from deqverify.trial import Effort

PAGE_HEADER = """# The laws

Generated from the docstrings in `properties/` by `make docs`; a test keeps it current. `deqverify list --markdown`
writes the same page with the laws of other installed packages, `--laws MODULE` with your own. Weights A (m, m), readout
B (p, m), features Φ (m, n) and targets Y (p, n), one data point a column; γ in (0, 1). `theory:` names a statement of
[theory.md](theory.md), which derives it.
"""

_WITH_SYMBOLS = ("any", ANY_LINEAR, LinearSoftmaxCell.name)
"""Laws about other cells use letters of their own, which their docstrings define."""


def explain(law: Law, target: str | None = None) -> str:
    """Statement, source, needs, what the docstring says of the bound, its symbols, and an example judged on ``target``,
    by default the reference, in NumPy where PyTorch is not installed.

    TargetError where the target cannot be loaded.
    """
    target = target or ("reference" if find_spec("torch") else "reference[numpy]")
    used = symbols(f"{law.statement} {law.doc}") if law.about in _WITH_SYMBOLS else {}
    meanings = ["", "Symbols; docs/theory.md in the repository has the derivations:", *_listed(used)] if used else []
    return "\n".join([_text(law), *meanings, "", f"An example, on {target}:", "", _example(law, target)])


def page(chosen: Iterable[Law] | None = None) -> str:
    """The text of ``docs/laws.md``: our laws, or those that are ``chosen``."""
    parts, family = ["\n".join([PAGE_HEADER, *_listed(GLOSSARY), ""])], ""
    for law in chosen or [law for law in laws().values() if law.ours]:
        if law.family != family:
            family = law.family
            parts.append(f"## {family}\n")
        parts.append(f"### {law.id}\n\n{_text(law)}\n")
    return linked("\n".join(parts), "theory.md")


def _listed(meanings: dict[str, str]) -> list[str]:
    return [f"- `{symbol}`: {meaning}" for symbol, meaning in meanings.items()]


def _text(law: Law) -> str:
    needs = "; ".join(f"not judged where {NEEDS[need][1]}" for need in law.needs)
    lines = [
        f"**{law.statement}**",
        "",
        law.doc,
        "",
        f"- Source: {law.source}",
        *([f"- Needs {', '.join(law.needs)}: {needs}"] if law.needs else []),
        f"- A violation means: {law.anomaly}. {law.at_stake}",
    ]
    if law.rests_on:
        lines.append(f"- Rests on {', '.join(law.rests_on)}: violated only where these are, it says nothing of its own")
    if law.loose:
        lines.append(f"- The reference stays below 1/1000 of the bound: {law.loose}")
    return "\n".join(lines)


def _example(law: Law, target: str) -> str:
    subject = Subject(load(target))
    if reason := law.missing(subject):
        return f"not claimed: {reason}"
    drawn: list[dict[str, Any]] = []
    law.trial(subject, Effort(examples=5 * law.cost, seed=0), drawn.append)
    arguments = min(drawn, key=lambda each: len(arguments_code(each)))  # the shortest reads best
    try:
        seen = [describe_evidence(evidence) for evidence in law.body(subject, **arguments)]
    except (Reported, TargetFailure) as outcome:
        seen = [str(outcome)]
    return "\n".join([arguments_code(arguments), "", *seen])
