"""No false alarm on any cell: ``python -m tools.quiet_cells EXAMPLES [SEED [MINUTES]]`` tries every law on every cell
but the linear-softmax one (tools/quiet.py has that), with implementations that keep what they claim, in one process,
until EXAMPLES examples were judged or the minutes are over, and prints every violation, and how far it is.

Newton's method in NumPy, PyTorch and now and then JAX, where each shape is compiled; the worst honest implementation
in every kind of claim; iterations that stop by the claim's own rule, one without a backward pass, one that reports;
float32 and float64. At the end, the laws and cells of which fewer than :data:`WANTED` of the examples with a rate of
at most .99 were informative, the first of each trial left out: it is the simplest, one pixel or one node, and would be
a sixth of the examples here, where a run has one in a hundred. Exit code 1 for an alarm.
"""

from __future__ import annotations

import os
import random
import sys
import time
import warnings
from collections import Counter, defaultdict
from typing import Any, get_args

from deqverify.cells import LinearSoftmaxCell, cells
from deqverify.correct.iterating import ForwardOnly, HonestPicard, OtherStart
from deqverify.describing import describe
from deqverify.frameworks import framework
from deqverify.implementations.subject import Subject
from deqverify.reference.newton import NewtonLayer
from deqverify.reference.worst import Direction, Passes, WorstHonest
from deqverify.registry import Law, laws
from deqverify.running.compiling import kept_compiled
from deqverify.trial import Effort, Example
from tools.quiet import KINDS, claim

EXAMPLES = 6  # of a law on one implementation and cell: the first of them is the simplest
MOST = 500  # sweeps; beyond a rate of .99 an iteration reports
COMPILED = 0.1  # of the trials are under JAX, where a new shape takes seconds
LARGEST_RATE = 0.99
WANTED = 0.8
CELLS = tuple(name for name in cells() if name != LinearSoftmaxCell.name)


def drawn(rng: random.Random) -> Any:
    """An honest implementation."""
    if rng.random() < COMPILED:
        return NewtonLayer("jax")
    kind, tolerance = rng.choice(KINDS), rng.choice([1e-3, 1e-6, 1e-10])
    accuracy, which = claim(kind, tolerance), rng.random()
    if which < 0.2:
        return rng.choice([NewtonLayer("numpy"), NewtonLayer("torch"), OtherStart()])
    if which < 0.6 or accuracy.of == "value" or tolerance < 1e-6:
        return WorstHonest(accuracy, rng.choice(get_args(Direction)), rng.choice(get_args(Passes)))
    if which < 0.9:
        return HonestPicard(accuracy, MOST, rng.choice([0.0, 1.0]), solves=rng.random() < 0.5)
    return rng.choice([ForwardOnly(accuracy), HonestPicard(accuracy, most=30, solves=False)])


class Shares:
    """Of each law and cell the examples with a rate of at most :data:`LARGEST_RATE`, and the informative ones."""

    def __init__(self) -> None:
        self.of: dict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0, 0])

    def see(self, law: Law, example: Example, kind: str) -> None:
        problem = example.arguments["problem"]
        if problem.rate <= LARGEST_RATE:
            found = self.of[law.id, problem.cell.name, kind]
            found[0] += 1
            found[1] += example.informative

    def __str__(self) -> str:
        low = [
            f"{law:22} {cell:10} {kind}: {informative} of {examples}"
            for (law, cell, kind), (examples, informative) in sorted(self.of.items())
            if informative < WANTED * examples
        ]
        return "\n".join(low)


def campaign(wanted: int, seed: int, minutes: float) -> int:
    warnings.simplefilter("ignore")
    rng, shares, started = random.Random(seed), Shares(), time.monotonic()
    counts: Counter[str] = Counter()
    total = alarms = number = 0
    while total < wanted and time.monotonic() - started < 60 * minutes:
        number += 1
        layer, dtype = drawn(rng), rng.choice(["float64", "float32"])
        cell = rng.choice([name for name in CELLS if name in layer.claims.cells])
        subject, law = Subject(layer, dtype, only=(cell,)), rng.choice(list(laws().values()))
        if law.missing(subject):
            continue
        kind = "exact" if layer.claims.forward.exact else "claimed"
        effort, examples = Effort(EXAMPLES, seconds=10.0, seed=seed + number), list[Example]()
        trial = law.trial(subject, effort, observe=examples.append)
        for example in examples[1:]:
            shares.see(law, example, kind)
        total += trial.examples
        counts[f"{type(layer).__name__} in {layer.framework}, {dtype}"] += trial.examples
        counts[cell] += trial.examples
        counts["reported"] += trial.reported
        if number % 200 == 0:
            print(f"{total} examples, {alarms} alarms, {(time.monotonic() - started) / 60:.1f} min", flush=True)
        if trial.error or trial.failure:
            alarms += 1
            seen = trial.error or describe(trial.failure)  # type: ignore[arg-type]
            print(f"ALARM {law.id} × {cell} × {layer.name} in {dtype}, {layer.framework}, seed {seed + number}:")
            print(seen, end="\n\n", flush=True)
    print("informative shares below what is wanted:", shares, sep="\n")
    for name, count in counts.most_common():
        print(f"{count:7} {name}")
    print(f"{total} examples, {alarms} alarms, {(time.monotonic() - started) / 60:.1f} min")
    return 1 if alarms else 0


if __name__ == "__main__":
    given = sys.argv[1:]
    os.environ.update(kept_compiled())
    framework("torch")  # loaded before the first seed draws constants of modules
    count, first = int(given[0]) if given else 5000, int(given[1]) if len(given) > 1 else 0
    sys.exit(campaign(count, first, float(given[2]) if len(given) > 2 else 1e9))
