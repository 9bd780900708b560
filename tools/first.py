"""How soon a run says what is wrong: ``python -m tools.first [SEED …]`` runs the default profile on every fault of
tests/faults, in one process and in the order in which a run tries its laws, until the first violation arrives, shrunk
and weighed. It prints each fault's law and seconds, the median and the 95th percentile; exit code 1 for a survivor."""

from __future__ import annotations

import sys
import time
from dataclasses import replace

import numpy as np

from deqverify.running.events import ViolationFound
from deqverify.running.executors import ThisProcess
from deqverify.running.jobs import run_job
from deqverify.running.plan import make_jobs
from deqverify.running.profiles import profile
from deqverify.running.request import Request
from deqverify.running.run import Run
from tests.faults.test_faults import KILLERS, NAMED
from tests.faults.test_stateful import MORE, THRESHOLDS


def faults() -> list[str]:
    """Every fault as a target."""
    known = [*KILLERS.values(), *NAMED, *(fault for _, fault in MORE), *(fault for _, fault in THRESHOLDS)]
    return [f"{fault.__module__}:{fault.__name__}" for fault in dict.fromkeys(known)]


def first(target: str, seed: int) -> tuple[str, float]:
    """The law that is violated first, or nothing, and after how many seconds."""
    started = time.perf_counter()
    request = Request([target], seed=seed, database=None, counterexamples=None)
    for event in Run(request, ThisProcess()):
        if isinstance(event, ViolationFound):
            job = event.result.job
            return f"{job.law} {job.dtype}", time.perf_counter() - started
    return "", time.perf_counter() - started


def main(seeds: list[int]) -> int:
    import torch

    torch.set_num_threads(1)
    run_job(make_jobs(["reference"], ["existence"], replace(profile("quick"), seed=0), database=None)[0])  # warm up
    found = []
    for target in faults():
        for seed in seeds:
            law, seconds = first(target, seed)
            found.append((seconds, law))
            print(f"{target.rpartition(':')[2]:28} seed {seed}: {seconds:6.2f} s  {law or 'SURVIVED'}", flush=True)
    times = [seconds for seconds, _ in found]
    print(f"{len(found)} runs: median {np.median(times):.2f} s, 95th percentile {np.percentile(times, 95):.2f} s")
    return 1 if any(not law for _, law in found) else 0


if __name__ == "__main__":
    sys.exit(main([int(seed) for seed in sys.argv[1:]] or [0]))
