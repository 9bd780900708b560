"""No false alarm on a GPU: ``python -m tools.quiet_device cuda MINUTES [SEED [PROCESSES]]`` tries laws by chance on
every implementation of our own that claims the device, references and correct ones, in both precisions and on all
cells that they claim, in several processes, and prints every violation. Exit code 1 for an alarm.
"""

from __future__ import annotations

import multiprocessing
import random
import sys
import time
import warnings
from collections import Counter
from importlib.util import find_spec

from deqverify.correct import implementations as correct_ones
from deqverify.describing import arguments_code, describe
from deqverify.implementations.loading import load
from deqverify.implementations.subject import Subject
from deqverify.registry import laws
from deqverify.trial import Effort

EXAMPLES = 6  # of a law on one implementation: the first of them is the simplest
REFERENCES = (
    "reference", "reference[fast]", "reference[mass]", "reference[picard]", "reference[newton]",
    "reference[forward-backward]", "reference[peaceman-rachford]",
)  # fmt: skip
OF_JAX = ("reference[jax]", "reference[fast,jax]", "reference[newton,jax]")


def targets(device: str) -> list[str]:
    """The names of all that claim ``device``; those of JAX where it is installed."""
    names = [*REFERENCES, *(each.target for each in correct_ones().values())]
    if find_spec("jax"):
        names += OF_JAX
    return [name for name in names if device in load(name).claims.devices]


def campaign(device: str, seed: int, minutes: float) -> tuple[Counter[str], list[str]]:
    """Examples by target and dtype, and in all, and the alarms."""
    warnings.simplefilter("ignore")
    rng, started, names = random.Random(seed), time.monotonic(), targets(device)
    seen: Counter[str] = Counter()
    alarms: list[str] = []
    while time.monotonic() - started < 60 * minutes:
        name, law, drawn = rng.choice(names), rng.choice(list(laws().values())), rng.randrange(1 << 30)
        layer = load(name)
        dtype = rng.choice([each for each in layer.claims.dtypes if each in ("float64", "float32")])
        subject = Subject(layer, dtype, device)
        if law.missing(subject):
            continue
        trial = law.trial(subject, Effort(EXAMPLES, seconds=10.0, example_seconds=120.0, seed=drawn))
        seen.update({f"{name} in {dtype}": trial.examples, "all": trial.examples, "informative": trial.informative})
        if trial.error or trial.failure:
            said = describe(trial.failure) if trial.failure else str(trial.error)
            where = arguments_code(trial.failure.arguments) if trial.failure else ""
            alarms.append(f"{law.id} × {name} in {dtype} on {device}, seed {drawn}:\n{said}\n{where}")
            print(f"ALARM {alarms[-1]}", flush=True)
    return seen, alarms


def main(device: str, minutes: float, seed: int, processes: int) -> int:
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        parts = pool.starmap(campaign, [(device, seed + number, minutes) for number in range(processes)])
    seen = sum((part for part, _ in parts), Counter[str]())
    for name, count in seen.most_common():
        print(f"{count:7} {name}")
    alarms = sum(len(found) for _, found in parts)
    print(f"{seen['all']} examples on {device}, {alarms} alarms")
    return 1 if alarms else 0


if __name__ == "__main__":
    given = sys.argv[1:]
    if len(given) < 2:
        sys.exit(__doc__)
    seed, processes = int(given[2]) if len(given) > 2 else 0, int(given[3]) if len(given) > 3 else 2
    sys.exit(main(given[0], float(given[1]), seed, processes))
