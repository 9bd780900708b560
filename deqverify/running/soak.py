"""A soak: all laws, every claimed dtype, fresh seeds round after round, for as long as told.

Every second round pushes measured/allowed upwards. One pair of law and target is tried a few hundred examples at a
time, the one with the fewest rounds first; what was seen is saved after each.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deqverify.implementations.loading import load
from deqverify.running.executors import Executor
from deqverify.running.jobs import home_of
from deqverify.running.results import Job, Result, Verdict
from deqverify.running.soak_state import Entry, State, keep, save

EXAMPLES = 400
"""Examples a round: in a pushed one half of them climb, which takes some hundred to get anywhere."""

MOST_SECONDS = 60.0
"""A round ends after this long, finished or not."""

EXAMPLE_SECONDS = 20.0
HARD_SECONDS = MOST_SECONDS + EXAMPLE_SECONDS + 15.0
"""After this long a worker is killed; the last part is for starting and importing its target."""


@dataclass
class Soak:
    """A soak of ``entries`` in ``folder``, until ``seconds`` are over. Iterate over :meth:`results`; interrupting that
    loses only the rounds under way.
    """

    state: State
    folder: Path
    entries: Sequence[Entry]
    seconds: float
    examples: int = EXAMPLES
    device: str = "cpu"
    resting: set[tuple[str, str, str]] = field(default_factory=set)
    """Not tried again this time: violated (shrinking the same again would take all the time), or not to be run."""

    def results(self, executor: Executor) -> Iterator[Result]:
        """What each round ended with, after it was counted and saved. OSError where it cannot be saved; what was saved
        before stays."""
        self._end = time.monotonic() + self.seconds
        for result in executor.run(self._jobs()):
            self._count(result)
            save(self.state, self.folder)
            yield result

    @property
    def left(self) -> float:
        """Seconds until the end."""
        return max(0.0, self._end - time.monotonic())

    def _jobs(self) -> Iterator[Job]:
        for entry in self.entries:  # what was under way when the last soak was killed
            for number in list(entry.under_way):
                yield self._job(entry, number)
        while self.left > 0:
            awake = [entry for entry in self.entries if entry.key not in self.resting]
            if not awake:
                return
            entry = min(awake, key=lambda each: each.rounds)
            entry.rounds += 1
            entry.under_way.append(entry.rounds - 1)
            yield self._job(entry, entry.rounds - 1)

    def _job(self, entry: Entry, number: int) -> Job:
        seconds = min(MOST_SECONDS, max(1.0, self.left))
        chosen = (entry.law, entry.target, entry.dtype, self.device, self.examples, seconds, EXAMPLE_SECONDS)
        return Job(*chosen, self.state.seed + number, push=number % 2 == 1, home=home_of(entry.law))

    def _count(self, result: Result) -> None:
        job = result.job
        entry = self.state.entry(job.law, job.target, str(job.dtype))
        (entry.pushed if job.push else entry.drawn).merge(result.tally)
        entry.under_way.remove((job.seed or 0) - self.state.seed)
        if result.violation:
            keep(result, entry, self.folder)
        if result.verdict is Verdict.NOT_CLAIMED:
            self.state.entries.pop(entry.key, None)
        entry.trouble = result.reason if result.verdict is Verdict.COULD_NOT_RUN else ""
        if result.verdict in (Verdict.VIOLATED, Verdict.NOT_CLAIMED, Verdict.COULD_NOT_RUN):
            self.resting.add(entry.key)


def entries_of(state: State, targets: Sequence[str], law_ids: Sequence[str], dtypes: Sequence[str] = ()) -> list[Entry]:
    """An entry for each law, target and dtype, by default every dtype that the target claims.

    TargetError for a target that cannot be loaded, ValueError for a dtype that it does not claim.
    """
    found = []
    for target in targets:
        claimed = load(target).claims.dtypes
        if unclaimed := [dtype for dtype in dtypes if dtype not in claimed]:
            raise ValueError(f"dtype: {target} claims {', '.join(claimed)}, not {unclaimed[0]}")
        found += [state.entry(law, target, dtype) for law in law_ids for dtype in dtypes or claimed]
    return found
