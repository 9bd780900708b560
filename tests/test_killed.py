"""Whatever ends a run, and whatever a disk does: nothing is lost, and nothing is counted twice."""

from __future__ import annotations

import errno
import json
import math
import multiprocessing
import os
import random
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from deqverify.cli import main
from deqverify.running import files
from deqverify.running.events import JobFinished
from deqverify.running.executors import ThisProcess
from deqverify.running.files import locked, write_whole
from deqverify.running.journal import JournalError, document, journal, name_of, read, result_of
from deqverify.running.request import Request
from deqverify.running.results import Result, Verdict
from deqverify.running.run import Run
from tests.test_run import Answering, asked
from tools import kills

LAWS = ("mass", "existence", "gauge")


def test_runs_killed_at_random_report_what_one_left_alone_reports(tmp_path: Path) -> None:
    assert "5 kills" in kills.kill_runs(5, random.Random(0), tmp_path)


def test_soaks_killed_at_random_lose_nothing_and_count_nothing_twice(tmp_path: Path) -> None:
    assert "5 kills" in kills.kill_soaks(5, random.Random(0), tmp_path, 4.0)


def run(request: Request, folder: Path, resume: bool = True) -> tuple[list[Result], list[str]]:
    """The results of a run with a journal, and the laws that were tried for it."""
    executor = Answering("gauge")
    with journal(request, resume, folder) as written:
        report = Run(request, executor, [written], dict(written.done)).report()
    return report.results, [job.law for job in executor.seen if not job.brief]


def test_a_run_goes_on_where_its_journal_ends_even_within_a_line(tmp_path: Path) -> None:
    request = asked(*LAWS)
    whole, tried = run(request, tmp_path)
    assert sorted(tried) == sorted(LAWS)
    file = tmp_path / f"{name_of(request)}.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    assert len(lines) == 3
    for kept in (b"".join(lines[:2]), b"".join(lines[:2]) + lines[2][:-9], b"".join(lines[:2]) + lines[2][:-1]):
        file.write_bytes(kept)
        again, tried = run(request, tmp_path)
        assert len(tried) == 1
        assert again == whole
        assert len(file.read_bytes().splitlines()) == 3
    assert run(request, tmp_path)[1] == [], "a finished run says its report again"
    assert sorted(run(request, tmp_path, resume=False)[1]) == sorted(LAWS), "without --resume it begins anew"


def test_what_could_not_run_is_tried_again(tmp_path: Path) -> None:
    request = asked("mass")
    with journal(request, False, tmp_path) as written:
        (result,) = Run(request, Answering(claims="no licence"), [written]).report().results
    assert result.verdict is Verdict.COULD_NOT_RUN
    again, tried = run(request, tmp_path)
    assert tried == ["mass"]
    assert again[0].verdict is Verdict.HOLDS


def test_a_journal_belongs_to_its_request(tmp_path: Path) -> None:
    run(asked("mass"), tmp_path)
    assert run(asked("mass", seed=1), tmp_path)[1] == ["mass"]
    assert name_of(asked("mass")) == name_of(asked("mass"))


def test_results_are_read_as_they_were_written() -> None:
    request = Request(["fault[row-softmax]"], ["mass"], dtypes=["float64"], examples=20, seconds=600.0,
                      seed=0, database=None, counterexamples=None)  # fmt: skip
    for event in Run(request, ThisProcess()):
        if isinstance(event, JobFinished):
            result = replace(event.result, worst=math.inf, follows=("existence",))
            assert result.violation is not None
            text = json.dumps(document(result))
            again = result_of(json.loads(text))
            assert json.dumps(document(again)) == text  # as text, since a NaN is not itself
            assert (again.job, again.verdict, again.tally) == (result.job, result.verdict, result.tally)


def test_a_second_run_of_the_same_does_not_harm_the_first(tmp_path: Path) -> None:
    request = asked(*LAWS)
    with journal(request, False, tmp_path) as first:
        with journal(request, False, tmp_path) as second:
            assert first.resumable
            assert not second.resumable
            assert "another run of the same is going" in second.said
            Run(request, Answering(), [second]).report()
        with pytest.raises(JournalError, match="still going"), journal(request, True, tmp_path):
            pass
        Run(request, Answering(), [first]).report()
    assert len(read(tmp_path / f"{name_of(request)}.jsonl")[0]) == 3


class Full:
    """A file on a full disk."""

    def write(self, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_costs_a_run_its_journal_and_no_verdict(tmp_path: Path) -> None:
    request = asked(*LAWS)
    with journal(request, False, tmp_path) as written:
        written._file = Full()  # type: ignore[assignment]
        report = Run(request, Answering(), [written]).report()
        assert written.said == "cannot be resumed: No space left on device while its journal was written"
        assert not written.resumable
    assert len(report.results) == 3


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 kB."""
    place = tmp_path / "tiny"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], check=False, stderr=-3)
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_file_on_a_full_disk_stays_as_it_was(tiny: Path) -> None:
    file = tiny / "state.json"
    write_whole(file, "before")
    with pytest.raises(OSError, match="No space left"):
        write_whole(file, "x" * 2**17)
    assert file.read_text() == "before"
    assert list(tiny.iterdir()) == [file], "nothing is left of what could not be written"


def test_a_soak_on_a_full_disk_is_one_line(tiny: Path) -> None:
    (tiny / "filler").write_bytes(b"x" * (64 * 1024 - 4096))
    options = ["--law", "permutation", "--dtype", "float64", "--examples", "10", "--minutes", "5", "--workers", "1"]
    done = CliRunner().invoke(main, ["soak", "reference[numpy]", *options, "--folder", str(tiny / "soak")])
    assert done.exit_code == 2, done.output
    assert "No space left on device" in done.output
    assert "Traceback" not in done.output


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_folder_is_one_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with journal(asked("mass"), False, tmp_path / "runs") as written:
        assert written.said.startswith("cannot be resumed: Permission denied")
    done = CliRunner().invoke(main, ["soak", "--minutes", "0", "--folder", str(tmp_path / "soak")])
    assert done.exit_code == 2
    assert "Permission denied" in done.output


def test_a_file_system_that_is_read_only_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(path: Path) -> Any:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(files, "_handle", refuse)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["soak", "--minutes", "0", "--folder", "kept"])
    assert done.exit_code == 2, done.output
    assert "cannot write kept/lock: Read-only file system" in done.output
    with journal(asked("mass"), False, tmp_path) as written:
        assert written.said.startswith("cannot be resumed: Read-only file system")


def _hold(path: Path, held: Any) -> None:
    with locked(path) as own:
        held.put(own)
        import time

        time.sleep(600)


def test_a_lock_goes_with_its_process(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held = context.Queue()
    process = context.Process(target=_hold, args=[tmp_path / "lock", held])
    process.start()
    assert held.get(timeout=300)
    with locked(tmp_path / "lock") as own:
        assert not own
    process.kill()
    process.join()
    with locked(tmp_path / "lock") as own:
        assert own
