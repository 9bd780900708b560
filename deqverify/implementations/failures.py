"""What an implementation does instead of answering: it fails, or says itself that its answer is not converged."""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deqverify.clock import Interrupted


class TargetFailure(Exception):
    """The implementation crashed on a legal problem: a verdict, not a traceback. ``where`` is the line of the user's
    own code that was reached last, empty where there is none."""

    def __init__(self, summary: str, details: str = "", where: str = ""):
        super().__init__(summary)
        self.details, self.where = details, where


class Reported(Exception):
    """The implementation says itself that its answer is not converged: the evidence cannot decide.

    ``not_finite``: the answer that was reported holds NaN or infinity.
    """

    def __init__(self, summary: str, not_finite: bool = False):
        super().__init__(summary)
        self.not_finite = not_finite


@contextmanager
def calling(what: str) -> Iterator[None]:
    try:
        yield
    except (Interrupted, KeyboardInterrupt, TargetFailure):
        raise
    except BaseException as error:  # SystemExit and skips are BaseExceptions too
        details = "".join(traceback.format_exception(error)[-6:])
        raise TargetFailure(f"{what} raised {type(error).__name__}: {error}", details, _own_line(error)) from error


_OTHERS = (str(Path(__file__).parent.parent), sysconfig.get_path("stdlib"))
"""Where code lies that the user did not write, beside what is installed: deqverify's and Python's."""


def _is_own(file: str) -> bool:
    return Path(file).is_file() and not file.startswith(_OTHERS) and "site-packages" not in Path(file).parts


def _own_line(error: BaseException) -> str:
    """``mine.py line 3, in solve: n, m = z.shape``, the innermost line of a traceback that lies nowhere else."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if _is_own(frame.filename)]
    return f"{Path(own[-1].filename).name} line {own[-1].lineno}, in {own[-1].name}: {own[-1].line}" if own else ""
