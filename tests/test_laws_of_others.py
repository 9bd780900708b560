"""Laws of others: installed in a package, or in a module beside one's work; every face finds them."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from deqverify import check_deq, laws, registry
from deqverify.cli import main
from deqverify.implementations.loading import forget
from deqverify.reporting.explain import page
from deqverify.running.soak_state import fingerprint

ROOT = Path(__file__).parent.parent
GUIDE = (ROOT / "docs" / "add-a-law.md").read_text(encoding="utf-8")
LAW, CLIPPED = re.findall(r"```python\n(.*?)```", GUIDE, flags=re.DOTALL)
(PROJECT,) = re.findall(r"```toml\n(.*?)```", GUIDE, flags=re.DOTALL)
BESIDE, INSTALLED = (block.splitlines() for block in re.findall(r"```sh\n(.*?)```", GUIDE, flags=re.DOTALL))
QUICK = ("--dtype", "float64", "--max-examples", "20", "--seed", "0", "--workers", "1")


@pytest.fixture(autouse=True)
def as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The guide's files beside one's work, and afterwards no law that was not there before."""
    (tmp_path / "odd_laws.py").write_text(LAW, encoding="utf-8")
    (tmp_path / "clipped.py").write_text(CLIPPED, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    laws()
    known, modules = dict(registry._REGISTRY), set(sys.modules)
    yield
    registry._REGISTRY.clear()
    registry._REGISTRY.update(known)
    registry._TROUBLES.clear()
    registry.entry_points_of_laws.cache_clear()
    for name in {*sys.modules} - modules:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]
    forget()


def deqverify(*arguments: str) -> tuple[int, str]:
    """The exit code of a command, and what it says."""
    result = CliRunner().invoke(main, arguments)
    return result.exit_code, " ".join(result.output.split())


def guided(command: str) -> tuple[int, str]:
    """The same of a line of the guide."""
    program, *arguments = shlex.split(command)
    assert program == "deqverify"
    return deqverify(*arguments)


