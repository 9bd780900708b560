"""No false alarm: ``python -m tools.quiet EXAMPLES [SEED]`` tries every law on implementations that keep what they
claim, on two processes, until EXAMPLES examples were judged, and prints every violation.

The worst honest implementation in every kind of claim, one without a backward pass, one that reports honestly, one that
stops at ``atol + rtol``, one at the root mean square over the batch; float32 and float64. Exit code 1 for an alarm.

``python -m tools.quiet correct EXAMPLES [SEED [MINUTES]]`` does the same with every implementation of deqverify.correct
on every cell that it claims, in one process: round after round each law on each of them, in an order of chance. It goes
on where it was interrupted: counts, crashes that no law judged, and alarms stand in build/quiet-correct.json.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import random
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from deqverify.claims import Accuracy
from deqverify.correct import implementations as correct_ones
from deqverify.correct.iterating import ForwardOnly, HonestPicard
from deqverify.describing import arguments_code, describe
from deqverify.implementations.subject import Subject
from deqverify.reference.worst import Direction, Passes, WorstHonest
from deqverify.registry import laws
from deqverify.running.compiling import kept_compiled
from deqverify.running.files import write_whole
from deqverify.trial import Effort, Trial

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


KEPT = Path("build/quiet-correct.json")
COUNTED = ("examples", "informative", "reported", "crashed")


def tried(target: str, dtype: str, seed: int) -> tuple[Trial, list[str]]:
    """Every law on one correct implementation in one dtype: what was seen, all laws together, and the alarms."""
    layer = correct_ones()[target].make()
    subject, seen, alarms = Subject(layer, dtype), Trial(), []
    for law in laws().values():
        if law.missing(subject):
            continue
        trial = law.trial(subject, Effort(EXAMPLES, seconds=60.0, example_seconds=600.0, seed=seed))
        seen.add(trial)
        if trial.error or trial.failure:
            what = describe(trial.failure) if trial.failure else str(trial.error)
            where = arguments_code(trial.failure.arguments) if trial.failure else ""
            alarms.append(f"{law.id} × correct[{target}] in {dtype}, seed {seed}:\n{what}\n{where}")
    return seen, alarms


def correct(examples: int, seed: int, minutes: float) -> int:
    """Rounds of all correct implementations, until so many examples were judged in all, or for so long."""
    kept: dict[str, Any] = json.loads(KEPT.read_text()) if KEPT.exists() else {"seed": seed, "tried": {}, "alarms": []}
    started = time.monotonic()
    for turn in itertools.count():
        pairs = [(name, dtype) for name, each in correct_ones().items() for dtype in each.make().claims.dtypes]
        random.Random(kept["seed"] + turn).shuffle(pairs)
        for target, dtype in pairs:
            total = sum(counts[0] for counts in kept["tried"].values())
            if total >= examples or time.monotonic() - started > 60 * minutes:
                return summary(kept)
            key = f"{turn} {target} {dtype}"
            if key in kept["tried"]:
                continue
            begun = time.monotonic()
            seen, alarms = tried(target, dtype, kept["seed"] + turn)
            kept["tried"][key] = [getattr(seen, name) for name in COUNTED]
            kept["alarms"] += alarms
            write_whole(KEPT, json.dumps(kept, ensure_ascii=False, indent=1))
            print(
                f"{total + seen.examples} examples, {len(kept['alarms'])} alarms; {target} in {dtype}: "
                f"{seen.examples}, {seen.informative} informative, {seen.reported} reported, {seen.crashed} crashed, "
                f"{time.monotonic() - begun:.0f} s",
                flush=True,
            )
            for alarm in alarms:
                print(f"ALARM {alarm}", flush=True)
    raise AssertionError("endless")


def summary(kept: dict[str, Any]) -> int:
    counts: dict[str, list[int]] = {}
    for key, seen in kept["tried"].items():
        counts[key.split()[1]] = [a + b for a, b in zip(counts.get(key.split()[1], [0] * 4), seen, strict=True)]
    print(f"{'':28} " + " ".join(f"{name:>11}" for name in COUNTED))
    for name, seen in [*counts.items(), ("all", [sum(column) for column in zip(*counts.values(), strict=True)])]:
        print(f"{name:28} " + " ".join(f"{number:11}" for number in seen))
    print(f"{len(counts)} implementations, {len(kept['alarms'])} alarms", *kept["alarms"], sep="\n\n")
    return 1 if kept["alarms"] else 0


if __name__ == "__main__":
    words = sys.argv[1:]
    if words[:1] == ["correct"]:
        os.environ.update(kept_compiled())
        warnings.simplefilter("ignore")
        wanted, first = int(words[1]), int(words[2]) if len(words) > 2 else 0
        sys.exit(correct(wanted, first, float(words[3]) if len(words) > 3 else 1e9))
    sys.exit(main(int(words[0]) if words else 50_000, int(words[1]) if len(words) > 1 else 0))
