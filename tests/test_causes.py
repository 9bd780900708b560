"""Violations are grouped by what they follow from: root causes, in words that a person can act on."""

from __future__ import annotations

import io
from dataclasses import replace
from graphlib import TopologicalSorter

import pytest
from rich.console import Console

from deqverify import laws
from deqverify.registry import premises
from deqverify.reporting.terminal import show
from deqverify.running import diagnosis, readings
from deqverify.running.causes import causes, settled, trusted
from deqverify.running.plan import Report, make_jobs
from deqverify.running.premises import COUPLED, REMEMBERED
from deqverify.running.profiles import Profile
from deqverify.running.results import Result, Verdict, Violation

PROFILE = Profile("test", examples=5, seconds=5.0, seed=0)
V, E, H, F = Verdict.VIOLATED, Verdict.EXPECTED, Verdict.HOLDS, Verdict.FOLLOWS


def test_what_laws_rest_on_exists_and_is_no_circle() -> None:
    graph = {id: law.rests_on for id, law in laws().items()}
    assert {earlier for law in graph.values() for earlier in law} <= set(graph)
    order = list(TopologicalSorter(graph).static_order())
    for law in laws().values():
        found = [premise.id for premise in premises(law)]
        assert law.id not in found
        assert len(set(found)) == len(found)
        for place, premise in enumerate(found):
            assert set(laws()[premise].rests_on) <= set(found[:place]), "each after those that it rests on itself"
    assert set(order) == set(graph)


def result(
    law: str, verdict: Verdict = V, follows: tuple[str, ...] = (), dtype: str = "float64", **crash: str
) -> Result:
    (job,) = make_jobs(["reference"], [law], PROFILE, [dtype], database=None)
    kind = crash.get("kind", "wrong")
    wrong = verdict in (V, E, F)
    violation = Violation(kind, "wrong", "much", crash.get("said", law), "code") if wrong else None
    return Result(job, verdict, follows=follows, violation=violation)


def verdicts(*results: Result) -> list[tuple[Verdict, str]]:
    return [(each.verdict, each.cause) for each in settled(results)]


def test_what_follows_needs_a_violated_law_in_the_same_report() -> None:
    follower = result("euler", follows=("existence", "gradient-x"))
    assert verdicts(follower) == [(V, "")]
    assert verdicts(result("existence", H), follower) == [(H, ""), (V, "")]
    assert verdicts(result("existence"), follower) == [(V, ""), (F, "existence")]
    other = replace(result("existence"), job=replace(result("existence").job, target="another"))
    assert verdicts(other, follower) == [(V, ""), (V, "")]


def test_the_cause_is_at_the_end_of_the_chain_and_in_any_dtype() -> None:
    chain = [result("euler", follows=("gradient-x",)), result("gradient-x", follows=("adjoint-certificate",))]
    assert verdicts(*chain) == [(F, "gradient-x"), (V, "")]
    chain.append(result("adjoint-certificate", dtype="float32"))
    assert verdicts(*chain) == [(F, "adjoint-certificate"), (F, "adjoint-certificate"), (V, "")]
    (cause,) = causes(settled(chain))
    assert (cause.law, cause.followers, cause.dtypes) == ("adjoint-certificate", ["euler", "gradient-x"], ["float32"])


def test_what_is_expected_stays_so_and_can_be_the_cause_of_what_is_not() -> None:
    report = Report(
        [result("existence", E), result("mass", follows=("existence",)), result("euler", E, ("existence",))]
    )
    assert [each.verdict for each in report.results] == [E, F, E]
    assert report.exit_code == 0
    (cause,) = report.causes
    assert cause.expected
    assert cause.followers == ["mass", "euler"]


def test_crashes_in_the_same_words_are_one_cause() -> None:
    crashes = [result(law, follows=("answers",), kind="crash", said="no graph") for law in ("mass", "energy", "euler")]
    assert verdicts(*crashes) == [(V, ""), (F, "mass"), (F, "mass")]
    other = result("gauge", follows=("answers",), kind="crash", said="another error")
    assert verdicts(*crashes[:1], other) == [(V, ""), (V, "")]
    assert verdicts(*crashes[:1], result("answers", kind="crash")) == [(F, "answers"), (V, "")]