def run_module(*arguments: str) -> subprocess.CompletedProcess[str]:
    """``python -m``, as a user's shell would find the program, with the modules that are found here."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, "-m", *arguments], capture_output=True, text=True, check=False, env=environment
    )


def test_the_guides_module_is_judged_by_beside_ones_work() -> None:
    run, explain = BESIDE
    code, said = guided(run)
    assert code == 1, said
    assert re.search(r"1 clipped:solve .*\(oddness\)", said), said
    assert "1 holds, 1 violated" in said
    code, said = guided(explain)
    assert code == 0, said
    assert "twice the error of z" in said
    assert "measured" in said


def test_the_guides_package_is_installed_and_found_by_every_face(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("setuptools", minversion="77")
    package, home = tmp_path / "package", tmp_path / "installed"
    package.mkdir()
    (tmp_path / "odd_laws.py").rename(package / "odd_laws.py")
    (package / "pyproject.toml").write_text(PROJECT, encoding="utf-8")
    install, listing, run, tests = INSTALLED
    assert install == "pip install ."
    here = ("--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--target", str(home))
    done = run_module("pip", "install", str(package), "--quiet", *here)
    assert done.returncode == 0, done.stdout + done.stderr
    monkeypatch.syspath_prepend(str(home))
    registry.entry_points_of_laws.cache_clear()
    code, said = guided(listing)
    assert code == 0
    assert "laws of odd_laws" in said
    code, said = guided(run)
    assert code == 1, said
    assert "odd-laws 1.0" in said, "a verdict depends on the version of the law"
    assert re.search(r"1 clipped:solve .*\(oddness\)", said), said
    (known,) = (tmp_path / ".deqverify" / "counterexamples").glob("*.json")
    code, said = deqverify("replay", known.stem)
    assert (code, "still violated" in said) == (1, True), said
    done = run_module(*shlex.split(tests), "-p", "no:cacheprovider", "-p", "no:xdist")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed" in done.stdout
    assert "‖ẑ(x, b) + ẑ(−x, −b)‖: measured" in done.stdout


def test_a_counterexample_of_a_law_of_ones_own_is_shown_and_pasted() -> None:
    arguments = ["run", "clipped:solve", "--laws", "odd_laws", "--law", "odd_laws", *QUICK]
    assert CliRunner().invoke(main, arguments).exit_code == 1
    (path,) = Path(".deqverify/counterexamples").glob("*.json")
    assert json.loads(path.read_text())["law"] == "oddness"
    registry._REGISTRY.pop("oddness")
    code, said = deqverify("show", path.stem)
    assert "law: 'oddness' is not known here; laws of a module of your own are brought by --laws MODULE" in said
    sys.modules.pop("odd_laws")
    code = CliRunner().invoke(main, ["show", path.stem, "--laws", "odd_laws", "--code"]).output
    pasted = subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True, check=False)
    assert "AssertionError: oddness: (x, b) ↦ (−x, −b) has the equilibrium −z*" in pasted.stderr, code + pasted.stderr


def test_python_and_the_soak_find_what_was_imported() -> None:
    before = fingerprint()
    import odd_laws

    assert fingerprint() != before, "what a law measured says nothing of another"
    report = check_deq("clipped:solve", laws=["odd_laws"], dtype="float64", seed=0, progress=False)
    assert [(r.job.law, r.verdict.value) for r in report.results] == [("oddness", "violated")]
    with pytest.raises(AssertionError, match="oddness"):
        odd_laws.oddness(__import__("clipped").solve, examples=20, dtype="float64")
    soak = ["soak", "clipped:solve", "--laws", "odd_laws", "--law", "oddness", "--dtype", "float64"]
    result = CliRunner().invoke(main, [*soak, "--minutes", "1", "--examples", "10", "--workers", "1"])
    assert result.exit_code == 1, result.output
    assert list(Path(".deqverify/soak/finds").glob("oddness-*.py"))


def test_our_page_of_laws_is_ours_and_the_page_of_all_has_theirs_last() -> None:
    ours = page()
    result = CliRunner().invoke(main, ["list", "--markdown", "--laws", "odd_laws"])
    assert result.exit_code == 0, result.output
    assert page() == ours
    assert result.output.startswith(ours)
    assert "### oddness" in result.output[len(ours) :]


def test_a_law_may_not_take_the_name_of_another(tmp_path: Path) -> None:
    (tmp_path / "taking.py").write_text(LAW.replace("def oddness", "def mass"))
    (tmp_path / "taking_theirs.py").write_text(LAW)
    result = CliRunner().invoke(main, ["run", "reference", "--laws", "taking"])
    assert result.exit_code == 2
    assert "there is a law 'mass' already, in deqverify.properties.softmax; give mass another name" in result.output
    result = CliRunner().invoke(main, ["list", "--laws", "odd_laws", "--laws", "taking_theirs"])
    assert result.exit_code == 2
    assert "there is a law 'oddness' already, in odd_laws" in " ".join(result.output.split())
    assert laws()["mass"].ours


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('about="tanh"', 'about="tahn"', "about: 'tahn' is not one of any, any linear, "),
        ('needs=("equilibrium",)', 'needs=("equilibria",)', "needs: 'equilibria' is not one of equilibrium, "),
        ('rests_on=("existence",)', 'rests_on=("existance",)', "rests_on: there is no law 'existance'"),
        ('    rests_on=("existence",)', '    loose=" "', "loose: give the reason"),
    ],
)
def test_a_wrong_argument_is_named_when_the_module_is_imported(
    old: str, new: str, message: str, tmp_path: Path
) -> None:
    assert old in LAW
    (tmp_path / "wrong_laws.py").write_text(LAW.replace(old, new))
    with pytest.raises(
        registry.LawsError, match=f"the laws of wrong_laws could not be imported: ValueError: {message}"
    ):
        registry.bring("wrong_laws")


def test_a_law_that_is_defined_again_takes_the_place_of_the_first() -> None:
    cell = {"__name__": "__main__"}
    for text in (LAW, LAW.replace("twice the error", "two times the error")):
        exec(text, cell)
    assert "two times the error" in laws()["oddness"].doc


def installed_beside(folder: Path, module: str, text: str) -> None:
    """A package as pip leaves it: a module, and a folder of metadata with its entry point."""
    (folder / f"{module}.py").write_text(text, encoding="utf-8")
    metadata = folder / f"{module}-2.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 2.0\n", encoding="utf-8")
    (metadata / "entry_points.txt").write_text(f"[deqverify.laws]\nlaws = {module}\n", encoding="utf-8")
    registry.entry_points_of_laws.cache_clear()


HALF = f"{LAW}\nraise RuntimeError('no licence')\n"
EXITS = "raise SystemExit(3)\n"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (HALF, "RuntimeError: no licence"),
        (EXITS, "SystemExit: 3"),
        (LAW.replace("def oddness", "def mass"), "ValueError: id: there is a law 'mass' already, in deqverify.prop"),
        ("import nothing_of_that_name\n", "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
    ],
)
def test_a_package_that_fails_is_one_line_and_leaves_no_law_half_done(text: str, why: str, tmp_path: Path) -> None:
    installed_beside(tmp_path, "failing_laws", text)
    assert "oddness" not in laws()
    code, said = deqverify("list")
    assert code == 0
    assert said.count(f"the laws of failing_laws could not be imported: {why}") == 1
    assert "Traceback" not in said


def test_a_package_that_fails_takes_no_run_away(tmp_path: Path) -> None:
    installed_beside(tmp_path, "failing_laws", HALF)
    code, said = deqverify("run", "reference", "--law", "mass", *QUICK)
    assert code == 0, said
    assert said.count("the laws of failing_laws could not be imported: RuntimeError: no licence") == 1


def test_pytest_says_once_which_laws_are_missing(tmp_path: Path) -> None:
    installed_beside(tmp_path, "failing_laws", EXITS)
    options = "--deq reference --deq-laws odd_laws --deq-dtype float64 --deq-max-examples 5 --deq-seed 0"
    chosen = ("--pyargs", "deqverify.properties", "-k", "mass or oddness")
    done = run_module("pytest", "-p", "no:cacheprovider", "-p", "no:xdist", *options.split(), *chosen)
    assert "deqverify: the laws of failing_laws could not be imported: SystemExit: 3" in done.stdout, done.stdout
    assert "1 passed, 1 skipped" in done.stdout, done.stdout
