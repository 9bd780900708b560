"""Files that are whole or absent, whenever a run is killed, and locks that end with their process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO


def write_whole(path: Path, text: str) -> None:
    """Writes ``text`` beside ``path``, then in its place: after an interruption the old file is there, or the new one.
    Makes its folder; OSError where that or the writing fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("w", encoding="utf-8", errors="replace") as file:  # a target may print halves of characters
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # else a power cut may leave the new name with nothing in it
        os.replace(part, path)
    except OSError:
        with suppress(OSError):
            part.unlink()
        raise


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Whether the lock ``path`` is this process's own while the context lasts. It goes with the process, however that
    ends. Where there are no such locks (Windows) it is everybody's."""
    try:
        import fcntl
    except ImportError:
        yield True
        return
    with _handle(path) as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def _handle(path: Path) -> IO[str]:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("a")
