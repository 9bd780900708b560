"""Known violations, from a file or a dictionary, in every face; pinned ones are strict."""

from __future__ import annotations

import json
import re
import tomllib
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from deqverify import Report, Result, Verdict, VerificationError, VerificationWarning, check_deq
from deqverify.cli import main
from deqverify.faults.parametrisation import RowSoftmax
from deqverify.losses import Squared
from deqverify.problem import SoftmaxProblem
from deqverify.running import counterexamples, expectations
from deqverify.running.counterexamples import Counterexample
from deqverify.running.expectations import Expectation, ExpectationError, given, meeting, read
from deqverify.running.pinning import pin
from deqverify.running.results import Job
from tests.test_faces import pytest_in

ROOT = Path(__file__).parent.parent
BROKEN, SOUND = "deqverify.faults.parametrisation:RowSoftmax", "reference"
QUICK = ("--law", "mass", "--dtype", "float64", "--max-examples", "20", "--seed", "0", "--workers", "1")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder of its own, in which the modules of the tests are found."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT))


def job(law: str = "mass", target: str = SOUND, dtype: str = "float64", device: str = "cpu") -> Job:
    return Job(law, target, dtype, device, 1, 1.0, 1.0)


def pinned_file(target: str = BROKEN, violating: bool = True) -> Path:
    """A counterexample of ``mass``, or what is none: where all weights are equal rows sum to one as columns do."""
    A = np.array([[0.0, 1.0], [0.0, 0.0]]) if violating else np.zeros((2, 2))
    problem = SoftmaxProblem(A, np.ones((1, 2)), np.array([[1.0], [0.0]]), np.zeros((1, 1)), 0.5, Squared())
    document = Counterexample("mass", target, "float64", "cpu", {"problem": problem}).document()
    return Path("pinned", f"{counterexamples.keep(document, Path('pinned'))}.json")


def said(output: str) -> str:
    return " ".join(output.split())


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["run", *arguments])
    return result.exit_code, said(result.output)


ENTRY = """
[[expect]]
law = ["mass", "euler"]
target = ["reference", "torchdeq"]
reason = "known"
link = "https://example.org/1"
versions = ["numpy>=1", "torchdeq<0.2"]
device = "cuda"
"""


def test_an_entry_says_where_and_as_long_as_it_is_expected() -> None:
    Path("e.toml").write_text(ENTRY)
    found = read(Path("e.toml"))
    assert len(found) == 4
    assert found[0] == Expectation(
        "mass", "reference", "known", "https://example.org/1", ("numpy>=1", "torchdeq<0.2"), "cuda"
    )
    assert found[0].said == "known (https://example.org/1)"


@pytest.mark.parametrize(
    ("changes", "meets"),
    [
        ({}, True),
        ({"law": "euler"}, False),
        ({"target": "torchdeq"}, False),
        ({"device": "cpu"}, True),
        ({"device": "cuda"}, False),
        ({"dtype": "float32"}, False),
        ({"versions": ("numpy>1",)}, True),
        ({"versions": ("numpy<1",)}, False),
        ({"versions": ("numpy>1", "numpy<1")}, False),
        ({"versions": ("python>=3.11",)}, True),
        ({"versions": ("python<3.11",)}, False),
        ({"versions": ("nobody-has-this-package",)}, False),
    ],
)
def test_what_meets_an_expectation(changes: dict[str, Any], meets: bool) -> None:
    assert replace(Expectation("mass", SOUND, "known"), **changes).meets(job()) == meets


