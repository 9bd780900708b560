"""Which jobs a run has and in which order, and the report of their results."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from deqverify.cells import cells
from deqverify.claims import Claims
from deqverify.names import near
from deqverify.registry import laws
from deqverify.running.causes import Cause, causes, settled
from deqverify.running.jobs import ask, database_of, home_of
from deqverify.running.profiles import Profile
from deqverify.running.results import Job, Result, Verdict

if TYPE_CHECKING:
    from deqverify.running.sketches import Sketch

DATABASE = Path(".deqverify") / "examples"


@dataclass
class Report:
    """The results of a run, in the order of targets, then laws, what follows from others marked so. ``untried`` names
    what is claimed and was not tried, ``stale`` the expectations that are none any more, in sentences. ``sketches`` are
    numbers for pictures of the targets, and ``sketching`` makes them."""

    results: list[Result] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    untried: list[str] = field(default_factory=list)
    sketches: list[Sketch] = field(default_factory=list)
    sketching: Callable[[], list[Sketch]] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.results = settled(self.results)
        passing = [result.stale for result in self.results if result.stale]
        self.stale = [*self.stale, *(said for said in passing if said not in self.stale)]

    @property
    def causes(self) -> list[Cause]:
        """What is wrong, what follows from it beside it; the unexpected first."""
        return causes(self.results)

    @cached_property
    def by_law(self) -> dict[tuple[str, str], list[Result]]:
        """The results of each target and law."""
        found: dict[tuple[str, str], list[Result]] = {}
        for result in self.results:
            found.setdefault((result.job.target, result.job.law), []).append(result)
        return found

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

    def sketch(self) -> None:
        """Asks the targets for what pictures of them are made of, once: a few seconds each."""
        if self.sketching:
            asking, self.sketching = self.sketching, None
            self.sketches = asking()

    def write(self, path: str | Path) -> None:
        """Writes the report to ``path``: a page (.html), Markdown (.md), JSON (.json) or JUnit (.xml). ValueError for
        another ending and for a folder that is not there."""
        from deqverify.reporting.files import write

        write(self, Path(path))

    def __str__(self) -> str:
        """What a terminal shows, as text."""
        from rich.console import Console

        from deqverify.reporting.terminal import show

        console = Console(record=True, file=io.StringIO(), width=100)
        show(self, console)
        return console.export_text()


def select(patterns: Sequence[str]) -> list[str]:
    """Ids of the laws named by ``patterns``, ids or families, where a module of others, or a package of such, is a
    family too; all for none. ValueError, with near matches, for an unknown one."""
    known = laws()
    if not patterns:
        return list(known)
    chosen = []
    for pattern in patterns:
        found = [id for id, law in known.items() if pattern == id or f"{law.family}.".startswith(f"{pattern}.")]
        if not found:
            raise ValueError(
                f"law: there is no law or family {pattern!r}; did you mean {', '.join(near(pattern, known))}? Laws of "
                "a module of your own are brought by --laws MODULE, or by importing it"
            )
        chosen += found
    return [id for id in known if id in chosen]


FIRST = (
    "descent-dissipation", "existence", "euler", "trace", "solver-rate", "splitting-rate", "status-cap", "answers",
    "adjoint-certificate", "uniqueness", "gradient-x", "gradient-theta", "straight-through", "inputs-kept", "solves",
    "restart", "no-gradient", "deterministic", "settings-kept", "dtype-and-device", "status-nan", "objective",
    "column-shift", "empty-batch", "answers-kept", "in-place-update", "copies", "gradient-B", "energy", "second-order",
    "adjoint-identity", "repeated-pull", "modes", "memory-layout", "threads", "start-gradient", "frozen",
    "pull-from-start",
)  # fmt: skip
"""The laws that run first: each kills the most, for its seconds, of the known faults that those before it leave."""


FIRST_OF_OWN = ("energy", "existence", "gradient-theta", "history", "gradient-x", "batch")
"""What runs before these on a layer with a cell of its own, of which no adjoint is seen."""


def rank(law: str, own: bool = False) -> int | None:
    """The place of ``law`` among those that run first, if it is one; ``own``: on a layer with a cell of its own."""
    order = (*FIRST_OF_OWN, *FIRST) if own else FIRST
    return order.index(law) if law in order else None


LEAST_EXAMPLES = 30
"""A dtype's share of the examples is not below this, unless fewer are asked for altogether."""


