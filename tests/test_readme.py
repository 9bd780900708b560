"""The README does what it says: its Python runs, its commands exist, its table is current."""

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
from deqverify.reporting.explain import page
from deqverify.reporting.glossary import linked
from deqverify.running.expectations import read, stale

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def table_of_laws() -> str:
    """The table that stands in the README; run this file to print it."""
    rows = ["| law | statement | source |", "|---|---|---|"]
    for law in laws().values():
        rows.append(
            f"| `{law.id}` | {law.statement.replace('|', chr(92) + '|')} | {linked(law.source, 'docs/theory.md')} |"
        )
    return "\n".join(rows)


def test_the_table_of_laws_is_current() -> None:
    found = re.search(r"<!-- laws -->\n(.*?)\n<!-- /laws -->", README, flags=re.DOTALL)
    assert found
    assert found[1] == table_of_laws(), "run: python -m tests.test_readme"


def test_the_page_of_laws_is_current() -> None:
    assert (ROOT / "docs" / "laws.md").read_text(encoding="utf-8") == page(), "run: make docs"


def test_the_violation_shown_is_real() -> None:
    with pytest.raises(AssertionError, match=r"measured 4, allowed 0\.00801"):
        exec(SNIPPETS[0], {})


def test_verifying_ones_own_deq_finds_the_one_step_gradient_and_the_silent_cap() -> None:
    names: dict[str, object] = {}
    exec(SNIPPETS[1], names)
    results = names["report"].results  # type: ignore[attr-defined]
    assert {r.job.law for r in results if r.verdict.value == "violated"} == {"enclosure", "gradient-x"}
    exec(SNIPPETS[2], names)
    assert names["test_my_deq"].pytestmark  # type: ignore[attr-defined]


def test_a_library_that_takes_parameters_is_wrapped_as_shown(capsys: pytest.CaptureFixture[str]) -> None:
    exec(SNIPPETS[3], {})
    shown = capsys.readouterr().out
    assert "crash" not in shown
    assert "could not run" not in shown
    assert "gradient-theta" in shown


def test_a_layer_in_jax_is_verified_as_shown(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("jax")
    exec(SNIPPETS[4], {})
    assert "VIOLATED  gradient-x × mine float64" in capsys.readouterr().out


@pytest.mark.parametrize(("place", "package"), [(5, "torch"), (6, "jax")])
def test_a_layer_with_weights_of_its_own_is_wrapped_as_shown(
    place: int, package: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip(package)
    exec(SNIPPETS[place], {})
    shown = capsys.readouterr().out
    assert "VIOLATED  gradient-theta" in shown
    assert "VIOLATED  enclosure" not in shown
    assert "estimated effect of the equilibrium's error" in shown


def test_known_violations_are_written_as_shown(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    section = README[README.index("## Known violations") : README.index("## Causes")]
    (entries,) = re.findall(r"```toml\n(.*?)```", section, flags=re.DOTALL)
    (tmp_path / "deqverify.toml").write_text(entries, encoding="utf-8")
    assert [expected.law for expected in read(tmp_path / "deqverify.toml")] == ["gradient-x", "energy"]
    names: dict[str, Any] = {}
    exec(SNIPPETS[7], names)
    assert names["report"].ok
    assert "gradient-x expected" in capsys.readouterr().out


def test_the_cells_are_those_that_there_are() -> None:
    table = README[README.index("| cell | f(z)") : README.index("Bounds for the linear-softmax cell")]
    assert set(re.findall(r"`([a-z-]+)`", table)) == set(cells())


def test_the_commands_are_those_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)$", README, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)


CI = README[README.index("## In your CI") : README.index("## Reports")]


def fenced(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", CI, flags=re.DOTALL)
    return str(found)


def test_the_workflow_parses_and_its_commands_have_valid_options() -> None:
    steps = yaml.safe_load(fenced("yaml"))["jobs"]["laws"]["steps"]
    commands = [shlex.split(step["run"]) for step in steps if "run" in step]
    (own,) = [command for command in commands if command[0] == "deqverify"]
    context = main.commands[own[1]].make_context(own[1], own[2:])  # UsageError for what is no option
    assert context.params["targets"] == ("mine:my_deq",)
    assert context.params["max_time"] == 5.0
    kept = [step for step in steps if step.get("uses", "").startswith("actions/cache/")]
    restored, saved = kept
    assert saved["if"] == "always()"  # a step that fails is what finds counterexamples
    assert {key: restored["with"][key] for key in ("path", "key")} == saved["with"]
    assert saved["with"]["key"].startswith(restored["with"]["restore-keys"])


def test_the_expectations_beside_the_workflow_name_laws_that_there_are(tmp_path: Path) -> None:
    (tmp_path / "expectations.toml").write_text(fenced("toml"), encoding="utf-8")
    known = read(tmp_path / "expectations.toml")
    assert stale(known, laws()) == []
    assert tomllib.loads(fenced("toml"))["expect"][0]["target"] == "mine:my_deq"


def test_the_invocation_of_pytest_has_valid_options(pytestconfig: pytest.Config) -> None:
    _, *options = shlex.split(fenced("sh"))
    known = pytestconfig._parser.parse_known_args(options[2:])
    assert known.deq_targets == ["mine:my_deq"]
    assert known.deq_max_time == 5.0
    assert [each for each in options if each.startswith("--deq")] == [
        "--deq", "--deq-profile", "--deq-max-time", "--deq-expect",
    ]  # fmt: skip


if __name__ == "__main__":
    table = f"<!-- laws -->\n{table_of_laws()}\n<!-- /laws -->"
    fresh = re.sub(r"<!-- laws -->.*<!-- /laws -->", lambda _: table, README, flags=re.DOTALL)
    (ROOT / "README.md").write_text(fresh, encoding="utf-8")
