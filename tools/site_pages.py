"""The site's pages of single laws and cells, made of their docstrings, with formulas typeset and a picture each."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterable
from math import log10

import numpy as np

from deqverify.benchmarking.problems import FIXED_CELLS, FixedProblem
from deqverify.cells import Cell, LinearSoftmaxCell, cells
from deqverify.faults import PLAUSIBLE, Fault, faults
from deqverify.needs import NEEDS
from deqverify.registry import ANY_LINEAR, ANY_RELU, Law, laws
from deqverify.reporting.glossary import linked, symbols
from tools.formulas import mathml, prose, typeset

STEPS = 60
"""Of plain iteration, in a cell's picture; at γ = 0.9 they gain three digits."""


def law_pages() -> dict[str, str]:
    """A page for each law by its path on the site, and their index."""
    ours = [law for law in laws().values() if law.ours]
    pages = {f"laws/{law.id}.md": law_page(law, ours) for law in ours}
    return pages | {"laws/index.md": _index(ours)}


def _index(ours: list[Law]) -> str:
    parts = [
        "# The laws",
        f"{len(ours)} statements that every correct implementation satisfies, by family. A law's page has its bound, "
        "what it needs of an implementation, the defects that it catches, what it rests on; `deqverify explain LAW` "
        "says the same with an example. The symbols are those of [the theory](../theory.md#notation).",
    ]
    for family in dict.fromkeys(law.family for law in ours):
        members = [law for law in ours if law.family == family]
        rows = [f"| [{law.id}]({law.id}.md) | {prose(law.statement)} |" for law in members]
        title = family.replace("_", " ")
        parts.append("\n".join([f"## {title[0].upper()}{title[1:]}", "", "| law | states |", "|---|---|", *rows]))
        parts.append("\n".join(["```{toctree}", ":hidden:", "", *(law.id for law in members), "```"]))
    return "\n\n".join(parts) + "\n"


def law_page(law: Law, ours: Iterable[Law]) -> str:
    """What the docstring and the decorator say of a law, the faults that it kills, and its neighbours as a picture."""
    above = list(law.rests_on)
    below = [other.id for other in ours if law.id in other.rests_on]
    facts = [
        f"About {_about(law)}.",
        f"Source: {linked(prose(law.source), '../theory.md')}",
        *(f"Needs *{need}*: not judged where {NEEDS[need][1]}." for need in law.needs),
        f"A violation means: {law.anomaly}. {law.at_stake}",
        *([f"The reference stays below 1/1000 of the bound: {law.loose}"] if law.loose else []),
    ]
    parts = [
        f"# {law.id}",
        f"> {prose(law.statement)}",
        typeset(_plain(law.doc)),
        "\n".join(f"- {fact}" for fact in facts),
    ]
    if (above or below) and law.rests_on:
        parts.append(
            "Where a law that it rests on is violated too, a violation *follows* from that and is no cause of its own."
        )
    if above or below:
        parts.append(_neighbours(above, law.id, below))
    shared = law.about in ("any", ANY_LINEAR, LinearSoftmaxCell.name)  # others use letters of their own
    if meanings := symbols(f"{law.statement} {law.doc}") if shared else {}:
        listed = [f"- {mathml(symbol)}: {linked(prose(said), '../theory.md')}" for symbol, said in meanings.items()]
        parts.append("\n".join(["## Symbols", "", *listed]))
    if killed := [fault for fault in faults().values() if law.id in fault.killers]:
        parts.append("\n".join(["## Faults that it must find", "", *map(_fault, killed)]))
    tried = f"deqverify explain {law.id}\ndeqverify run mine:my_deq --law {law.id}"
    parts.append(f"## Ask it\n\n```sh\n{tried}\n```")
    return "\n\n".join(parts) + "\n"


def _about(law: Law) -> str:
    groups = {"any": "any cell", ANY_LINEAR: "any linear cell", ANY_RELU: "any ReLU cell"}
    return groups.get(law.about) or f"the cell [{law.about}](../cells/{law.about}.md)"


def _fault(fault: Fault) -> str:
    seen = "" if fault.origin == PLAUSIBLE else f" Seen in {fault.origin}."
    return f"- `{fault.target}`: {typeset(_plain(fault.wrong))}{seen}"


def cell_pages() -> dict[str, str]:
    """A page for each cell by its path on the site."""
    return {f"cells/{cell.name}.md": cell_page(cell) for cell in cells().values()}


def cell_page(cell: Cell) -> str:
    """What the docstrings say of a cell: its formula, parameters, certificate, and how problems are drawn."""
    module = importlib.import_module(type(cell).__module__)
    first = (inspect.getdoc(module) or "").partition("\n\n")[0].replace("\n", " ")
    formula = re.search(r"``(f\(z\) = .*?)``", first)
    if formula is None:
        raise ValueError(f"{module.__name__}: the first line of the docstring has no ``f(z) = …``")
    about = [law for law in laws().values() if law.ours and cell.name == law.about]
    parts = [
        f"# {cell.name}",
        typeset(_plain(first.replace(f": ``{formula[1]}``", ""))),
        f'<p class="formula">{mathml(formula[1], display=True)}</p>',
        typeset(_plain(inspect.getdoc(type(cell)) or "")),
        f"## Problems that are drawn\n\n{typeset(_plain(inspect.getdoc(cell.draw) or ''))}",
    ]
    if cell.name in FIXED_CELLS:
        parts.append(f"## Plain iteration on it\n\n{_iteration(cell.name)}")
    if about:
        rows = [f"- [{law.id}](../laws/{law.id}.md): {prose(law.statement)}" for law in about]
        parts.append("\n".join(["## Laws about this cell alone", "", *rows]))
    parts.append(f"## Judge on it alone\n\n```sh\ndeqverify run mine:my_deq --cell {cell.name}\n```")
    return "\n\n".join(parts) + "\n"


