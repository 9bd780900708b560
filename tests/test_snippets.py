"""What stands below a violation pastes and runs, from any folder, and shows the violation again."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import find, settings

from deqverify import CellProblem, SoftmaxProblem, check_deq, losses
from deqverify.cli import main
from deqverify.describing import arguments_code
from deqverify.faults.parametrisation import RowSoftmax
from deqverify.faults.sound import SoundModel, SoundNewton, SoundPicard, TracedSweeps
from deqverify.implementations.subject import Subject
from deqverify.reference import reference
from deqverify.registry import Law, laws
from deqverify.running.snippets import finding_object, finding_target

HERE = RowSoftmax()
ROOT = Path(__file__).parent.parent

WRONG = """
from deqverify.reference.torch_direct import TorchDirect

class Wrong(TorchDirect):
    def equilibrium(self, cell, theta, x, z0):
        return super().equilibrium(cell, theta, 2 * x, z0)

wrong = Wrong()

def solve(step, z0):
    return step(step(z0))
"""


def pasted(snippet: str, folder: Path) -> str:
    """What Python says of ``snippet`` in ``folder``."""
    done = subprocess.run([sys.executable, "-"], input=snippet, cwd=folder, capture_output=True, text=True, check=False)
    return done.stderr


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A folder with a module of one's own, and another one."""
    beside, elsewhere = tmp_path / "it's beside", tmp_path / "elsewhere"
    for folder in (beside, elsewhere):
        folder.mkdir()
    (beside / "wrongly.py").write_text(WRONG)
    return beside, elsewhere


def test_a_target_beside_ones_work_is_found_from_another_folder(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    beside, elsewhere = folders
    monkeypatch.chdir(beside)
    monkeypatch.syspath_prepend(str(beside))
    arguments = [
        "wrongly:solve[rtol=1e-6]",
        "--law",
        "mass",
        "--seed",
        "0",
        "--max-examples",
        "5",
        "--report",
        "r.json",
    ]
    arguments += ["--dtype", "float64"]
    result = CliRunner().invoke(main, ["run", *arguments])
    assert result.exit_code == 1, result.output
    (entry,) = json.loads((beside / "r.json").read_text())["results"]
    assert "AssertionError: mass: " in pasted(entry["violation"]["snippet"], elsewhere)


def test_what_is_installed_needs_no_path() -> None:
    for target in ("reference", "torchdeq[ift]", "deqverify.reference:reference[mass]", "json:loads", "gone:deq", "["):
        assert finding_target(target) == []
    (line, _) = finding_target("tests.targets:sound")
    assert line == f"import sys; sys.path.insert(0, {str(ROOT)!r})"


SCRIPT = """
from deqverify import check_deq
{definitions}
{guard}print(check_deq({deq}, laws=["mass"], seed=0, progress=False).results[0].violation.snippet)
"""


@pytest.mark.parametrize(
    ("definitions", "guard", "deq", "said"),
    [
        ("import wrongly", "", "wrongly.solve", "AssertionError: mass: "),
        ("import wrongly", "", "wrongly.wrong", "AssertionError: mass: "),
        ("import wrongly", "", "wrongly.Wrong()", "define deq first: the object given to check_deq, Wrong"),
        (
            "import wrongly",
            "",
            "lambda step, z0: step(z0)",
            "define deq first: the object given to check_deq, <lambda>",
        ),
        (
            "def mine(step, z0):\n    return step(z0)",
            "",
            "mine",
            "define deq first: the object given to check_deq, mine",
        ),
        ("def mine(step, z0):\n    return step(z0)", "if __name__ == '__main__': ", "mine", "AssertionError: mass: "),
    ],
)
def test_what_was_given_to_check_deq_is_found_again(
    folders: tuple[Path, Path], definitions: str, guard: str, deq: str, said: str
) -> None:
    beside, elsewhere = folders
    (beside / "script.py").write_text(SCRIPT.format(definitions=definitions, guard=guard, deq=deq))
    done = subprocess.run([sys.executable, "script.py"], cwd=beside, capture_output=True, text=True, check=True)
    assert said in pasted(done.stdout, elsewhere)


def test_an_object_of_a_module_is_imported_by_its_name() -> None:
    path, _, line, _ = finding_object(HERE)
    assert line == "from tests.test_snippets import HERE as deq"
    assert str(ROOT) in path
    assert finding_object(RowSoftmax())[0].startswith('assert "deq" in globals()')


def test_a_snippet_for_an_object_in_hand_runs_where_it_is_defined() -> None:
    report = check_deq(RowSoftmax(), laws=["mass"], seed=0, progress=False)
    snippet = report.results[0].violation.snippet  # type: ignore[union-attr]
    with pytest.raises(AssertionError, match="mass"):
        exec(snippet, {"deq": RowSoftmax()})
    with pytest.raises(AssertionError, match="define deq first: the object given to check_deq, RowSoftmax"):
        exec(snippet, {})


ONE_EACH = {tuple(inspect.signature(law.body).parameters): law for law in laws().values()}
"""A law for each list of arguments that there is."""


@pytest.mark.parametrize("law", ONE_EACH.values(), ids=lambda law: law.id)
def test_what_a_law_draws_is_code_that_pastes(law: Law) -> None:
    """The simplest example, made again by what a snippet imports."""
    references = map(reference, ("torch", "peaceman-rachford", "bits=8"))
    layers = (SoundNewton(), SoundPicard(), TracedSweeps(), SoundModel(), *references)
    able = (Subject(layer) for layer in layers)
    subject = next(each for each in able if not law.missing(each))
    drawn = find(law.drawn(subject), lambda _: True, settings=settings(database=None, deadline=None))
    names = {"np": np, "losses": losses, "SoftmaxProblem": SoftmaxProblem, "CellProblem": CellProblem}
    again = eval(f"dict({arguments_code(drawn)})", names)
    assert arguments_code(again) == arguments_code(drawn)
