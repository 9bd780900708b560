"""Jobs on a Dask cluster of several processes: a real scheduler and real workers, started as a user starts them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deqverify.running.alone import ask_alone, run_alone
from deqverify.running.events import JobFinished, JobStarted
from deqverify.running.plan import make_jobs
from deqverify.running.profiles import Profile
from deqverify.running.request import Request
from deqverify.running.results import Job, Verdict
from deqverify.running.run import Run

PROFILE = Profile("test", examples=5, seconds=600.0, seed=0, example_seconds=600.0)
HARD = 600.0
ROOT = Path(__file__).parent.parent


def job_on(target: str, law: str = "answers", **changes: Any) -> Job:
    (job,) = make_jobs([target], [law], PROFILE, ["float64"], database=None)
    return replace(job, **changes)


# -- a process of its own ----------------------------------------------------------------------------------------------


def test_a_job_alone_has_the_result_it_has_here() -> None:
    result = run_alone(job_on("tests.targets:Printing"), HARD)
    assert result.verdict is Verdict.HOLDS
    assert result.examples >= 5
    assert "hello from the target" in result.output


@pytest.mark.parametrize(("name", "kind", "said"), [("Dying", "death", "SIGSEGV"), ("Raising", "crash", "no such")])
def test_a_job_alone_may_die_and_its_example_is_kept(name: str, kind: str, said: str) -> None:
    result = run_alone(job_on(f"tests.targets:{name}"), HARD)
    assert result.verdict is Verdict.VIOLATED
    assert result.violation is not None
    assert result.violation.kind == kind
    assert said in result.violation.description
    assert "SoftmaxProblem(" in result.violation.snippet


def test_a_hang_that_ignores_every_clock_is_killed_with_its_example_kept() -> None:
    result = run_alone(
        job_on("tests.targets:HangingHard"), 20.0
    )  # 20 s: to reach its first example, on a loaded machine
    assert result.verdict is Verdict.VIOLATED
    assert result.violation is not None
    assert result.violation.kind == "hang"


def test_what_cannot_be_loaded_alone_is_said() -> None:
    assert "not installed" in str(ask_alone("nothing", HARD))
    assert not isinstance(ask_alone("tests.targets:sound", HARD), str)


PARENT = """
import sys
from tests.test_cluster import job_on
from deqverify.running.alone import run_alone
run_alone(job_on(f"tests.targets:Sleeping[600,{sys.argv[1]}]"), 600.0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone ends a process with its parent")
def test_a_process_alone_ends_with_its_parent(tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], cwd=ROOT)
    (born,) = _wait_for(lambda: list(tmp_path.iterdir()))
    parent.kill()
    parent.wait()
    _wait_for(lambda: not Path(f"/proc/{born.name}").exists())


def _wait_for(condition: Any, seconds: float = 120.0) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError(f"nothing came of it in {seconds:g} s")


# -- a cluster ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A scheduler and two workers as processes, started by their own command lines."""
    pytest.importorskip("distributed", reason="Dask is not installed")
    folder = tmp_path_factory.mktemp("dask")
    file = folder / "scheduler.json"
    dask = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", "0", "--no-dashboard"]
    processes = [_started([*dask, "--scheduler-file", str(file)], folder / "scheduler.log")]
    try:
        _wait_for(file.exists)
        processes += [_worker(file, folder, name) for name in ("one", "two")]
        import json

        yield json.loads(file.read_text())["address"]
    finally:
        for process in processes:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _worker(file: Path, folder: Path, name: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file", str(file), "--nthreads", "1"]
    return _started([*command, "--name", name, "--no-dashboard", "--local-directory", str(folder)], folder / name)


def _started(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)


def asked(*targets: str, **changes: Any) -> Request:
    plain: dict[str, Any] = {"database": None, "counterexamples": None, "profile": PROFILE, "dtypes": ["float64"]}
    return Request(targets, **plain | changes)


def test_verdicts_arrive_from_a_cluster_and_a_crash_in_c_costs_one_job(scheduler: str) -> None:
    from deqverify.running.cluster import Cluster

    request = asked("tests.targets:Dying", "tests.targets:sound", "tests.targets:absent", laws=["answers", "mass"])
    with Cluster(scheduler, HARD) as cluster:
        assert cluster.width == 2
        events = list(Run(request, cluster))
    found = {(e.result.job.target[14:], e.result.job.law): e.result for e in events if isinstance(e, JobFinished)}
    assert found["Dying", "answers"].violation is not None
    assert found["Dying", "answers"].violation.kind == "death"
    assert found["sound", "answers"].verdict is found["sound", "mass"].verdict is Verdict.HOLDS
    assert found["absent", "mass"].verdict is Verdict.COULD_NOT_RUN
    assert any(isinstance(event, JobStarted) for event in events)
