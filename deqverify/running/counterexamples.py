"""Counterexamples as data: JSON files of names, arrays and numbers, under a short id. Never a pickle, never code.

Reading one runs nothing that stands in it. Every name has to be one that is known here (a law, a cell, a loss, an
argument of that law), every array has to have the shape that it says, and what is wrong is said with its place. The
target is text, and importing it is left to who asked.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import math
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np

from deqverify import losses
from deqverify.cells import cells
from deqverify.dtypes import DTYPES
from deqverify.problem import CellProblem, Problem, SoftmaxProblem
from deqverify.registry import laws
from deqverify.running.files import write_whole

FOLDER = Path(".deqverify") / "counterexamples"
FORMAT = 1

LARGEST_FILE = 64 * 2**20
"""Bytes. A problem of 300 states is two megabytes."""

MOST_READ = 500
"""So many of those that are kept, the newest, are looked at before a run."""

MOST_ENTRIES, MOST_AXES = 5_000_000, 8
_ID = re.compile(r"^[0-9a-f]{8}$")
_SPECIAL = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class CounterexampleError(ValueError):
    """A counterexample that cannot be written or read; the message says what is wrong and where."""


@dataclass(frozen=True)
class Counterexample:
    """The arguments that violate ``law`` on ``target``, and what was said and installed when that was found."""

    law: str
    target: str
    dtype: str | None
    device: str
    arguments: dict[str, Any]
    kind: str = "wrong"
    said: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """JSON-ready; CounterexampleError for arguments that are no data."""
        asked: dict[str, Any] = {"law": self.law, "target": self.target, "dtype": self.dtype, "device": self.device}
        asked["arguments"] = {name: encoded(value, name) for name, value in self.arguments.items()}
        text = json.dumps(asked, sort_keys=True, allow_nan=False)
        id = hashlib.sha256(text.encode()).hexdigest()[:8]
        found = {"verdict": "violated", "kind": self.kind, "said": _plain(self.said), "versions": self.versions}
        return {"deqverify counterexample": FORMAT, "id": id} | asked | found


def _plain(value: Any) -> Any:
    """What was said, numbers that JSON has no word for as text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def encoded(value: Any, place: str) -> Any:
    """``value`` in JSON's own types."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float | np.floating):
        return _number(float(value))
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, np.ndarray):
        return {"array": [_number(float(v)) for v in value.ravel()], "shape": list(value.shape)}
    if isinstance(value, SoftmaxProblem):
        parts = {name: encoded(getattr(value, name), name) for name in ("A", "B", "Phi", "Y", "gamma")}
        return {"problem": value.cell.name} | parts | {"loss": _encoded_loss(value.loss, place)}
    if isinstance(value, CellProblem):
        if cells().get(value.cell.name) != value.cell:
            raise CounterexampleError(f"{place}: the cell {value.cell!r} is not one that is known by its name")
        theta = {name: encoded(each, name) for name, each in value.theta.items()}
        parts = {name: encoded(getattr(value, name), name) for name in ("x", "B", "Y")}
        return {"problem": value.cell.name, "theta": theta} | parts | {"loss": _encoded_loss(value.loss, place)}
    if isinstance(value, Mapping):
        return {"map": {str(key): encoded(each, f"{place}.{key}") for key, each in value.items()}}
    if isinstance(value, list | tuple):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [encoded(each, f"{place}[{k}]") for k, each in enumerate(value)]}
    raise CounterexampleError(f"{place}: a {type(value).__name__} is no data")


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _encoded_loss(loss: Any, place: str) -> dict[str, Any]:
    if type(loss) is not getattr(losses, type(loss).__name__, None):
        raise CounterexampleError(f"{place}: the loss {loss!r} is none of deqverify.losses")
    return {"name": type(loss).__name__} | {f.name: getattr(loss, f.name) for f in dataclasses.fields(loss)}


def keep(document: Mapping[str, Any], folder: Path = FOLDER) -> str:
    """Writes a document of :meth:`Counterexample.document` to ``folder``, whole or not at all; its id."""
    lines = [
        f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False, allow_nan=False)}"
        for key, value in document.items()
    ]
    write_whole(folder / f"{document['id']}.json", "{\n" + ",\n".join(lines) + "\n}\n")
    return str(document["id"])


def find(id_or_file: str, folder: Path = FOLDER) -> tuple[Counterexample, bool]:
    """The counterexample of an id in ``folder``, or of a file, and whether it is one of this folder's own.

    CounterexampleError where there is none, or one that cannot be read.
    """
    own = folder / f"{id_or_file}.json"
    if _ID.match(id_or_file) and own.is_file():
        return read(own), True
    path = Path(id_or_file)
    if not path.is_file():
        kept = len(list(folder.glob("*.json")))
        raise CounterexampleError(f"{id_or_file}: is no file, and none of the {kept} counterexamples in {folder}")
    return read(path), path.resolve().parent == folder.resolve()


def kept_for(folder: Path = FOLDER) -> dict[tuple[str, str, str | None, str], list[str]]:
    """The files in ``folder`` by law, target, dtype and device, the newest first; those that cannot be read are left
    out."""
    found: dict[tuple[str, str, str | None, str], list[str]] = {}
    for path in sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True)[:MOST_READ]:
        try:
            known = read(path)
        except CounterexampleError:
            continue
        found.setdefault((known.law, known.target, known.dtype, known.device), []).append(str(path))
    return found


def read(path: Path) -> Counterexample:
    """The counterexample in the file ``path``; CounterexampleError, saying what is wrong where, for anything else."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise CounterexampleError(f"{path}: is larger than {LARGEST_FILE // 2**20} MB")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise CounterexampleError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CounterexampleError(f"{path}: is not text in UTF-8") from error
    try:
        return parsed(text)
    except CounterexampleError as error:
        raise CounterexampleError(f"{path}: {error}") from error.__cause__


def parsed(text: str) -> Counterexample:
    """The counterexample in ``text``, a document in JSON; CounterexampleError for anything else."""
    try:
        return _read(json.loads(text, parse_constant=_no_constant))
    except CounterexampleError:
        raise
    except (ValueError, RecursionError) as error:  # of JSON itself, its depth and the digits of its integers included
        raise CounterexampleError(f"is not JSON: {error}") from error


def _no_constant(name: str) -> Any:
    raise CounterexampleError(f"holds the number {name}, which JSON does not have")


def _read(document: Any) -> Counterexample:
    if not isinstance(document, dict) or document.get("deqverify counterexample") != FORMAT:
        raise CounterexampleError(f"is no counterexample: its key 'deqverify counterexample' is not {FORMAT}")
    law = _one_of(document, "law", laws(), "; laws of a module of your own are brought by --laws MODULE")
    target, device = _text(document, "target"), _text(document, "device")
    dtype = None if document.get("dtype") is None else _one_of(document, "dtype", DTYPES)
    wanted = list(inspect.signature(laws()[law].body).parameters)[1:]
    given = _object(document.get("arguments"), "arguments")
    if set(given) != set(wanted):
        raise CounterexampleError(
            f"arguments: the law {law} takes {', '.join(wanted)}, got {', '.join(map(str, given))}"
        )
    arguments = {name: decoded(given[name], f"arguments.{name}") for name in wanted}
    meant = get_type_hints(laws()[law].body) if laws()[law].ours else {}  # others' may not resolve
    for name, value in arguments.items():
        kind = meant.get(name)
        if isinstance(kind, type) and issubclass(kind, Problem) and not isinstance(value, kind):
            raise CounterexampleError(f"arguments.{name}: is no {kind.__name__}")
    kind = _one_of(document, "kind", ("wrong", "crash", "hang", "death"))
    said = {str(k): _printable(v) for k, v in _object(document.get("said", {}), "said").items()}
    versions = {
        _printable(str(k)): _printable(str(v)) for k, v in _object(document.get("versions", {}), "versions").items()
    }
    return Counterexample(law, target, dtype, device, arguments, kind, said, versions)


def _object(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise CounterexampleError(f"{place}: is a {type(value).__name__}, expected an object")
    return value


def _text(document: Mapping[str, Any], key: str) -> str:
    value = document.get(key)
    if not isinstance(value, str) or value != _printable(value) or not value:
        raise CounterexampleError(f"{key}: expected text that can be printed, got {value!r:.60}")
    return value


def _one_of(document: Mapping[str, Any], key: str, known: Any, remedy: str = "") -> str:
    value = document.get(key)
    if not isinstance(value, str) or value not in known:
        raise CounterexampleError(f"{key}: {value!r:.60} is not known here{remedy}")
    return value


def _printable(value: Any) -> Any:
    """Text without what could move a terminal's cursor; other things as they are."""
    if isinstance(value, str):
        return "".join(c for c in value if c.isprintable() or c == "\n")
    if isinstance(value, list):
        return [_printable(each) for each in value]
    return {_printable(str(k)): _printable(v) for k, v in value.items()} if isinstance(value, dict) else value


def decoded(value: Any, place: str) -> Any:
    """What :func:`encoded` made JSON of."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return _finite(value, place)
    if isinstance(value, dict):
        for key, read_one in _READERS.items():
            if key in value:
                return read_one(value, place)
    raise CounterexampleError(f"{place}: expected a number, text, or an object with {', '.join(_READERS)}")


def _finite(value: Any, place: str) -> float:
    if isinstance(value, str) and value in _SPECIAL:
        return _SPECIAL[value]
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        raise CounterexampleError(f"{place}: {value!r:.40} is no number of float64")
    return float(value)


def _array(value: dict[str, Any], place: str) -> Any:
    entries, shape = value["array"], value.get("shape")
    axes = shape if isinstance(shape, list) and len(shape) <= MOST_AXES else [-1]
    if not all(isinstance(size, int) and not isinstance(size, bool) and 0 <= size <= MOST_ENTRIES for size in axes):
        raise CounterexampleError(f"{place}.shape: {shape!r:.60} is no shape of at most {MOST_AXES} axes")
    if not isinstance(entries, list) or len(entries) != math.prod(axes) or len(entries) > MOST_ENTRIES:
        raise CounterexampleError(f"{place}.array: expected {math.prod(axes)} numbers, as the shape {axes} says")
    return np.array([_finite(v, f"{place}.array[{k}]") for k, v in enumerate(entries)], dtype=np.float64).reshape(axes)


def _matrix(value: Any, place: str) -> Any:
    if not isinstance(value, dict) or "array" not in value:
        raise CounterexampleError(f"{place}: expected an array")
    return _array(value, place)


def _problem(value: dict[str, Any], place: str) -> Problem:
    name = _one_of(value, "problem", cells())
    softmax = "Phi" in value
    keys = {"problem", "B", "Y", "loss", *(("A", "Phi", "gamma") if softmax else ("theta", "x"))}
    if set(value) != keys:
        raise CounterexampleError(f"{place}: expected {', '.join(sorted(keys))}, got {', '.join(map(str, value))}")
    loss = _loss(value["loss"], f"{place}.loss")
    parts = {key: _matrix(value[key], f"{place}.{key}") for key in keys & {"A", "B", "Phi", "Y", "x"}}
    try:
        if softmax:
            return SoftmaxProblem(**parts, gamma=_finite(value["gamma"], f"{place}.gamma"), loss=loss)
        given = _object(value["theta"], f"{place}.theta")
        theta = {str(key): _matrix(each, f"{place}.theta.{key}") for key, each in given.items()}
        problem = CellProblem(cell=cells()[name], theta=theta, loss=loss, **parts)
        problem.cell.certificate(theta)
        return problem
    except CounterexampleError:
        raise
    except Exception as error:  # a cell may trip over parameters that are missing or of another shape in its own way
        raise CounterexampleError(f"{place}: makes no problem of {name}: {type(error).__name__}: {error}") from error


def _loss(value: Any, place: str) -> Any:
    given = dict(_object(value, place))
    name = given.pop("name", None)
    if not isinstance(name, str) or name not in losses.__all__ or name == "Loss":
        raise CounterexampleError(f"{place}: {name!r:.60} is none of deqverify.losses")
    kind: Any = getattr(losses, name)
    if set(given) != {f.name for f in dataclasses.fields(kind)}:
        raise CounterexampleError(
            f"{place}: {name} takes {', '.join(f.name for f in dataclasses.fields(kind)) or 'nothing'}"
        )
    try:
        return kind(**{key: _finite(each, f"{place}.{key}") for key, each in given.items()})
    except (TypeError, ValueError) as error:
        raise CounterexampleError(f"{place}: {error}") from error


def _several(key: str, made: Callable[[list[Any]], Any]) -> Callable[[dict[str, Any], str], Any]:
    def read_one(value: dict[str, Any], place: str) -> Any:
        if not isinstance(value[key], list):
            raise CounterexampleError(f"{place}.{key}: expected a list")
        return made([decoded(each, f"{place}[{k}]") for k, each in enumerate(value[key])])

    return read_one


def _map(value: dict[str, Any], place: str) -> dict[str, Any]:
    entries = _object(value["map"], f"{place}.map")
    return {str(key): decoded(each, f"{place}.{key}") for key, each in entries.items()}


_READERS: dict[str, Callable[[dict[str, Any], str], Any]] = {
    "array": _array,
    "problem": _problem,
    "map": _map,
    "list": _several("list", list),
    "tuple": _several("tuple", tuple),
}
"""By the key that says what an object stands for."""
