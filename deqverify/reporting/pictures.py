"""Pictures as SVG for a page: colours come from the page's style sheet, in light and in dark; each has a title and an
alternative text that says what is to be seen."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from deqverify.figures import svg
from deqverify.reporting.wording import plain
from deqverify.running.sketches import ALLOWED, MEASURED, THEORY, Curve, Sketch

INK, SOFT, LINE, BAD, GOOD = "#010101", "#010102", "#010103", "#010104", "#010105"
SERIES = tuple(f"#0102{k:02d}" for k in range(1, 7))
"""Stand for colours; :data:`NAMES` are the style sheet's."""

NAMES = {INK: "ink", SOFT: "soft", LINE: "line", BAD: "bad", GOOD: "good"} | {
    colour: f"s{k}" for k, colour in enumerate(SERIES, start=1)
}
MARKERS = "osD^vP"

STYLE = {
    "text.parse_math": False,
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "grid.color": LINE,
    "legend.frameon": False,
    "legend.fontsize": 9,
}


@dataclass(frozen=True)
class Picture:
    """An SVG element, with what stands below it: a heading, a caption, and why it is not whole, "" where it is."""

    heading: str
    svg: str
    caption: str
    note: str = ""


LEAST = 1e-4
"""What measures less of what is allowed stands at the lower edge."""

_numbers = count()


