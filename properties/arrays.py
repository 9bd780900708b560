"""How an implementation treats the arrays that it is given: legal ones get answers, none is changed, dtypes, devices
and memory layouts make no difference."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from deqverify.properties.calls import Evidence, agree, plain_call, reply, usual_cotangent
from deqverify.properties.common import any_problem, judged
from hypothesis import strategies as st

from deqverify.comparison import Fact
from deqverify.dtypes import Array
from deqverify.implementations.subject import Subject
from deqverify.problem import Problem
from deqverify.registry import law


@law(
    statement="every legal problem gets an answer: nothing is raised, shapes are right",
    source="the protocol",
    needs=("equilibrium",),
    anomaly="crash",
    at_stake="A training run ends, hours in, on an input that is legal.",
    judges_crashes=True,
    draws=any_problem(),
)
def answers(deq: Subject, problem: Problem) -> Iterator[Fact]:
    """A solve and a pull on a problem of any cell, regime and scale end with arrays of the shapes given, (n, *state).

    Exact: no tolerance applies. Whether the answer is right, or reported as not converged, other laws judge; they
    leave a crash undecided. Catches linear algebra errors of accelerated solvers on degenerate data, and empty or
    one-element dimensions.
    """
    answer = deq.solve(problem)
    if deq.claims.backward is not None:
        deq.pull_status(answer, usual_cotangent(problem))
    yield Fact("a solve and a pull", True, "answered")


@law(
    statement="solving and pulling back change none of the arrays given",
    source="the protocol",
    needs=("equilibrium", "mutable arrays"),
    anomaly="inputs are overwritten",
    at_stake="The caller's parameters or data change behind its back; a second call sees other inputs.",
    draws=any_problem(),
)
def inputs_kept(deq: Subject, problem: Problem) -> Iterator[Fact]:
    """θ, x (n, *inputs), the start and the cotangent hold the same bits after a solve and a pull as before.

    Exact: no tolerance applies. Catches in-place updates of a start or of a cotangent.
    """
    usual = usual_cotangent(problem)
    start = 1.0 - usual  # not the equilibrium by accident, as zero is of no inputs
    given = deq.parameters(problem) | {"x": deq.native(problem.x), "start": deq.native(start)}
    given["cotangent"] = deq.native(usual)
    before = {name: deq.framework.to_numpy(array) for name, array in given.items()}
    theta = {name: given[name] for name in problem.theta}
    answer = deq.solve_native(problem, theta, given["x"], given["start"])
    if deq.claims.backward is not None:
        deq.pull_native(answer, given["cotangent"])
    for name, array in given.items():
        same = np.array_equal(before[name], deq.framework.to_numpy(array))
        yield Fact(f"{name} after the call", same, "unchanged" if same else "other values than before")


@law(
    statement="equilibrium and gradients have the dtype and device of the inputs",
    source="the protocol; Python array API, type promotion",
    needs=("equilibrium",),
    anomaly="dtype or device changes on the way",
    at_stake="Precision is lost, or memory doubled, without a word; mixed-device arithmetic fails later, elsewhere.",
    draws=any_problem(),
)
def dtype_and_device(deq: Subject, problem: Problem) -> Iterator[Fact]:
    """ẑ, and where a pull is claimed the gradients in θ and x, each against the array that it belongs to.

    Exact: no tolerance applies. Catches constants that promote float32 to float64, and results left on the CPU.
    """
    theta, x = deq.parameters(problem), deq.native(problem.x)
    answer = deq.solve_native(problem, theta, x)
    pairs = {"ẑ": (answer.solution.z, x)}
    if deq.claims.backward is not None:
        found = deq.pull_native(answer, deq.native(usual_cotangent(problem)))
        pairs |= {f"the gradient in {name}": (found.theta[name], theta[name]) for name in theta}
        pairs["the gradient in x"] = found.x, x
    for what, (result, source) in pairs.items():
        got, wanted = deq.framework.kind(result), deq.framework.kind(source)
        yield Fact(
            f"dtype and device of {what}", got == wanted, f"{got[0]} on {got[1]}, expected {wanted[0]} on {wanted[1]}"
        )


def _arguments(deq: Subject, problem: Problem) -> list[str]:
    """Parameters with axes, x, and what else is handed over, the simplest first."""
    parameters = [name for name, value in problem.theta.items() if value.ndim]
    pulled = ["cotangent"] if deq.claims.backward is not None else []
    return [*parameters, "x", *pulled, *(["start"] if deq.claims.starts else [])]


@law(
    statement="the answer depends on the entries of an array, not on how they lie in memory",
    source="the protocol; Python array API: arrays have values, strides are not part of it",
    needs=("equilibrium", "layouts"),
    rests_on=("answers", "inputs-kept"),
    anomaly="answers depend on memory layout",
    at_stake="A transposed weight, a sliced batch, the gradient of a sum (broadcast): a crash or a wrong number.",
    judges_crashes=True,
    draws=lambda deq: any_problem(
        least_m=2, least_n=2, cotangent=True, argument=lambda problem: st.sampled_from(_arguments(deq, problem))
    )(deq),
)
def memory_layout(deq: Subject, problem: Problem, cotangent: Array, argument: str) -> Evidence:
    """One of the parameters, x, start and cotangent strided, transposed, reversed, shifted, broadcast or read-only.

    Each of the layouts that the framework has, in turn; with one row or column most of them are the same. Not bit by
    bit, since another layout may take another path through BLAS. Bound: twice ``Errors.z`` and twice ``Errors.pulled``.
    Catches ``view`` on what is not contiguous, raw pointers, and writing into inputs.
    """
    layouts = deq.framework.layouts
    asked = [(problem, cotangent, [layout for layout in layouts if layout != "broadcast"])]
    if "broadcast" in layouts:
        asked.append((*_constant(problem, cotangent, argument), ["broadcast"]))
    for here, c, some in asked:
        if here.certificate is None and problem.certificate is not None:
            continue  # entries that are all equal may leave the cell without an equilibrium
        values = {"start": usual_cotangent(here), "cotangent": c}.get(argument, _value(here, argument))
        expected = plain_call(deq.fresh(), here, c, {argument: deq.native(values)})
        if expected is None:
            continue
        truth = judged(deq, here, c, expected.z)
        for layout in some:
            found = reply(deq.fresh(), here, c, {argument: deq.framework.laid_out(deq.native(values), layout)})
            yield from agree(f"with {argument} {layout}", found, expected, truth)


def _value(problem: Problem, argument: str) -> Array:
    return problem.block(argument) if argument in problem.pulled_blocks else problem.x


def _constant(problem: Problem, cotangent: Array, argument: str) -> tuple[Problem, Array]:
    """The same with all entries of ``argument`` equal, as broadcasting makes them."""
    if argument == "cotangent":
        return problem, np.full_like(cotangent, cotangent.ravel()[0])
    block = "x" if argument == "start" else argument
    value = problem.block(block)
    return problem.with_blocks(**{block: np.full_like(value, value.ravel()[0])}), cotangent