def test_a_device_is_meant_with_its_number_or_without() -> None:
    assert Expectation("mass", SOUND, "known", device="cuda").meets(job(device="cuda:1"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('law = "mass"\ntarget = "reference"', "expect: entry 1 of e.toml needs a reason"),
        ('law = "mass"\ntarget = "reference"\nreason = " "', "expect: entry 1 of e.toml needs a reason"),
        ('target = "reference"\nreason = "r"', "expect: entry 1 of e.toml needs a law"),
        (
            'law = "mass"\ntarget = "x"\nreason = "r"\nlnk = "y"',
            "entry 1 of e.toml: there is no key 'lnk'; known are law, ",
        ),
        ('law = "mass"\ntarget = "x"\nreason = 3', "entry 1 of e.toml: reason is text, got 3"),
        ('law = "mass"\ntarget = "x"\nreason = "r"\ndevice = "tpu"', "device is cpu or cuda, got 'tpu'"),
        (
            'law = "mass"\ntarget = "x"\nreason = "r"\nversions = "below 2"',
            "versions are written as torchdeq<0.2, got ",
        ),
        (
            'law = "mass"\ntarget = "x"\nreason = "r"\ncounterexample = "no.json"',
            "counterexample: no.json: cannot be read",
        ),
    ],
)
def test_a_bad_entry_is_named_with_what_is_wrong(text: str, message: str) -> None:
    Path("e.toml").write_text(f"[[expect]]\n{text}\n")
    with pytest.raises(ExpectationError) as caught:
        read(Path("e.toml"))
    assert message in str(caught.value)


def test_a_misspelt_table_is_not_passed_over() -> None:
    Path("e.toml").write_text('[[expects]]\nlaw = "mass"\n')
    with pytest.raises(ExpectationError, match=r"holds tables \[\[expect\]\] and nothing else, got expects"):
        read(Path("e.toml"))


def test_a_pinned_entry_is_of_the_law_and_the_device_of_its_counterexample() -> None:
    path = pinned_file()
    entry = {"law": "mass", "target": BROKEN, "reason": "rows", "counterexample": str(path)}
    (found,) = given({"mass": entry}, [])
    assert (found.dtype, found.device) == ("float64", "cpu")
    assert found.meets(job(target=BROKEN))
    assert not found.meets(job(target=BROKEN, dtype="float32"))
    for changed, message in (
        ({"law": "euler"}, "violates the law mass, not euler"),
        ({"device": "cuda"}, "found on cpu"),
    ):
        with pytest.raises(ExpectationError, match=message):
            given({"mass": entry | changed}, [])


def test_a_dictionary_gives_reasons_or_tables_and_means_the_targets_in_hand() -> None:
    table = {"reason": "known", "link": "l", "target": "torchdeq"}
    found = given({"mass": "rows", "euler": table}, ["a", "b"])
    assert found == [
        Expectation("mass", "a", "rows"),
        Expectation("mass", "b", "rows"),
        Expectation("euler", "torchdeq", "known", "l"),
    ]
    with pytest.raises(ExpectationError, match=r"expect: 'mass' is a int; expected a table"):
        given({"mass": 3}, ["a"])


def test_what_is_pinned_comes_first() -> None:
    plain = Expectation("mass", BROKEN, "plain")
    pinned = replace(plain, reason="pinned", counterexample="x.json")
    assert meeting(job(target=BROKEN), [plain, pinned])[0] is pinned


def checked(deq: Any = None, **options: Any) -> Report:
    deq = RowSoftmax() if deq is None else deq
    return check_deq(deq, laws=["mass"], dtype="float64", seed=0, progress=False, **options)


def test_python_takes_a_dictionary_or_a_file() -> None:
    assert not checked().ok
    report = checked(expect={"mass": {"reason": "rows", "link": "https://example.org/1"}})
    assert report.ok
    assert [(r.verdict, r.reason) for r in report.results] == [(Verdict.EXPECTED, "rows (https://example.org/1)")]
    assert not checked(expect={"mass": {"reason": "rows", "versions": "numpy<1"}}).ok
    name = RowSoftmax().name
    Path("deqverify.toml").write_text(f'[[expect]]\nlaw = "mass"\ntarget = "{name}"\nreason = "by itself"\n')
    assert checked().ok
    assert not checked(expect={}).ok, "a dictionary takes the place of the file"
    assert checked(expect="deqverify.toml").results[0].reason == "by itself"


