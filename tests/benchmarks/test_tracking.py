"""asv sees the suite; its page works from a file in a browser; results of several machines come together."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from deqverify.benchmarking import tracking
from deqverify.benchmarking.against import CompareError
from deqverify.benchmarking.scaling import AXES, Point, measured, page, read
from deqverify.cli import main
from deqverify.registry import laws
from tools.cost import judged_on

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def browsed(index: Path, fragment: str = "") -> str:
    """The page's document after its scripts ran, in headless Chromium."""
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    command += ["--virtual-time-budget=10000", "--dump-dom", index.resolve().as_uri() + fragment]
    return subprocess.run(command, capture_output=True, text=True, timeout=120).stdout


def results_of(machine: str, folder: Path, seconds: float) -> Path:
    """A folder of asv results of HEAD with one benchmark, as asv 0.6 writes it."""
    head = subprocess.check_output(["git", "-C", str(ROOT), "rev-parse", "HEAD"], text=True).strip()
    name, version = "passes.Planted.time_planted", "1"
    (folder / machine).mkdir(parents=True)
    about = {"arch": "x86_64", "cpu": "x", "machine": machine, "num_cpu": "2", "os": "Linux", "ram": "1", "version": 1}
    (folder / machine / "machine.json").write_text(json.dumps(about))
    columns = ["result", "params", "version", "started_at", "duration"]
    result = {"commit_hash": head, "env_name": "existing", "date": 1790000000000, "python": "3.11", "requirements": {}}
    result |= {"params": about | {"python": "3.11"}, "env_vars": {}, "result_columns": columns, "durations": {}}
    result |= {"results": {name: [[seconds], [], version, 1790000000000, 1.0]}, "version": 2}
    (folder / machine / f"{head[:8]}-existing.json").write_text(json.dumps(result))
    known = {"name": name, "version": version, "params": [], "param_names": [], "type": "time", "unit": "seconds"}
    (folder / "benchmarks.json").write_text(json.dumps({name: known | {"code": "pass"}, "version": 2}))
    return folder


def test_asv_finds_every_benchmark() -> None:
    pytest.importorskip("asv")
    command = [sys.executable, "-m", "asv", "check", "--environment", f"existing:{sys.executable}"]
    done = subprocess.run(command, cwd=ROOT / "asv_benchmarks", capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_cost_of_every_law_is_tracked() -> None:
    tree = ast.parse((ROOT / "asv_benchmarks" / "benchmarks" / "suite.py").read_text())
    assigned = [node for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "LAWS"]
    assert set(ast.literal_eval(assigned[0].value)) == set(laws())
    assert judged_on("existence") == "reference"
    assert judged_on("uniqueness") == "reference[picard]"
    assert all(map(judged_on, laws())), "a law that no reference claims is not timed"


def test_the_page_of_two_machines_opens_in_a_browser_without_a_network(tmp_path: Path) -> None:
    pytest.importorskip("asv")
    if CHROMIUM is None or shutil.which("npm") is None:
        pytest.skip("needs Chromium and npm")
    ours, theirs = (results_of(name, tmp_path / name, time) for name, time in (("ours", 1e-3), ("theirs", 2e-3)))
    assert tracking.merge([ours, theirs], tmp_path / "merged") == ["ours", "theirs"]
    index = tracking.publish(tmp_path / "merged", tmp_path / "html", ROOT / ".deqverify" / "asv" / "npm")
    assert "https://" not in "".join(line for line in index.read_text().splitlines() if "<script" in line)
    document = browsed(index)
    assert "Planted.time_planted" in document, "the grid is made by scripts: without them it is empty"
    document = browsed(index, "#passes.Planted.time_planted")
    assert "ours" in document
    assert "theirs" in document


def test_merging_refuses_what_asv_would_mix(tmp_path: Path) -> None:
    one, other = (results_of("same", tmp_path / name, 1.0) for name in ("one", "other"))
    known = other / "same" / "machine.json"
    known.write_text(known.read_text().replace('"cpu": "x"', '"cpu": "y"'))
    with pytest.raises(CompareError, match="two machines are called same"):
        tracking.merge([one, other], tmp_path / "merged")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CompareError, match="no results"):
        tracking.merge([tmp_path / "empty"], tmp_path / "merged")


def test_scaling_goes_on_where_it_stopped_and_draws(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    kept = tmp_path / "page.json"
    few = list(measured(kept, limit=10.0, axes=("problems",), largest=10))
    assert {p.value for p in few} == {1.0, 10.0}
    assert list(measured(kept, limit=10.0, axes=("problems",), largest=10)) == []
    drawn = CliRunner().invoke(main, ["bench", "--scaling", str(tmp_path / "page.html"), "--limit", "0"])
    assert drawn.exit_code == 0, drawn.output
    text = (tmp_path / "page.html").read_text()
    assert text.count("<svg") == 1
    assert AXES["problems"].title in text
    assert page(read(kept), {}) == page(read(kept), {}), "the same points, the same page"
    if CHROMIUM:
        assert "reference[numpy], loop" in browsed(tmp_path / "page.html")


def test_growth_of_a_target_of_ones_own_on_another_cell(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    asked = ["bench", "plain[unrolled]", "--cell", "tanh", "--scaling", str(tmp_path / "page.html"), "--largest", "4"]
    done = CliRunner().invoke(main, asked)
    assert done.exit_code == 0, done.output
    points = read(tmp_path / "page.json")
    assert {(p.axis, p.name) for p in points} == {("n", "plain[unrolled]"), ("gamma", "plain[unrolled]")}
    assert all(p.residual is not None and p.residual < 1e-7 for p in points), "asked for 1e-8, relative, of the batch"
    assert "tanh" in (tmp_path / "page.html").read_text()
    refused = CliRunner().invoke(main, ["bench", "--scaling", str(tmp_path / "page.html"), "--largest", "4"])
    assert "holds times of tanh, not of linear-softmax" in refused.output


def test_a_power_law_is_shown_with_its_exponent() -> None:
    pytest.importorskip("matplotlib")
    points = [Point("m", "reference", 2.0**k, 1e-9 * 8.0**k, None, 1e-16, None) for k in range(4, 12)]
    assert "x^3.00" in page(points, {})


def test_the_command_line_shows_errors_beside_times(tmp_path: Path) -> None:
    rows = tmp_path / "rows.json"
    arguments = ["bench", "reference", "torchdeq", "--m", "4", "--n", "3", "--budget", "0.01", "--json", str(rows)]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    found = {(row["name"], row["which"]): row for row in json.loads(rows.read_text())["rows"]}
    assert found["torchdeq", "gradient"]["worst"] > 0.1 > found["reference", "gradient"]["worst"]
    assert CliRunner().invoke(main, ["bench", "--against", "no-such-commit"]).exit_code == 2
    unknown = CliRunner().invoke(main, ["bench", "nobody"])
    assert unknown.exit_code == 2
    assert "'nobody' is not installed" in unknown.output
    nowhere = CliRunner().invoke(main, ["bench", "reference", "--json", "/no/such/folder/x.json"])
    assert nowhere.exit_code == 2
    assert "--json: there is no folder /no/such/folder" in nowhere.output
