"""Whether a release can be installed: ``python -m tools.release [bare|EXTRA …]``, by ``make release-check``.

Builds the source distribution, and the wheel from it, looks into both, and installs the wheel into a fresh virtual
environment for each extra (all of EXTRAS by default), where a short script runs. A table says how each went; exit code
1 where something failed. Everything lies in build/release; the versions are those of constraints.txt.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import time
import tomllib
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
WORK = ROOT / "build" / "release"
NEEDED = ("py.typed", "reporting/schema.json", "reporting/templates/report.html", "properties/equilibrium.py")

LAYER = """
import numpy as np
from deqverify import Accuracy, Claims, NumpyLayer, check_deq
class Mine(NumpyLayer):
    name, claims = "mine", Claims(Accuracy(1e-6), None)
    def solve(self, step, z0):
        for _ in range(9):
            z0 = step(z0)
        return z0
print(check_deq(Mine(), laws=["enclosure"], on_fail=None, seed=1))
"""
"""A layer that stops early: the law has to say so."""

Case = tuple[list[str], int, str]
"""A command, its exit code and what it has to print."""


def _run(target: str, code: int = 0, said: str = "enclosure") -> Case:
    return ["deqverify", "run", target, "--law", "enclosure", "--max-examples", "5", "--workers", "1"], code, said


def _of(target: str) -> list[Case]:
    """A library is installed with its adapter: the law is judged, whatever the verdict."""
    return [_run(target, -1, " examples: ")]


EXTRAS: dict[str, list[Case]] = {
    "bare": [
        (["deqverify", "--version"], 0, "version"),
        (["deqverify", "list"], 0, "implementations"),
        (["deqverify", "explain", "enclosure"], 0, "reference[numpy]"),
        (["python", "-c", LAYER], 0, "VIOLATED  enclosure"),
        _run("reference[numpy]"),
        _run("scipy", -1, " examples: "),
        _run("reference", 2, "pip install 'deqverify[torch]', or take reference[numpy]"),
        _run("reference[newton]", 2, "or take reference[newton,numpy]"),
        *(
            _run(name, 2, "pip install 'deqverify[torch]'")
            for name in ("fault[row-softmax]", "correct[direct]", "plain")
        ),
        (["deqverify", "faults", "row-softmax"], 2, "pip install 'deqverify[torch]'"),
        (["deqverify", "scenario", "--list"], 2, "pip install 'deqverify[scenarios]'"),
        (["deqverify", "soak", "--minutes", "0", "--picture", "x.svg"], 2, "pip install 'deqverify[plot]'"),
        *(
            _run(name, 2, f"pip install 'deqverify[{name}]'")
            for name in ("torchdeq", "jaxopt", "optimistix", "xitorch", "torchopt", "deepinv")
        ),
        (["deqverify", "bench", "--m", "4", "--n", "2", "--budget", "0.02"], 0, "deqverify[torchdeq]"),
        (["deqverify", "bench", "--picture", "x.svg"], 2, "pip install 'deqverify[plot]'"),
        ([*_run("reference[numpy]")[0], "--report", "x.html"], 0, "enclosure"),
        ([*_run("reference[numpy]")[0], "--dask", "local"], 2, "pip install 'deqverify[dask]'"),
        ([*_run("reference[numpy]")[0], "--database", "redis://localhost:1/0"], 2, "pip install 'deqverify[redis]'"),
        (["python", "-c", "from deqverify import wrap_jax"], 1, "pip install 'deqverify[jax]'"),
    ],
    "torch": [_run("reference")],
    "jax": [_run("reference[jax]")],
    "torchdeq": _of("torchdeq"),
    "torchopt": _of("torchopt"),
    "xitorch": _of("xitorch"),
    "jaxopt": _of("jaxopt"),
    "optimistix": _of("optimistix"),
    "deepinv": _of("deepinv"),
    "libraries": [case for name in ("torchdeq", "jaxopt") for case in _of(name)],
    "bench": [(["deqverify", "bench", "--m", "4", "--n", "2", "--budget", "0.02"], 0, "torchdeq")],
    "pytest": [
        (
            ["pytest", "--pyargs", "deqverify.properties", "--deq", "reference[numpy]", "-k", "enclosure"],
            0,
            " passed",
        )
    ],
    "plot": [([*_run("reference[numpy]")[0], "--report", "x.html"], 0, "enclosure")],
    "scenarios": [(["deqverify", "scenario", "--list"], 0, "scenario")],
    "redis": [([*_run("reference[numpy]")[0], "--database", "redis://localhost:1/0"], 2, "localhost")],
    "dask": [([*_run("reference[numpy]")[0], "--dask", "local"], 0, "enclosure")],
}
"""What runs in the environment of each extra that brings something to a user."""

UNPINNED = ("deepinv",)
"""Its torchvision is compiled for the PyTorch that pip finds beside it, not for the build for CPUs that is pinned."""

OURS = ("docs", "browser", "dev", "mutation", "nox", "release")
"""The extras to work on deqverify itself, which a clone uses."""


def built() -> tuple[Path, Path]:
    """The source distribution and the wheel made of it; both pass twine's check of what an index page shows."""
    folder = WORK / "dist"
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "-o", folder, ROOT], check=True, capture_output=True
    )
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", sdist, wheel], check=True)
    return sdist, wheel


