"""Jobs on a Dask cluster of several processes: a real scheduler and real workers, started as a user starts them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from deqverify.claims import Claims
from deqverify.cli import main
from deqverify.running.alone import ask_alone, run_alone
from deqverify.running.cluster import Cluster
from deqverify.running.events import Event, JobFinished, JobStarted
from deqverify.running.executors import Executor
from deqverify.running.plan import make_jobs
from deqverify.running.profiles import Profile
from deqverify.running.request import Request
from deqverify.running.results import Job, Verdict
from deqverify.running.run import Run
from deqverify.running.soak import Soak, entries_of
from deqverify.running.soak_state import resume
from deqverify.scenarios.registry import Claim, Outcome, Scenario, Work, scenarios

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
    _wait_for(lambda: _ended(born.name))


def _ended(pid: str) -> bool:
    """Whether the process is gone, or waits for nobody to ask how it ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def _wait_for(condition: Any, seconds: float = HARD) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError(f"nothing came of it in {seconds:g} s")


# -- a cluster ---------------------------------------------------------------------------------------------------------


@dataclass
class Dask:
    """A scheduler and two workers, by name; the second computes as an older processor would."""

    address: str
    workers: dict[str, subprocess.Popen[bytes]]


@pytest.fixture(scope="module")
def dask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dask]:
    """Processes, started by Dask's own command lines."""
    pytest.importorskip("distributed", reason="Dask is not installed")
    folder = tmp_path_factory.mktemp("dask")
    file = folder / "scheduler.json"
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", "0", "--no-dashboard"]
    scheduler = _started([*command, "--scheduler-file", str(file)], folder / "scheduler.log")
    workers: dict[str, subprocess.Popen[bytes]] = {}
    try:
        _wait_for(file.exists)
        command = [
            sys.executable,
            "-m",
            "distributed.cli.dask_worker",
            "--scheduler-file",
            str(file),
            "--nthreads",
            "1",
        ]
        command += ["--no-dashboard", "--local-directory", str(folder)]
        for name, settings in {"one": {}, "two": {"OPENBLAS_CORETYPE": "Nehalem"}}.items():
            workers[name] = _started([*command, "--name", name], folder / name, settings)
        yield Dask(json.loads(file.read_text())["address"], workers)
    finally:
        for process in (scheduler, *workers.values()):
            _end(process)


