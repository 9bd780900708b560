"""The README and the pages of docs/ do what they say: their Python runs, their commands exist."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from deqverify import laws
from deqverify.cells import cells
from deqverify.cli import main
from deqverify.faults import faults
from deqverify.implementations.subject import Subject
from deqverify.reporting.explain import page
from deqverify.running.expectations import read, stale
from deqverify.trial import Effort

ROOT = Path(__file__).parent.parent


def fenced(name: str, language: str) -> list[str]:
    """The blocks of a language on a page, named by its path."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_every_page_with_python_is_run_by_a_test() -> None:
    """The first five here; the guides by test_laws_of_others and cell_examples."""
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    snippets = {path.name: len(fenced(str(path), "python")) for path in pages}
    assert {name: count for name, count in snippets.items() if count} == {
        "README.md": 3,
        "pytorch.md": 4,
        "jax.md": 2,
        "numpy.md": 1,
        "verdicts.md": 1,
        "add-a-law.md": 2,
        "add-a-cell.md": 1,
    }


def test_the_page_of_laws_is_current() -> None:
    assert (ROOT / "docs" / "laws.md").read_text(encoding="utf-8") == page(), "run: make docs"


def test_the_violation_shown_is_real() -> None:
    with pytest.raises(AssertionError, match=r"measured 4, allowed 0\.00801"):
        exec(fenced("README.md", "python")[0], {})


def test_verifying_ones_own_deq_finds_the_one_step_gradient_and_the_silent_cap() -> None:
    first, test, *_ = fenced("docs/pytorch.md", "python")
    assert first == fenced("README.md", "python")[1]  # one test for both
    names: dict[str, object] = {}
    exec(first, names)
    results = names["report"].results  # type: ignore[attr-defined]
    assert {r.job.law for r in results if r.verdict.value == "violated"} == {"enclosure", "gradient-x"}
    exec(test, names)
    assert names["test_my_deq"].pytestmark  # type: ignore[attr-defined]


def test_a_library_that_takes_parameters_is_wrapped_as_shown(capsys: pytest.CaptureFixture[str]) -> None:
    exec(fenced("docs/pytorch.md", "python")[2], {})
    shown = capsys.readouterr().out
    assert "crash" not in shown
    assert "could not run" not in shown
    assert "gradient-theta" in shown


def test_a_layer_in_jax_is_verified_as_shown(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("jax")
    first = fenced("docs/jax.md", "python")[0]
    assert first == fenced("README.md", "python")[2]
    exec(first, {})
    assert "VIOLATED  gradient-x × mine float64" in capsys.readouterr().out


def test_a_solver_in_numpy_is_verified_as_shown() -> None:
    (snippet,) = fenced("docs/numpy.md", "python")
    names: dict[str, Any] = {}
    exec(snippet, names)
    seen = {r.job.law: r.verdict.value for r in names["report"].results}
    assert seen["enclosure"] == "violated"
    assert seen["gradient-x"] == "not claimed"
    honest = snippet.replace("        return z0\n", "        return Solution(z0, Status.CAPPED)\n")
    assert honest != snippet
    exec(honest, names)
    subject = Subject(names["Mine"](), only=("linear-softmax",))
    trial = laws()["enclosure"].trial(subject, Effort(20, seconds=600.0, seed=1))  # quick, whatever the machine's load
    assert trial.failure is None
    assert trial.decisive


@pytest.mark.parametrize(("name", "place"), [("pytorch", 3), ("jax", 1)])
def test_a_layer_with_weights_of_its_own_is_wrapped_as_shown(
    name: str, place: int, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip({"pytorch": "torch"}.get(name, name))
    exec(fenced(f"docs/{name}.md", "python")[place], {})
    shown = capsys.readouterr().out
    assert "VIOLATED  gradient-theta" in shown
    assert "VIOLATED  enclosure" not in shown
    assert "estimated effect of the equilibrium's error" in shown


def test_known_violations_are_written_as_shown(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (entries,) = fenced("docs/verdicts.md", "toml")
    (tmp_path / "deqverify.toml").write_text(entries, encoding="utf-8")
    assert [expected.law for expected in read(tmp_path / "deqverify.toml")] == ["gradient-x", "energy"]
    names: dict[str, Any] = {}
    exec(fenced("docs/verdicts.md", "python")[0], names)
    assert names["report"].ok
    assert "gradient-x expected" in capsys.readouterr().out


def test_the_cells_are_those_that_there_are() -> None:
    text = (ROOT / "docs" / "cells.md").read_text(encoding="utf-8")
    table = text[text.index("| cell | f(z)") : text.index("Bounds for the linear-softmax cell")]
    assert set(re.findall(r"`([a-z-]+)`", table)) == set(cells())


def test_the_page_of_faults_says_how_many_there_are() -> None:
    text = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
    assert re.findall(r"(\d+) DEQs broken on purpose", text) == [str(len(faults()))]


def test_the_commands_are_those_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"^make ([\w-]+)$", text, flags=re.MULTILINE)
    assert commands == ["verify", "test"]
    for target in commands:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)


def the(name: str, language: str) -> str:
    (found,) = fenced(name, language)
    return found


def test_the_workflow_parses_and_its_commands_have_valid_options() -> None:
    steps = yaml.safe_load(the("docs/ci.md", "yaml"))["jobs"]["laws"]["steps"]
    commands = [shlex.split(step["run"]) for step in steps if "run" in step]
    (own,) = [command for command in commands if command[0] == "deqverify"]
    context = main.commands[own[1]].make_context(own[1], own[2:])  # UsageError for what is no option
    assert context.params["targets"] == ("mine:my_deq",)
    assert context.params["max_minutes"] == 6.0
    kept = [step for step in steps if step.get("uses", "").startswith("actions/cache/")]
    restored, saved = kept
    assert saved["if"] == "always()"  # a step that fails is what finds counterexamples
    assert {key: restored["with"][key] for key in ("path", "key")} == saved["with"]
    assert saved["with"]["key"].startswith(restored["with"]["restore-keys"])


def test_the_expectations_beside_the_workflow_name_laws_that_there_are(tmp_path: Path) -> None:
    entries = the("docs/ci.md", "toml")
    (tmp_path / "expectations.toml").write_text(entries, encoding="utf-8")
    known = read(tmp_path / "expectations.toml")
    assert stale(known, laws()) == []
    assert tomllib.loads(entries)["expect"][0]["target"] == "mine:my_deq"


def test_the_invocation_of_pytest_has_valid_options(pytestconfig: pytest.Config) -> None:
    _, *options = shlex.split(the("docs/ci.md", "sh"))
    known = pytestconfig._parser.parse_known_args(options[2:])
    assert known.deq_targets == ["mine:my_deq"]
    assert known.deq_max_time == 5.0
    assert [each for each in options if each.startswith("--deq")] == [
        "--deq", "--deq-profile", "--deq-max-time", "--deq-expect",
    ]  # fmt: skip
