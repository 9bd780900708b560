"""``deqverify scenario``: what it writes, how it goes on, and what it says of bad words."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from deqverify.cli import main
from deqverify.scenarios.registry import ORDER, Claim, Outcome, Scenario, Work, scenarios


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A scenario of three parts, each of which notes that it was computed; its claim is that the seed is below 5."""
    computed: list[int] = []

    def compute(work: Work, items: tuple[int, ...]) -> Outcome:
        """Squares."""

        def part(item: int) -> int:
            if item == 3 and work.seed == 7 and 3 not in computed:
                computed.append(3)
                raise KeyboardInterrupt
            computed.append(item)
            return item**2

        squares = work.each(items, part)
        claim = Claim("the seed", work.seed, "five is more than four", high=4)
        return Outcome(
            [claim], ("item", "square"), list(zip(items, squares, strict=True)), lambda figure: None, ["A note."]
        )

    one = Scenario("toy", "A toy", "nobody", "Squares.", {"items": (1, 2)}, {"items": (1, 2, 3)}, compute)
    monkeypatch.setattr("deqverify.scenarios.registry.scenarios", lambda: {"toy": one})
    return computed


def run(*words: str, out: Path) -> Any:
    return CliRunner().invoke(main, ["scenario", *words, "--out", str(out)])


def test_a_scenario_writes_a_picture_numbers_and_a_page(toy: list[int], tmp_path: Path) -> None:
    done = run("toy", "--quick", out=tmp_path)
    assert done.exit_code == 0
    assert "holds" in done.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["toy.json", "toy.md", "toy.svg"]
    known = json.loads((tmp_path / "toy.json").read_text(encoding="utf-8"))
    assert known["rows"] == [[1, 1], [2, 4]]
    assert known["claims"][0] | {"why": ""} == {
        "name": "the seed",
        "measured": 0,
        "low": "-inf",
        "high": 4,
        "holds": True,
        "why": "",
    }
    assert known["seed"] == 0
    assert known["machine"]["date"]
    text = (tmp_path / "toy.md").read_text(encoding="utf-8")
    for part in (
        "# A toy",
        "Squares.",
        "![A toy](toy.svg)",
        "| holds | the seed | 0 | at most 4 |",
        "| 2 | 4 |",
        "A note.",
    ):
        assert part in text


def test_a_claim_that_fails_is_exit_code_1(toy: list[int], tmp_path: Path) -> None:
    done = run("--all", "--quick", "--seed", "5", out=tmp_path)
    assert done.exit_code == 1
    assert "FAILS" in done.output
    assert "five is more than four" in done.output
    assert "**fails**" in (tmp_path / "toy.md").read_text(encoding="utf-8")


def test_an_interrupted_run_goes_on_where_it_was(toy: list[int], tmp_path: Path) -> None:
    assert run("toy", "--seed", "7", out=tmp_path).exit_code != 0
    assert toy == [1, 2, 3]
    run("toy", "--seed", "7", out=tmp_path)
    assert toy == [1, 2, 3, 3]
    run("toy", "--seed", "7", out=tmp_path)  # what finished is done anew
    assert toy == [1, 2, 3, 3, 1, 2, 3]


def test_parts_of_other_sizes_and_seeds_are_not_used(tmp_path: Path) -> None:
    file = tmp_path / "parts.json"
    assert Work(0, file, "one").each([2], lambda k: k) == [2]
    assert Work(0, file, "other").each([2], lambda k: -k) == [-2]
    file.write_text("{", encoding="utf-8")
    assert Work(0, file, "one").each([2], lambda k: k) == [2]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--all"),
        (["toy", "--all"], "--all"),
        (["nothing"], "there is no scenario 'nothing'; use one of toy"),
        (["toy", "--seed", "-1"], "--seed"),
        (["toy", "--workers", "2"], "--workers: says how many processes --dask local has"),
    ],
)
def test_bad_words_are_errors_that_say_what_to_do(words: list[str], said: str, toy: list[int], tmp_path: Path) -> None:
    done = run(*words, out=tmp_path)
    assert done.exit_code == 2
    assert said in done.output


def test_a_module_that_is_missing_is_said(toy: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from deqverify.scenarios import registry

    one = replace(registry.scenarios()["toy"], needs=("no_such_module",))
    monkeypatch.setattr(registry, "scenarios", lambda: {"toy": one})
    done = run("toy", out=tmp_path)
    assert done.exit_code == 2
    assert "cannot run without no_such_module" in done.output


def test_all_scenarios_are_listed(tmp_path: Path) -> None:
    done = run("--list", out=tmp_path)
    assert done.exit_code == 0
    assert set(scenarios()) == set(ORDER)
    assert all(name in done.output for name in ORDER)
