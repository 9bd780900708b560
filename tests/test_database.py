"""Examples that failed are kept where others find them: in a folder, or on a real Redis server."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from deqverify import database
from deqverify.cli import main
from deqverify.database import DatabaseError, check, opened, part
from deqverify.running.executors import ThisProcess
from deqverify.running.request import Request
from deqverify.running.results import Verdict
from deqverify.running.run import Run

BROKEN = "deqverify.faults.parametrisation:RowSoftmax"


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis server of this module's own."""
    pytest.importorskip("redis", reason="redis is not installed")
    server = shutil.which("redis-server")
    if server is None:
        pytest.skip("there is no redis-server here")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path_factory.mktemp("redis")
    command = [server, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        url = f"redis://127.0.0.1:{port}/0"
        for _ in range(600):
            try:
                check(url)
                break
            except DatabaseError:
                time.sleep(0.1)
        yield url
    finally:
        process.kill()
        process.wait()


def asked(database: str) -> Request:
    return Request([BROKEN], ["mass"], dtypes=["float64"], seconds=600.0, database=database, counterexamples=None)


def shared(database: str) -> None:
    """What one run finds, another one, which shares nothing but the database, tries first."""
    (found,) = Run(asked(database), ThisProcess()).report().results
    assert found.verdict is Verdict.VIOLATED
    (again,) = Run(asked(database), ThisProcess()).report().results
    assert again.violation is not None
    assert found.violation is not None
    assert again.violation.counterexample["id"] == found.violation.counterexample["id"], "it was shrunk already"


def test_what_was_found_is_shared_by_a_folder(tmp_path: Path) -> None:
    shared(str(tmp_path))
    assert list((tmp_path / "deqverify.faults.parametrisation_RowSoftmax_float64" / "mass").rglob("*"))


def test_what_was_found_is_shared_by_a_redis_server(redis_url: str) -> None:
    from redis import Redis

    server = Redis.from_url(redis_url)
    server.flushdb()
    shared(redis_url)
    keys = list(server.scan_iter())
    assert keys
    assert all(key.startswith(b"deqverify:deqverify.faults.parametrisation_RowSoftmax_float64/mass") for key in keys)


def test_parts_of_a_redis_database_do_not_see_each_other(redis_url: str) -> None:
    one, other = (opened(part(part(redis_url, name), "mass")) for name in ("reference", "torchdeq"))
    one.save(b"key", b"value")
    assert list(one.fetch(b"key")) == [b"value"]
    assert list(other.fetch(b"key")) == []
    one.delete(b"key", b"value")
    assert list(one.fetch(b"key")) == []


def test_a_server_that_goes_away_takes_no_verdict_with_it() -> None:
    pytest.importorskip("redis", reason="redis is not installed")
    gone = opened("redis://127.0.0.1:1/0#x")  # nothing listens on port 1
    gone.save(b"key", b"value")
    gone.delete(b"key", b"value")
    assert list(gone.fetch(b"key")) == []


@pytest.mark.parametrize(
    ("database", "said"),
    [
        ("redis://127.0.0.1:1/0", "no Redis server answers at redis://127.0.0.1:1/0"),
        ("redis://127.0.0.1:port/0", "no Redis server answers"),
        ("/proc/nowhere", "cannot write into /proc/nowhere"),
        (__file__, "cannot write into"),
    ],
)
def test_a_database_that_cannot_be_used_is_one_line(database: str, said: str) -> None:
    if database.startswith("redis"):
        pytest.importorskip("redis", reason="redis is not installed")
    done = CliRunner().invoke(main, ["run", "reference", "--law", "mass", "--database", database])
    assert done.exit_code == 2, done.output
    assert said in " ".join(done.output.split())
    assert "Traceback" not in done.output


def test_without_redis_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "redis", None)
    database._redis.cache_clear()
    with pytest.raises(DatabaseError, match=r"pip install 'deqverify\[redis\]'"):
        check("redis://127.0.0.1:1/0")


def test_parts_of_a_folder_are_folders(tmp_path: Path) -> None:
    assert part(part(str(tmp_path), "reference/mass"), "large") == str(tmp_path / "reference" / "mass" / "large")
