"""Results are written, read, shown and compared: with known answers, and from the command line as a user would."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from deqverify.benchmarking.measuring import LEAST_CALLS, ROUNDS, Entry, Row, Timing, Watch, entered, measured
from deqverify.benchmarking.problems import Achieved, FixedProblem
from deqverify.benchmarking.results import Result, compared, differences, exit_code, read, versions
from deqverify.benchmarking.showing import draw, markdown, page
from deqverify.benchmarking.targets import TimedTarget, Unavailable
from deqverify.cli import main

SMALL = FixedProblem(4, 3, 0.5)
MACHINE = {"processor": "a", "cores": 2, "threads": "1", "system": "Linux", "device": "cpu"}


def timed(seconds: float, scatter: float = 0.01, control: float = 1e-3, error: float = 1e-9) -> Row:
    """A row whose rounds lie apart by a factor ``1 ± scatter``."""
    rounds = (seconds * (1 - scatter), seconds, seconds * (1 + scatter))
    timing = Timing(seconds, seconds, seconds, seconds, seconds, 9, rounds)
    return Row("x", "gradient", SMALL, "float64", "cpu", None, timing, Achieved(error, error), control=control)


def result(*rows: Row, accuracy: float | None = None, **machine: Any) -> Result:
    return Result(MACHINE | machine, {"numpy": "1"}, "deqverify bench", accuracy, list(rows))


@pytest.mark.parametrize(
    ("before", "after", "verdict", "code"),
    [
        (timed(1.0), timed(1.5), "SLOWER", 1),
        (timed(1.5), timed(1.0), "faster", 0),
        (timed(1.0), timed(1.14), "unchanged", 0),  # below 15 %
        (timed(1.0), timed(1.5, scatter=0.15), "too noisy to tell", 2),  # three times log(1/0.85) is log 1.63
        (timed(1.0), timed(1.5, control=1.3e-3), "too noisy to tell", 2),  # the machine itself became slower by 1.3
        (timed(1.0), timed(3.0, scatter=0.15), "SLOWER", 1),  # which no such noise explains
        (timed(1.0), replace(timed(3.0), control=None), "noise not known", 2),
        (timed(1.5), timed(1.0, error=1e-3), "faster, and less accurate: 1e-09 became 1e-03", 0),
    ],
)
def test_the_verdict_on_two_results(before: Row, after: Row, verdict: str, code: int) -> None:
    pairs = compared(result(before), result(after))
    assert [pair.verdict for pair in pairs] == [verdict]
    assert exit_code(pairs) == code


def test_other_machines_are_not_judged_and_other_accuracies_not_compared() -> None:
    other = result(timed(3.0), processor="b")
    (pair,) = compared(result(timed(1.0)), other)
    assert pair.verdict == "other machines"
    assert exit_code([pair]) == 2
    assert differences(result(), other) == "processor: a before, b after"
    with pytest.raises(ValueError, match="first was measured at each target's own tolerance, the second at 1e-06"):
        compared(result(timed(1.0)), result(timed(1.0), accuracy=1e-6))
    assert compared(result(timed(1.0)), result(replace(timed(1.0), name="y"))) == []
    assert exit_code([]) == 2, "nothing was compared"


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    rows = [
        timed(1.0),
        timed(1.0, error=math.inf),
        Row("y", "forward", SMALL, "float64", "cpu", note="not reached: inf"),
    ]
    result(*rows, accuracy=1e-6).write(path)
    assert "Infinity" not in path.read_text().replace('"Infinity"', ""), "JSON has no such number"
    found = read(path)
    assert found.rows == rows
    assert found.accuracy == 1e-6
    known = json.loads(path.read_text())
    known["rows"][0] |= {"of a later version": 1}
    path.write_text(json.dumps(known))
    assert read(path).rows == rows
    path.write_text("{}")
    with pytest.raises(ValueError, match="holds no result of deqverify bench"):
        read(path)


def test_the_fastest_is_one_in_its_column() -> None:
    fast, slow = timed(1e-3), replace(timed(2e-3), name="slow")
    late = replace(slow, name="late", timing=None, note="not reached: 1e-02")
    gone = replace(slow, name="gone", timing=None, note="no such library", missing=True)
    wide = replace(timed(5e-3), problem=replace(SMALL, m=9))
    lines = markdown([fast, slow, late, gone, wide]).splitlines()
    assert lines[0].startswith("| gradient, linear-softmax, n = 3, γ = 0.5, float64, cpu | m = 4 ")
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]
    assert cells == [
        ["`x`", "**1 ms (1)**", "**5 ms (1)**"],
        ["`slow`", "2 ms (2)", ""],
        ["`late`", "not reached", ""],
    ]
    other = replace(fast, problem=replace(SMALL, cell="tanh"))
    # A hundredth above and below the median: log 1/0.99, which is 1.01 %.
    assert "The rounds of one time lie apart by 1% in the median and 11% at most." in page(
        result(fast, slow, timed(1, 0.1))
    )
    assert "| linear-softmax" in markdown([fast, other]).splitlines()[0], "cells become columns"


class Scripted:
    """A run that writes down when it was called."""

    device, iterations = "cpu", None

    def __init__(self, name: str, heard: list[str], fails_at: int = -1):
        self.name, self.heard, self.fails_at = name, heard, fails_at

    def forward(self) -> None:
        self.heard.append(self.name)
        if self.heard.count(self.name) == self.fails_at:
            raise RuntimeError("enough")

    def synchronise(self) -> None: ...

    def answer(self, which: str) -> Any:
        raise Unavailable("shows nothing") if self.name == "shy" else ValueError("out of luck")


def test_targets_take_turns_in_every_round_and_one_that_fails_leaves_the_others_alone() -> None:
    heard: list[str] = []
    row = Row("x", "forward", SMALL, "float64", "cpu")
    runs = [Scripted("a", heard), Scripted("c", heard), Scripted("b", heard, fails_at=3)]
    good, _, bad = measured([Entry(replace(row, name=run.name), run, True) for run in runs], budget=1e-3)
    good_ones = [name for name in heard if name != "b"]
    turns = [name for k, name in enumerate(good_ones) if k == 0 or good_ones[k - 1] != name]
    assert turns[:4] == ["a", "c", "a", "c"], "each round asks all, and begins with another one: a c, c a, a c"
    assert good.timing
    assert len(good.timing.rounds) == ROUNDS
    assert good.timing.count >= LEAST_CALLS
    assert good.control
    assert bad.timing is None
    assert bad.note == "RuntimeError: enough"
    assert not bad.missing


def test_an_answer_that_raises_is_a_note_and_one_that_is_not_there_is_missing() -> None:
    row, who = Row("x", "forward", SMALL, "float64", "cpu"), TimedTarget("x", lambda *_: None)  # type: ignore
    shy, unlucky = (entered(row, who, Scripted(name, [])) for name in ("shy", "unlucky"))
    assert isinstance(shy, Row)
    assert isinstance(unlucky, Row)
    assert (shy.note, shy.missing) == ("shows nothing", True)
    assert (unlucky.note, unlucky.missing) == ("ValueError: out of luck", False)


def test_a_slow_call_is_timed_once_a_round() -> None:
    calls: list[int] = []
    watch = Watch(lambda: calls.append(1))
    watch.round(1e-12)  # seconds: any call takes more than ten times that
    assert len(calls) == 2, "one call warms up, one is timed"
    watch.round(1e-12)
    assert len(calls) == 3, "and in a later round it is only timed"
    assert watch.timing().count == 2


def test_versions_hold_what_a_target_of_ones_own_belongs_to() -> None:
    assert "click" in versions(["click.testing:CliRunner"])
    assert "click" not in versions(["reference"])


def test_a_picture_has_a_panel_for_every_cell_and_pass(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rows = [timed(1.0), replace(timed(1.0), which="forward"), replace(timed(2.0), problem=replace(SMALL, cell="tanh"))]
    draw(rows, tmp_path / "x.svg")
    text = (tmp_path / "x.svg").read_text()
    for panel in ("linear-softmax, gradient", "linear-softmax, forward", "tanh, gradient"):
        assert f">{panel}</text>" in text
    with pytest.raises(ValueError, match="nothing was timed"):
        draw([replace(timed(1.0), timing=None)], tmp_path / "y.svg")


def asked(*arguments: str) -> Any:
    return CliRunner().invoke(main, ["bench", *arguments])


def test_several_cells_are_compared_at_equal_accuracy_and_shown_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # tolerances are kept in the working directory
    targets = ("plain[unrolled]", "plain[solve]", "torchdeq")
    cells = ("--cell", "linear-softmax", "--cell", "tanh", "--m", "4", "--n", "3", "--gamma", "0.5")
    files = ("--json", "all.json", "--markdown", "all.md")
    done = asked(*targets, *cells, "--accuracy", "1e-4", "--budget", "0.01", *files)
    assert done.exit_code == 0, done.output
    rows = read(Path("all.json")).rows
    reached = {(row.name, row.which, row.problem.cell): bool(row.timing) for row in rows}
    assert reached["torchdeq", "forward", "tanh"]
    assert not reached["torchdeq", "gradient", "tanh"], "the phantom gradient reaches no accuracy"
    assert all(row.achieved.worst <= 1e-4 for row in rows if row.achieved and row.timing)
    assert "does not take the cell tanh" in done.output
    assert "**" in Path("all.md").read_text()
    shown = asked("--show", "all.json", "--markdown", "again.md")
    assert shown.exit_code == 0, shown.output
    assert "plain[unrolled]" in shown.output
    assert Path("again.md").read_text() == Path("all.md").read_text()
    same = asked("--compare", "all.json", "all.json")
    assert "after against before" in same.output
    assert "SLOWER" not in same.output


def test_an_option_that_would_do_nothing_is_refused(tmp_path: Path) -> None:
    page = str(tmp_path / "page.html")
    for arguments, message in (
        (("--against", "HEAD", "--m", "8"), "--m does nothing beside --against"),
        (("reference", "--against", "HEAD"), "TARGETS does nothing beside --against"),
        (("--scaling", page, "--json", "x.json"), "--json does nothing beside --scaling"),
        (("--scaling", page, "--cell", "all"), "draws one cell on a page"),
        (("--cell", "nothing"), "cell: 'nothing' has no fixed problem"),
        (("--compare", "missing.json", "missing.json"), "missing.json"),
    ):
        done = asked(*arguments)
        assert done.exit_code == 2, arguments
        assert message in done.output