def _plain(doc: str) -> str:
    """A docstring without the roles of reST, which Markdown does not know."""
    return re.sub(r":(?:meth|func|class|data|mod|attr):(`[^`]*`)", r"\1", doc)


def _iteration(name: str) -> str:
    """The residuals of plain iteration on a fixed problem, beside the rate that the certificate promises."""
    problem = FixedProblem(16, 4, 0.9, cell=name).problem()
    step = problem.cell.step(problem.theta, problem.x)
    z = np.zeros((len(problem.x), *problem.cell.state(problem.theta, tuple(problem.x.shape[1:]))))
    sizes: list[float] = []
    for _ in range(STEPS):
        z, before = step(z), z
        sizes.append(float(np.linalg.norm(z - before)))
    seen = [size / sizes[0] for size in sizes]
    certificate = problem.cell.certificate(problem.theta)
    rate = getattr(certificate, "rate", None)
    promised = [rate**k for k in range(STEPS)] if rate else []
    words = "Residuals relative to the first, over 60 steps, of a fixed problem with 4 data points (logarithmic)."
    if rate:
        words += f" Dashed: what the certificate promises, {rate:.3g} a step, in its own norm."
    return f"{_curves(seen, promised)}\n\n{words}"


def _curves(seen: list[float], promised: list[float]) -> str:
    """A logarithmic picture of two sequences that begin at 1, down to 1e-16."""
    width, height, left = 560, 220, 46
    lowest = max(1e-16, min(min(value for value in seen if value > 0), *(promised or [1.0])))
    decades = max(1, -int(np.floor(log10(lowest))))

    def points(values: list[float]) -> str:
        shown = [(k, value) for k, value in enumerate(values) if value >= lowest]
        return " ".join(
            f"{left + k * (width - left) / STEPS:.1f},{10 - log10(value) * (height - 30) / decades:.1f}"
            for k, value in shown
        )

    lines = []
    for decade in range(0, decades + 1, max(1, decades // 4)):
        y = 10 + decade * (height - 30) / decades
        label = f"1e-{decade}" if decade else "1"
        lines.append(
            f'<line x1="{left}" y1="{y:.1f}" x2="{width}" y2="{y:.1f}" opacity="0.2"/>'
            f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end" stroke="none">{label}</text>'
        )
    dashed = f'<polyline fill="none" stroke-dasharray="5 4" points="{points(promised)}"/>' if promised else ""
    return (
        f'<svg class="picture" viewBox="0 0 {width} {height}" width="{width}" role="img" aria-label="residuals" '
        f'stroke="currentColor" fill="currentColor" font-size="12">{"".join(lines)}{dashed}'
        f'<polyline fill="none" stroke-width="2" points="{points(seen)}"/></svg>'
    )


def _neighbours(above: list[str], name: str, below: list[str]) -> str:
    """What a law rests on at the left, what rests on it at the right; every box leads to its page."""
    row, box = 30, 180
    columns = [(above, 0), ([name], 1), (below, 2)]
    tall = max(len(column) for column, _ in columns) * row
    middle = tall / 2
    drawn, lines = [], []
    for column, k in columns:
        x = k * (box + 60) + 2
        for j, law in enumerate(column):
            y = middle + (j - (len(column) - 1) / 2) * row
            own = ' stroke-width="2"' if k == 1 else ' opacity="0.8"'
            middle_of = f'x="{x + box / 2}" y="{y + 4}" text-anchor="middle"'
            label = f'<text {middle_of} stroke="none" fill="currentColor">{law}</text>'
            rectangle = f'<rect x="{x}" y="{y - 11}" width="{box}" height="22" rx="4" fill="none"{own}/>'
            drawn.append(f'<a href="{law}.html">{rectangle}{label}</a>' if k != 1 else rectangle + label)
            start, end = (x + box, 2 + box + 60) if k == 0 else (2 + 2 * box + 60, x)
            if k != 1:
                from_y, to_y = (y, middle) if k == 0 else (middle, y)
                lines.append(f'<line x1="{start}" y1="{from_y}" x2="{end}" y2="{to_y}" opacity="0.5"/>')
    width = 3 * box + 124
    said = f"rests on: {', '.join(above) or 'nothing'}; rest on it: {', '.join(below) or 'none'}"
    return (
        f'<svg class="picture" viewBox="0 0 {width} {tall}" width="{width}" role="img" stroke="currentColor" '
        f'font-size="13" aria-label="{said}">'
        f"{''.join(lines)}{''.join(drawn)}</svg>\n\n"
        "Rests on what stands at the left; what stands at the right rests on it."
    )