def _drawn(of: str, heading: str, told: str, caption: str, draw: Callable[[Any], None], note: str = "") -> Picture:
    """What ``draw`` puts on axes, its legend below them. The alternative text is made of whom it is ``of``, the heading
    and what is ``told``."""
    with rc_context(STYLE):
        figure = Figure(figsize=(4.6, 3.2))
        axes = figure.add_subplot()
        axes.grid(linewidth=0.6)
        axes.set_axisbelow(True)
        draw(axes)
        rows = -(-len(axes.get_legend_handles_labels()[1]) // 2)
        below = 0.62 + 0.2 * rows  # inches: ticks and label, and the legend's rows
        figure.set_size_inches(4.6, 2.7 + below)
        figure.subplots_adjust(left=0.15, right=0.97, bottom=below / (2.7 + below), top=0.98)
        axes.legend(loc="upper center", bbox_to_anchor=(0.45, -0.5 / 2.65), ncols=2, borderaxespad=0.0)
        drawn = svg(figure, transparent=True)
    title = plain(f"{of}: {heading}" if of else heading)
    return Picture(plain(heading), _inlined(drawn, title, plain(told)), plain(caption), plain(note))


def _inlined(drawn: str, title: str, told: str) -> str:
    """The SVG element alone, its ids unlike those of others on the page, its colours the style sheet's."""
    prefix = f"p{next(_numbers)}"
    body = drawn[drawn.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    used = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', body))
    kept = {name for pair in used for name in pair if name}
    body = re.sub(r' id="([^"]+)"', lambda m: f' id="{prefix}-{m[1]}"' if m[1] in kept else "", body)
    body = re.sub(r'(href="|url\()#', rf"\g<1>#{prefix}-", body)
    body = re.sub(r"font: ?[^;\"]*?(\d+(?:\.\d+)?)px[^;\"]*", r"font-size: \1px", body)
    body = re.sub("#0102?[0-9a-f]{2,4}", lambda m: f"var(--{NAMES[m[0]]})" if m[0] in NAMES else m[0], body)
    body = re.sub(r"\n\s*", "\n", body)
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', body)
    assert size
    head = (
        f'<svg viewBox="0 0 {size[1]} {size[2]}" role="img" aria-labelledby="{prefix}-title {prefix}-told">'
        f'<title id="{prefix}-title">{escape(title)}</title><desc id="{prefix}-told">{escape(told)}</desc>'
    )
    return head + body[body.index(">") + 1 :].strip()


def boundary(lines: Sequence[dict[str, Any]], what: str) -> list[Picture]:
    """measured/allowed along each line of a violation (:mod:`deqverify.running.boundary`), ``what`` in the titles."""
    return [_boundary(line, what) for line in lines if len(line["values"]) > 1]


def _boundary(line: dict[str, Any], what: str) -> Picture:
    name = line["coordinate"]
    values, ratios = np.array(line["values"], float), np.array(line["ratios"], float)
    finite = ratios[np.isfinite(ratios) & (ratios > 0)]
    low = max(min(1e-2, float(finite.min(initial=1.0))), LEAST)
    high = max(1e2, float(finite.max(initial=1.0)) * 3)
    shown = np.clip(np.where(np.isnan(ratios), high, ratios), low, high)
    place = _places(name, values)
    told = line["said"] or ("beyond the bound everywhere" if (ratios > 1).all() else "no single border")
    seen = f"{_number(float(values[0]))} to {_number(float(values[-1]))}, {len(values)} values"
    worst = float(np.max(ratios))
    most = f"at most {worst:.2g} times what is allowed" if math.isfinite(worst) else "somewhere no number at all"

    def draw(axes: Any) -> None:
        axes.set_yscale("log")
        axes.set_ylim(low, high)
        axes.axhspan(1.0, high, color=BAD, alpha=0.1, linewidth=0)
        axes.axhline(1.0, color=BAD, linewidth=1)
        axes.plot(place, shown, color=SOFT, linewidth=1)
        wrong = ~(ratios <= 1.0)
        axes.plot(place[~wrong], shown[~wrong], "o", color=GOOD, markersize=5, label="right", clip_on=False)
        axes.plot(place[wrong], shown[wrong], "X", color=BAD, markersize=6, label="wrong")
        if line["undecided"]:
            unknown = _places(name, np.array(line["undecided"], float))
            axes.plot(unknown, np.full(len(unknown), low), "|", color=SOFT, markersize=9, label="can't be told")
        ticks = _ticks(name, values)
        axes.xaxis.set_major_locator(FixedLocator(list(_places(name, ticks))))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticklabels([_number(float(value)) for value in ticks])
        axes.set_xlabel(f"{name}   ({line['rest']})")
        axes.set_ylabel("measured / allowed")
        _decades(axes.yaxis, low, high)

    caption = f"at {line['rest']}; above the line the law is violated"
    heading = f"measured/allowed along {name}"
    return _drawn(what, heading, f"{told}. Along {name} from {seen}: {most}.", caption, draw)


def _places(name: str, values: Any) -> Any:
    """Where values stand on the axis: γ by its distance from 1, all others by their logarithm."""
    return -np.log10(1.0 - values) if name == "γ" else np.log2(np.maximum(values, 2.0**-1000))


def _ticks(name: str, values: Any) -> Any:
    if name == "γ":
        known = np.array([0.5, 0.9, 0.99, 0.999, 0.9999])
        return known[(known >= values.min() - 1e-12) & (known <= values.max() + 1e-12)]
    whole = [value for value in values if math.log2(value).is_integer()]
    step = max(1, -(-len(whole) // 6))
    return np.array(whole[::step] or values[:1])


def _number(value: float) -> str:
    if value and not 1e-3 <= abs(value) < 1e5:
        return _power(value)
    return f"{value:.5g}"


def _power(value: float) -> str:
    """1·10⁻³ and the like."""
    exponent = math.floor(math.log10(abs(value)) + 1e-9)
    lead = value / 10.0**exponent
    digits = str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"10{digits}" if abs(lead - 1.0) < 1e-6 else f"{lead:.2g}·10{digits}"


def _decades(axis: Any, low: float, high: float) -> None:
    """At most six powers of ten as ticks."""
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    step = max(1, -(-(last - first + 1) // 6))
    powers = [p for p in range(first, last + 1) if p % step == 0] or [first]
    axis.set_major_locator(FixedLocator([10.0**p for p in powers]))
    axis.set_minor_locator(NullLocator())
    axis.set_ticklabels([_power(10.0**p) for p in powers])


def against_conditioning(sketches: Sequence[Sketch]) -> Picture | None:
    """Errors of several targets against 1/(1−γ), with what is allowed to each, dashed; None where nothing was seen."""
    some = [s for s in sketches if any(curve.points for curve in s.curves)]
    if not some:
        return None
    of = "the equilibrium" if some[0].about == "conditioning" else "the adjoint"
    most = {s.target: s.curves[0].points[-1] for s in some if s.curves[0].points}
    told = "; ".join(f"{target}: {error:.1e} at 1/(1−γ) = {at:.0f}" for target, (at, error) in most.items())

    def draw(axes: Any) -> None:
        axes.set_xscale("log")
        axes.set_yscale("log")
        low, high = 1e-17, 1e-17
        for k, sketch in enumerate(some):
            colour, marker = SERIES[k % len(SERIES)], MARKERS[k % len(MARKERS)]
            for curve in sketch.curves:
                x, y = _finite(curve)
                y = np.maximum(y, 1e-17)
                high = max(high, float(y.max(initial=high)))
                if curve.role == ALLOWED:
                    axes.plot(x, y, "--" if len(x) > 1 else "_", color=colour, linewidth=1)
                else:
                    axes.plot(
                        x, y, marker=marker, color=colour, markersize=4, linewidth=1.4, label=_short(sketch.target)
                    )
        _decades(axes.yaxis, low, high * 3)
        axes.set_ylim(low / 2, high * 3)
        _decades(axes.xaxis, *axes.get_xlim())
        axes.set_xlabel("1/(1−γ)")
        axes.set_ylabel(f"relative error of {of}")

    caption = f"relative error of {of} against 1/(1−γ), dashed what the claims allow; {some[0].where}"
    notes = "; ".join(f"{s.target}: {s.note}" for s in sketches if s.note)
    return _drawn("", f"Error of {of} against 1/(1−γ)", f"At the largest γ, {told}.", caption, draw, notes)


def _short(name: str) -> str:
    """``name`` as a legend has room for it."""
    name = plain(name).replace("\n", " ")
    return name if len(name) <= 28 else f"…{name[-27:]}"


def of_target(sketch: Sketch) -> Picture | None:
    """The picture of one sketch; None where nothing was seen."""
    draw = {"trace": _trace, "decay": _decay, "path": _path}.get(sketch.about)
    if draw is None or not any(curve.points for curve in sketch.curves if curve.role == MEASURED):
        return None
    return draw(sketch)


def _trace(sketch: Sketch) -> Picture:
    measured = [curve for curve in sketch.curves if curve.role == MEASURED]
    ends = "; ".join(f"{c.name}: {c.points[-1][1]:.1e} after {len(c.points) - 1} steps" for c in measured if c.points)

    def draw(axes: Any) -> None:
        axes.set_yscale("log")
        least = 1.0
        for k, curve in enumerate(sketch.curves):
            x, y = _finite(curve)
            y = np.maximum(y, 1e-17)
            least = min(least, float(y.min(initial=1.0)))
            colour = SERIES[(k // 2) % len(SERIES)]
            if curve.role == THEORY:
                axes.plot(x, y, "--", color=colour, linewidth=1)
            else:
                axes.plot(x, y, color=colour, linewidth=1.6, label=_short(curve.name))
        _decades(axes.yaxis, least / 2, 2.0)
        axes.set_xlabel("iteration k")
        axes.set_ylabel("residual / first residual")

    caption = f"residuals by iteration, dashed γᵏ, the rate of plain iteration; {sketch.where}"
    return _drawn(sketch.target, "residuals against γᵏ", f"Shares of the first: {ends}.", caption, draw, sketch.note)


def _decay(sketch: Sketch) -> Picture:
    (seen,) = (curve for curve in sketch.curves if curve.role == MEASURED)
    (envelope,) = (curve for curve in sketch.curves if curve.role == THEORY)
    t, share = seen.points[-1]
    above = any(y > e * (1 + 1e-2) for (_, y), (_, e) in zip(seen.points, envelope.points, strict=False))
    where = "above the envelope in places" if above else "below the envelope all along"

    def draw(axes: Any) -> None:
        axes.set_yscale("log")
        axes.plot(*_finite(envelope), "--", color=SOFT, linewidth=1.2, label="the theorem's envelope")
        axes.plot(*_finite(seen), color=SERIES[0], linewidth=1.6, label="the loss")
        low = min(y for curve in sketch.curves for _, y in curve.points)
        _decades(axes.yaxis, max(low / 2, 1e-17), 2.0)
        axes.set_xlabel("time t of the gradient flow")
        axes.set_ylabel("(L − L*) / (L(0) − L*)")

    told = f"At t = {t:.2g} the excess loss is {share:.1e} of that at the start, {where}."
    caption = f"training by this target's gradients, dashed what the theorem promises at least; {sketch.where}"
    return _drawn(sketch.target, "decay of the loss", told, caption, draw, sketch.note)


def _path(sketch: Sketch) -> Picture:
    (seen,) = (curve for curve in sketch.curves if curve.role == MEASURED)
    (newton,) = (curve for curve in sketch.curves if curve.role == THEORY)
    apart = _apart(seen, newton)

    def draw(axes: Any) -> None:
        points = np.array(seen.points + newton.points + [tuple(sketch.minimum)])
        low, high = points.min(axis=0), points.max(axis=0)
        low, high = low - 0.1 * (high - low) - 1e-9, high + 0.1 * (high - low) + 1e-9
        X, Y = np.meshgrid(np.linspace(low[0], high[0], 60), np.linspace(low[1], high[1], 60))
        at = np.stack([X - sketch.minimum[0], Y - sketch.minimum[1]])
        height = np.einsum("iab,ij,jab->ab", at, np.array(sketch.hessian), at)
        axes.contour(X, Y, height, levels=float(height.max()) * np.array([0.02, 0.1, 0.3, 0.6]), colors=[LINE])
        axes.plot(*_finite(newton), "--", color=SERIES[1], linewidth=1.2, label=_short(newton.name))
        axes.plot(*_finite(seen), color=SERIES[0], linewidth=1.2, label=_short(seen.name))
        times = newton.times[-1] * 2.0 ** np.arange(-6.0, 1.0)
        axes.plot(*_at(newton, times).T, "o", color=SERIES[1], fillstyle="none", markersize=9)
        axes.plot(*_at(seen, times[times <= seen.times[-1]]).T, "o", color=SERIES[0], markersize=4)
        axes.plot(*seen.points[0], "s", color=INK, markersize=5, label="start")
        axes.plot(*sketch.minimum, "*", color=GOOD, markersize=10, label="optimum")
        axes.grid(visible=False)
        axes.set_xlabel("W₁")
        axes.set_ylabel("W₂")

    told = f"At the same times the two are at most {apart:.1%} of the path's length apart."
    caption = (
        "the shallow model's path under this target's gradients over contours of its objective; a right one has its "
        f"dots in the circles, trust-region Newton's at the same times; {sketch.where}"
    )
    return _drawn(sketch.target, "W beside trust-region Newton's", told, caption, draw, sketch.note)


def _at(path: Curve, times: Any) -> Any:
    """Where ``path`` is at ``times``, (len(times), 2)."""
    points = np.array(path.points)
    return np.stack([np.interp(times, path.times, points[:, k]) for k in (0, 1)], axis=1)


def _apart(one: Curve, other: Curve) -> float:
    """The largest distance at the same time, as a share of the length of ``other``."""
    times = np.linspace(0.0, one.times[-1], 200)
    length = np.linalg.norm(np.diff(np.array(other.points), axis=0), axis=1).sum()
    return float(np.linalg.norm(_at(one, times) - _at(other, times), axis=1).max() / length)


def _finite(curve: Curve) -> tuple[Any, Any]:
    points = np.array(curve.points, float).reshape(-1, 2)
    points = points[np.isfinite(points).all(axis=1)]
    return points[:, 0], points[:, 1]
