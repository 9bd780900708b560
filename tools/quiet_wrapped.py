"""No false alarm on wrapped layers: ``python -m tools.quiet_wrapped torch EXAMPLES [SEED [MINUTES]]`` tries every law
on the correct layers of tests/wrapped, in one process, until EXAMPLES examples were judged or the minutes are over, and
prints every violation. With ``first`` for the first word, ``python -m tools.quiet_wrapped first torch [SEED]``, it
prints after how many seconds of the processor each broken twin's first violation arrives in the default profile, shrunk
and weighed.

In PyTorch the layers solve to 1e-3, 1e-6 or 1e-9 and claim that; some spend the whole of it on purpose, along one
vector. Exit code 1 for an alarm, and for a twin that survives.
"""

from __future__ import annotations

import importlib
import random
import sys
import time
import warnings
from typing import Any

import numpy as np

from deqverify import Accuracy, Claims
from deqverify.describing import describe
from deqverify.implementations.subject import Subject
from deqverify.implementations.wrapping import CLAIMS
from deqverify.registry import Law, laws
from deqverify.running.executors import ThisProcess
from deqverify.running.killing import outcome
from deqverify.running.request import Request
from deqverify.trial import Effort
from tests.wrapped import torch_layers

EXAMPLES = 6  # of a law on one layer: the first of them is the simplest
COARSE = {"float64": (1e-3, 1e-6, 1e-9), "float32": (1e-3, 1e-5)}


def claims(tolerance: float, dtype: str) -> Claims:
    accuracy = Accuracy(tolerance)
    return Claims(accuracy, accuracy, dtypes=(dtype,), status=CLAIMS.status, starts=CLAIMS.starts, empty=CLAIMS.empty)


def drawn(rng: random.Random, framework: str) -> tuple[str, Any, str]:
    """A correct layer in a dtype, and what it is."""
    dtype, seed = rng.choice(("float64", "float32")), rng.randrange(1000)
    if framework == "jax":
        module = importlib.import_module("tests.wrapped.jax_layers")
        name = rng.choice(list(module.TWINS))
        return f"{name} {seed}", module.wrapped(name, seed=seed), dtype
    name = rng.choice(list(torch_layers.EXAMPLES))
    tolerance = rng.choice(COARSE[dtype])
    if not issubclass(torch_layers.EXAMPLES[name][0], torch_layers.Implicit):
        tolerance = 1e-5 if dtype == "float32" else 1e-6
    # The two of the regularised layer's outputs share one claim, and the second is not iterated.
    spent = rng.choice(("", "ones", "alternating")) if name != "regularised" else ""
    closed = rng.random() < 0.1
    deq = torch_layers.wrapped(
        name, seed=seed, tolerance=tolerance, spent=spent, claims=claims(tolerance, dtype), closed=closed
    )
    return f"{name} {seed} {tolerance:g} {spent}{' without its cell' if closed else ''}", deq, dtype


def quiet(framework: str, wanted: int, seed: int, minutes: float) -> int:
    rng, started, count, informative, alarms = random.Random(seed), time.monotonic(), 0, 0, 0
    while count < wanted and time.monotonic() - started < 60 * minutes:
        what, deq, dtype = drawn(rng, framework)
        subject = Subject(deq, dtype)
        chosen: list[Law] = [law for law in laws().values() if not law.missing(subject)]
        for law in rng.sample(chosen, 6) if framework == "jax" else chosen:
            trial = law.trial(subject, Effort(EXAMPLES, 60.0, example_seconds=300.0, seed=rng.randrange(1 << 30)))
            count, informative = count + trial.examples, informative + trial.informative
            if trial.failure or trial.error:
                alarms += 1
                seen = describe(trial.failure) if trial.failure else trial.error
                print(
                    f"ALARM {law.id} on {what} in {dtype}\n{seen}\n{trial.failure and trial.failure.arguments}",
                    flush=True,
                )
        print(
            f"{count} examples, {informative} informative, {alarms} alarms, {time.monotonic() - started:.0f} s",
            flush=True,
        )
    return 1 if alarms else 0


def soon(framework: str, seed: int) -> int:
    module = importlib.import_module(f"tests.wrapped.{framework}_layers")
    examples = module.TWINS if framework == "jax" else {name: twins for name, (_, _, twins) in module.EXAMPLES.items()}
    times, survived = [], 0
    for name, twins in examples.items():
        for twin in twins:
            target = f"{module.__name__}:make[{name},{twin}]"
            request = Request([target], seed=seed, database=None, counterexamples=None, fail_fast=True)
            found = outcome(target, request, ThisProcess())
            survived += not found.first
            times += [found.first.seconds] if found.first else []
            said = f"{found.first.seconds:6.2f} s  {found.first.law} {found.first.dtype}" if found.first else "SURVIVED"
            print(f"{name:12} {twin:26} {said}", flush=True)
    print(f"{len(times)} twins killed: median {np.median(times):.2f} s, {survived} survived")
    return 1 if survived else 0


def main(words: list[str]) -> int:
    warnings.simplefilter("ignore")
    if words[0] == "first":
        return soon(words[1], int(words[2]) if len(words) > 2 else 0)
    seed, minutes = int(words[2]) if len(words) > 2 else 0, float(words[3]) if len(words) > 3 else 60.0
    return quiet(words[0], int(words[1]), seed, minutes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
