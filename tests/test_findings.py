"""The page of findings says what is kept, its scripts do without deqverify, a part is run again without the rest."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from deqverify import SoftmaxProblem, laws, losses
from deqverify.running.counterexamples import Counterexample
from tools import findings, findings_page

FOUND = [(path.stem, entry) for path in sorted(findings.KEPT.glob("*.json"))
         for entry in json.loads(path.read_text(encoding="utf-8")).get("found", [])]  # fmt: skip
IDS = [f"{library}-{entry['law']}-{entry['targets'][0]}" for library, entry in FOUND]


def test_the_page_says_what_is_kept() -> None:
    assert findings.PAGE.read_text(encoding="utf-8") == findings_page.text(findings.KEPT), (
        "run: python -m tools.findings page"
    )


@pytest.mark.parametrize(("library", "entry"), FOUND, ids=IDS)
def test_a_finding_has_a_law_words_and_a_script_of_its_own(library: str, entry: dict[str, Any]) -> None:
    assert entry["law"] in laws()
    assert findings_page.words_of(entry["law"], entry["targets"][0], findings.KEPT), (
        "say its cause in docs/findings/words.toml"
    )
    if entry["script"]:
        text = (findings.KEPT / entry["script"]).read_text(encoding="utf-8")
        assert "deqverify" not in text
        compile(text, entry["script"], "exec")
        assert text.splitlines()[-1] == 'print("seen:", seen)'
        first, last = entry["printed"]
        assert first.startswith("expected, ")
        assert last.startswith("seen: ")


def test_no_script_is_left_over() -> None:
    assert {path.name for path in findings.KEPT.glob("*.py")} == {entry["script"] for _, entry in FOUND} - {""}


SIMPLE = SoftmaxProblem([[0.0]], [[1.0]], [[1.0]], [[0.0]], 0.5, losses.Squared())


def result(law: str, verdict: str = "violated") -> dict[str, Any]:
    """As ``deqverify run --report x.json`` writes it."""
    known = Counterexample(law, "torchdeq", "float64", "cpu", {"problem": SIMPLE, "cotangent": np.ones((1, 1))})
    said = {"kind": "wrong", "description": "measured 4, allowed 0.1", "where": "γ = 0.5", "diagnosis": "is wrong"}
    violation = said | {"boundary_said": "", "counterexample": known.document()}
    job = {"law": law, "target": "torchdeq"}
    return {"job": job, "verdict": verdict, "cause": "", "reason": "", "violation": violation}


def test_a_part_is_run_again_and_the_rest_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchdeq")
    for name in ("words.toml", "notes.md"):
        (tmp_path / name).write_text((findings.KEPT / name).read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(findings, "KEPT", tmp_path)
    monkeypatch.setattr(findings, "PAGE", tmp_path / "page.md")

    def run(*law_ids: str) -> str:
        file = tmp_path / "results"
        file.write_text(json.dumps({"results": [result(law) for law in law_ids]}), encoding="utf-8")
        words = [*(word for law in law_ids for word in ("--law", law)), "--command", "deqverify run torchdeq"]
        done = CliRunner().invoke(findings.main, ["run", "--only", "torchdeq", "--results", str(file), *words])
        assert done.exit_code == 0, done.output
        return (tmp_path / "page.md").read_text(encoding="utf-8")

    assert "`adjoint-certificate`" in run("adjoint-certificate")
    page = run("status-backward")
    assert "`adjoint-certificate`" in page
    assert "`status-backward`" in page
    seen = re.findall(r"expected, ∂⟨c, z⟩/∂x\[0, 0\]: 2\.0\n  seen: (\S+)", page)  # 1/(1 − γ), and one step's gradient
    assert [float(number) for number in seen] == [1.0, 1.0]


def test_an_unknown_library_is_refused() -> None:
    done = CliRunner().invoke(findings.main, ["page", "--only", "nonsense"])
    assert done.exit_code == 2
    done = CliRunner().invoke(findings.main, ["table", "--only", "nonsense"])
    assert "'nonsense' is none of plain, torchdeq" in done.output
