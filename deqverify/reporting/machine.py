"""Results for programs: one JSON document a run."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from deqverify.implementations.loading import installed
from deqverify.running.plan import Report

FRAMEWORKS = ("numpy", "scipy", "torch", "jax", "jaxlib")
LIBRARIES = ("torchdeq", "torchopt", "xitorch", "jaxopt", "optimistix", "lineax", "equinox")
PACKAGES = ("deqverify", "hypothesis", "python-flint", *FRAMEWORKS, *LIBRARIES)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a verdict depends on, those of third parties' adapters among them."""
    found = {"python": platform.python_version()}
    found |= {point.dist.name: point.dist.version for point in installed().values() if point.dist}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def document(report: Report) -> dict[str, Any]:
    """The report as JSON-ready data; its keys are those of :class:`deqverify.running.results.Result`."""
    results = []
    for result in report.results:
        entry = asdict(result)
        entry["verdict"] = result.verdict.value
        results.append(entry)
    said = {"stale": report.stale, "untried": report.untried}
    return {"versions": versions(), "exit_code": report.exit_code} | said | {"results": results}


def write(report: Report, path: Path) -> None:
    """Writes the document; numbers that JSON has no word for (inf, NaN) become strings."""
    path.write_text(json.dumps(_plain(document(report)), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not abs(value) < float("inf"):
        return str(value)
    return value
