"""Where a cause begins: along γ, the sizes and the scale of the inputs, from which value on a law is violated.

One coordinate is varied at a time, all else as in a problem that fails; where right and wrong are apart along it, the
border is halved. What is said holds for that line of problems and no other: it names the rest of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from deqverify.clock import Interrupted, alarm, now
from deqverify.implementations.subject import Question
from deqverify.losses import Squared
from deqverify.problem import Problem, SoftmaxProblem
from deqverify.registry import Law
from deqverify.running.weighing import Fresh, arguments_of, weight
from deqverify.trial import Effort, Failure

SECONDS = 2.0
"""What the whole search may take; coordinates that are left are not searched."""

HALVINGS = 6
"""A border is halved so often: to two digits, of a decade."""

DIGITS = 6
"""So many more may be written where two are the same number in those."""

RATES = (0.1, 0.25, 0.5, 0.75, 0.9, 0.97, 0.99, 0.999, 0.9999)
SIZES = (1, 2, 3, 4, 8, 16, 32, 65)
SCALES = tuple(range(-24, 25, 6))
"""Exponents of two, within the range of float16's squares."""


@dataclass(frozen=True)
class Line:
    """measured/allowed of a law along one coordinate. ``right`` is the nearest value to the border that holds,
    ``wrong`` the nearest that is violated; without a border both are None. ``rest`` names the problems' other
    coordinates. At ``undecided`` values nothing can be told, as where it reports that it is not converged: they are
    neither right nor wrong."""

    coordinate: str
    values: tuple[float, ...]
    ratios: tuple[float, ...]
    right: float | None
    wrong: float | None
    rest: str
    undecided: tuple[float, ...] = ()

    @property
    def said(self) -> str:
        """The border in words, "" without one."""
        if self.right is None or self.wrong is None:
            return ""
        side = "on" if self.wrong > self.right else "down"
        other = "below" if self.wrong > self.right else "above"
        wrong, right = _told_apart(self.coordinate, self.wrong, self.right)
        return f"wrong from {self.coordinate} = {wrong} {side} at {self.rest}, right at {right} and {other}"


def _written(coordinate: str, value: float, more: int = 0) -> str:
    """A value in as many digits as tell, and some ``more``."""
    if coordinate == "γ":
        digits = max(2, int(np.ceil(-np.log10(1.0 - value))) + 1) + more
        return f"{value:.{digits}g}" if value < 0.9 else f"{value:.{digits}f}"
    return f"{value:.{2 + more}g}" if coordinate == "the size of x" else f"{value:g}"


def _told_apart(coordinate: str, wrong: float, right: float) -> tuple[str, str]:
    """Both in the fewest digits in which they are not the same number."""
    for more in range(DIGITS):
        texts = _written(coordinate, wrong, more), _written(coordinate, right, more)
        if float(texts[0]) != float(texts[1]):
            break
    return texts


def boundary(law: Law, made: Fresh, failure: Failure, effort: Effort) -> list[Line]:
    """The lines on which the violation of ``law`` has a border, and that along γ in any case; none for laws of several
    calls or of arguments that other problems do not have."""
    problem = failure.arguments.get("problem")
    if failure.kind == "hang" or not isinstance(problem, Problem) or arguments_of(law, Question(problem)) is None:
        return []
    found: list[Line] = []
    with suppress(Interrupted, Exception), alarm(min(2 * SECONDS, effort.example_seconds)):  # a picture is no verdict
        found.extend(_Search(law, made, failure, now() + SECONDS).lines())
    return found


