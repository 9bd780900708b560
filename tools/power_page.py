"""The page and the picture of what ``python -m tools.power measure`` measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from deqverify.figures import svg
from deqverify.running.files import write_whole
from tools.power import MEASURED, NEAR, PAGE, PICTURE, QUANTITIES, RATES, Rarity, Size, read

SHARES = (0.5, 0.95)
MARKERS = "osD^vP"
COLOURS = ("#2456a6", "#b84a0e", "#15773a", "#7b2d8b", "#7d5600", "#0c6577")
SHOWN = {"existence": "z", "adjoint-certificate": "dx", "gradient-theta": "dtheta", "gradient-x": "dx"}
"""The laws in the picture, each with the quantity that it is about."""

INTRO = """# What a green run means

A law that holds says that it found nothing; this page says what it would have found. Both tables are measured by
`python -m tools.power measure`, on the reference in NumPy with an error planted, on the linear-softmax cell in
float64, with the examples of the default profile, and stand in [power.json](power.json) seed by seed. They speak of
that cell, that profile and each law by itself; a run on all laws finds more. Every law stands here that sees one of
the three quantities off by its own size on half of its problems; the others compare an implementation with itself, call
with call or batch with batch, or ask for another cell. A report says in its last lines what half
of its own examples would have shown, of an error that is everywhere and has the same relative size.

{measured}

![The smallest relative error found against γ, and the probability of finding a rare defect](power.svg)

## How small

One quantity is off by a relative size on the problems near a γ (1 − γ within a factor of {near:g}), and right
elsewhere. The table gives the smallest size at which the law is violated, bisected to a factor of 1.4: the median over
the seeds that draw such a problem at all, and in brackets what 95 % of them find (of ten seeds, all). *Drawn* is the
share of seeds that do draw one; the others find nothing there.
"""

RARE = """
## How rare

The quantity that the law sees best is off by its own size, on a share of a regime's problems and nowhere else, chosen
at random. The table gives the smallest share that the law finds with probability ½ and with .95; “never” means that
too many seeds draw no problem of the regime on which the law could tell. *Of all* is the share of the drawn problems
that lie in the regime.
"""


def write() -> None:
    """``docs/power.md`` and ``docs/power.svg``."""
    document, sizes, rarities = read(MEASURED)
    write_whole(PICTURE, picture(sizes, rarities))
    write_whole(PAGE, page(document, sizes, rarities))


def page(document: dict[str, Any], sizes: Sequence[Size], rarities: Sequence[Rarity]) -> str:
    """Markdown: two tables."""
    on, seeds, counts = document["machine"], document["seeds"], sorted({*document["examples"].values()}, reverse=True)
    of = {count: [law for law in document["examples"] if document["examples"][law] == count] for count in counts}
    examples = "; ".join(f"{count}: {', '.join(of[count])}" for count in counts)
    measured = (
        f"Measured on {document['day']} at {document['commit']}, with {seeds} seeds, on {on['processor']},\n"
        + f"{on['cores']} cores, {on['system']}: {document['processor seconds']:.0f} s of the processor. "
        + f"Examples of each law and seed:\n{examples}."
    )
    rates = [f"γ ≈ {rate:g} | drawn" for rate in RATES]
    lines = [INTRO.format(measured=measured, near=NEAR), f"| law | quantity | claim | {' | '.join(rates)} |"]
    lines.append("|---|---|---|" + "---:|---:|" * len(RATES))
    for law, quantity, claim in dict.fromkeys((size.law, size.quantity, size.claim) for size in sizes):
        mine = {s.rate: s for s in sizes if (s.law, s.quantity, s.claim) == (law, quantity, claim)}
        cells = " | ".join(_size_cells(mine[rate]) for rate in RATES)
        lines.append(f"| `{law}` | {QUANTITIES[quantity]} | {claim} | {cells} |")
    lines += [RARE, "| law | regime | of all | with ½ | with .95 |", "|---|---|---:|---:|---:|"]
    for rarity in rarities:
        found = " | ".join(said_share(rarity.at(share)) for share in SHARES)
        lines.append(f"| `{rarity.law}` | {rarity.regime} | {said_share(rarity.share)} | {found} |")
    return "\n".join(lines) + "\n"


def _size_cells(size: Size) -> str:
    drawn = 1.0 - size.without / len(size.smallest)
    middle, most = (size.at(share) for share in SHARES)
    return f"{_said_size(middle)} ({_said_size(most)}) | {100 * drawn:.0f} %" if drawn else "– | 0 %"


def _said_size(size: float) -> str:
    return f"{size:.1e}".replace("e-0", "e-") if math.isfinite(size) else "none"


def said_share(share: float) -> str:
    """A share in percent, or "never"."""
    return f"{100 * share:.{2 if share < 0.995 else 3}g} %" if math.isfinite(share) else "never"


def picture(sizes: Sequence[Size], rarities: Sequence[Rarity]) -> str:
    """SVG: left and middle the smallest error against 1 − γ for each claim, right the probability against the frequency
    of a defect that shows on every kind of problem."""
    laws = [law for law in SHOWN if law in {size.law for size in sizes}]
    with rc_context({"axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(10.5, 3.6), layout="constrained")
        small, loose, rare = figure.subplots(1, 3)
        for axes, claim in ((small, "exact"), (loose, "1e-6")):
            for law, marker, colour in zip(laws, MARKERS, COLOURS, strict=False):
                mine = [size for size in sizes if (size.law, size.quantity, size.claim) == (law, SHOWN[law], claim)]
                points = [(1.0 - s.rate, s.at(0.5)) for s in mine if math.isfinite(s.at(0.5))]
                axes.loglog(*zip(*points, strict=True), marker=marker, color=colour, label=law) if points else None
            axes.invert_xaxis()
            axes.set(xlabel="1 − γ", title=f"claims {claim}")
        small.set_ylabel("smallest relative error found (median)")
        frequencies = np.logspace(-3, 0, 61)
        for law, marker, colour in zip(laws, MARKERS, COLOURS, strict=False):
            for rarity in rarities:
                if (rarity.law, rarity.regime) == (law, "every problem"):
                    found = [rarity.probability(float(f)) for f in frequencies]
                    rare.semilogx(frequencies, found, marker=marker, markevery=10, color=colour, label=law)
        for share in SHARES:
            rare.axhline(share, color="#888888", linewidth=0.7, linestyle=":")
        rare.set(
            xlabel="share of problems with the defect", ylabel="probability that it is found", title="rare defects"
        )
        rare.legend(fontsize=8, frameon=False)
        return svg(figure)
