"""asv: running it on this checkout, results of several machines in one folder, and its page, offline too.

asv's page loads its scripts from the network. :func:`publish` puts the npm packages that they come from beside the page
and rewrites the links, so that it opens from a file.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from deqverify.benchmarking.against import CompareError, repository

VENDORED = {
    "jquery-3.3.1.min.js": ("jquery@3.3.1", "package/dist/jquery.min.js"),
    "jquery.flot.min.js": ("flot@0.8.3", "package/jquery.flot.js"),
    "jquery.flot.time.min.js": ("flot@0.8.3", "package/jquery.flot.time.js"),
    "jquery.flot.selection.min.js": ("flot@0.8.3", "package/jquery.flot.selection.js"),
    "jquery.flot.categories.min.js": ("flot@0.8.3", "package/jquery.flot.categories.js"),
    "jquery.flot.orderBars.js": ("flot-orderbars@1.0.0", "package/js/jquery.flot.orderBars.js"),
    "stupidtable.min.js": ("stupid-table-plugin@1.1.3", "package/stupidtable.min.js"),
    "md5.min.js": ("blueimp-md5@2.19.0", "package/js/md5.min.js"),
    "bootstrap.min.js": ("bootstrap@3.1.1", "package/dist/js/bootstrap.min.js"),
    "bootstrap.min.css": ("bootstrap@3.1.1", "package/dist/css/bootstrap.min.css"),
}
"""What asv 0.6.6's page loads: file name, npm package, path inside it."""

_LINK = re.compile(r'(?P<kind>src|href)="https?://[^"]*/(?P<file>[^"/]+\.(?:js|css))"(?P<rest>[^>]*)>')


def run(benchmarks: str, machine: str | None = None) -> int:
    """``asv run`` of the benchmarks that match, in this environment and for HEAD; the exit code."""
    folder = repository() / "asv_benchmarks"
    head = subprocess.check_output(["git", "-C", str(folder), "rev-parse", "HEAD"], text=True).strip()
    named = ["--machine", machine] if machine else []
    code = _asv(folder, "machine", "--yes", *named)
    environment = f"existing:{sys.executable}"
    command = ["run", "--environment", environment, "--set-commit-hash", head, "--launch-method", "forkserver"]
    return code or _asv(folder, *command, *named, *(["--bench", benchmarks] if benchmarks else []))


def publish(results: Path, html: Path, packages: Path) -> Path:
    """asv's page for ``results``, with the scripts that it needs beside it; ``packages`` keeps what npm gave.

    Returns its index. CompareError where asv fails or npm is missing.
    """
    folder = repository() / "asv_benchmarks"
    config = folder / "publish.conf.json"
    text = (folder / "asv.conf.json").read_text()
    text = re.sub(r'("results_dir": )"[^"]*"', lambda m: f'{m[1]}"{results.resolve()}"', text)
    text = re.sub(r'("html_dir": )"[^"]*"', lambda m: f'{m[1]}"{html.resolve()}"', text)
    config.write_text(re.sub(r'("branches": )\[[^]]*\]', r'\1["HEAD"]', text))  # what is checked out, main or not
    try:
        if _asv(folder, "--config", config.name, "publish", "--no-pull"):
            raise CompareError("asv publish failed; its message stands above")
    finally:
        config.unlink()
    vendor(html, packages)
    return html / "index.html"


def vendor(html: Path, packages: Path) -> None:
    """Puts the scripts that the page loads beside it and links to those."""
    index = html / "index.html"
    beside = html / "vendor"
    beside.mkdir(exist_ok=True)

    def local(link: re.Match[str]) -> str:
        if link["file"] not in VENDORED:
            raise CompareError(f"asv's page loads {link['file']}, which is not known here; add it to VENDORED")
        package, inside = VENDORED[link["file"]]
        (beside / link["file"]).write_bytes(_from_npm(package, inside, packages))
        kept = re.sub(r'\s(integrity|crossorigin|referrerpolicy)="[^"]*"', "", link["rest"])
        return f'{link["kind"]}="vendor/{link["file"]}"{kept}>'

    index.write_text(_LINK.sub(local, index.read_text(encoding="utf-8")), encoding="utf-8")


def merge(sources: list[Path], results: Path) -> list[str]:
    """Copies the results of other machines into ``results``; the machines' names. CompareError for a folder that holds
    none, and for two machines of one name with different hardware: asv would mix their times."""
    merged = []
    for source in sources:
        machines = sorted(source.glob("*/machine.json"))
        if not machines:
            raise CompareError(f"{source} holds no results of asv: it has no MACHINE/machine.json")
        for machine in machines:
            target = results / machine.parent.name
            known = target / "machine.json"
            if known.exists() and known.read_text() != machine.read_text():
                raise CompareError(f"two machines are called {target.name}; rename one: asv machine --machine NAME")
            shutil.copytree(machine.parent, target, dirs_exist_ok=True)
            merged.append(target.name)
        benchmarks = source / "benchmarks.json"
        if benchmarks.exists() and not (results / "benchmarks.json").exists():
            shutil.copy2(benchmarks, results / "benchmarks.json")
    return merged


def _from_npm(package: str, inside: str, packages: Path) -> bytes:
    packages.mkdir(parents=True, exist_ok=True)
    archive = packages / (package.replace("@", "-") + ".tgz")
    if not archive.exists():
        npm = shutil.which("npm")
        if npm is None:
            raise CompareError(f"the page needs npm packages to work offline, and npm is missing (wanted: {package})")
        done = subprocess.run([npm, "pack", "--silent", package], cwd=packages, capture_output=True, text=True)
        if done.returncode:
            raise CompareError(f"npm pack {package}: {done.stderr.strip()}")
    with tarfile.open(archive) as opened:
        member = opened.extractfile(inside)
        assert member is not None
        return member.read()


def _asv(folder: Path, *arguments: str) -> int:
    return subprocess.run([sys.executable, "-m", "asv", *arguments], cwd=folder).returncode
