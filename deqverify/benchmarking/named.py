"""The named benchmarks that two commits are compared on: a few hundred microseconds to some milliseconds each.

Each is a function that prepares and returns a call. They use only what the library has had for long (targets, problems,
laws, the oracle, bounds), so that an older base can run them too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from deqverify.benchmarking.contenders import contender
from deqverify.benchmarking.problems import FixedProblem

Call = Callable[[], Any]


def _pass(name: str, which: str, m: int, n: int) -> Callable[[], Call]:
    def prepare() -> Call:
        call: Call = getattr(contender(name).prepare(FixedProblem(m, n, 0.9).problem(), "float64"), which)
        return call

    return prepare


def _law(id: str, examples: int) -> Callable[[], Call]:
    def prepare() -> Call:
        from deqverify.implementations.loading import load
        from deqverify.implementations.subject import Subject
        from deqverify.registry import laws
        from deqverify.trial import Effort

        subject = Subject(load("reference"))
        return lambda: laws()[id].trial(subject, Effort(examples, seed=0))

    return prepare


def _oracle() -> Call:
    from deqverify.oracle import Oracle

    problem: Any = FixedProblem(8, 4, 0.9).problem()
    return lambda: Oracle(problem).equilibrium()


def _bounds() -> Call:
    from deqverify.bounds import Budget
    from deqverify.claims import Claims
    from deqverify.theory.closed_form import ClosedForm

    problem: Any = FixedProblem(32, 32, 0.9).problem()
    return lambda: Budget(ClosedForm(problem), Claims(), "float64").bound(lambda e: e.gradient["A"])


NAMED: dict[str, Callable[[], Call]] = {
    "forward reference m=64 n=256": _pass("reference", "forward", 64, 256),
    "gradient reference m=64 n=256": _pass("reference", "gradient", 64, 256),
    "gradient reference[numpy] m=16 n=32": _pass("reference[numpy]", "gradient", 16, 32),
    "step reference[mass] m=64 n=32": _pass("reference[mass]", "step", 64, 32),
    "law mass, 10 examples": _law("mass", 10),
    "law gradient-theta, 5 examples": _law("gradient-theta", 5),
    "oracle m=8 n=4": _oracle,
    "bounds m=32 n=32": _bounds,
}
