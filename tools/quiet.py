"""No false alarm: ``python -m tools.quiet EXAMPLES [SEED]`` tries every law on implementations that keep what they
claim, on two processes, until EXAMPLES examples were judged, and prints every violation.

The worst honest implementation in every kind of claim, one without a backward pass, one that reports honestly, one that
stops at ``atol + rtol``, one at the root mean square over the batch; float32 and float64. Exit code 1 for an alarm.
"""

from __future__ import annotations

import itertools
import multiprocessing
import random
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any, get_args

from deqverify.claims import Accuracy
from deqverify.implementations.subject import Subject
from deqverify.reference.worst import Direction, Passes, WorstHonest
from deqverify.registry import describe, laws
from deqverify.trial import Effort
from tests.honest import ForwardOnly, HonestPicard

EXAMPLES = 4  # of a law on one implementation: many implementations rather than many examples
KINDS: list[dict[str, Any]] = [
    {"rtol": 1.0},
    {"atol": 1.0},
    {"rtol": 1.0, "atol": 1.0},
    {"rtol": 1.0, "eps": 1e-3},
    {"rtol": 1.0, "atol": 1.0, "per": "batch", "norm": "rms"},
    {"rtol": 1.0, "norm": "max"},
    {"rtol": 1.0, "norm": "1"},
    {"rtol": 1.0, "per": "batch"},
    {"rtol": 1.0, "of": "value"},
    {"atol": 1.0, "norm": "max", "per": "batch"},
]


def claim(kind: dict[str, Any], tolerance: float) -> Accuracy:
    scaled = {name: tolerance * kind[name] for name in ("rtol", "atol") if name in kind}
    return Accuracy(**kind | scaled)


def implementations() -> list[Any]:
    found: list[Any] = [
        WorstHonest(claim(kind, tolerance), direction, passes)
        for kind in KINDS
        for tolerance in (1e-3, 1e-6, 1e-10)
        for direction, passes in itertools.product(get_args(Direction), get_args(Passes))
    ]
    iterated = [kind for kind in KINDS if "of" not in kind]
    for kind, tolerance in itertools.product(iterated, (1e-3, 1e-6)):
        accuracy = claim(kind, tolerance)
        found += [HonestPicard(accuracy), HonestPicard(accuracy, start=0.0), ForwardOnly(accuracy)]
        found.append(HonestPicard(accuracy, most=30, solves=False))
    return found


def campaign(part: int, examples: int, seed: int) -> tuple[int, int, list[str]]:
    """How many examples and implementations were tried, and the alarms."""
    warnings.simplefilter("ignore")
    every = implementations()
    random.Random(seed).shuffle(every)
    count, tried, alarms = 0, 0, []
    for number, (layer, dtype) in enumerate(_endless(every[part::2])):
        subject, tried = Subject(layer, dtype), tried + 1
        for law in laws().values():
            if law.missing(subject) is None:
                trial = law.trial(subject, Effort(EXAMPLES, seconds=10.0, seed=seed + number))
                count += trial.examples
                if trial.error or trial.failure:
                    seen = trial.error or describe(trial.failure)  # type: ignore[arg-type]
                    alarms.append(f"{law.id} × {layer.name} in {dtype}, seed {seed + number}:\n{seen}")
        if count >= examples:
            return count, tried, alarms
    raise AssertionError("endless")


def _endless(layers: list[Any]) -> Iterator[tuple[Any, str]]:
    for turn in itertools.count():
        for number, layer in enumerate(layers):
            yield layer, ("float64", "float32")[(number + turn) % 2]


def main(examples: int, seed: int) -> int:
    started = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        parts = pool.starmap(campaign, [(part, examples // 2, seed) for part in range(2)])
    for alarm in itertools.chain.from_iterable(part[2] for part in parts):
        print(alarm, end="\n\n")
    count, tried, alarms = (
        sum(part[0] for part in parts),
        sum(part[1] for part in parts),
        [*parts[0][2], *parts[1][2]],
    )
    minutes = (time.monotonic() - started) / 60
    print(f"{count} examples on {tried} of {2 * len(implementations())} implementations × dtypes, {minutes:.1f} min,")
    print(f"{len(alarms)} alarms")
    return 1 if alarms else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 50_000, int(sys.argv[2]) if len(sys.argv) > 2 else 0))