def test_a_report_with_a_cause_exits_1_and_names_what_holds() -> None:
    found = [result("existence"), result("mass", follows=("existence",)), result("answers", H), result("trace", H)]
    report = Report([*found, result("trace", dtype="float32")])
    assert report.exit_code == 1
    assert trusted(report.results, "reference") == ["answers"]
    assert [cause.law for cause in report.causes] == ["existence", "trace"]


def shown(report: Report, full: bool = False) -> str:
    console = Console(record=True, file=io.StringIO(), width=80)
    show(report, console, full)
    return console.export_text()


def test_two_causes_of_every_law_are_told_in_few_lines() -> None:
    found = []
    for id, law in laws().items():
        rests = [premise.id for premise in premises(law)]
        follows = ("adjoint-certificate",) if "adjoint-certificate" in rests else ("existence",)
        alone = id in ("existence", "adjoint-certificate")
        found.append(result(id, V if alone or rests else H, () if alone else follows))
    for each in found:
        if each.violation:
            each.violation.id, each.violation.where = "0123abcd", "γ = 0.9765625, m = 1, p = 1, n = 1"
            each.violation.diagnosis = "gives the gradient of one step at the equilibrium, not that of the equilibrium"
            each.violation.boundary_said = "wrong from γ = 0.976 on at m = 4, n = 2, right at 0.975 and below"
    text = shown(Report(found, untried=["reference in float32, which it claims (leave dtype= or --dtype out)"]))
    lines = text.rstrip().splitlines()
    assert lines[0] == "2 causes of what is violated"
    assert len(lines) <= 20  # under 25 with the header and the progress of a run
    for part in (
        "(existence)",
        "(adjoint-certificate)",
        "wrong from γ = 0.976 on",
        "laws follow: ",
        "deqverify show 0123abcd",
    ):
        assert part in " ".join(text.split())
    assert "can still be trusted in" in text
    assert "┃" not in text
    assert "┃" in shown(Report(found), full=True)


def test_what_is_expected_is_one_line_a_reason() -> None:
    known = [result(id, E) for id in ("existence", "answers", "solves")]
    for each, reason in zip(known, ("a known reason, " * 20, "another", "another"), strict=True):
        each.reason = reason
    text = shown(Report(known))
    told = [line for line in text.splitlines() if line.startswith("expected")]
    assert len(told) == 2
    assert "expected  solves, answers × reference: another" in told
    assert all(len(line) <= 80 for line in told)
    assert "Nothing beyond the expectations" in " ".join(text.split())


def test_a_cause_that_another_dtype_does_not_show_is_told_so() -> None:
    wrong = result("existence")
    wrong.violation.id = "0123abcd"  # type: ignore[union-attr]
    assert "in float64, not in float32" in shown(Report([wrong, result("existence", H, dtype="float32")]))


def test_settling_twice_is_settling_once_and_a_part_is_settled_anew() -> None:
    whole = settled([result("existence"), result("mass", follows=("existence",))])
    assert settled(whole) == whole
    assert [each.verdict for each in settled(whole[1:])] == [V]


def test_what_only_a_used_implementation_shows_is_one_cause_named_by_the_most_basic_law() -> None:
    """Though it comes after another one in the report, which rests on it, and though their words differ."""
    found = [result(law, follows=REMEMBERED) for law in ("taylor", "gradient-theta", "dissipation")]
    for each, words in zip(found, ("wrong", "wrong", "wrong in A"), strict=True):
        assert each.violation
        each.violation.diagnosis = f"gives a gradient that is {words}"
    assert verdicts(*found) == [(F, "gradient-theta"), (V, ""), (F, "gradient-theta")]


def test_where_each_may_follow_from_another_one_of_them_is_the_cause() -> None:
    found = [
        result("mass", follows=REMEMBERED),
        result("batch", follows=REMEMBERED),
        result("deterministic", follows=COUPLED),
        result("existence"),
    ]
    assert verdicts(*found) == [(F, "deterministic"), (F, "deterministic"), (V, ""), (V, "")]


