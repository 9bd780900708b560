"""The laws under pytest: ``pytest --pyargs deqverify.properties --deq TARGET``.

Light on purpose: importing this pulls in neither a framework nor Hypothesis; laws run in a worker process.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from deqverify.running.expectations import Expectation
    from deqverify.running.results import Job, Result
    from deqverify.running.run import Run
    from deqverify.running.workers import Workers

FOLDER = "properties"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("deqverify", "verification of deep equilibrium models")
    group.addoption("--deq", action="append", default=[], metavar="TARGET", dest="deq_targets",
                    help="what to verify: a name, 'name[options]' or package.module:factory (repeatable)")  # fmt: skip
    group.addoption("--deq-profile", default="default", help="quick, default, ci or thorough")
    group.addoption("--deq-max-examples", type=int, default=None, help="examples for each law and target")
    group.addoption("--deq-max-time", type=float, default=None, help="seconds for each law and target")
    group.addoption("--deq-seed", type=int, default=None, help="draw the same problems each time")
    group.addoption("--deq-dtype", default=None, help="float64, float32, float16, bfloat16; default: all claimed")
    group.addoption("--deq-cell", action="append", default=[], metavar="CELL", dest="deq_cells",
                    help="judge on this cell alone (repeatable); default: all claimed")  # fmt: skip
    group.addoption("--deq-laws", action="append", default=[], metavar="MODULE", dest="deq_laws",
                    help="also the laws of this module of your own (repeatable)")  # fmt: skip
    group.addoption("--deq-device", default="cpu", help="cpu or cuda")
    group.addoption("--deq-report", action="append", default=[], metavar="PATH", dest="deq_reports",
                    help="write a report too: .html, .md, .json or .xml (repeatable)")  # fmt: skip
    group.addoption("--deq-expect", default=None, metavar="FILE",
                    help="TOML file of expected violations; default: deqverify.toml, if it is here")  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("deq_targets"):
        config.pluginmanager.register(Verification(config), "deqverify-session")


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    if file_path.suffix != ".py" or file_path.parent.name != FOLDER or file_path.parent != _properties_folder():
        return None
    if not parent.config.getoption("deq_targets"):
        raise pytest.UsageError(
            "deqverify: say which implementation to verify, with --deq TARGET (for one, --deq reference)"
        )
    return LawFile.from_parent(parent, path=file_path)


def _properties_folder() -> Path | None:
    from importlib.util import find_spec

    spec = find_spec("deqverify.properties")
    return Path(spec.origin).parent if spec and spec.origin else None


class Verification:
    """What a session with ``--deq`` holds: its run, and the worker, started when first needed."""

    def __init__(self, config: pytest.Config):
        import os
        import sys

        from deqverify.registry import bring
        from deqverify.running.expectations import expectations, found_by_itself
        from deqverify.running.request import Request

        self.reports = [Path(path) for path in config.getoption("deq_reports")]
        self.found: list[Result] = []
        sys.path.insert(0, os.getcwd())  # targets of one's own are modules beside one's work, as on the command line
        dtype = config.getoption("deq_dtype")
        self.expecting = config.getoption("deq_expect") or found_by_itself()
        try:
            for module in config.getoption("deq_laws"):
                bring(module)
            self.request = Request(
                config.getoption("deq_targets"),
                cells=config.getoption("deq_cells"),
                dtypes=[dtype] if dtype else (),
                device=config.getoption("deq_device"),
                profile=config.getoption("deq_profile"),
                examples=config.getoption("deq_max_examples"),
                seconds=config.getoption("deq_max_time"),
                seed=config.getoption("deq_seed"),
                expectations=expectations(self.expecting, ()) if self.expecting else (),
            )
            if self.reports:
                from deqverify.reporting.files import check

                self.reports = [check(path) for path in self.reports]
                if getattr(config.option, "numprocesses", None):
                    raise ValueError("--deq-report: one process has to see every law; leave -n out")
        except ValueError as error:
            raise pytest.UsageError(f"deqverify: {error}") from error
        self._workers: Workers | None = None
        self._said: set[str] = set()

    @cached_property
    def run(self) -> Run:
        """The run of this session, whose order pytest decides."""
        from deqverify.running.run import Run
        from deqverify.running.workers import Workers

        self._workers = Workers(self.request.effort.hard_seconds, 1).__enter__()
        return Run(self.request, self._workers)

    def result(self, job: Job) -> Result:
        """The result of ``job``. A target that cannot be loaded is said once, and skipped from then on."""
        if isinstance(reason := self.run.asked[job.target], str):
            if reason in self._said:
                pytest.skip(f"could not run {job.column}, as was said")
            self._said.add(reason)
        self.found.append(self.run.result(job))
        return self.found[-1]

    def expected_cause(self, result: Result) -> Expectation | None:
        """The expectation that a violation may follow from, as on the command line it does where that is violated."""
        import dataclasses

        from deqverify.running.results import Verdict

        if result.verdict is not Verdict.VIOLATED:
            return None
        causes = (dataclasses.replace(result.job, law=law) for law in result.follows)
        return next((known for cause in causes for known in self.request.expectations if known.meets(cause)), None)

    def pytest_report_header(self) -> list[str]:
        from deqverify.registry import troubles
        from deqverify.reporting.machine import versions

        shown = ", ".join(f"{name} {number}" for name, number in versions().items())
        asked, effort = self.request, self.request.effort
        seed = "fresh" if effort.seed is None else effort.seed
        return [
            f"deqverify: {', '.join(asked.targets)} in {asked.dtypes[0] if asked.dtypes else 'every dtype claimed'} "
            f"on {asked.device}, profile {effort.name}, {effort.examples} examples a law, seed {seed}",
            f"deqverify: {shown}",
            *([f"deqverify: expected violations: {self.expecting}"] if self.expecting else []),
            *(f"deqverify: {trouble}" for trouble in troubles()),
        ]

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        if not any(isinstance(item, LawItem) for item in session.items) and not session.testsfailed:
            raise pytest.UsageError(
                "deqverify: --deq was given but no law was selected; add --pyargs deqverify.properties"
            )

    def pytest_sessionfinish(self) -> None:
        if self.reports and self.found:
            report = self.run.report_of(self.found)
            for path in self.reports:
                report.write(path)

    def pytest_unconfigure(self) -> None:
        if self._workers is not None:
            self._workers.__exit__(None, None, None)


class LawFile(pytest.File):
    """A family of laws, or in ``__init__.py`` those of others: each law is an item for each target."""

    def collect(self) -> Iterator[LawItem]:
        from deqverify.registry import laws

        verification: Verification = self.config.pluginmanager.get_plugin("deqverify-session")  # type: ignore[assignment]
        for law in laws().values():
            if (law.family if law.ours else "__init__") == self.path.stem:
                for job in verification.run.jobs_of([law.id]):
                    yield LawItem.from_parent(self, name=f"{law.id}[{job.column}]", job=job, verification=verification)


class ViolatedError(Exception):
    """Carries the text of a violation to :meth:`LawItem.repr_failure`."""


class LawItem(pytest.Item):
    """One law on one implementation."""

    def __init__(self, *, job: Job, verification: Verification, **kwargs: Any):
        super().__init__(**kwargs)
        self._job, self._verification = job, verification

    def runtest(self) -> None:
        from deqverify.running.results import Verdict

        result = self._verification.result(self._job)
        if (cause := self._verification.expected_cause(result)) is not None:
            pytest.xfail(f"follows from {cause.law}, which is expected: {cause.reason}")
        if result.verdict is Verdict.VIOLATED and result.violation:
            shown = result.violation
            words = [f"{self._job.target} {shown.diagnosis}"] if shown.diagnosis else []
            words += (
                [f"it may only follow from {', '.join(result.follows)}: look there first"] if result.follows else []
            )
            words += [f"deqverify show {shown.id}"] if shown.id else []
            raise ViolatedError("\n".join([*words, shown.description, shown.at_stake, "", shown.snippet]))
        if result.stale:
            raise ViolatedError(f"stale expectation: {result.stale}")
        if result.verdict is Verdict.COULD_NOT_RUN:
            raise ViolatedError(f"could not run: {result.reason}")
        if result.verdict is Verdict.EXPECTED:
            pytest.xfail(result.reason)
        if result.verdict in (Verdict.NOT_CLAIMED, Verdict.INCONCLUSIVE):
            pytest.skip(f"{result.verdict.value}: {result.reason}")

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if isinstance(excinfo.value, ViolatedError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        return self.path, None, self.name
