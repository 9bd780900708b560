"""The report as one static page: causes first, then the matrix with every counterexample behind it, and pictures.

It needs nothing from elsewhere and runs no script. What is longer than a page should be is left out with the command
that shows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from deqverify.registry import laws
from deqverify.reporting import rendering
from deqverify.reporting.wording import FULL_SHARE, LEGEND, counts, details, ending, plain, remarks, said, strength
from deqverify.running.causes import Cause, trusted
from deqverify.running.installed import versions
from deqverify.running.plan import Report
from deqverify.running.results import Result, Verdict

MOST_SCRIPT = 12_000
"""Characters of a script that are shown; those of problems of 300 states are megabytes."""

MOST_SHOWN = 1_400_000
"""Bytes of violations and causes on the page: 3 MB less the matrix of 10,000 results and the pictures."""

MOST_PICTURES = 8
"""So many causes have pictures of where they begin; the others have them as a line of text."""

KINDS = {
    Verdict.HOLDS: "holds",
    Verdict.VIOLATED: "violated",
    Verdict.FOLLOWS: "follows",
    Verdict.EXPECTED: "expected",
    Verdict.INCONCLUSIVE: "unclear",
    Verdict.NOT_CLAIMED: "unclaimed",
    Verdict.COULD_NOT_RUN: "error",
}
"""The class of a verdict in the style sheet."""


def text(report: Report) -> str:
    """The page, HTML."""
    shown = _Shown(report)
    judged = {result.job.law for result in report.results}
    return (
        rendering.environment()
        .get_template("report.html")
        .render(
            report=report,
            title=_title(report),
            counts=f"{counts(report)} {ending(report)}",
            causes=shown.causes,
            left=shown.left,
            anchor=lambda result: shown.anchors.get(id(result), ""),
            violations=shown.violations,
            targets=_targets(report),
            behaviour=_behaviour(report),
            matrix=rendering.matrix(report),
            undecided=rendering.undecided(report.results),
            failures=rendering.failures(report),
            remarks=remarks(report) + strength(report),
            versions=versions(),
            effort=_effort(report),
            legend=LEGEND,
            kinds=KINDS,
            statements={id: law for id, law in laws().items() if id in judged},
            full_share=FULL_SHARE,
            plural=_plural,
        )
    )


def _title(report: Report) -> str:
    unexpected = [cause for cause in report.causes if not cause.expected]
    if not report.results:
        return "Nothing ran"
    if unexpected:
        names = list(dict.fromkeys(cause.target for cause in unexpected))
        many = names[0] if len(names) == 1 else f"{len(names)} targets"
        return f"{_plural(len(unexpected), 'cause')} of what is wrong with {many}"
    if report.of(Verdict.COULD_NOT_RUN):
        return "Some could not run"
    return "Stale expectations" if report.stale else "Nothing is violated beyond the expectations"


def _plural(number: int, word: str, many: str = "") -> str:
    return f"{number} {word if number == 1 else many or word + 's'}"


def _effort(report: Report) -> list[tuple[str, str]]:
    """How hard the run tried, as its jobs say."""
    jobs = [result.job for result in report.results]
    if not jobs:
        return []
    seeds = {job.seed for job in jobs}
    seed = "fresh" if seeds == {None} else ", ".join(str(each) for each in seeds)
    return [
        ("examples of a law and target", str(max(job.examples for job in jobs))),
        ("seed", seed),
        ("device", ", ".join(dict.fromkeys(job.device for job in jobs))),
    ]


def _targets(report: Report) -> list[dict[str, Any]]:
    """By target: how many of each verdict, what can be trusted."""
    found: dict[str, dict[Verdict, int]] = {}
    for result in report.results:
        counted = found.setdefault(result.job.target, dict.fromkeys(Verdict, 0))
        counted[result.verdict] += 1
    unexpected = {cause.target for cause in report.causes if not cause.expected}
    return [
        {
            "name": target,
            "counts": counted,
            "all": sum(counted.values()),
            "trusted": trusted(report.results, target) if target in unexpected else [],
        }
        for target, counted in found.items()
    ]


class _Shown:
    """Causes and violations as HTML, the first of them first, until the page is as long as it may be."""

    def __init__(self, report: Report):
        self.report = report
        self.anchors: dict[int, str] = {}
        """By the identity of a result: where on the page it is shown."""
        self.left = 0
        """So many violations are not shown."""
        self._room = MOST_SHOWN
        self._pictured = 0
        found = report.causes
        self.causes = [html for number, cause in enumerate(found, start=1) if (html := self._cause(number, cause))]
        self.violations = self._violations()

    def _cause(self, number: int, cause: Cause) -> Markup:
        if self._room <= 0:
            return Markup("")
        pictures = [] if cause.expected else self._pictures(cause)
        html = self._fitting(
            "cause.html",
            number=number,
            cause=cause,
            said=said(cause),
            details=details(cause, self.report),
            pictures=pictures,
            entries=[_entry(result) for result in cause.results],
        )
        self.anchors |= {id(result): f"cause-{number}" for result in cause.results}
        return html

    def _violations(self) -> list[tuple[str, list[Markup]]]:
        """What follows, by target."""
        found: dict[str, list[Markup]] = {}
        for number, result in enumerate(self.report.results):
            if result.violation and id(result) not in self.anchors:
                if self._room <= 0:
                    self.left += 1
                    continue
                html = self._fitting("violation.html", entry=_entry(result), id=f"v{number}")
                self.anchors[id(result)] = f"v{number}"
                found.setdefault(result.job.target, []).append(html)
        return list(found.items())

    def _fitting(self, template: str, **given: Any) -> Markup:
        """``template`` filled."""
        html = Markup(rendering.environment().get_template(template).render(kinds=KINDS, plural=_plural, **given))
        self._room -= len(html.encode())
        return html

    def _pictures(self, cause: Cause) -> list[Any]:
        violation = cause.first.violation
        if violation is None or not violation.boundary or self._pictured >= MOST_PICTURES:
            return []
        try:
            from deqverify.reporting.pictures import boundary
        except ImportError:
            return []
        self._pictured += 1
        return boundary(violation.boundary, f"{cause.law} × {plain(cause.target)}")


def _entry(result: Result) -> dict[str, Any]:
    """What is shown of one violation."""
    violation = result.violation
    assert violation
    whole = max(violation.allowed or 0.0, 1e-300)
    return {
        "result": result,
        "violation": violation,
        "times": _times(violation.measured, violation.allowed),
        "terms": [(name, value, min(1.0, value / whole)) for name, value in violation.terms.items() if value],
        "notes": _notes(violation.description) if violation.terms else [],
        "arguments": rendering.arguments(violation.counterexample),
        "script": violation.snippet if len(violation.snippet) <= MOST_SCRIPT else "",
        "size": len(violation.snippet),
    }


def _times(measured: float | None, allowed: float | None) -> str:
    if measured is None or allowed is None:
        return ""
    return f"{measured / allowed:.3g} times what is allowed" if allowed > 0 else "nothing is allowed"


def _notes(description: str) -> list[str]:
    """The lines below the bound's terms: notes, how often it fails, the worst that was seen."""
    return [line for line in description.splitlines()[1:] if not line.startswith("    ")]


def _behaviour(report: Report) -> dict[str, Any]:
    """Pictures of targets: those in which all are together, and those of each; or why there are none."""
    found: dict[str, Any] = {"together": [], "each": [], "notes": [], "why": ""}
    if not report.sketches and not any(c.first.violation and c.first.violation.boundary for c in report.causes):
        return found
    try:
        import deqverify.reporting.pictures as pictures
    except ImportError:
        return found | {"why": "Pictures need matplotlib: pip install 'deqverify[plot]'."}
    for about in ("conditioning", "adjoint"):
        some = [sketch for sketch in report.sketches if sketch.about == about]
        if picture := pictures.against_conditioning(some):
            found["together"].append(picture)
        else:
            found["notes"] += [f"{sketch.target}: {sketch.note}" for sketch in some if sketch.note]
    for target in dict.fromkeys(sketch.target for sketch in report.sketches):
        mine = [s for s in report.sketches if s.target == target and s.about not in ("conditioning", "adjoint")]
        drawn: Sequence[Any] = [picture for sketch in mine if (picture := pictures.of_target(sketch))]
        notes = list(dict.fromkeys(s.note for s in mine if s.note and not pictures.of_target(s)))
        if drawn or notes:
            found["each"].append((target, drawn, notes))
    return found
