"""What was seen, in words, and the arguments it was seen on, as code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from deqverify.comparison import Measurement
from deqverify.problem import Problem, array_code
from deqverify.trial import Evidence, Failure, Severity


def describe(failure: Failure) -> str:
    """What was seen, in lines: measured against allowed with the terms, or the crash."""
    seen = failure.message if failure.seen is None else describe_evidence(failure.seen)
    return "\n".join([seen, *failure.notes, *_severity_lines(failure.severity)])


def _severity_lines(severity: Severity | None) -> list[str]:
    """The smallest counterexample understates: how often, and how bad, it is elsewhere."""
    if severity is None:
        return []
    lines = []
    if severity.examples:
        lines.append(f"{severity.failing} of {severity.examples} fresh examples fail too")
    if severity.arguments:
        where = where_code(severity.arguments)
        lines.append(f"the worst seen: relative error {severity.relative_error:.2g}{f' at {where}' if where else ''}")
    return lines


def where_code(arguments: dict[str, Any]) -> str:
    """Where in the space of problems drawn arguments lie: the rate and the sizes."""
    problem = arguments.get("problem")
    return problem.where() if isinstance(problem, Problem) else ""


def describe_evidence(seen: Evidence) -> str:
    """One comparison in lines: measured against allowed with the bound's terms; or one fact."""
    if isinstance(seen, Measurement):
        lines = [f"{seen.what}: measured {seen.measured:.3g}, allowed {seen.allowed:.3g}"]
        lines += [f"    {value:.3g}  {name}" for name, value in seen.terms.items() if value]
        return "\n".join([*lines, f"    compared with a quantity of size {seen.scale:.3g}"])
    return f"{seen.what}: {seen.seen}"


def arguments_code(arguments: dict[str, Any]) -> str:
    """Drawn arguments as Python keyword arguments (``np``, ``losses`` and both kinds of problems in
    scope)."""
    return ", ".join(f"{name}={_code(value)}" for name, value in arguments.items())


def _code(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {_code(entry)}" for key, entry in value.items()) + "}"
    return array_code(value) if isinstance(value, np.ndarray) else repr(value)