class _Search:
    def __init__(self, law: Law, made: Fresh, failure: Failure, until: float):
        self.law, self.made, self.until = law, made, until
        self.given = failure.arguments
        self.shrunk: Problem = failure.arguments["problem"]
        self.crashes = failure.kind == "crash"

    def ratio(self, problem: Problem) -> float | None:
        """measured/allowed; None where it can't be told."""
        if now() > self.until:
            raise Interrupted("enough")
        subject = self.made()
        problem = subject.rounded(problem)
        arguments = arguments_of(self.law, Question(problem))
        assert arguments is not None
        found = weight(self.law, subject, arguments, self.crashes)
        return found.ratio if found.informative or found.ratio > 1.0 else None

    def lines(self) -> Iterable[Line]:
        if not isinstance(self.shrunk, SoftmaxProblem):
            yield from self._of_data(self.shrunk)
            return
        for m, n in ((4, 2), (1, 1)):
            rate = self._line("γ", RATES, lambda g, m=m, n=n: _problem(m, n, g), f"m = {m}, n = {n}")  # type: ignore[misc]
            if any(ratio > 1.0 for ratio in rate.ratios):
                break
        else:
            m, n = self.shrunk.m, self.shrunk.n
            rate = self._line("γ", RATES, self._shrunk_at, f"m = {m}, n = {n}, as in the smallest")
        if rate.said or any(ratio > 1.0 for ratio in rate.ratios):
            yield rate
        wrong = [value for value, ratio in zip(rate.values, rate.ratios, strict=True) if ratio > 1.0]
        gamma = min(wrong, key=lambda g: abs(g - 0.5)) if wrong else self.shrunk.gamma
        at = f"γ = {_written('γ', gamma)}"
        yield from self._with_border("m", SIZES, lambda k: _problem(int(k), 2, gamma), f"{at}, n = 2")
        yield from self._with_border("n", SIZES, lambda k: _problem(4, int(k), gamma), f"{at}, m = 4")
        yield from self._scales(_problem(4, 2, gamma) if wrong else self.shrunk, at)

    def _shrunk_at(self, gamma: float) -> Problem:
        return self.shrunk.with_blocks(gamma=np.asarray(gamma))

    def _of_data(self, problem: Problem) -> Iterable[Line]:
        """Of other cells the weights stay as they are."""
        draws = np.random.default_rng(0)
        size = max(1.0, float(np.abs(problem.x).max(initial=0.0)))
        rows = size * draws.standard_normal((max(SIZES), *problem.x.shape[1:]))

        def of(n: float) -> Problem:
            return _squared(problem.with_inputs(rows[: int(n)], np.zeros((problem.p, int(n)))))

        at = problem.where().split(", states")[0]
        yield from self._with_border("n", SIZES, of, at)
        yield from self._scales(of(2), at)

    def _scales(self, problem: Problem, at: str) -> Iterable[Line]:
        size = float(np.abs(problem.x).max(initial=0.0)) or 1.0

        def of(value: float) -> Problem:
            return problem.with_inputs(problem.x * (value / size), np.zeros((problem.p, problem.n)))

        yield from self._with_border("the size of x", [2.0**k for k in SCALES], of, at)

    def _with_border(
        self, name: str, values: Sequence[float], of: Callable[[float], Problem], rest: str
    ) -> Iterable[Line]:
        line = self._line(name, values, of, rest)
        if line.said:
            yield line

    def _line(self, name: str, values: Sequence[float], of: Callable[[float], Problem], rest: str) -> Line:
        """measured/allowed at ``values`` in increasing order, and at halvings of the border."""
        seen: dict[float, float] = {}
        undecided: list[float] = []

        def look(value: float) -> bool:
            """Whether it can be told what is true at ``value``."""
            if (ratio := self.ratio(of(value))) is None:
                undecided.append(value)
                return False
            seen[value] = ratio
            return True

        for value in values:
            with suppress(ValueError):  # beyond the range of the dtype
                look(value)
        known = sorted(seen)
        verdicts = [seen[value] > 1.0 for value in known]
        turns = [k for k in range(1, len(known)) if verdicts[k] != verdicts[k - 1]]
        right = wrong = None
        if len(turns) == 1:
            low, high = known[turns[0] - 1], known[turns[0]]
            for _ in range(HALVINGS):
                middle = _between(name, low, high)
                if middle in (low, high) or not look(middle):
                    break
                low, high = (middle, high) if (seen[middle] > 1.0) == verdicts[turns[0] - 1] else (low, middle)
            right, wrong = (high, low) if seen[low] > 1.0 else (low, high)
        known = sorted(seen)
        return Line(name, tuple(known), tuple(seen[v] for v in known), right, wrong, rest, tuple(undecided))


def _between(name: str, low: float, high: float) -> float:
    """Halfway: in sizes by count, in γ by the distance from 1, else by the exponent."""
    if name in ("m", "n"):
        return float((low + high) // 2)
    if name == "γ":
        return 1.0 - float(np.sqrt((1.0 - low) * (1.0 - high)))
    return float(np.sqrt(low * high))


def _problem(m: int, n: int, gamma: float) -> SoftmaxProblem:
    """The same problem each time, its entries of size one; a smaller one is a part of a larger one."""
    draws = np.random.default_rng(0)
    most = max(SIZES)
    A, Phi = draws.standard_normal((most, most))[:m, :m], draws.standard_normal((most, most))[:m, :n]
    return SoftmaxProblem(A, np.ones((1, m)), Phi, np.zeros((1, n)), gamma, Squared())


def _squared(problem: Any) -> Problem:
    """With the one loss that takes any targets."""
    changed: Problem = replace(problem, loss=Squared())
    return changed


def document(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """JSON-ready."""
    return [asdict(line) | {"said": line.said} for line in lines]


def said(lines: Sequence[Line]) -> str:
    """The first border in words; where there is none, that it is wrong all along γ; "" where nothing was seen."""
    for line in lines:
        if line.said:
            return line.said
    whole = [line for line in lines if line.ratios and min(line.ratios) > 1.0]
    if not whole:
        return ""
    line = whole[0]
    if not line.undecided:
        return f"wrong at every {line.coordinate} tried at {line.rest}"
    first, last = (_written(line.coordinate, value) for value in (line.values[0], line.values[-1]))
    return f"wrong at every {line.coordinate} that can be judged, {first} to {last}, at {line.rest}"


def drawn(lines: Sequence[Line]) -> str:
    """A picture of each line, a row each."""
    return "\n".join(
        f"{line.coordinate} {_written(line.coordinate, line.values[0])} {sparkline(line)} "
        f"{_written(line.coordinate, line.values[-1])}  at {line.rest}"
        for line in lines
        if line.values
    )


def sparkline(line: Line) -> str:
    """measured/allowed along the line, a sign a value: ``·`` well within, ``▁`` near the bound, higher beyond it."""
    signs = []
    for ratio in line.ratios:
        if ratio <= 1.0:
            signs.append("·" if ratio < 0.1 else "▁")
        else:
            signs.append("▂▃▄▅▆▇█"[min(6, int(np.log10(min(ratio, 1e7))))])
    return "".join(signs)
