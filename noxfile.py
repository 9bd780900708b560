"""The oldest and the newest versions that pyproject.toml allows, on every Python: ``nox``, or ``nox -s numpy-3.11``.

Oldest are the lower bounds as they stand there, of all that deqverify itself needs and of the framework's extra; newest
what pip finds. Each session installs this clone, verifies the reference and runs a few test files. A
Python that is not on the machine is skipped. ``nox -s 'jax(versions="oldest")'`` runs one part.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import nox
from packaging.requirements import Requirement

ROOT = Path(__file__).parent
PYTHONS = ("3.11", "3.12", "3.13")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TESTS = (
    "tests/test_problem.py",
    "tests/test_claims.py",
    "tests/test_losses.py",
    "tests/test_oracle.py",
    "tests/test_loading.py",
)

nox.options.error_on_missing_interpreters = False

VERSIONS = nox.parametrize("versions", ["oldest", "newest"])


def oldest(*extras: str) -> list[str]:
    """The lower bounds of the dependencies and of ``extras``, as the releases that they name: >=1.26 as ==1.26.*."""
    wanted = [*PROJECT["dependencies"], *(each for extra in extras for each in PROJECT["optional-dependencies"][extra])]
    pinned = []
    for each in map(Requirement, wanted):
        (lower,) = (bound.version for bound in each.specifier if bound.operator == ">=")
        pinned.append(f"{each.name}=={lower}.*")
    return pinned


def verify(session: nox.Session, versions: str, target: str, *extras: str, tests: tuple[str, ...] = ()) -> None:
    names = ",".join(("pytest", *extras))
    session.install("-e", f".[{names}]", *(oldest("pytest", *extras) if versions == "oldest" else ["--upgrade"]))
    session.run("python", "-m", "pip", "list", "--format=freeze")
    session.run(
        "deqverify", "run", target, "--profile", "quick", "--max-examples", "10", "--seed", "0", "--workers", "1"
    )
    if tests:
        session.run("pytest", "-q", *tests)


@nox.session(python=PYTHONS)
@VERSIONS
def numpy(session: nox.Session, versions: str) -> None:
    """NumPy and SciPy, no framework."""
    verify(session, versions, "reference[numpy]")


@nox.session(python=PYTHONS)
@VERSIONS
def torch(session: nox.Session, versions: str) -> None:
    """PyTorch. pip may take a build for GPUs, of some gigabytes."""
    verify(session, versions, "reference", "torch", tests=TESTS)


@nox.session(python=PYTHONS)
@VERSIONS
def jax(session: nox.Session, versions: str) -> None:
    """JAX on the processor."""
    verify(session, versions, "reference[jax]", "jax")