def test_python_says_that_a_file_was_found(capsys: pytest.CaptureFixture[str]) -> None:
    Path("deqverify.toml").write_text(f'[[expect]]\nlaw = "mass"\ntarget = "{RowSoftmax().name}"\nreason = "r"\n')
    check_deq(RowSoftmax(), laws=["mass"], dtype="float64", seed=0)
    assert "expected violations: 1 in deqverify.toml, found here" in said(capsys.readouterr().err)


def test_on_fail_raises_or_warns_and_the_callback_hears_each_result() -> None:
    heard: list[Result] = []
    report = checked(callback=heard.append)
    assert [r.verdict for r in heard] == [r.verdict for r in report.results] == [Verdict.VIOLATED]
    with pytest.raises(VerificationError, match="mass") as caught:
        checked(on_fail="raise")
    assert not caught.value.report.ok
    with pytest.warns(VerificationWarning, match=r"\(mass\)\n.*measured") as warned:
        checked(on_fail="warn")
    assert len(warned) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert checked(on_fail="warn", expect={"mass": "rows"}).ok
    assert checked(on_fail="raise", expect={"mass": "rows"}).ok
    with pytest.raises(VerificationError, match="could not run"):
        check_deq("no_such:thing", laws=["mass"], on_fail="raise", progress=False, expect={})
    with pytest.raises(ValueError, match='on_fail: is "raise" or "warn" or None'):
        checked(on_fail="rise")


def test_a_pinned_example_alone_is_tried_and_its_passing_is_an_error() -> None:
    failing, passing = pinned_file(), pinned_file(violating=False)

    def expecting(*files: Path) -> Report:
        entries = [{"reason": "rows", "counterexample": str(file)} for file in files]
        name = RowSoftmax().name
        known = [expected for entry in entries for expected in given({"mass": entry}, [name])]
        return _run(known)

    report = expecting(failing)
    assert report.ok, report.stale
    assert report.results[0].verdict is Verdict.EXPECTED
    assert report.results[0].examples == 1
    report = expecting(passing)
    assert report.exit_code == 1
    assert report.results[0].verdict is Verdict.INCONCLUSIVE
    (sentence,) = report.stale
    assert f"the pinned counterexample passes ({passing}); remove its entry" in sentence
    report = expecting(failing, passing)
    assert report.exit_code == 1, "each of several has to fail"
    assert report.results[0].verdict is Verdict.EXPECTED
    assert str(passing) in report.stale[0]
    assert str(failing) not in report.stale[0]
    failing.write_text("{}")
    assert _run([Expectation("mass", RowSoftmax().name, "r", counterexample=str(failing))]).exit_code == 2


def _run(known: list[Expectation]) -> Report:
    from deqverify.implementations.subject import Subject
    from deqverify.running.executors import ThisProcess
    from deqverify.running.request import Request
    from deqverify.running.run import Run

    layer = RowSoftmax()
    request = Request(
        [layer.name], ["mass"], dtypes=["float64"], expectations=known, counterexamples=None, in_hand=True, seed=0
    )
    return Run(request, ThisProcess(layer, Subject(layer).claims)).report()


def test_the_command_line_pins_what_it_finds_and_is_clean_from_then_on() -> None:
    code, output = run(BROKEN, SOUND, *QUICK, "--pin")
    assert code == 1, output
    assert f"pinned in deqverify.toml: mass × {BROKEN} float64; say there why" in output
    (entry,) = tomllib.loads(Path("deqverify.toml").read_text())["expect"]
    assert (entry["law"], entry["target"]) == ("mass", BROKEN)
    assert json.loads(Path(entry["counterexample"]).read_text())["law"] == "mass"
    code, output = run(BROKEN, SOUND, *QUICK)
    assert code == 0, output
    assert "expected violations: 1 in deqverify.toml, found here" in output
    code, output = run(SOUND, *QUICK, "--pin")
    assert "nothing to pin: no violation was unexpected" in output
    mended = Path("deqverify.toml").read_text().replace(BROKEN, SOUND)
    Path("mended.toml").write_text(mended)
    code, output = run(SOUND, *QUICK, "--expect", "mended.toml")
    assert code == 1, output
    assert "stale expectation: mass × reference float64: the pinned counterexample passes" in output


