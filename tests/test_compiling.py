"""Where JAX keeps what it compiles for jobs: with the user's caches, by processor, unless the user says otherwise."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deqverify.running import compiling
from deqverify.running.compiling import VARIABLE, kept_compiled


@pytest.fixture
def there_is_jax(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(compiling, "find_spec", lambda name: object())
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def test_it_lies_in_the_users_caches_one_folder_for_each_make_of_processor(
    there_is_jax: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Path(kept_compiled()[VARIABLE])
    assert first.is_dir()
    assert first.parent == there_is_jax / "deqverify" / "jax"
    assert kept_compiled()[VARIABLE] == str(first)
    monkeypatch.setattr(compiling.platform, "machine", lambda: "another")
    assert Path(kept_compiled()[VARIABLE]) != first


@pytest.mark.parametrize("said", ["/somewhere/else", ""])
def test_what_the_user_says_stays(there_is_jax: Path, monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setenv(VARIABLE, said)
    assert kept_compiled() == {}


def test_without_jax_there_is_no_folder(there_is_jax: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "find_spec", lambda name: None)
    assert kept_compiled() == {}
    assert not list(there_is_jax.iterdir())


def test_where_no_folder_can_be_made_nothing_is_kept(there_is_jax: Path) -> None:
    (there_is_jax / "deqverify").write_text("in the way", encoding="utf-8")
    assert kept_compiled() == {}


def test_a_process_finds_what_another_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one compiles nothing, and one file that was cut off is not what it runs."""
    pytest.importorskip("jax", reason="needs JAX")
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    code = "import jax; print(float(jax.jit(lambda x: (x * x).sum())(jax.numpy.arange(4.0))))"

    def run() -> set[str]:
        env = os.environ | kept_compiled()
        said = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
        assert said.stdout.strip() == "14.0"
        return {path.name for path in tmp_path.rglob("*-cache")}

    first = run()
    assert first
    assert run() == first
    for path in tmp_path.rglob("*-cache"):
        path.write_bytes(path.read_bytes()[:-9])
    assert run() == first
