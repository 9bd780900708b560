"""Results for CI: JUnit's XML, a suite for each implementation, a case for each law.

A violation fails, what could not run is an error; what follows from another, what is expected and what was not judged
is skipped with its reason. So nothing fails exactly where the command exits 0.
"""

from __future__ import annotations

from xml.etree import ElementTree as ET

from deqverify.registry import laws
from deqverify.reporting.wording import first_line, plain
from deqverify.running.plan import Report
from deqverify.running.results import Result, Verdict

SKIPPED = (Verdict.FOLLOWS, Verdict.EXPECTED, Verdict.INCONCLUSIVE, Verdict.NOT_CLAIMED)


def text(report: Report) -> str:
    """The XML document. Its text comes from targets: what XML forbids is replaced, the rest escaped."""
    root = ET.Element("testsuites", name="deqverify")
    suites: dict[str, ET.Element] = {}
    for result in report.results:
        column = result.job.column
        if column not in suites:
            suites[column] = ET.SubElement(root, "testsuite", name=plain(column))
        suites[column].append(_case(result))
    if report.stale:
        suite = ET.SubElement(root, "testsuite", name="expectations")
        for sentence in report.stale:
            case = ET.SubElement(suite, "testcase", classname="expectations", name=plain(sentence), time="0")
            ET.SubElement(case, "failure", type="stale expectation", message=plain(sentence))
    if not report.results:
        suite = ET.SubElement(root, "testsuite", name="deqverify")
        ET.SubElement(
            ET.SubElement(suite, "testcase", classname="deqverify", name="run"), "error", message="nothing ran"
        )
    for suite in root:
        _count(suite, list(suite))
    _count(root, [case for suite in root for case in suite])
    ET.indent(root, " ")
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _count(element: ET.Element, cases: list[ET.Element]) -> None:
    element.set("tests", str(len(cases)))
    for name, kind in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        element.set(name, str(sum(case.find(kind) is not None for case in cases)))
    element.set("time", f"{sum(float(case.get('time', 0)) for case in cases):.3f}")


def _case(result: Result) -> ET.Element:
    names = {"classname": plain(result.job.column), "name": result.job.law, "time": f"{result.seconds:.3f}"}
    case, violation = ET.Element("testcase", names), result.violation
    if result.verdict is Verdict.VIOLATED and violation:
        law = laws().get(result.job.law)
        said = f"{violation.diagnosis}\n" if violation.diagnosis else ""
        shown = f"deqverify show {violation.id}\n" if violation.id else ""
        whole = f"{law.statement if law else ''}\n{said}{violation.description}\n{shown}\n{violation.snippet}\n"
        message = violation.diagnosis or first_line(violation.description)
        failure = ET.SubElement(case, "failure", type=plain(violation.anomaly), message=plain(message))
        failure.text = plain(whole)
    elif result.verdict is Verdict.COULD_NOT_RUN:
        error = ET.SubElement(case, "error", type="could not run", message=plain(first_line(result.reason)))
        error.text = plain(result.reason)
    elif result.verdict in SKIPPED:
        reason = f"follows from {result.cause}" if result.verdict is Verdict.FOLLOWS else result.reason
        ET.SubElement(case, "skipped", message=plain(f"{result.verdict.value}: {first_line(reason)}"))
    if result.output.strip():
        ET.SubElement(case, "system-out").text = plain(result.output)
    return case
