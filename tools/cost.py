"""The cost of the suite itself: where a law's time goes, and what an import takes.

``python -m tools.cost existence mass gauge`` prints examples a second and shares.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

ROUNDS = 5
REST = "Hypothesis, drawing and the rest"


@dataclass(frozen=True)
class Examined:
    """``rate`` in examples a second, without the stopwatch; ``shares`` of the time by part, summing to one."""

    law: str
    rate: float
    shares: dict[str, float]


def examined(law: str, target: str = "reference", examples: int = 1000, seconds: float = 60.0) -> Examined:
    """One law tried on one target twice with one seed: plain for the rate, then with the parts timed. KeyError for an
    unknown law."""
    from deqverify.implementations.loading import load
    from deqverify.implementations.subject import Subject
    from deqverify.registry import laws
    from deqverify.trial import Effort

    subject, effort = Subject(load(target)), Effort(examples, seconds, seed=0)
    laws()[law].trial(subject, Effort(5, seconds, seed=1))  # imports, caches
    plain = laws()[law].trial(subject, effort)
    with stopwatch() as spent:
        timed = laws()[law].trial(subject, effort)
    shares = {part: taken / timed.seconds for part, taken in spent.items()}
    return Examined(law, plain.examples / plain.seconds, shares | {REST: 1.0 - sum(shares.values())})


JUDGED_ON = (
    "reference", "reference[picard]", "reference[newton]", "reference[forward-backward]",
    "reference[straight-through,bits=8]",
)  # fmt: skip


def judged_on(law: str) -> str:
    """The first reference that claims what ``law`` needs. KeyError for an unknown law, or where none does."""
    from deqverify.implementations.loading import load
    from deqverify.implementations.subject import Subject
    from deqverify.registry import laws

    wanted = laws()[law]
    for target in JUDGED_ON:
        if wanted.missing(Subject(load(target))) is None:
            return target
    raise KeyError(f"{law}: no reference claims what it needs")


@contextmanager
def stopwatch() -> Iterator[dict[str, float]]:
    """Seconds spent in the implementation, the oracle and the bounds while the context lasts; nested calls count for
    the outermost."""
    from deqverify.bounds import Budget, Errors
    from deqverify.implementations.subject import Subject
    from deqverify.oracle import Oracle

    parts: dict[str, list[tuple[Any, str]]] = {
        "implementation": [(Subject, "solve_native"), (Subject, "pull_native")],
        "oracle": [(Oracle, name) for name in ("residual", "adjoint_residual", "error", "derivative")],
        "bounds": [(Budget, "bound"), (Budget, "along"), (Errors, "__init__")],
    }
    spent = dict.fromkeys(parts, 0.0)
    inside = False

    def wrap(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            nonlocal inside
            if inside:
                return function(*args, **kwargs)
            inside, started = True, time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                inside = False
                spent[part] += time.perf_counter() - started

        return timed

    before = [(owner, name, getattr(owner, name)) for functions in parts.values() for owner, name in functions]
    try:
        for part, functions in parts.items():
            for owner, name in functions:
                setattr(owner, name, wrap(part, getattr(owner, name)))
        yield spent
    finally:
        for owner, name, function in before:
            setattr(owner, name, function)


def import_seconds(module: str, times: int = 5) -> float:
    """Median seconds that ``import module`` takes in a fresh interpreter, measured inside it."""
    code = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    run = [sys.executable, "-c", code]
    return statistics.median(float(subprocess.check_output(run, text=True)) for _ in range(times))


def main(law_ids: list[str]) -> None:
    import torch

    torch.set_num_threads(1)
    found: dict[str, list[Examined]] = {id: [] for id in law_ids}
    for _ in range(ROUNDS):  # in turns: what disturbs one law disturbs the others too
        for id in law_ids:
            found[id].append(examined(id, judged_on(id)))
    for id in law_ids:
        rates = sorted(each.rate for each in found[id])
        shown = ", ".join(f"{part} {share:.0%}" for part, share in found[id][-1].shares.items())
        spread = f"({rates[0]:.0f} to {rates[-1]:.0f} in {ROUNDS} rounds)"
        print(f"{id:20} median {rates[ROUNDS // 2]:.0f} examples/s {spread}: {shown}")


if __name__ == "__main__":
    main(sys.argv[1:] or ["existence", "mass", "gauge"])