def test_pinning_adds_to_a_file_and_says_what_is_no_data() -> None:
    Path("mine.toml").write_text('[[expect]]\nlaw = "euler"\ntarget = "reference"\nreason = "old"')
    report = checked(expect={})
    result = report.results[0]
    assert result.violation
    quoted = replace(result.violation, diagnosis='says "no"\\')
    whole, bare = replace(result, violation=quoted), replace(result, violation=replace(quoted, counterexample={}))
    pinned, left = pin(Report([whole]), Path("mine.toml"))
    assert (len(pinned), left) == (1, [])
    laws = [(expected.law, expected.reason) for expected in read(Path("mine.toml"))]
    assert laws == [("euler", "old"), ("mass", 'says "no"\\')]
    pinned, (sentence,) = pin(Report([bare]), Path("mine.toml"))
    assert pinned == []
    assert "not pinned, since its counterexample is no data" in sentence
    assert len(read(Path("mine.toml"))) == 2


USERS_TESTS = """
from deqverify import parametrize_with_laws
from deqverify.faults.parametrisation import RowSoftmax
from tests.targets import sound

broken = RowSoftmax()
broken.name = "broken"

@parametrize_with_laws([broken, sound()], laws=["mass"], expect={expect})
def test_mine(law, deq):
    law(deq)
"""


def pytest_here(*arguments: str) -> str:
    done = pytest_in(Path.cwd(), "-q", "-rxXf", *arguments)
    return done.stdout + done.stderr


def test_the_decorator_marks_what_is_expected_and_is_strict_where_it_is_pinned() -> None:
    plain = {"mass": {"reason": "rows", "target": "broken"}}
    Path("test_plain.py").write_text(USERS_TESTS.format(expect=plain))
    pins = {"mass": plain["mass"] | {"counterexample": str(pinned_file())}}
    Path("test_pinned.py").write_text(USERS_TESTS.format(expect=pins))
    passing = {"mass": plain["mass"] | {"counterexample": str(pinned_file(violating=False))}}
    Path("test_passing.py").write_text(USERS_TESTS.format(expect=passing))
    output = pytest_here("test_plain.py", "test_pinned.py", "test_passing.py")
    assert "1 failed, 3 passed, 2 xfailed" in output, output
    assert "[XPASS(strict)] rows" in output
    assert "FAILED test_passing.py::test_mine[mass-broken]" in output


def test_the_pytest_face_finds_the_file_and_fails_where_a_pinned_example_passes() -> None:
    file = '[[expect]]\nlaw = "mass"\ntarget = "{}"\nreason = "rows"\ncounterexample = "{}"\n'
    Path("deqverify.toml").write_text(
        file.format(BROKEN, pinned_file()) + file.format(SOUND, pinned_file(SOUND, violating=False))
    )
    targets = ("--deq", BROKEN, "--deq", SOUND, "--deq-dtype", "float64", "--deq-seed", "0")
    output = pytest_here("--pyargs", "deqverify.properties", *targets, "-k", "mass", "-v")
    assert "deqverify: expected violations: deqverify.toml" in output
    assert re.search(r"\b1 failed, \d+ deselected, 1 xfailed\b", output), output
    assert "stale expectation: mass × reference float64: the pinned counterexample passes" in said(output)


def test_the_file_of_the_working_folder_is_read_where_no_other_is_named() -> None:
    assert expectations.found_by_itself() is None
    assert expectations.expectations(None, [SOUND]) == []
    Path("deqverify.toml").write_text('[[expect]]\nlaw = "mass"\ntarget = "reference"\nreason = "r"\n')
    assert expectations.expectations(None, []) == [Expectation("mass", "reference", "r")]
