"""Mutation testing of the ground floor: ``python -m tools.mutants [run | again | results | show NAME] [pattern…]``,
or ``sample N [SEED]`` of a random sample.

mutmut (configured in pyproject.toml) leaves decorated functions alone, and the heart of bounds.py and closed_form.py
is cached properties. So it is run on a copy of the tree, in build/mutation, in which every property is a plain method
and an assignment: ``def _get_Z(self): …`` and ``Z = cached_property(_get_Z)``. ``run`` tries what is new or
changed, or the mutants whose names match the patterns; ``again`` those that were not killed; ``sample`` N drawn at
random (mutants_sample.py).
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

from tools import mutants_sample

ROOT = Path(__file__).resolve().parent.parent
COPY = ROOT / "build" / "mutation"
PROPERTIES = ("cached_property", "property")


def plain(source: str) -> str:
    """``source`` with every property of a class written as a method and an assignment; but protocols are left alone,
    since what stands in one is asked of every class that it is compared with."""
    lines, tree = source.splitlines(), ast.parse(source)
    asked = {id(method) for each in ast.walk(tree) if _is_protocol(each) for method in ast.walk(each)}
    for node in sorted(ast.walk(tree), key=lambda node: getattr(node, "lineno", 0), reverse=True):
        if not isinstance(node, ast.FunctionDef):
            continue
        if id(node) in asked:
            lines[node.lineno - 1] += "  # pragma: no mutate"
            continue
        if len(node.decorator_list) != 1:
            continue
        decorator = node.decorator_list[0]
        if not (isinstance(decorator, ast.Name) and decorator.id in PROPERTIES):
            continue
        indent = " " * node.col_offset
        lines.insert(node.end_lineno or 0, f"{indent}{node.name} = {decorator.id}(_get_{node.name})")
        lines[node.lineno - 1] = lines[node.lineno - 1].replace(f"def {node.name}(", f"def _get_{node.name}(", 1)
        del lines[decorator.lineno - 1]
    return "\n".join(lines) + "\n"


def _is_protocol(node: ast.AST) -> bool:
    return isinstance(node, ast.ClassDef) and any(isinstance(b, ast.Name) and b.id == "Protocol" for b in node.bases)


def copy_tree() -> bool:
    """Brings the copy up to date and says whether it changed; what has not changed keeps its time and so its results.

    mutmut asks only new tests which functions they reach; where one has changed, all are asked again.
    """
    changed = False
    wanted = {ROOT / "pyproject.toml", ROOT / "docs" / "add-a-cell.md"}
    for folder in ("deqverify", "tests"):
        wanted |= {path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    for path in wanted:
        content = path.read_bytes()
        if path.suffix == ".py" and path.is_relative_to(ROOT / "deqverify"):
            content = plain(content.decode()).encode()
        target = COPY / path.relative_to(ROOT)
        if not target.exists() or target.read_bytes() != content:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            if path.is_relative_to(ROOT / "tests"):
                (COPY / "mutants" / "mutmut-stats.json").unlink(missing_ok=True)
            changed = True
    return changed


def mutmut(*arguments: str, capture: bool = False) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ, HYPOTHESIS_STORAGE_DIRECTORY=str(COPY / ".hypothesis"))
    command = [sys.executable, "-m", "mutmut", *arguments]
    return subprocess.run(command, cwd=COPY, env=environment, check=False, text=True, capture_output=capture)


def survivors() -> list[str]:
    """Names of all mutants that were tried and not killed."""
    listed = (line.strip().rpartition(": ") for line in mutmut("results", capture=True).stdout.splitlines())
    return [name for name, _, status in listed if name and status != "not checked"]


def main(arguments: list[str]) -> int:
    command, *rest = arguments or ["run"]
    if command == "sample" and not (1 <= len(rest) <= 2 and all(number.isdigit() for number in rest) and int(rest[0])):
        sys.exit(f"sample: say how many mutants, and a seed if you like, such as sample 300 0; got {' '.join(rest)!r}")
    changed = copy_tree()
    if command == "sample":
        return mutants_sample.run(COPY, int(rest[0]), int(rest[1]) if rest[1:] else 0, changed)
    if command == "again":
        command, rest = "run", survivors()
    workers = ["--max-children", "1"] if command == "run" else []
    return mutmut(command, *workers, *rest).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
