"""Where a law's time goes: ``python -m tests.cost existence mass gauge`` prints examples per second and shares."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from deqverify.bounds import Budget, Errors
from deqverify.implementations.subject import Subject
from deqverify.law import laws
from deqverify.oracle import Oracle
from deqverify.reference import reference
from deqverify.trial import Effort

PARTS = {
    "implementation": [(Subject, "solve_native"), (Subject, "pull_native")],
    "oracle": [(Oracle, name) for name in ("residual", "adjoint_residual", "error", "derivative")],
    "bounds": [(Budget, "bound"), (Budget, "along"), (Errors, "__init__")],
}
EXAMPLES, ROUNDS = 1000, 5


class Stopwatch:
    """Seconds spent in the wrapped functions, nested calls counted once."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._inside = False

    def wrap(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return function(*args, **kwargs)
            self._inside, started = True, time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self._inside = False
                self.seconds[part] += time.perf_counter() - started

        return timed


def main(law_ids: list[str]) -> None:
    torch.set_num_threads(1)
    watch = Stopwatch()
    subject = Subject(reference())
    plain: dict[str, list[float]] = {id: [] for id in law_ids}
    for round_ in range(ROUNDS):
        for id in law_ids:
            trial = laws()[id].trial(subject, Effort(EXAMPLES, seed=round_))
            plain[id].append(trial.examples / trial.seconds)
    for part, functions in PARTS.items():
        for owner, name in functions:
            setattr(owner, name, watch.wrap(part, getattr(owner, name)))
    for id in law_ids:
        watch.seconds = dict.fromkeys(PARTS, 0.0)
        trial = laws()[id].trial(subject, Effort(EXAMPLES, seed=0))
        shares = {part: seconds / trial.seconds for part, seconds in watch.seconds.items()}
        shares["Hypothesis, drawing and the rest"] = 1.0 - sum(shares.values())
        rates = sorted(plain[id])
        shown = ", ".join(f"{part} {share:.0%}" for part, share in shares.items())
        spread = f"({rates[0]:.0f} to {rates[-1]:.0f} in {ROUNDS} rounds)"
        print(f"{id:20} median {rates[ROUNDS // 2]:.0f} examples/s {spread}: {shown}")


if __name__ == "__main__":
    main(sys.argv[1:] or ["existence", "mass", "gauge"])