Asked = Mapping[str, Claims | str]
"""By target, what it claims, or why it cannot be loaded."""


def make_jobs(
    targets: Sequence[str],
    law_ids: Sequence[str],
    profile: Profile,
    dtypes: Sequence[str | None] = (),
    device: str = "cpu",
    database: str | Path | None = DATABASE,
    asked: Asked | None = None,
    only: Sequence[str] = (),
) -> list[Job]:
    """A job for each law, target and dtype, on the cells ``only`` or on all that are claimed, in the order in which to
    run them: what kills most, soonest, first, in one dtype after another.

    Without ``dtypes`` each that a target claims, which share the examples; a law judged in float64 only has them all.
    A target that was not ``asked`` before is loaded in this process.
    """
    jobs: list[Job] = []
    later: dict[tuple[str, str | None], int] = {}
    for target in targets:
        chosen = tuple(dtypes) or _claimed_dtypes(target, asked)
        later |= {(target, dtype): number for number, dtype in enumerate(chosen)}
        for law in law_ids:
            for dtype in chosen:
                share = profile.examples
                if "float64" not in laws()[law].needs:
                    share = min(share, max(LEAST_EXAMPLES, -(-share // len(chosen))))
                job = Job(law, target, dtype, device, share, profile.seconds, profile.example_seconds, profile.seed)
                job = dataclasses.replace(
                    job, cells=tuple(only), compiles=_compiles(target, asked), tried=tuple(law_ids), home=home_of(law)
                )
                if database is not None and profile.seed is None:
                    job = dataclasses.replace(job, database=database_of(str(database), job))
                jobs.append(job)
    own = {target: _own(target, asked) for target in targets}
    ranks = {(target, law): rank(law, own[target]) for target in targets for law in law_ids}
    jobs = [dataclasses.replace(job, first=ranks[job.target, job.law] is not None) for job in jobs]
    return sorted(jobs, key=lambda job: (not job.first, later[job.target, job.dtype], ranks[job.target, job.law] or 0))


def _claimed_dtypes(target: str, asked: Asked | None) -> tuple[str | None, ...]:
    claims = asked[target] if asked else ask(target)
    return (None,) if isinstance(claims, str) else claims.dtypes


def _own(target: str, asked: Asked | None) -> bool:
    claims = asked[target] if asked else ask(target)
    return not isinstance(claims, str) and bool(claims.cells) and not set(claims.cells) & set(cells())


def _compiles(target: str, asked: Asked | None) -> bool:
    claims = asked[target] if asked else ask(target)
    return not isinstance(claims, str) and claims.compiles


def untried(jobs: Sequence[Job], law_ids: Sequence[str], asked: Asked | None = None) -> list[str]:
    """Sentences for what the targets of ``jobs`` claim and these jobs leave out: dtypes and devices; and laws."""
    found = []
    for target in dict.fromkeys(job.target for job in jobs):
        mine, claims = [job for job in jobs if job.target == target], asked[target] if asked else ask(target)
        if isinstance(claims, str):
            continue
        tried = {job.dtype for job in mine}
        if missing := [dtype for dtype in claims.dtypes if dtype not in tried]:
            found.append(f"{target} in {', '.join(missing)}, which it claims (leave dtype= or --dtype out)")
        if missing := [d for d in claims.devices if d not in {job.device.split(":")[0] for job in mine}]:
            found.append(f"{target} on {', '.join(missing)}, which it claims (device= or --device)")
    if left := len(laws()) - len(law_ids):
        found.append(f"{left} of {len(laws())} laws (laws= or --law)")
    return found


def in_order(results: Sequence[Result], jobs: Sequence[Job]) -> list[Result]:
    """``results`` target by target and dtype by dtype, as in ``jobs``, and within them in the order of laws."""
    columns = list(dict.fromkeys(job.column for job in jobs))
    known = list(laws())
    return sorted(results, key=lambda result: (columns.index(result.job.column), known.index(result.job.law)))
