"""Where Hypothesis keeps failing examples between runs: a folder, or a Redis server that several machines share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from hypothesis.database import DirectoryBasedExampleDatabase, ExampleDatabase

REDIS = ("redis://", "rediss://", "unix://")

_ANSWERING = 5.0
"""Seconds in which a Redis server has to answer."""


class DatabaseError(ValueError):
    """A database that cannot be used; the message says why and what to do."""


def is_redis(database: str) -> bool:
    return database.startswith(REDIS)


def part(database: str, name: str) -> str:
    """The part called ``name`` of ``database``: a folder in a folder, or a prefix of keys."""
    if is_redis(database):
        url, _, prefix = database.partition("#")
        return f"{url}#{prefix}/{name}" if prefix else f"{url}#{name}"
    return str(Path(database) / name)


def check(database: str) -> str:
    """``database``, a folder as an absolute path. DatabaseError for a Redis server that does not answer, and for a
    folder that is a file, or in which nothing can be written."""
    if not is_redis(database):
        return str(_writable(Path(database).absolute()))
    try:
        _redis(database.partition("#")[0]).ping()
    except DatabaseError:
        raise
    except Exception as error:  # of the address, of the network, of the server
        raise DatabaseError(f"database: no Redis server answers at {database}: {error}") from error
    return database


def _writable(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise DatabaseError(f"database: cannot write into {folder}: {error.strerror}; name another one") from error
    return folder


def opened(database: str) -> ExampleDatabase:
    """The database, or the part of one, that ``database`` names. What fails while it is used costs what would have been
    kept or tried again, and no verdict."""
    if not is_redis(database):
        return DirectoryBasedExampleDatabase(database)
    from hypothesis.extra.redis import RedisExampleDatabase

    url, _, prefix = database.partition("#")
    return _Forgiving(RedisExampleDatabase(_redis(url), key_prefix=f"deqverify:{prefix}:".encode()))


@lru_cache
def _redis(url: str) -> Any:
    try:
        from redis import Redis
    except ImportError as error:
        raise DatabaseError("database: redis is needed for redis://; pip install 'deqverify[redis]'") from error
    return Redis.from_url(url, socket_timeout=_ANSWERING, socket_connect_timeout=_ANSWERING)


class _Forgiving(ExampleDatabase):
    """A database whose failures are silent: a server may go away in the middle of a run."""

    def __init__(self, database: ExampleDatabase):
        super().__init__()
        self._database = database

    def fetch(self, key: bytes) -> Iterable[bytes]:
        found: list[bytes] = []
        self._tried(lambda: found.extend(self._database.fetch(key)))
        return found

    def save(self, key: bytes, value: bytes) -> None:
        self._tried(lambda: self._database.save(key, value))

    def delete(self, key: bytes, value: bytes) -> None:
        self._tried(lambda: self._database.delete(key, value))

    @staticmethod
    def _tried(action: Callable[[], None]) -> None:
        from redis import RedisError

        with suppress(RedisError):
            action()
