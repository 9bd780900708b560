"""From a request to jobs, and from jobs to results: what every face calls."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deqverify.law import laws
from deqverify.running.expectations import Expectation, apply
from deqverify.running.jobs import database_folder
from deqverify.running.profiles import Profile
from deqverify.running.results import Job, Result, Verdict
from deqverify.running.workers import Workers

DATABASE = Path(".deqverify") / "examples"


@dataclass
class Report:
    """The results of a run, in the order of laws, then targets."""

    results: list[Result] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)

    def of(self, verdict: Verdict) -> list[Result]:
        return [result for result in self.results if result.verdict is verdict]

    @property
    def exit_code(self) -> int:
        """2 if nothing ran or something could not run, else 1 for a violation or a stale expectation, else 0."""
        if not self.results or self.of(Verdict.COULD_NOT_RUN):
            return 2
        return 1 if self.of(Verdict.VIOLATED) or self.stale else 0

    @property
    def ok(self) -> bool:
        """Nothing violated beyond expectations, nothing failed to run, and at least one law did run."""
        return self.exit_code == 0

    def __str__(self) -> str:
        """The matrix and every violation as text."""
        from rich.console import Console

        from deqverify.reporting.terminal import show

        console = Console(record=True, file=io.StringIO(), width=100)
        show(self, console)
        return console.export_text()


def select(patterns: Sequence[str]) -> list[str]:
    """Ids of the laws named by ``patterns``, ids or families; all for none. ValueError, with near matches, for an
    unknown one."""
    known = laws()
    if not patterns:
        return list(known)
    chosen = []
    for pattern in patterns:
        found = [id for id, law in known.items() if pattern in (id, law.family)]
        if not found:
            from difflib import get_close_matches

            near = get_close_matches(pattern, known, n=3) or list(known)[:3]
            raise ValueError(f"law: there is no law or family {pattern!r}; did you mean {', '.join(near)}?")
        chosen += found
    return [id for id in known if id in chosen]


def make_jobs(
    targets: Sequence[str],
    law_ids: Sequence[str],
    profile: Profile,
    dtypes: Sequence[str] = (),
    device: str = "cpu",
    database: Path | None = DATABASE,
) -> list[Job]:
    """A job for each law, target and dtype; without ``dtypes`` the first that a target claims."""
    jobs = []
    for target in targets:
        for dtype in dtypes or (None,):
            for law in law_ids:
                job = Job(
                    law, target, dtype, device, profile.examples, profile.seconds, profile.example_seconds, profile.seed
                )
                if database is not None and profile.seed is None:
                    job = dataclasses.replace(job, database=str(database_folder(database, job)))
                jobs.append(job)
    return jobs


def run(
    jobs: Sequence[Job], profile: Profile, expectations: Sequence[Expectation] = (), workers: int = 2
) -> Iterator[Result]:
    """Results as they arrive, expected violations marked."""
    with Workers(profile.hard_seconds, max(1, min(workers, len(jobs)))) as pool:
        for result in pool.run(jobs):
            yield apply(result, expectations)


def in_order(results: Sequence[Result], jobs: Sequence[Job]) -> list[Result]:
    """``results`` in the order of ``jobs``."""
    position = {job: number for number, job in enumerate(jobs)}
    return sorted(results, key=lambda result: position[result.job])
