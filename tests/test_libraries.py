"""Every library's adapter: short, within its claim on easy problems, one line where the library is missing, and as
easy to ship for a third party."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deqverify.implementations import loading
from deqverify.implementations.loading import TargetError, load
from deqverify.implementations.protocol import Status
from deqverify.implementations.subject import Subject
from deqverify.losses import Squared
from deqverify.problem import CellProblem
from deqverify.registry import laws
from deqverify.reporting.machine import versions
from deqverify.running.expectations import read, stale

HOME = Path(loading.__file__).parent
MOST_LINES = 40  # of an adapter, which holds no mathematics: no blank ones counted, the documentation is

LIBRARIES = {
    "deepinv": ("deepinv", "deepinv[anderson]", "deepinv[tight]"),
    "jaxopt": ("jaxopt", "jaxopt[anderson]", "jaxopt[gmres]", "jaxopt[vmap]", "jaxopt[gmres,tight]"),
    "optimistix": ("optimistix", "optimistix[newton]", "optimistix[gmres]", "optimistix[newton,tight]"),
    "scipy": (
        "scipy",
        "scipy[krylov]",
        "scipy[newton_krylov]",
        "scipy[del2]",
        "scipy[iteration]",
        "scipy[gmres]",
        "scipy[tight]",
    ),
    "torchdeq": ("torchdeq[ift]", "torchdeq[ift,anderson]"),
    "torchopt": ("torchopt", "torchopt[inv]", "torchopt[tight]"),
    "xitorch": ("xitorch", "xitorch[broyden2]", "xitorch[anderson]", "xitorch[linearmixing]", "xitorch[tight]"),
}
TARGETS = [(library, target) for library, targets in LIBRARIES.items() for target in targets]


def loaded(library: str, target: str) -> Subject:
    for needed in {"jaxopt": ("jax",), "torchopt": ("torch",), "xitorch": ("torch",)}.get(library, ()):
        pytest.importorskip(needed)
    pytest.importorskip(library)
    return Subject(load(target), "float64")


def problem(cell: str) -> CellProblem:
    """Rate 0.5, states of size one, two data points; nothing drawn."""
    W = np.array([[0.25, -0.25], [0.125, 0.375]])
    x = np.array([[1.0, -0.5], [0.25, 0.75]])
    theta = {"W": W, "U": np.eye(2), "b": np.array([0.5, -0.25])} if cell == "tanh" else {"A": W, "U": np.eye(2)}
    return CellProblem(cell, theta, x, np.ones((1, 2)), np.zeros((1, 2)), Squared())


@pytest.mark.parametrize("cell", ["tanh", "linear"])
@pytest.mark.parametrize(("library", "target"), TARGETS)
def test_an_easy_problem_is_solved_within_the_claim_and_its_gradient_is_the_references(
    library: str, target: str, cell: str
) -> None:
    deq = loaded(library, target)
    if cell not in deq.cells:
        pytest.skip(f"{target} does not take {cell}")
    asked = problem(cell)
    exact = Subject(load("reference[newton,numpy]"))
    truth, answer = exact.solve(asked), deq.solve(asked)
    assert answer.status is Status.CONVERGED
    forward = tolerance(deq.claims.forward, truth.z)
    # ‖(I − J)⁻¹‖ ≤ 1/(1 − 0.5) in the 2-norm, and residuals of 2-norm at most √4 times their largest entry.
    assert np.linalg.norm(answer.z - truth.z) <= 2 * 2 * forward
    backward = deq.claims.backward
    if backward is None:
        return
    cotangent = np.array([[1.0, 0.5], [-0.25, 1.0]])
    found, expected = deq.pull(answer, cotangent), exact.pull(truth, cotangent)
    adjoint = expected["x"] if asked.cell.additive else cotangent
    # Errors of z and of the adjoint, each at most doubled by (I − J)⁻¹, move the gradient by factors of size one: the
    # normal equations once more by the condition number of I − J, at most (1 + 0.5)/(1 − 0.5) = 3.
    allowed = 64 * (forward + tolerance(backward, adjoint))
    for name in asked.theta:
        assert np.abs(found[name] - expected[name]).max() <= allowed, name


def tolerance(claim: Any, size: Any) -> float:
    return 1e-12 if claim.exact else float(claim.atol + claim.rtol * (np.abs(size).sum() + claim.eps))


@pytest.mark.parametrize("library", LIBRARIES)
def test_an_adapter_is_short(library: str) -> None:
    text = (HOME / f"{library}_adapter.py").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.strip()]
    assert len(lines) <= MOST_LINES


@pytest.mark.parametrize("library", sorted(LIBRARIES.keys() - {"scipy"}))  # which deqverify itself needs
def test_a_library_that_is_missing_is_one_line(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = f"deqverify.implementations.{library}_adapter"
    for name in [name for name in sys.modules if name == adapter]:
        monkeypatch.delitem(sys.modules, name)
    for name in {library, *(name for name in sys.modules if name.startswith(f"{library}."))}:
        monkeypatch.setitem(sys.modules, name, None)  # so that importing it raises ModuleNotFoundError
    monkeypatch.setattr(loading, "_FAILED", {})
    with pytest.raises(TargetError) as failure:
        load(library)
    said = str(failure.value)
    assert "\n" not in said
    assert f"pip install 'deqverify[{library}]'" in said


@pytest.mark.parametrize("library", [name for name in LIBRARIES if name != "torchdeq"])
def test_an_unknown_option_names_those_that_are(library: str) -> None:
    pytest.importorskip(library)
    with pytest.raises(TargetError, match=r"no option 'nonsense'; use some of .*tight"):
        load(f"{library}[nonsense]")


def test_what_is_known_of_the_libraries_names_laws_and_targets_that_there_are() -> None:
    known = read(HOME.parent.parent / "expectations-libraries.toml")
    assert stale(known, laws()) == []
    assert {expected.target.partition("[")[0] for expected in known} <= LIBRARIES.keys()


ADAPTER = '''
"""What a third party ships: a solver with its claims, found by its entry point."""

from deqverify.claims import Accuracy, Claims
from deqverify.implementations.numpy_base import NumpyLayer


class Patient(NumpyLayer):
    claims = Claims(Accuracy(1e-9), backward=None, dtypes=("float64",), status=False)

    def fixed_point(self, step, z0):
        for _ in range(500):
            z0 = step(z0)
        return z0


def patient(*options):
    return Patient()
'''


def test_a_third_partys_adapter_is_found_by_its_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installed as pip does it: a module, and a folder of metadata beside it."""
    (tmp_path / "patient_deq.py").write_text(ADAPTER, encoding="utf-8")
    metadata = tmp_path / "patient_deq-1.2.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: patient-deq\nVersion: 1.2\n", encoding="utf-8")
    points = "[deqverify.implementations]\npatient = patient_deq:patient\n"
    (metadata / "entry_points.txt").write_text(points, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    try:
        assert "patient" in loading.installed()
        assert versions()["patient-deq"] == "1.2"
        deq = Subject(load("patient"))
        asked = problem("tanh")
        z = deq.equilibrium(asked)
        # 500 sweeps at rate 0.5 leave rounding alone: some ulps of numbers of size one.
        assert np.abs(asked.cell.step(asked.theta, asked.x)(z) - z).max() <= 16 * np.finfo(float).eps
    finally:
        sys.modules.pop("patient_deq", None)


@pytest.mark.parametrize("target", ["scipy[krylov]", "torchopt", "jaxopt[gmres]", "optimistix", "xitorch"])
def test_a_layer_at_a_tolerance_claims_it_and_keeps_its_name(target: str) -> None:
    pytest.importorskip(target.partition("[")[0])
    layer = load(target).at_tolerance(1e-7)
    assert layer.name == target
    claim = layer.claims.forward
    assert 1e-7 in (claim.rtol, claim.atol)
    assert layer.limited(3).claims == layer.claims


def test_a_cell_in_jax_is_the_same_after_another_dtype_in_one_process() -> None:
    """An index in 64 bits stood in what JAX keeps of a function, and was handed to the one in 32 bits: a crash that
    looked like the library's."""
    pytest.importorskip("optimistix")
    theta = {"K": np.full((2, 2, 2, 2), 0.03125), "gain": np.ones(2)}
    x = np.linspace(-1.0, 1.0, 16).reshape(2, 2, 2, 2)
    asked = CellProblem("conv", theta, x, np.ones((1, 8)), np.zeros((1, 2)), Squared())
    for dtype in ("float64", "float32"):
        deq = Subject(load("optimistix[newton]"), dtype)
        deq.pull_status(deq.solve(asked), np.ones(asked.states))
