"""The laws under pytest: ``pytest --pyargs deqverify.properties --deq TARGET``.

Light on purpose: importing this pulls in neither a framework nor Hypothesis; laws run in a worker process.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from deqverify.running.expectations import Expectation
    from deqverify.running.plan import Asked
    from deqverify.running.profiles import Profile
    from deqverify.running.results import Job, Result
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
    group.addoption("--deq-device", default="cpu", help="cpu or cuda")
    group.addoption("--deq-expect", default=None, metavar="FILE", help="TOML file of expected violations")


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
    """What a session with ``--deq`` holds: the profile, expectations, and the worker, started when first needed."""

    def __init__(self, config: pytest.Config):
        import dataclasses
        import os
        import sys

        from deqverify.cells import check_cells
        from deqverify.dtypes import dtype
        from deqverify.implementations.loading import parse
        from deqverify.running.expectations import read
        from deqverify.running.profiles import profile

        sys.path.insert(0, os.getcwd())  # targets of one's own are modules beside one's work, as on the command line
        try:
            chosen = profile(config.getoption("deq_profile"))
            options = {"examples": "deq_max_examples", "seconds": "deq_max_time", "seed": "deq_seed"}
            kept = {name: value for name, key in options.items() if (value := config.getoption(key)) is not None}
            if kept.get("seconds", 1.0) <= 0:
                raise ValueError("--deq-max-time: seconds for each law, more than 0")
            self.profile: Profile = dataclasses.replace(chosen, **kept)
            self.targets = [str(parse(target)) for target in dict.fromkeys(config.getoption("deq_targets"))]
            wanted = config.getoption("deq_dtype")
            self.dtypes = [dtype(wanted).name] if wanted else []
            self.cells = config.getoption("deq_cells")
            check_cells(self.cells)
            path = config.getoption("deq_expect")
            self.expectations: list[Expectation] = read(Path(path)) if path else []
        except ValueError as error:
            raise pytest.UsageError(f"deqverify: {error}") from error
        self.device: str = config.getoption("deq_device")
        self._workers: Workers | None = None
        self._asked: Asked | None = None
        self._said: set[str] = set()

    @property
    def workers(self) -> Workers:
        """The worker, started when first needed."""
        from deqverify.running.workers import Workers

        if self._workers is None:
            self._workers = Workers(self.profile.hard_seconds, 1).__enter__()
        return self._workers

    @property
    def asked(self) -> Asked:
        """What each target claims, or why it cannot be loaded: asked once."""
        if self._asked is None:
            self._asked = self.workers.ask(self.targets)
        return self._asked

    def jobs(self, law: str) -> list[Job]:
        from deqverify.running.plan import make_jobs

        return make_jobs(self.targets, [law], self.profile, self.dtypes, self.device, asked=self.asked, only=self.cells)

    def result(self, job: Job) -> Result:
        """The result of ``job``. A target that cannot be loaded is said once, and skipped from then on."""
        from deqverify.running.expectations import apply, marked
        from deqverify.running.results import Result, Verdict

        if isinstance(reason := self.asked[job.target], str):
            if reason in self._said:
                pytest.skip(f"could not run {job.column}, as was said")
            self._said.add(reason)
            return Result(job, Verdict.COULD_NOT_RUN, reason)
        return apply(next(self.workers.run(marked([job], self.expectations))), self.expectations)

    def expected_cause(self, result: Result) -> Expectation | None:
        """The expectation that a violation may follow from, as on the command line it does where that is violated."""
        import dataclasses

        from deqverify.running.expectations import meets
        from deqverify.running.results import Verdict

        if result.verdict is not Verdict.VIOLATED:
            return None
        causes = (dataclasses.replace(result.job, law=law) for law in result.follows)
        return next((met for cause in causes if (met := meets(cause, self.expectations))), None)

    def pytest_report_header(self) -> list[str]:
        from deqverify.reporting.machine import versions

        shown = ", ".join(f"{name} {number}" for name, number in versions().items())
        seed = "fresh" if self.profile.seed is None else self.profile.seed
        return [
            f"deqverify: {', '.join(self.targets)} in {self.dtypes[0] if self.dtypes else 'every dtype claimed'} "
            f"on {self.device}, profile {self.profile.name}, {self.profile.examples} examples a law, seed {seed}",
            f"deqverify: {shown}",
        ]

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        if not any(isinstance(item, LawItem) for item in session.items) and not session.testsfailed:
            raise pytest.UsageError(
                "deqverify: --deq was given but no law was selected; add --pyargs deqverify.properties"
            )

    def pytest_unconfigure(self) -> None:
        if self._workers is not None:
            self._workers.__exit__(None, None, None)


class LawFile(pytest.File):
    """A family of laws: each law is an item for each target."""

    def collect(self) -> Iterator[LawItem]:
        from deqverify.law import laws

        verification: Verification = self.config.pluginmanager.get_plugin("deqverify-session")  # type: ignore[assignment]
        for law in laws().values():
            if law.family == self.path.stem:
                for job in verification.jobs(law.id):
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
            raise ViolatedError("\n".join([*words, shown.description, shown.at_stake, "", shown.snippet]))
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
