"""Jobs on worker processes with a hard limit: a hang or a segmentation fault costs one worker, not the run."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from weakref import WeakSet

from pebble import ProcessExpired, ProcessPool

from deqverify.claims import Claims
from deqverify.clock import HUNG, LOADED, MOST_COMPILING, watched
from deqverify.running.alone import OUTPUT_KEPT, THREADS, cause, die_with_parent
from deqverify.running.compiling import kept_compiled
from deqverify.running.elsewhere import ChildError, Elsewhere, interpreter_of
from deqverify.running.executors import Several
from deqverify.running.jobs import ask, killed, run_job
from deqverify.running.results import Job, Result, Verdict
from deqverify.running.sketches import HARD_SECONDS, Sketch, gone, sketches_of


class Workers(Several):
    """A pool of worker processes, kept while the context lasts. Each computes on one thread and keeps its output to
    itself."""

    def __init__(self, hard_seconds: float, count: int = 2):
        self._hard_seconds, self._count = hard_seconds, count
        self._elsewhere: dict[str, tuple[Elsewhere, ThreadPoolExecutor]] = {}
        """By interpreter, its child and the thread that waits for it."""

    def __enter__(self) -> Workers:
        # A worker that is being ended may still write into it.
        self._folder = tempfile.TemporaryDirectory(prefix="deqverify-", ignore_cleanup_errors=True)
        self._scratches: dict[Future[Any], Path] = {}
        self._asked: WeakSet[Future[Any]] = WeakSet()
        self._inherited = _inherited()
        self._inherited.__enter__()
        self._pool = ProcessPool(
            max_workers=self._count,
            initializer=_prepare,
            initargs=[list(sys.path)],
            context=multiprocessing.get_context("spawn"),
        )
        return self

    def __exit__(self, *exception: object) -> None:
        for future in list(self._asked):  # another thread may wait for one, which would never be done
            future.cancel()
        self._pool.stop()  # what is still under way is not wanted any more
        self._pool.join()
        for child, thread in self._elsewhere.values():
            thread.shutdown(cancel_futures=True)
            child.close()
        self._inherited.__exit__(*exception)
        self._folder.cleanup()

    def ask(self, targets: Iterable[str]) -> dict[str, Claims | str]:
        """What each of ``targets`` claims, or why no law can be tried on it. A worker loads it, and may die of that."""
        futures = {target: self._asking(target, ask_quietly, self._hard_seconds, target) for target in targets}
        return {target: _answer(future, target, self._hard_seconds) for target, future in futures.items()}

    def sketches(self, asked: Sequence[tuple[str, str | None, str]]) -> list[Sketch]:
        """In worker processes; one that hangs or dies there is a line."""
        futures = [(each, self._asking(each[0], sketch_quietly, HARD_SECONDS, *each)) for each in asked]
        found = []
        for (target, dtype, _), future in futures:
            try:
                found += _of(future)
            except TimeoutError:
                found.append(gone(target, dtype, f"no pictures: killed after {HARD_SECONDS:g} s"))
            except ProcessExpired as death:
                found.append(gone(target, dtype, f"no pictures: the process died: {cause(death.exitcode)}"))
            except (CancelledError, Exception) as error:
                found.append(gone(target, dtype, f"no pictures: {type(error).__name__}: {error}"))
        return found

    @property
    def width(self) -> int:
        return self._count

    def submit(self, job: Job) -> Future[Any]:
        scratch = Path(self._folder.name) / uuid.uuid4().hex
        future = self._asking(job.target, run_quietly, self._limit(job), job, scratch)
        self._scratches[future] = scratch
        return future

    def collect(self, job: Job, future: Future[Any]) -> Result:
        return _collect(future, job, self._scratches.pop(future), self._limit(job))

    def _asking(self, target: str, function: Callable[..., Any], seconds: float, *arguments: Any) -> Future[Any]:
        """``function(*arguments)`` in a worker, or in a child of the interpreter that is named for ``target``; ended
        after ``seconds`` of its own, or :data:`~deqverify.clock.LOADED` times as many on the wall."""
        python = interpreter_of(target)
        if not python:
            given = [seconds, function, *arguments]
            future: Future[Any] = self._pool.schedule(within, args=given, timeout=LOADED * seconds)
            self._asked.add(future)
            return future
        if python not in self._elsewhere:
            self._elsewhere[python] = Elsewhere(python), ThreadPoolExecutor(1)
        child, thread = self._elsewhere[python]
        return thread.submit(child.ask, function.__name__, *arguments, seconds=seconds)

    def _limit(self, job: Job) -> float:
        """Seconds after which the worker of ``job`` is killed."""
        return self._hard_seconds + (MOST_COMPILING if job.compiles else 0.0)


def _of(future: Future[Any]) -> Any:
    """The result of ``future``. TimeoutError where it took too long, whoever ended it."""
    try:
        return future.result()
    except ProcessExpired as death:
        if death.exitcode == HUNG:
            raise TimeoutError from death
        raise


def _answer(future: Future[Any], target: str, hard_seconds: float) -> Claims | str:
    try:
        claimed: Claims | str = _of(future)
        return claimed
    except TimeoutError:
        return f"target {target!r}: importing and building it took more than {hard_seconds:g} s"
    except ProcessExpired as death:
        return f"target {target!r}: the process died of importing or building it: {cause(death.exitcode)}"
    except ChildError as error:
        return f"target {target!r}: {error}"
    except (CancelledError, Exception) as error:
        return f"target {target!r}: {type(error).__name__}: {error}"


def _collect(future: Future[Any], job: Job, scratch: Path, hard_seconds: float) -> Result:
    try:
        result: Result = _of(future)
        return result
    except TimeoutError:
        return killed(job, "hang", f"no answer; killed after {hard_seconds:g} s", scratch)
    except ProcessExpired as death:
        return killed(job, "death", f"the process died: {cause(death.exitcode)}", scratch)
    except ChildError as death:
        return killed(job, "death", str(death), scratch)
    except (CancelledError, Exception) as error:
        return Result(job, Verdict.COULD_NOT_RUN, f"{type(error).__name__}: {error}")


class _inherited:  # noqa: N801  (a context manager, named as one)
    """Children inherit single-threaded linear algebra, since two workers with two threads each only wait for each
    other, and where JAX keeps what it compiles."""

    def __enter__(self) -> None:
        inherited = dict.fromkeys(THREADS, "1") | kept_compiled()
        self._before = {name: os.environ.get(name) for name in inherited}
        os.environ.update(inherited)

    def __exit__(self, *exception: object) -> None:
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _prepare(path: list[str]) -> None:
    """A worker finds the modules that its parent finds, leaves Ctrl-C to it, and does not outlive it."""
    die_with_parent()
    sys.path[:] = path
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def within(seconds: float, function: Callable[..., Any], *arguments: Any) -> Any:
    """``function(*arguments)``, with which this process ends where it takes too long."""
    with watched(seconds):
        return function(*arguments)


def run_quietly(job: Job, scratch: Path) -> Result:
    """``run_job`` with everything that the target prints, C code included, kept in the result."""
    with tempfile.TemporaryFile() as sink:
        with _printing_into(sink):
            result = run_job(job, scratch=scratch)
        sink.seek(0, os.SEEK_END)
        sink.seek(max(0, sink.tell() - OUTPUT_KEPT))
        result.output = sink.read().decode(errors="replace")
    return result


def ask_quietly(target: str) -> Claims | str:
    with tempfile.TemporaryFile() as sink, _printing_into(sink):
        return ask(target)


def sketch_quietly(target: str, dtype: str | None, device: str) -> list[Sketch]:
    with tempfile.TemporaryFile() as sink, _printing_into(sink):
        return sketches_of(target, dtype, device)


@contextmanager
def _printing_into(sink: IO[bytes]) -> Iterator[None]:
    saved = os.dup(1), os.dup(2)
    os.dup2(sink.fileno(), 1)
    os.dup2(sink.fileno(), 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, descriptor in enumerate(saved, start=1):
            os.dup2(descriptor, number)
            os.close(descriptor)