def wrong(sdist: Path, wheel: Path) -> list[str]:
    """What is missing in the two, or should not be there."""
    configured = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    inside = set(zipfile.ZipFile(wheel).namelist())
    needed = [
        *(f"deqverify/{name}" for name in NEEDED),
        *(f"{each.replace('.', '/')}/__init__.py" for each in configured),
    ]
    found = [f"the wheel lacks {name}" for name in needed if name not in inside]
    found += [] if any(name.endswith("licenses/LICENSE") for name in inside) else ["the wheel lacks the licence"]
    found += [f"the wheel has {name}" for name in inside if not name.startswith(("deqverify/", "deqverify-"))]
    with tarfile.open(sdist) as archive:
        there = {name.partition("/")[2] for name in archive.getnames()}
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    found += [f"the sdist lacks {name}" for name in listed if name and name != ".gitignore" and name not in there]
    return found


def environment(extra: str, wheel: Path) -> tuple[Path, str]:
    """A fresh virtual environment with the wheel and its extra; and why it could not be made, or nothing."""
    home = WORK / f"env-{extra}"
    venv.EnvBuilder(clear=True, with_pip=True).create(home)
    wanted = str(wheel) if extra == "bare" else f"{wheel}[{extra}]"
    pinned = [] if extra in UNPINNED else ["-c", ROOT / "constraints.txt"]
    command = [home / "bin" / "python", "-m", "pip", "install", "-q", *pinned, wanted]
    done = subprocess.run(command, capture_output=True, text=True)
    return home, "" if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


def tried(home: Path, case: Case) -> str:
    """What went wrong when the command ran there, in an empty folder, or nothing. A code of -1 takes any verdict."""
    (name, *rest), code, said = case
    empty = WORK / "empty"
    shutil.rmtree(empty, ignore_errors=True)
    empty.mkdir()
    settings = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")} | {"COLUMNS": "200"}
    done = subprocess.run([home / "bin" / name, *rest], cwd=empty, env=settings, capture_output=True, text=True)
    shown, called = done.stdout + done.stderr, " ".join([name, *rest])[:100].replace("\n", " ")
    if "Traceback" in shown and name == "deqverify":
        return f"{called}: {shown.strip().splitlines()[-1]}"
    if done.returncode != code and not (code == -1 and done.returncode in (0, 1)):
        return f"{called}: exit code {done.returncode}: {shown.strip()[-200:]}"
    return "" if said in shown else f"{called}: does not say {said!r}: {shown.strip()[-200:]}"


def main(extras: list[str]) -> int:
    if unknown := [extra for extra in extras if extra not in EXTRAS]:
        print(f"there is no script for {unknown[0]}; use some of {', '.join(EXTRAS)}", file=sys.stderr)
        return 2
    sdist, wheel = built()
    failures = wrong(sdist, wheel)
    print(f"{sdist.name}, {wheel.name}: {'; '.join(failures) or 'as they should be'}", flush=True)
    print("\n| environment | commands | seconds | result |\n|---|---|---|---|", flush=True)
    for extra in extras or EXTRAS:
        begun = time.monotonic()
        home, why = environment(extra, wheel)
        found = [why] if why else [said for case in EXTRAS[extra] if (said := tried(home, case))]
        shutil.rmtree(home)  # PyTorch's is of some gigabytes
        failures += found
        result = "; ".join(found).replace("|", "\\|").replace("\n", " ") or "ok"
        print(f"| {extra} | {len(EXTRAS[extra])} | {time.monotonic() - begun:.0f} | {result} |", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