def test_a_crash_that_only_a_used_implementation_shows_is_one_with_its_wrong_answers() -> None:
    found = [result("answers", follows=REMEMBERED), result("gradient-theta", follows=REMEMBERED), result("answers")]
    for each in found:
        if each.job.law == "answers":
            assert each.violation
            each.violation.kind = "crash"
    assert verdicts(*found[:2]) == [(F, "gradient-theta"), (V, "")]
    assert verdicts(*found[1:]) == [(V, ""), (V, "")]  # a crash of the first call is another cause


def test_what_no_data_point_alone_shows_is_one_cause_in_both_passes() -> None:
    """One rule for stopping, that of the whole batch, serves both."""
    found = [result("existence", follows=COUPLED), result("adjoint-certificate", follows=COUPLED), result("mass")]
    assert verdicts(*found) == [(V, ""), (F, "existence"), (V, "")]


def test_an_absolute_tolerance_is_one_cause_in_both_passes() -> None:
    found = [result("adjoint-certificate"), result("existence"), result("mass")]
    where = [f", where {what} are small: {diagnosis.ABSOLUTE}" for what in ("cotangents", "inputs")]
    for each, what in zip(found, (*where, ""), strict=True):
        assert each.violation
        each.violation.diagnosis = f"stops early{what}"
    assert verdicts(*found) == [(F, "existence"), (V, ""), (V, "")]


@pytest.mark.parametrize(
    ("forward", "backward"),
    [
        ("stops early, and says: the solver reports that it converged", readings.SHORT),
        ("stops early, without a word", f"{readings.ADJOINT_EARLY}, without a word"),
        (f"is {readings.NARROW}", f"gives a gradient that is {readings.NARROW}"),
    ],
)
def test_what_is_wrong_in_the_same_way_in_both_passes_is_one_cause(forward: str, backward: str) -> None:
    found = [result("adjoint-certificate"), result("existence")]
    for each, words in zip(found, (backward, forward), strict=True):
        assert each.violation
        each.violation.diagnosis = words
    assert verdicts(*found) == [(F, "existence"), (V, "")]
    assert found[0].violation
    found[0].violation.diagnosis = "gives the gradient of one step at the equilibrium"
    assert verdicts(*found) == [(V, ""), (V, "")]


def test_what_is_remembered_is_one_cause_whichever_laws_of_calls_show_it() -> None:
    found = [result(law, follows=("settings-kept", "history")) for law in ("answers-kept", "in-place-update")]
    assert verdicts(*found) == [(F, "in-place-update"), (V, "")]
    assert verdicts(*found, result("existence", follows=REMEMBERED))[-1] == (V, "")
    assert verdicts(*found, result("settings-kept")) == [(F, "settings-kept"), (F, "settings-kept"), (V, "")]


def test_a_premise_may_be_named_beside_what_no_data_point_alone_shows() -> None:
    found = [result("uniqueness", follows=("existence", *COUPLED)), result("adjoint-certificate", follows=COUPLED)]
    assert verdicts(*found) == [(V, ""), (F, "uniqueness")]
    assert diagnosis.circumstance(("existence", *COUPLED)) == diagnosis.circumstance(COUPLED) != ""
    assert diagnosis.circumstance(("existence",)) == ""


def test_what_goes_round_is_named_by_what_is_remembered() -> None:
    """Modes differ where calls do, and calls where modes do."""
    found = [result("modes", follows=("deterministic",)), result("deterministic", follows=("history",))]
    assert verdicts(*found, result("history", follows=("deterministic", "modes"))) == [
        (F, "history"),
        (F, "history"),
        (V, ""),
    ]


def test_wrong_blocks_of_one_gradient_are_one_cause() -> None:
    """Whichever laws find them: their words name the same blocks."""
    words = "gives a wrong gradient in A, x; that in gamma is right"
    found = [result("gradient-theta"), result("gradient-x"), result("mass")]
    for each in found:
        assert each.violation
        each.violation.diagnosis = words
    assert verdicts(*found) == [(V, ""), (F, "gradient-theta"), (V, "")]
    of_the_second = result("energy", follows=("gradient-x",))
    assert verdicts(*found, of_the_second)[-1] == (F, "gradient-theta")
