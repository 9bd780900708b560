"""The oldest and the newest versions that pyproject.toml allows, on every Python: ``nox``, or ``nox -s numpy-3.11``.

Oldest are the lower bounds as they stand there: of all that deqverify itself needs, or of the framework, which brings
bounds of its own; newest is what pip finds. Each session installs this clone, verifies the reference and runs a few
test files. A Python that is not on the machine is skipped. ``nox -s 'jax-3.11(versions="oldest")'`` runs one part.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import nox
from packaging.requirements import Requirement

ROOT = Path(__file__).parent
PYTHONS = ("3.11", "3.12", "3.13")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NUMPY_TESTS = ("tests/test_claims.py", "tests/test_oracle.py", "tests/test_balls.py", "tests/test_oracle_losses.py")
"""Tests that need no framework."""

nox.options.error_on_missing_interpreters = False

VERSIONS = nox.parametrize("versions", ["oldest", "newest"])


def oldest(requirements: list[str], python: str) -> list[str]:
    """Their lower bounds under a ``python`` as the releases that they name: numpy>=1.26 as numpy==1.26.*, packaging>=23
    as ==23.0.*."""
    pinned = []
    for each in map(Requirement, requirements):
        if each.marker and not each.marker.evaluate({"python_version": python}):
            continue
        (lower,) = (bound.version for bound in each.specifier if bound.operator == ">=")
        pinned.append(f"{each.name}=={lower if '.' in lower else f'{lower}.0'}.*")
    return pinned


def verify(
    session: nox.Session,
    versions: str,
    target: str,
    extra: str = "",
    tests: tuple[str, ...] = (),
    laws: tuple[str, ...] = (),
) -> None:
    wanted = PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]
    session.install(
        "-e",
        f".[pytest,{extra}]" if extra else ".[pytest]",
        *(oldest(wanted, str(session.python)) if versions == "oldest" else ["--upgrade"]),
    )
    session.run("python", "-m", "pip", "list", "--format=freeze")
    effort = ("--profile", "quick", "--max-examples", "10", "--seed", "0", "--workers", "1")
    session.run("deqverify", "run", target, *effort, *(word for law in laws for word in ("--law", law)))
    session.run("pytest", "-q", *tests)


@nox.session(python=PYTHONS)
@VERSIONS
def numpy(session: nox.Session, versions: str) -> None:
    """NumPy, SciPy and whatever else deqverify itself needs; no framework."""
    verify(session, versions, "reference[numpy]", tests=NUMPY_TESTS)
    session.run(
        "deqverify", "run", "scipy", "--law", "answers", "--max-examples", "10", "--seed", "0", "--workers", "1"
    )


@nox.session(python=PYTHONS)
@VERSIONS
def torch(session: nox.Session, versions: str) -> None:
    """PyTorch. pip may take a build for GPUs, of some gigabytes."""
    verify(
        session,
        versions,
        "reference",
        "torch",
        tests=("tests/test_problem.py", "tests/test_losses.py", "tests/test_cells.py"),
    )


@nox.session(python=PYTHONS)
@VERSIONS
def jax(session: nox.Session, versions: str) -> None:
    """JAX on the processor; two families of laws, since each shape is compiled (every law takes 40 minutes)."""
    verify(session, versions, "reference[jax]", "jax", tests=NUMPY_TESTS, laws=("equilibrium", "gradient"))
