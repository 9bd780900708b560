"""What a release says of itself, and what an installation without the optional packages says is missing. Building and
installing is for ``make release-check`` and noxfile.py."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from itertools import chain
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from packaging.requirements import Requirement

import deqverify
from deqverify.cli import main
from deqverify.implementations import loading
from deqverify.implementations.loading import TargetError, load
from tools import release

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT, SETUPTOOLS = PYPROJECT["project"], PYPROJECT["tool"]["setuptools"]


def test_the_version_stands_in_one_place() -> None:
    assert deqverify.__version__ == version("deqverify")
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == PROJECT["version"]
    assert f"## {PROJECT['version']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_paper_is_cited() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["cff-version"] == "1.2.0"
    assert {"title", "authors", "message"} <= cited.keys()
    (paper,) = cited["references"]
    assert paper["identifiers"][0]["value"] == "arXiv:2102.07346"
    theory = " ".join((ROOT / "docs" / "theory.md").read_text(encoding="utf-8").split())
    assert f"*{paper['title']}*, ICLR {paper['year']}, arXiv 2102.07346" in theory


def test_every_package_is_installed() -> None:
    """One that is missing from the list is missing from the wheel, while everything passes in a clone."""
    found = (path.parent.relative_to(ROOT) for path in (ROOT / "deqverify").rglob("__init__.py"))
    there = {".".join(folder.parts) for folder in found}
    assert {*SETUPTOOLS["packages"]} == there | {"deqverify.properties"}, "pyproject.toml lists them"


def test_every_file_that_is_no_module_is_installed() -> None:
    wanted = SETUPTOOLS["package-data"]["deqverify"]
    covered = {path for pattern in wanted for path in (ROOT / "deqverify").glob(pattern)}
    listed = subprocess.run(["git", "ls-files", "deqverify", "properties"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not in a clone")
    assert {ROOT / name for name in listed.stdout.splitlines() if not name.endswith(".py")} == covered, (
        "package-data lists them"
    )


def test_every_file_of_the_repository_is_in_the_sdist() -> None:
    lines = [line.split() for line in (ROOT / "MANIFEST.in").read_text(encoding="utf-8").splitlines()]
    files = {name for line in lines if line[:1] == ["include"] for name in line[1:]}
    folders = {name for line in lines if line[:1] == ["graft"] for name in line[1:]} | {"deqverify", "properties"}
    own = {"README.md", "LICENSE", "pyproject.toml"}  # setuptools takes them by itself
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not in a clone")
    left = {name for name in listed.stdout.splitlines() if name.partition("/")[0] not in folders | files | own}
    assert left <= {".gitignore", "MANIFEST.in"}, "MANIFEST.in lists them"


def test_every_lower_bound_can_be_pinned() -> None:
    """As noxfile.py does for the oldest versions: one >= each."""
    for each in (*PROJECT["dependencies"], *chain(*PROJECT["optional-dependencies"].values())):
        wanted = Requirement(each)
        assert wanted.name == "deqverify" or [bound.operator for bound in wanted.specifier] == [">="], each


def test_every_extra_of_a_user_is_tried() -> None:
    assert {*release.EXTRAS} - {"bare"} == {*PROJECT["optional-dependencies"]} - {*release.OURS}


def test_templates_ask_for_a_stored_counterexample() -> None:
    templates = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.md"))
    assert len(templates) == 4
    for template in templates:
        head, text = re.match(r"---\n(.*?)---\n(.*)", template.read_text(encoding="utf-8"), flags=re.DOTALL).groups()  # type: ignore[union-attr]
        assert yaml.safe_load(head).keys() >= {"name", "about"}, template
        assert "deqverify show ID" in text, template
        assert ".deqverify/counterexamples/" in text, template


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An installation in which PyTorch, JAX and matplotlib cannot be imported, nor what needs them."""
    absent = ("torch", "jax", "matplotlib")
    needing = (
        "implementations.wrapped_",
        "implementations.torch_",
        "implementations.jax_",
        "faults.",
        "reference.torch_",
    )
    for name in list(sys.modules):
        if name.startswith(tuple(f"deqverify.{each}" for each in needing)) or name in (
            "deqverify.frameworks.torch_bridge",
        ):
            monkeypatch.delitem(sys.modules, name)
        if name.partition(".")[0] in absent:
            monkeypatch.setitem(sys.modules, name, None)
    for name in absent:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(loading, "_FAILED", {})
    return monkeypatch


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("reference", "pip install 'deqverify[torch]', or take reference[numpy], which needs NumPy alone"),
        ("reference[torch]", "pip install 'deqverify[torch]', or take reference[numpy], which needs NumPy alone"),
        (
            "reference[newton]",
            "pip install 'deqverify[torch]', or take reference[newton,numpy], which needs NumPy alone",
        ),
        (
            "reference[straight-through,bits=8]",
            "pip install 'deqverify[torch]', or take reference[bits=8,numpy], which needs NumPy alone",
        ),
        ("reference[jax]", "pip install 'deqverify[jax]'"),
    ],
)
def test_a_reference_without_its_framework_is_one_line(target: str, said: str, without: pytest.MonkeyPatch) -> None:
    with pytest.raises(TargetError) as failure:
        load(target)
    assert str(failure.value).endswith(said)
    assert "\n" not in str(failure.value)


def test_explain_needs_numpy_alone(without: pytest.MonkeyPatch) -> None:
    result = CliRunner().invoke(main, ["explain", "existence"])
    assert result.exit_code == 0, result.output
    assert "An example, on reference[numpy]:" in result.output


@pytest.mark.parametrize(("name", "extra"), [("wrap_torch", "torch"), ("TorchLayer", "torch"), ("JaxLayer", "jax")])
def test_a_name_that_needs_a_framework_says_so(name: str, extra: str, without: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ModuleNotFoundError, match=rf"deqverify.{name} needs {extra}; pip install 'deqverify\[{extra}\]'"
    ):
        getattr(deqverify, name)


@pytest.mark.parametrize("option", ["--picture", "--scaling"])
def test_a_picture_without_matplotlib_ends_the_command_before_it_measures(
    option: str, without: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without.setattr("deqverify.benchmarking.measuring.rows", None)
    without.setattr("deqverify.benchmarking.scaling.measured", None)
    result = CliRunner().invoke(main, ["bench", "reference[numpy]", option, str(tmp_path / "page.html")])
    assert result.exit_code == 2, result.output
    assert f"{option}: matplotlib is needed; pip install 'deqverify[plot]'" in result.output
