"""What twice the workers of a cluster bring: ``python -m tools.cluster [SECONDS [JOBS]]`` runs JOBS jobs on 1, 2 and 4
Dask workers of this machine, on targets that sleep for SECONDS and so need no processor of their own. It prints the
time of starting the cluster and asking the targets beside that of the jobs, and whether the verdicts are the same. Exit
code 1 where they are not."""

from __future__ import annotations

import sys
import time

from deqverify.running.cluster import LOCAL, Cluster
from deqverify.running.events import JobFinished, JobStarted
from deqverify.running.profiles import Profile
from deqverify.running.request import Request
from deqverify.running.run import Run

WORKERS = (1, 2, 4)
PROFILE = Profile("sleeping", examples=5, seconds=600.0, seed=0, example_seconds=600.0)
HARD_SECONDS = 900.0


def timed(workers: int, targets: list[str]) -> tuple[float, float, list[object]]:
    """Seconds until the first job, seconds of the jobs, and what they found."""
    request = Request(targets, ["mass"], dtypes=["float64"], profile=PROFILE, database=None)
    begun = time.perf_counter()
    first = last = 0.0
    with Cluster(LOCAL, HARD_SECONDS, workers) as cluster:
        results = []
        for event in Run(request, cluster):
            last = time.perf_counter()
            if isinstance(event, JobStarted):
                first = first or last
            if isinstance(event, JobFinished):
                results.append((event.result.job.target, event.result.verdict.value, event.result.examples))
    return first - begun, last - first, sorted(results)


def main(seconds: float, jobs: int) -> int:
    targets = [f"tests.targets:Sleeping[{seconds + number / 1000:g}]" for number in range(jobs)]
    found, once = [], 0.0
    for workers in WORKERS:
        before, taken, results = timed(workers, targets)
        once = once or taken
        found.append(results)
        print(
            f"{workers} workers: {before:.1f} s to begin, {taken:.1f} s for {jobs} jobs that sleep {seconds:g} s, "
            f"{once / taken:.2f} times as fast as one worker",
            flush=True,
        )
    same = all(results == found[0] for results in found)
    said = "the same verdicts" if same else "DIFFERENT VERDICTS"
    print(f"{said}: {', '.join(sorted({verdict for _, verdict, _ in found[0]}))}")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if sys.argv[1:] else 20.0, int(sys.argv[2]) if sys.argv[2:] else 8))
