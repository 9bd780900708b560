"""Reports as files: which format a name asks for, and a handler of events that writes them when a run is over."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from deqverify.reporting import junit, machine, markdown, page
from deqverify.running.events import Event, RunFinished
from deqverify.running.files import write_whole
from deqverify.running.plan import Report

FORMATS: dict[str, tuple[str, Callable[[Report], str]]] = {
    ".html": ("a page to read, with pictures", page.text),
    ".md": ("Markdown, short enough for a comment on a pull request", markdown.text),
    ".json": ("everything, for programs", machine.text),
    ".xml": ("JUnit, for CI", junit.text),
}
"""By the end of a file's name: what it holds, and how a report becomes that."""


def check(path: Path) -> Path:
    """``path``, where a report can be written to it; ValueError, before anything runs, for an unknown format or a
    folder that is not there."""
    return check_place(path, {suffix: what for suffix, (what, _) in FORMATS.items()})


def check_place(path: Path, formats: Mapping[str, str]) -> Path:
    """The same for the ``formats`` of another report: by the end of a name, what it holds."""
    if path.suffix.lower() not in formats:
        known = "; ".join(f"{suffix}: {what}" for suffix, what in formats.items())
        raise ValueError(f"report: {path.name!r} has to end in one of {', '.join(formats)} ({known})")
    folder = path.resolve().parent
    if not folder.is_dir():
        raise ValueError(f"report: there is no folder {folder}")
    if path.is_dir():
        raise ValueError(f"report: {path} is a folder; name a file in it")
    return path


def write(report: Report, path: Path) -> None:
    """Writes ``report`` in the format that the end of ``path`` names; ValueError as of :func:`check`."""
    check(path)
    if path.suffix.lower() == ".html":
        report.sketch()
    _, text = FORMATS[path.suffix.lower()]
    write_whole(path, text(report))


class Written:
    """A handler that writes the report of a run to ``paths``, a page first, so that its numbers are in the others.
    ``failed`` says which could not be written: that takes no verdict away."""

    def __init__(self, paths: Sequence[Path]):
        self.failed: list[str] = []
        self._paths = sorted((check(path) for path in paths), key=lambda path: path.suffix.lower() != ".html")

    def __call__(self, event: Event) -> None:
        if isinstance(event, RunFinished):
            for path in self._paths:
                try:
                    write(event.report, path)
                except OSError as error:
                    self.failed.append(f"report: {path} cannot be written: {error.strerror}")
