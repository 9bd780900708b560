"""The direct reference: second derivatives, one factorisation, no data, halves computed in float32."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import deqverify.reference
from deqverify.bounds import Arithmetic, Errors
from deqverify.cells import LinearSoftmaxCell
from deqverify.implementations.protocol import Status
from deqverify.implementations.subject import Subject
from deqverify.losses import Squared
from deqverify.problem import SoftmaxProblem
from deqverify.reference import FRAMEWORKS, METHODS, reference
from deqverify.reference.fast import solve
from deqverify.reference.fast.layer import BatchedLayer, FastLayer
from deqverify.registry import laws
from deqverify.tangent_errors import TangentErrors
from deqverify.theory.closed_form import ClosedForm
from deqverify.trial import Effort

CELL = LinearSoftmaxCell()


def equilibrium(A: torch.Tensor, gamma: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return reference().equilibrium(CELL, {"A": A, "gamma": gamma}, x, None).z


def inputs() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    A, x = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((3, 3), (2, 3)))
    gamma = torch.tensor(0.5, dtype=torch.float64)
    return tuple(t.requires_grad_() for t in (A, gamma, x))


def test_first_and_second_derivatives_agree_with_finite_differences() -> None:
    # torch's own defaults: steps of 1e-6 and tolerances of 1e-3 relative, for O(1) quantities.
    assert torch.autograd.gradcheck(equilibrium, inputs())
    assert torch.autograd.gradgradcheck(equilibrium, inputs())


def test_all_passes_share_one_factorisation(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    factor = torch.linalg.lu_factor
    monkeypatch.setattr(torch.linalg, "lu_factor", lambda U: calls.append(1) or factor(U))
    A, gamma, x = inputs()
    (first,) = torch.autograd.grad(equilibrium(A, gamma, x).square().sum(), A, create_graph=True)
    torch.autograd.grad(first.square().sum(), (A, x))
    assert len(calls) == 1


@pytest.mark.parametrize("framework", ["torch", "numpy"])
@pytest.mark.parametrize(("n", "m"), [(0, 1), (0, 3), (1, 1)])
def test_no_data_and_one_state_are_legal(framework: str, n: int, m: int) -> None:
    subject = Subject(reference(framework))
    problem = SoftmaxProblem(np.zeros((m, m)), np.ones((1, m)), np.ones((m, n)), np.zeros((1, n)), 0.5, Squared())
    answer = subject.solve(problem)
    assert answer.z.shape == (n, m)
    assert answer.status is Status.CONVERGED
    assert subject.pull_status(answer, np.ones((n, m)))[0]["A"].shape == (m, m)


@pytest.mark.parametrize(
    ("framework", "dtype"),
    [("numpy", "float64"), ("torch", "float64"), ("numpy", "float32"), ("torch", "float32"), ("torch", "bfloat16")],
)
def test_a_tangent_is_within_its_bound(framework: str, dtype: str) -> None:
    subject = Subject(reference(framework), dtype)
    rng = np.random.default_rng(4)
    A, Phi, dA, dPhi = (rng.integers(-8, 9, size=shape) / 4 for shape in ((3, 3), (3, 2)) * 2)  # exact in every dtype
    problem = SoftmaxProblem(A, np.ones((1, 3)), Phi, np.zeros((1, 2)), 0.75, Squared())
    direction = {"A": dA, "Phi": dPhi, "gamma": np.asarray(0.125)}
    narrow = "float32" if dtype == "bfloat16" else dtype
    exact = TangentErrors(Errors(ClosedForm(problem, Phi), Arithmetic.of(dtype, narrow)), direction).dZ
    theta = {"A": subject.native(A), "gamma": subject.native(0.75)}
    along = {"A": subject.native(dA), "gamma": subject.native(0.125)}
    x, dx = subject.native(Phi.T), subject.native(dPhi.T)
    solution, dz = subject.implementation.jvp(CELL, theta, x, (along, dx))
    vjp_z = subject.implementation.vjp(CELL, theta, x)[0].z
    assert solution.status is Status.CONVERGED
    assert solution.z.dtype == dz.dtype == x.dtype
    assert bool((solution.z == vjp_z).all())  # the same factorisation of the same matrix
    found = np.asarray(dz.double() if framework == "torch" else dz, dtype=float).T
    assert np.all(np.abs(found - exact.value) <= exact.error)
    infinite, _ = subject.implementation.jvp(CELL, theta, x * float("inf"), (along, dx))
    assert infinite.status is Status.DIVERGED


KNOWN = ", ".join((*FRAMEWORKS, *METHODS, "bits=8", "straight-through", "fast", "worst"))


def test_each_name_is_its_own_method() -> None:
    assert [reference("fast", *option).name for option in ((), ("lu",), ("torch", "mixed"))] == [
        "reference[fast]",
        "reference[fast,lu]",
        "reference[fast,mixed]",
    ]
    assert type(reference("fast", "batched")) is BatchedLayer
    assert type(reference("mass", "fast")) is FastLayer
    for options, said in {
        (
            "fast",
            "numpy",
        ): r"reference\[fast\] has no option 'numpy'; use one of lu, mass, mixed, mixedlu, batched, jax, or none",
        ("fast", "jax", "torch"): "one of jax and torch, not both",
        ("fast", "jax", "mixed"): r"reference\[fast,mixed\] is not written for jax; use torch",
        ("fast", "lu", "mass"): "one of lu and mass, not both",
        ("torch", "numpy"): "one of numpy and torch, not both",
        ("slow",): f"^reference has no option 'slow'; use some of {KNOWN}$",
    }.items():
        with pytest.raises(ValueError, match=said):
            reference(*options)
    assert deqverify.reference.solve is solve
    with pytest.raises(AttributeError, match=r"^module 'deqverify\.reference' has no attribute 'slove'$"):
        _ = deqverify.reference.slove


@pytest.mark.parametrize(("framework", "dtype"), [("numpy", "float64"), ("numpy", "float32"), ("torch", "bfloat16")])
def test_no_law_rejects_the_reference(framework: str, dtype: str) -> None:
    subject = Subject(reference(framework), dtype)
    for law in laws().values():
        if law.missing(subject) is None:
            # Few: `make verify` asks more of them, and tools/quiet.py is the long campaign.
            trial = law.trial(subject, Effort(examples=10, seconds=60, seed=3))
            assert trial.error is None, trial.error
            assert trial.failure is None, (law.id, trial.failure)
            assert trial.crashed == 0, law.id


def test_another_framework_is_refused() -> None:
    with pytest.raises(ValueError, match="fortran"):
        reference("fortran")