def _started(command: list[str], log: Path, settings: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_CORETYPE"}
    with log.open("wb") as output:
        return subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True, env=environment | (settings or {})
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture
def cluster(dask: Dask, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setattr("deqverify.running.cluster.JOINING", HARD)  # on a loaded machine workers take long to start
    with Cluster(dask.address, HARD) as found:
        _wait_for(lambda: found.width == 2)
        yield found


def asked(*targets: str, **changes: Any) -> Request:
    plain: dict[str, Any] = {"database": None, "counterexamples": None, "profile": PROFILE, "dtypes": ["float64"]}
    return Request(targets, **plain | changes)


def test_verdicts_arrive_from_a_cluster_and_a_crash_in_c_costs_one_job(cluster: Cluster) -> None:
    request = asked("tests.targets:Dying", "tests.targets:sound", "tests.targets:absent", laws=["answers", "mass"])
    events = list(Run(request, cluster))
    found = {(e.result.job.target[14:], e.result.job.law): e.result for e in events if isinstance(e, JobFinished)}
    death = found["Dying", "answers"].violation
    assert death is not None
    assert death.kind == "death"
    assert found["sound", "answers"].verdict is found["sound", "mass"].verdict is Verdict.HOLDS
    assert found["absent", "mass"].verdict is Verdict.COULD_NOT_RUN
    assert any(isinstance(event, JobStarted) for event in events)


class OneAlone(Executor):
    """One worker without a cluster."""

    def ask(self, targets: Iterable[str]) -> dict[str, Claims | str]:
        return {target: ask_alone(target, HARD) for target in targets}

    def follow(self, jobs: Iterable[Job]) -> Iterator[JobStarted | JobFinished]:
        for job in jobs:
            yield JobFinished(run_alone(job, HARD))


def test_the_same_seed_has_the_same_verdicts_whatever_the_number_of_workers(cluster: Cluster) -> None:
    request = asked(
        "deqverify.faults.parametrisation:RowSoftmax", "reference[numpy]", laws=["mass", "existence", "permutation"]
    )

    def found(executor: Executor) -> list[Any]:
        results = Run(request, executor).report().results
        # Not how near the bounds it came, nor to what a counterexample shrinks: these are matters of rounding, and one
        # of the workers rounds otherwise.
        return [(r.job, r.verdict, r.violation is None and (r.examples, r.tally.moderate)) for r in results]

    assert found(cluster) == found(OneAlone())


def test_counterexamples_go_to_workers_as_text(cluster: Cluster, tmp_path: Path) -> None:
    """Their files are on this machine."""
    request = asked(
        "deqverify.faults.parametrisation:RowSoftmax", laws=["mass"], profile=replace(PROFILE, seed=None, examples=40)
    )
    request = replace(request, counterexamples=tmp_path / "kept")
    (first,) = Run(request, cluster).report().results
    assert first.violation is not None
    (again,) = Run(request, cluster).report().results
    assert again.violation is not None
    assert again.examples == 1
    assert again.violation.id == first.violation.id


def test_a_soak_on_workers_of_different_settings_is_one_calibration(cluster: Cluster, tmp_path: Path) -> None:
    state, _ = resume(tmp_path, seed=3)
    entries = entries_of(state, ["tests.targets:Printing"], ["permutation", "column-shift"], ["float64"])
    soak, said = Soak(state, tmp_path, entries, 3600.0, examples=10), set()
    for number, result in enumerate(soak.results(cluster), start=1):
        said.add(result.output.splitlines()[0].partition(", ")[2])
        if number >= 8 and len(said) == 2:
            break
    assert said == {"Nehalem", "on this processor"}
    kept, _ = resume(tmp_path)
    for entry in kept.entries.values():
        assert entry.all.examples == 10 * (entry.rounds - len(entry.under_way)) > 0


def test_the_command_line_names_what_is_wrong_with_a_cluster(
    dask: Dask, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import distributed

    monkeypatch.setattr("deqverify.running.cluster.JOINING", 2.0)
    monkeypatch.chdir(tmp_path)

    def said(address: str) -> str:
        done = CliRunner().invoke(main, ["run", "reference", "--law", "mass", "--dask", address])
        assert done.exit_code == 2, done.output
        assert "Traceback" not in done.output
        return " ".join(done.output.split())

    assert "no scheduler answers at tcp://127.0.0.1:1" in said("tcp://127.0.0.1:1")
    assert "no scheduler answers at nonsense://x" in said("nonsense://x")
    with distributed.LocalCluster(n_workers=0, processes=False, dashboard_address=None) as empty:
        assert "no worker has joined" in said(empty.scheduler_address)
    monkeypatch.setattr("deqverify.running.cluster.JOINING", HARD)
    monkeypatch.setattr("deqverify.running.cluster.fingerprint", lambda: "0" * 12)
    assert "has other sources of deqverify" in said(dask.address)
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert "pip install 'deqverify[dask]'" in said("local")


def test_a_cluster_of_this_machine_is_one_option(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="Dask is not installed")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "beside_my_work.py").write_text("def deq(step, z0):\n    return step(z0)\n")
    options = ["--law", "answers", "--law", "mass", "--dtype", "float64", "--max-examples", "5", "--seed", "0"]
    arguments = ["run", "beside_my_work:deq", *options, "--max-time", "600", "--dask", "local", "--workers", "2"]
    command = [sys.executable, "-c", "import sys; from deqverify.cli import main; main(sys.argv[1:])", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "dask: 2 jobs at a time on tcp://" in done.stdout
    assert "VIOLATED" in done.stdout
    assert not done.stderr


# -- scenarios ---------------------------------------------------------------------------------------------------------


def _where(work: Work, items: tuple[int, ...]) -> Outcome:
    """Where each part was computed."""

    def part(item: int) -> list[int]:
        if (work.seed, item) == (7, 3):
            raise ArithmeticError("the third does not come out")
        return [item**2, os.getpid()]

    found = work.each(items, part, "number")
    claim = Claim("parts", len(found), "three", 3, 3)
    return Outcome([claim], ("square", "process"), found, lambda figure: None)


def test_parts_of_a_scenario_are_computed_on_a_cluster_and_kept(
    cluster: Cluster, dask: Dask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib", reason="scenarios draw")
    one = Scenario("where", "Where", "nobody", "Where.", {}, {"items": (1, 2, 3)}, _where)
    monkeypatch.setattr("deqverify.scenarios.registry.scenarios", lambda: {"where": one})

    def run(seed: int) -> Any:
        words = ["scenario", "where", "--seed", str(seed), "--dask", dask.address, "--out", str(tmp_path)]
        return CliRunner().invoke(main, words)

    done = run(0)
    assert done.exit_code == 0, done.output
    assert f"on {dask.address}" in done.output
    rows = json.loads((tmp_path / "where.json").read_text(encoding="utf-8"))["rows"]
    assert [square for square, _ in rows] == [1, 4, 9]
    assert os.getpid() not in {process for _, process in rows}
    failed = run(7)
    assert isinstance(failed.exception, ArithmeticError), "of the experiment, and not of the cluster"
    parts = json.loads((tmp_path / ".where.parts.json").read_text(encoding="utf-8"))["parts"]
    assert set(parts) <= {"number 1", "number 2"}


def test_the_lattice_is_the_same_on_a_cluster(cluster: Cluster) -> None:
    lattice = scenarios()["lattice"].compute
    sizes: dict[str, Any] = {"sites": 16, "disorder": 8.0, "beta": 2.0, "steps": 20, "disorders": 2}
    told: list[tuple[int, int]] = []
    work = Work(3, told=lambda done, of, what: told.append((done, of)), computed=cluster.each)
    there, here = (lattice(each, **sizes, tolerances=(1e-3,)) for each in (work, Work(3)))
    assert told == [(done, 5) for done in range(6)]
    # A worker's BLAS may round otherwise; twenty steps make little of it, the tolerance 1e-10 of a step more.
    assert np.allclose(np.array(there.rows), np.array(here.rows), rtol=1e-6, atol=1e-8)


def test_a_cluster_that_is_not_there_is_said_before_anything_is_computed(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("deqverify.running.cluster.JOINING", 0.5)
    done = CliRunner().invoke(main, ["scenario", "lattice", "--dask", "tcp://127.0.0.1:9", "--out", str(tmp_path)])
    assert done.exit_code == 2
    assert "no scheduler answers at tcp://127.0.0.1:9" in done.output


# -- the end of a worker -----------------------------------------------------------------------------------------------


def test_a_worker_that_dies_loses_nothing(cluster: Cluster, dask: Dask, tmp_path: Path) -> None:
    """Last, for it ends one of the two."""
    targets = [f"tests.targets:Sleeping[{600 + number},{tmp_path}]" for number in range(4)]

    def asleep(event: Event) -> None:
        if isinstance(event, JobStarted) and len(started) < 2:
            started.append(event.job)
            if len(started) == 2:
                _wait_for(lambda: len(list(tmp_path.iterdir())) == 2)
                _end(dask.workers["two"])
                (tmp_path / "awake").touch()

    started: list[Job] = []
    report = Run(asked(*targets, laws=["mass"]), cluster, [asleep]).report()
    assert [result.verdict for result in report.results] == [Verdict.HOLDS] * 4
    assert len(list(tmp_path.glob("[0-9]*"))) == 5, "one of four was begun twice"
