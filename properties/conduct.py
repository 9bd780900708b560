"""How an implementation treats what it is given: neighbours in the batch, inputs, dtypes, devices, global state."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from deqverify.properties.common import any_problem, budget, finite, global_random_state
from hypothesis import strategies as st

from deqverify.comparison import Fact, Measurement, compare
from deqverify.implementations.subject import Reported, Subject
from deqverify.law import law
from deqverify.problem import Problem


@law(
    "answers",
    statement="every legal problem gets an answer: nothing is raised, shapes are right",
    source="the protocol",
    needs=("equilibrium",),
    anomaly="crash",
    at_stake="A training run ends, hours in, on an input that is legal.",
    judges_crashes=True,
    draws=any_problem(),
)
def answers(deq: Subject, problem: Problem) -> Iterator[Fact]:
    """A solve and a pull on a problem of any regime and scale end with arrays of the shapes given, (n, m).

    Exact: no tolerance applies. Whether the answer is right, or reported as not converged, other laws judge; they
    leave a crash undecided. Catches linear algebra errors of accelerated solvers on degenerate data, and empty or
    one-element dimensions.
    """
    answer = deq.solve(problem)
    if deq.claims.backward is not None:
        deq.pull_status(answer, problem.Phi)
    yield Fact("a solve and a pull", True, "answered")


@law(
    "poisoned-column",
    statement="a data point with NaN features leaves the others alone",
    source="theory: separability",
    needs=("equilibrium", "separable"),
    anomaly="one bad input corrupts the batch",
    at_stake="A single corrupt record changes the predictions for every other one in its batch.",
    loose="the reference solves column by column, and the others' bits stay; who mixes them in other sums is forgiven.",
    draws=any_problem(least_n=2, column=lambda problem: st.integers(0, problem.n - 1)),
)
def poisoned_column(deq: Subject, problem: Problem, column: int) -> Iterator[Measurement | Fact]:
    """Solving with one column of Φ (m, n) replaced by NaN gives the other columns as they were.

    A report of failure counts for the whole batch, unless there is one for each data point: then the others are judged
    where their own do not admit failure. Bound: twice ``Errors.z``. Catches NaN that travels through batch-wide norms,
    stopping rules and mixing weights. A claim over the whole batch says nothing of one that holds NaN.
    """
    if deq.claims.forward.per == "batch":
        return
    clean = deq.equilibrium(problem)
    poisoned = problem.Phi.copy()
    poisoned[:, column] = np.nan
    answer = deq.solve(problem, Phi=poisoned)
    statuses = answer.solution.statuses or [answer.status] * problem.n
    others = np.array([k for k, s in enumerate(statuses) if k != column and not s.admits_failure], dtype=int)
    if not others.size:
        raise Reported(answer.status.value)
    found = answer.z[:, others]
    yield finite("ẑ of the other columns", found)
    bounds = budget(deq, problem)
    size = np.abs(bounds.exact.Z).sum(axis=0)[others]
    allowed = 2 * bounds.bound(lambda e: e.z[others])
    yield compare("‖ẑ(beside NaN) − ẑ‖₁", np.abs(found - clean[:, others]).sum(axis=0), allowed, size)


@law(
    "inputs-kept",
    statement="solving and pulling back change none of the arrays given",
    source="the protocol",
    needs=("equilibrium",),
    anomaly="inputs are overwritten",
    at_stake="The caller's parameters or data change behind its back; a second call sees other inputs.",
    draws=any_problem(),
)
def inputs_kept(deq: Subject, problem: Problem) -> Iterator[Fact]:
    """A, γ, x (n, m), the start and the cotangent hold the same bits after a solve and a pull as before.

    Exact: no tolerance applies. Catches in-place updates of a start or of a cotangent.
    """
    given = deq.parameters(problem) | {"x": deq.native(problem.Phi.T), "start": deq.native(problem.Phi.T)}
    given["cotangent"] = deq.native(problem.Phi.T)
    before = {name: deq.framework.to_numpy(array) for name, array in given.items()}
    theta = {name: given[name] for name in ("A", "gamma")}
    answer = deq.solve_native(theta, given["x"], given["start"])
    if deq.claims.backward is not None:
        deq.pull_native(answer, given["cotangent"])
    for name, array in given.items():
        same = np.array_equal(before[name], deq.framework.to_numpy(array))
        yield Fact(f"{name} after the call", same, "unchanged" if same else "other values than before")


@law(
    "dtype-and-device",
    statement="equilibrium and gradients have the dtype and device of the inputs",
    source="the protocol; Python array API, type promotion",
    needs=("equilibrium",),
    anomaly="dtype or device changes on the way",
    at_stake="Precision is lost, or memory doubled, without a word; mixed-device arithmetic fails later, elsewhere.",
    draws=any_problem(),
)
def dtype_and_device(deq: Subject, problem: Problem) -> Iterator[Fact]:
    """ẑ, and where a pull is claimed the gradients in A, γ and x, each against the array that it belongs to.

    Exact: no tolerance applies. Catches constants that promote float32 to float64, and results left on the CPU.
    """
    theta, x = deq.parameters(problem), deq.native(problem.Phi.T)
    answer = deq.solve_native(theta, x)
    pairs = {"ẑ": (answer.solution.z, x)}
    if deq.claims.backward is not None:
        found = deq.pull_native(answer, deq.native(problem.Phi.T))
        pairs |= {f"the gradient in {name}": (found.theta[name], theta[name]) for name in theta}
        pairs["the gradient in x"] = found.x, x
    for what, (result, source) in pairs.items():
        got, wanted = deq.framework.kind(result), deq.framework.kind(source)
        yield Fact(
            f"dtype and device of {what}", got == wanted, f"{got[0]} on {got[1]}, expected {wanted[0]} on {wanted[1]}"
        )


@law(
    "random-state",
    statement="solving and pulling back leave every global random state as it was",
    source="the protocol",
    needs=("equilibrium",),
    anomaly="global random state is touched",
    at_stake="Experiments stop being reproducible: the seed's stream depends on how often the layer ran.",
    draws=any_problem(),
)
def random_state(deq: Subject, problem: Problem) -> Iterator[Fact]:
    """The states of ``random``, ``numpy.random`` and the framework's own generator, before and after.

    Exact: no tolerance applies. Catches random starts and power iterations drawn from the global generator.
    """
    before = global_random_state(deq)
    answer = deq.solve(problem)
    if deq.claims.backward is not None:
        deq.pull_native(answer, deq.native(problem.Phi.T))
    after = global_random_state(deq)
    for name, state in before.items():
        same = state == after[name]
        yield Fact(f"the global state of {name}", same, "untouched" if same else "advanced by the call")
