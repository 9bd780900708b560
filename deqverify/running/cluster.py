"""Jobs on the workers of a Dask scheduler, each in a process of its own there; and plain functions, in theirs.

A worker that dies loses nothing: the scheduler gives its job to another one. What a seed draws does not depend on how
many workers there are, or on which of them a job runs.
"""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, as_completed
from pathlib import Path
from typing import Any

from deqverify.claims import Claims
from deqverify.clock import MOST_COMPILING
from deqverify.running.alone import ask_alone, run_alone
from deqverify.running.executors import Several
from deqverify.running.installed import fingerprint
from deqverify.running.results import Job, Result, Verdict

LOCAL = "local"
"""The address that means a cluster of this machine's own, which ends with the run."""

JOINING = 60.0
"""Seconds in which the scheduler has to answer, and then a first worker to join."""


_LOST = "dask: the scheduler was lost, and what was under way with it; the same command goes on (a run with --resume)"


class ClusterError(ValueError):
    """A cluster that cannot be used; the message says why and what to do."""


class Cluster(Several):
    """The workers of the Dask scheduler at ``address``, while the context lasts; or ``count`` workers of this machine
    for ``"local"``. A job is killed after ``hard_seconds``.

    ClusterError where Dask is not installed, no scheduler answers, no worker joins, or a worker has other sources, and
    where the scheduler is lost on the way.
    """

    def __init__(self, address: str, hard_seconds: float, count: int = 2):
        self._address, self._hard_seconds, self._count = address, hard_seconds, count

    def __enter__(self) -> Cluster:
        try:
            import distributed
        except ImportError as error:
            raise ClusterError("dask: distributed is needed; pip install 'deqverify[dask]'") from error
        self._cluster = None
        if self._address == LOCAL:
            self._cluster = distributed.LocalCluster(
                n_workers=self._count, threads_per_worker=1, dashboard_address=":0", silence_logs=50
            )
        try:
            self._client = distributed.Client(self._cluster or self._address, timeout=JOINING, set_as_default=False)
        except (OSError, ValueError) as error:
            self._close()
            raise ClusterError(f"dask: no scheduler answers at {self._address}: {error}") from error
        self._executor = self._client.get_executor(pure=False)
        try:
            self._check()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._client.close()  # what is queued is not wanted any more
        self._close()

    def _close(self) -> None:
        if self._cluster is not None:
            self._cluster.close()

    def _check(self) -> None:
        try:
            self._client.wait_for_workers(1, timeout=JOINING)
        except TimeoutError as error:
            raise ClusterError(
                f"dask: no worker has joined {self._address} in {JOINING:g} s; start some with "
                f"'dask worker {self._address} --nthreads 1'"
            ) from error
        for worker, found in self._client.run(_sources, on_error="return").items():
            if isinstance(found, BaseException):
                raise ClusterError(f"dask: the worker {worker} cannot import deqverify: {found}")
            if found != fingerprint():
                raise ClusterError(
                    f"dask: the worker {worker} has other sources of deqverify ({found}, here {fingerprint()}); "
                    "install the same version on both"
                )

    @property
    def said(self) -> str:
        """A sentence: how many workers, and where the scheduler shows what they do."""
        address = self._client.scheduler.address
        return f"dask: {self.width} jobs at a time on {address}, dashboard at {self._client.dashboard_link}"

    @property
    def width(self) -> int:
        try:
            threads = self._client.nthreads()
        except (OSError, RuntimeError, AttributeError) as error:  # closed, or never answering again
            raise ClusterError(_LOST) from error
        return max(1, sum(threads.values()))  # one waits where no worker is left, until one joins

    def ask(self, targets: Iterable[str]) -> dict[str, Claims | str]:
        futures = {
            target: self._executor.submit(ask_alone, target, self._hard_seconds, own_path()) for target in targets
        }
        found: dict[str, Claims | str] = {}
        for target, future in futures.items():
            try:
                found[target] = future.result()
            except CancelledError as error:
                raise ClusterError(_LOST) from error
            except Exception as error:
                found[target] = f"target {target!r}: {_said(error)}"
        return found

    def submit(self, job: Job) -> Future[Any]:
        limit = self._hard_seconds + (MOST_COMPILING if job.compiles else 0.0)
        pinned = {Path(file).name: text for file in job.pinned if (text := _text(file))}
        name = f"{job.law}-{uuid.uuid4().hex}"  # the dashboard groups by what stands before the number
        future: Future[Any] = self._executor.submit(run_alone, job, limit, own_path(), pinned, key=name)
        return future

    def collect(self, job: Job, future: Future[Any]) -> Result:
        try:
            result: Result = future.result()
        except CancelledError as error:
            raise ClusterError(_LOST) from error
        except Exception as error:
            return Result(job, Verdict.COULD_NOT_RUN, _said(error))
        return result

    def each(self, compute: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """``compute`` of every item on the workers: place and value of each, as they end. What ``compute`` raises comes
        through; ClusterError where the scheduler is lost, or an item takes each worker with it."""
        futures = {self._executor.submit(_called, compute, item, own_path()): place for place, item in enumerate(items)}
        for future in as_completed(futures):
            try:
                yield futures[future], future.result()
            except CancelledError as error:
                raise ClusterError(_LOST) from error
            except Exception as error:
                if type(error).__name__ != "KilledWorker":
                    raise
                raise ClusterError(f"dask: {_said(error)}") from error


def _called(compute: Callable[[Any], Any], item: Any, path: Sequence[str]) -> Any:
    """On a worker, which finds the modules of its own that the function may import."""
    sys.path.extend(place for place in path if place not in sys.path)
    return compute(item)


def own_path() -> list[str]:
    """Where modules of one's own are found: what belongs to Python's installation here is no matter of a worker's."""
    installation = {os.path.abspath(place) for place in (sys.prefix, sys.base_prefix)}
    places = [os.path.abspath(place) for place in sys.path]
    return [place for place in places if not any(place.startswith(root + os.sep) for root in installation)]


def _sources() -> str:
    return fingerprint()


def _text(file: str) -> str:
    """The counterexample in ``file``: a worker may not see this machine's files."""
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _said(error: Exception) -> str:
    """Why there is no result, in a line."""
    if type(error).__name__ == "KilledWorker":
        return f"each worker that had it died: {error}"
    return f"{type(error).__name__}: {error}"
