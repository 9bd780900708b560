"""What a report makes of one defect: ``python -m tools.causes [PART/PARTS] [FAULT …]`` verifies the faults of
tests/faults in one process, in float64, with few examples, hardly shrunk and without borders, and groups their
violations by cause. It prints the causes of each fault in words, and how many of the faults have exactly one, and the
one that the fault names. Exit code 1 below 90 %."""

from __future__ import annotations

import sys
import time
from typing import Any

from deqverify import trial
from deqverify.implementations.loading import load
from deqverify.registry import laws, premises
from deqverify.running import jobs
from deqverify.running.causes import Cause
from deqverify.running.jobs import run_job
from deqverify.running.plan import Report, in_order, make_jobs
from deqverify.running.profiles import Profile
from deqverify.running.results import Verdict
from tests.faults.test_faults import KILLERS, NAMED
from tests.faults.test_nonlinear import KILLERS as OF_ANY_CELL
from tests.faults.test_stateful import MORE, THRESHOLDS

SHARE = 0.9
PROFILE = Profile("causes", examples=12, seconds=4.0, seed=0, example_seconds=60.0)


def faults() -> list[type]:
    """Every fault, once."""
    known = [*NAMED, *KILLERS.values(), *OF_ANY_CELL, *(f for _, f in MORE), *(f for _, f in THRESHOLDS)]
    return list(dict.fromkeys(known))


def target_of(fault: Any) -> str:
    return f"{fault.__module__}:{fault.__name__}"


def named_by(fault: Any) -> tuple[str, ...]:
    """The laws by which its one cause may be called: the ``cause`` that it names itself, or the law that it is known to
    violate and what that rests on."""
    if own := getattr(fault, "cause", None):
        return (own,)
    tables = (NAMED, OF_ANY_CELL, {f: law for law, f in KILLERS.items()}, {f: law for law, f in (*MORE, *THRESHOLDS)})
    known = [table[fault] for table in tables if fault in table]
    return (*known, *(premise.id for law in known for premise in premises(laws()[law])))


def causes_of(target: str, profile: Profile = PROFILE) -> list[Cause]:
    asked = {target: load(target).claims}
    dtypes = asked[target].dtypes[:1]
    chosen = make_jobs([target], list(laws()), profile, dtypes, database=None, asked=asked)
    return Report(in_order([run_job(job) for job in chosen], chosen)).causes


def main(arguments: list[str]) -> int:
    import torch

    torch.set_num_threads(1)
    trial._SURVEY_SECONDS, trial.SHRINKING, jobs.boundary = 0.05, 8, lambda *_: []  # type: ignore[assignment]
    part = next((a for a in arguments if "/" in a), "1/1")
    wanted = [a for a in arguments if "/" not in a]
    number, parts = (int(text) for text in part.split("/"))
    chosen = [f for k, f in enumerate(faults()) if k % parts == number - 1 and (not wanted or f.__name__ in wanted)]
    single = right = 0
    for fault in chosen:
        started = time.perf_counter()
        found = [cause for cause in causes_of(target_of(fault)) if cause.first.verdict is Verdict.VIOLATED]
        ids = [cause.law for cause in found]
        one = len(ids) == 1
        good = one and ids[0] in named_by(fault)
        single, right = single + one, right + good
        mark = "ok " if good else "one" if one else f"{len(ids):3}"
        print(
            f"{mark} {fault.__name__:24} {time.perf_counter() - started:5.1f} s  {'; '.join(map(told, found))}",
            flush=True,
        )
    print(f"{len(chosen)} faults: {single} report exactly one cause, and {right} of these the one that the fault names")
    return 0 if single >= SHARE * len(chosen) else 1


def told(cause: Cause) -> str:
    violation = cause.first.violation
    assert violation
    words = ", ".join(part for part in (violation.diagnosis, violation.boundary_said) if part)
    return f"{cause.law} ({len(cause.followers)} follow{': ' + words if words else ''})"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
