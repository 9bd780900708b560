"""What a report makes of one defect: ``python -m tools.causes [PART/PARTS] [FAULT …]`` verifies the faults of
deqverify.faults, and the broken twins of tests/wrapped, in one process, in one dtype, with few examples, hardly shrunk
and without borders, and groups their violations by cause.

It prints a line for each: whether there is exactly one cause and the one that the fault names, in the words that it
names. What was found is kept in ``build/causes.jsonl``: a run that was interrupted goes on there, and
``python -m tools.causes again …`` forgets it first. Time is that of the processor, so that a loaded machine finds the
same. Exit code 1 where fewer than 90 % report exactly one cause and the right one.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from deqverify import clock, trial
from deqverify.faults import faults
from deqverify.implementations.loading import load
from deqverify.registry import laws
from deqverify.running import jobs, premises
from deqverify.running.convicting import convictions
from deqverify.running.events import JobFinished
from deqverify.running.executors import ThisProcess
from deqverify.running.jobs import run_job
from deqverify.running.plan import Report, in_order, make_jobs
from deqverify.running.profiles import Profile
from deqverify.running.results import Job, Verdict

SHARE = 0.9
KEPT = Path("build") / "causes.jsonl"
PROFILE = Profile("causes", examples=6, seconds=3.0, seed=0, example_seconds=60.0)

OF_CALLS, MANY = ("state", "modes", "batching", "arrays"), 30
"""Families of laws that see a defect in few of their examples, and how many they have here; as many as the laws that
must kill a fault, since a rare one shows in one example of a dozen, and every profile gives them no fewer."""

KILLING = 10.0
"""Seconds for a law that must kill, as in the quick profile."""

CELLS = ("linear-softmax", "tanh", "relu")
"""A fault that claims more cells is judged on these, unless it says on which it shows."""


@dataclass(frozen=True)
class Expected:
    """The cause that a target should report, a part of its words, the cells on which it shows, and its killers."""

    cause: str
    said: str = ""
    cells: tuple[str, ...] = ()
    killers: tuple[str, ...] = ()


def asked() -> dict[str, Expected]:
    """What is expected of every target."""
    from tests.wrapped.torch_layers import EXAMPLES, cause_of

    twins = [(name, twin) for name, (_, _, broken) in EXAMPLES.items() for twin in broken]
    wrapped = {
        f"tests.wrapped.torch_layers:make[{name},{twin}]": Expected(cause_of(name, twin)) for name, twin in twins
    }
    known = faults().values()
    return {each.target: Expected(each.cause, each.said, each.cells, each.killers) for each in known} | wrapped


def causes_of(
    target: str, shows: Sequence[str] = (), only: Sequence[str] = (), many: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """The unexpected causes, each as its law, its words and what follows; on the cells on which it ``shows``, of the
    laws ``only`` or of all, with ``MANY`` examples of the laws ``many``."""
    claims = {target: load(target).claims}
    claimed = claims[target].cells
    few = [name for name in CELLS if name in claimed] if len(claimed) > len(CELLS) else []
    ids, cells = list(only) or list(laws()), list(shows) or few
    chosen = make_jobs([target], ids, PROFILE, claims[target].dtypes[:1], database=None, asked=claims, only=cells)
    chosen = [_with_more(job, many) for job in chosen]
    results = {job.key: run_job(job) for job in chosen}
    for event in convictions(list(results.values()), chosen, ThisProcess().follow):
        if isinstance(event, JobFinished):
            results[event.result.job.key] = event.result
    report = Report(in_order(list(results.values()), chosen))
    return [
        {
            "law": cause.law,
            "said": ", ".join(part for part in (said.diagnosis, said.boundary_said) if part),
            "followers": cause.followers,
        }
        for cause in report.causes
        if cause.first.verdict is Verdict.VIOLATED and (said := cause.first.violation)
    ]


def _with_more(job: Job, many: Sequence[str]) -> Job:
    if job.law in many:
        return replace(job, examples=MANY, seconds=KILLING)
    return replace(job, examples=MANY) if laws()[job.law].family in OF_CALLS else job


def judged(found: list[dict[str, Any]], expected: Expected) -> str:
    """What is said of ``found``: "" where it is one cause, the right one, in the right words."""
    ids = [each["law"] for each in found]
    if len(ids) != 1:
        return f"{len(ids)} causes, not {expected.cause}"
    if ids != [expected.cause]:
        return f"not {expected.cause}"
    return "" if expected.said in found[0]["said"] else f"without the words: {expected.said}"


def hurried() -> None:
    """Little shrinking, no borders, and a clock that counts the processor's seconds."""
    clock.time = SimpleNamespace(monotonic=time.process_time, process_time=time.process_time)  # type: ignore[assignment]
    trial._SURVEY_SECONDS, trial.SHRINKING = 0.05, 8
    premises.EXAMPLES, premises.BLOCKED = 12, 6
    jobs.boundary = lambda *_: []  # type: ignore[assignment]


def main(arguments: list[str]) -> int:
    import torch

    torch.set_num_threads(1)
    hurried()
    if "again" in arguments:
        KEPT.unlink(missing_ok=True)
    part = next((a for a in arguments if "/" in a), "1/1")
    number, parts = (int(text) for text in part.split("/"))
    wanted = [a for a in arguments if "/" not in a and a != "again"]
    known = asked()
    chosen = [t for k, t in enumerate(known) if k % parts == number - 1 and (not wanted or any(w in t for w in wanted))]
    KEPT.parent.mkdir(exist_ok=True)
    kept = [json.loads(line) for line in KEPT.read_text().splitlines()] if KEPT.exists() else []
    found = {each["target"]: each["causes"] for each in kept}
    single = right = 0
    for count, target in enumerate(chosen, 1):
        started = time.perf_counter()
        if target not in found:
            found[target] = causes_of(target, known[target].cells, many=known[target].killers)
            with KEPT.open("a") as file:
                file.write(json.dumps({"target": target, "causes": found[target]}) + "\n")
        wrong = judged(found[target], known[target])
        one, good = len(found[target]) == 1, not wrong or wrong.startswith("without the words")
        single, right = single + one, right + good
        words = "; ".join(f"{c['law']} ({len(c['followers'])} follow) {c['said']}".strip() for c in found[target])
        spent = f"{time.perf_counter() - started:5.1f} s"
        print(f"{count:3}/{len(chosen)} {'ok ' if good else 'BAD'} {spent} {target}: {words}", flush=True)
        if wrong:
            print(f"            {wrong}", flush=True)
    print(f"{len(chosen)} faults: {single} report exactly one cause, {right} the one that they name")
    return 0 if right >= SHARE * len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
