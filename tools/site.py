"""``python -m tools.site``: builds the documentation site, ``build/site/html``, of what stands in the repository.

The README, docs/*.md and a few other pages are copied to ``build/site/source``, links between them made links of the
site; pages of laws and cells are written there from docstrings (tools/site_pages.py). Then Sphinx builds, and a
warning is an error.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from types import ModuleType

import deqverify
from deqverify.cells import cells
from tools.formulas import prose, typeset
from tools.site_pages import cell_pages, law_pages

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "build" / "site"

ELSEWHERE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "asv_benchmarks/README.md": "benchmarks-commands.md",
    "asv_benchmarks/results/README.md": "benchmarks-results.md",
    "docs/laws.md": "laws/index.md",
    "docs/cells.md": "cells/index.md",
    "docs/scenarios/README.md": "scenarios/index.md",
}
"""Pages of the repository that have another place on the site; every other ``docs/NAME.md`` is ``NAME.md``."""

ORDER = {
    "Begin": ["install", "pytorch", "jax", "numpy"],
    "Judge": ["verdicts", "claims", "ci", "reports", "running"],
    "What is known": [
        "findings",
        "libraries",
        "faults",
        "power",
        "compared",
        "experiments",
        "scenarios/index",
        "benchmarks",
        "benchmarks-commands",
    ],
    "What is verified": ["laws/index", "cells/index", "theory", "solver"],
    "Extend": ["add-a-law", "add-a-cell", "add-a-library", "add-a-loss"],
    "Reference": ["api", "security", "changelog", "contributing"],
}
"""The contents, in captions; a page that is not there is left out, one that is not listed comes last."""

LINK = re.compile(r"(\])\(([^)\s]+)\)")
CODE = re.compile(r"^( *)(```+|~~~+).*?^\1\2 *$|(?<!`)(`+)(?!`).+?(?<!`)\3(?!`)", flags=re.DOTALL | re.MULTILINE)
"""A fenced block or a span."""


def places() -> dict[str, str]:
    """Each page's path in the repository, and on the site."""
    written = sorted([*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "scenarios").glob("*.md")])
    found = {path.relative_to(ROOT).as_posix(): path.relative_to(ROOT / "docs").as_posix() for path in written}
    return found | {old: new for old, new in ELSEWHERE.items() if (ROOT / old).exists()}


def outside_of_code(change: Callable[[str], str], text: str) -> str:
    """``change`` applied to what stands between the code of a page."""
    parts, start = [], 0
    for block in CODE.finditer(text):
        parts += [change(text[start : block.start()]), block[0]]
        start = block.end()
    return "".join([*parts, change(text[start:])])


def moved(text: str, old: str, known: dict[str, str]) -> tuple[str, set[str]]:
    """``text`` of the page ``old`` with its links as they are on the site, and the files that these lead to.

    ValueError for a link to nothing.
    """
    here, files = PurePosixPath(known[old]).parent, set()

    def link(found: re.Match[str]) -> str:
        words, target = found[1], found[2]
        if re.match(r"[a-z]+:|#", target):
            return found[0]
        path, _, anchor = target.partition("#")
        path = os.path.normpath((PurePosixPath(old).parent / path).as_posix())
        if path in known:
            to = known[path]
        elif (ROOT / path).is_file():
            files.add(path)
            to = f"files/{path}"
        else:
            raise ValueError(f"{old}: the link {target} leads to nothing")
        return f"{words}({os.path.relpath(to, here)}{'#' + anchor if anchor else ''})"

    return outside_of_code(lambda part: LINK.sub(link, part), text), files


def contents(pages: set[str]) -> str:
    """The tables of contents that stand, unseen, below the first page: what is listed, then all others."""
    listed = {page for group in ORDER.values() for page in group} | {"index"}
    inner = {
        page for page in pages if page.startswith(("laws/", "cells/", "scenarios/")) and not page.endswith("/index")
    }
    rest = sorted(pages - listed - inner)
    groups = ORDER | ({"More": rest} if rest else {})
    blocks = []
    for caption, names in groups.items():
        if there := [name for name in names if name in pages]:
            blocks.append("\n".join(["```{toctree}", ":hidden:", f":caption: {caption}", "", *there, "```"]))
    return "\n\n".join(blocks)


def named(text: str) -> str:
    """Anchors of HTML as anchors of MyST: Sphinx knows those."""
    return re.sub(r'^<a id="([^"]*)"></a>$', r"(\1)=", text, flags=re.MULTILINE)


def displayed(text: str) -> str:
    """Indented lines of formulas as a table, its columns where two spaces or more stand between them."""

    def table(found: re.Match[str]) -> str:
        rows = []
        for line in re.sub(r"\n {12,}", " ", found[0].strip("\n")).splitlines():
            columns = [prose(column) for column in re.split(r" {2,}", line.strip())]
            rows.append(f"<tr><td>{'</td><td>'.join(columns)}</td></tr>")
        return "\n".join(['<table class="formulas">', *rows, "</table>"]) + "\n"

    return re.sub(r"(?<=\n\n)(?:    .*\n)+", table, text)


def in_full() -> str:
    """The part of the page of the public API that autodoc writes of the docstrings."""
    parts = ["\n## In full\n\n```{eval-rst}"]
    for name in deqverify.__all__:
        found = getattr(deqverify, name)
        if not isinstance(found, ModuleType):
            kind = "autoclass" if isinstance(found, type) else "autofunction"
            parts.append(f".. {kind}:: deqverify.{name}\n" + ("   :members:\n" if kind == "autoclass" else ""))
    return "\n".join([*parts, "```\n"])


def write(source: Path) -> None:
    """All pages of the site, and the files that they lead to, into the folder ``source``."""
    known = places()
    pages: dict[str, str] = {}
    files: set[str] = set()
    for old, new in known.items():
        text, needed = moved((ROOT / old).read_text(encoding="utf-8"), old, known)
        pages[new] = named(text)
        files |= needed
    pages |= law_pages() | cell_pages()
    if gallery := sorted(page for page in pages if page.startswith("scenarios/") and not page.endswith("/index.md")):
        listed = "\n".join(PurePosixPath(page).stem for page in gallery)
        pages["scenarios/index.md"] = pages.get("scenarios/index.md", "# Results of the experiments\n")
        pages["scenarios/index.md"] += f"\n```{{toctree}}\n:maxdepth: 1\n\n{listed}\n```\n"
    pages["api.md"] += in_full()
    pages["theory.md"] = typeset(displayed(pages["theory.md"]))
    pages["cells/index.md"] += "\n```{toctree}\n:hidden:\n\n" + "\n".join(cells()) + "\n```\n"
    names = {page.removesuffix(".md") for page in pages}
    pages["index.md"] += f"\n{contents(names)}\n"
    shutil.rmtree(source, ignore_errors=True)
    for page, text in pages.items():
        (source / page).parent.mkdir(parents=True, exist_ok=True)
        (source / page).write_text(text, encoding="utf-8")
    for file in files:
        (source / "files" / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / file, source / "files" / file)


def main() -> int:
    write(BUILD / "source")
    shutil.rmtree(BUILD / "html", ignore_errors=True)
    built = ["-b", "html", "-W", "--keep-going", "-q", "-c", str(ROOT / "docs"), "-d", str(BUILD / "doctrees")]
    code = subprocess.call([sys.executable, "-m", "sphinx", *built, str(BUILD / "source"), str(BUILD / "html")])
    if code == 0:
        print(f"{BUILD.relative_to(ROOT)}/html/index.html")
    return code


if __name__ == "__main__":
    sys.exit(main())
