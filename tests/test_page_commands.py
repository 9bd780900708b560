"""Every command on a page is one that there is: in shell blocks each line, in sentences what calls deqverify, pip, make
or a tool of ours."""

from __future__ import annotations

import importlib.util
import re
import shlex
import tomllib
from contextlib import suppress
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from deqverify.cli import main
from tests.test_readme import ROOT, fenced
from tools.site import places

PROGRAMS = {"deqverify", "make", "pip", "pytest", "python", "dask", "export"}
"""What a line of a shell block begins with, ``nice`` and the folder of an environment left out."""

RUN = {"docs/add-a-law.md"}
"""Pages whose blocks are run, with the modules that they name, by test_laws_of_others."""

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
SPAN = re.compile(r"(?<!`)`((?:deqverify|make|python -m tools\.\w+|pip install)(?: [^`]+)?)`(?!`)")
OPEN = re.compile(r"\[[A-Z]+…\]|--\w+ …|[A-Z]*…")
"""What a sentence leaves open: ``[TARGET…]``, ``LAW…``, ``--dask …``, ``…``."""


def block_commands(page: str) -> list[list[str]]:
    """The commands of a page's shell blocks, split as a shell does, from the program on."""
    lines = "\n".join(fenced(page, "sh")).replace("\\\n", " ").splitlines()
    return [_program(words) for line in lines if (words := shlex.split(line, comments=True))]


def _program(words: list[str]) -> list[str]:
    program, *arguments = words[1:] if words[0] == "nice" else words
    return [Path(program).name, *arguments]


def span_commands(text: str) -> list[list[str]]:
    """The commands in a page's sentences, without what they leave open."""
    prose = " ".join(re.sub(r"```.*?```", "", text, flags=re.DOTALL).split())
    return [shlex.split(OPEN.sub("", span)) for span in SPAN.findall(prose)]


def check(command: list[str]) -> None:
    """AssertionError or UsageError for what there is not. Files and FOLDERS that a command reads are made, empty."""
    program, *arguments = command
    assert program in PROGRAMS, f"{program} is no program: a command that was broken without a backslash?"
    if program == "deqverify" and arguments and not arguments[0].startswith("-"):
        for word in arguments:
            if re.fullmatch(r"[\w-]+\.(json|toml)", word):
                Path(word).touch()
            elif re.fullmatch(r"[A-Z]+", word):
                Path(word).mkdir(exist_ok=True)
        main.commands[arguments[0]].make_context(arguments[0], arguments[1:])
    elif program == "make":
        assert {word for word in arguments if "=" not in word} <= TARGETS
    elif program == "python" and arguments[1].startswith("tools."):
        assert importlib.util.find_spec(arguments[1]), arguments[1]
    elif program == "pip":
        asked = {extra for found in re.findall(r"\[([a-z,]+)\]", " ".join(arguments)) for extra in found.split(",")}
        assert asked <= EXTRAS.keys()


PAGES = [page for page in places() if fenced(page, "sh") or span_commands((ROOT / page).read_text(encoding="utf-8"))]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_is_one_that_there_is(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parsed and not run."""
    monkeypatch.chdir(tmp_path)
    for command in block_commands(page) if page not in RUN else ():
        check(command)
    for command in span_commands((ROOT / page).read_text(encoding="utf-8")):
        with suppress(click.MissingParameter, click.BadOptionUsage):  # it may name a command without its arguments
            check(command)


@pytest.mark.parametrize(
    "command", ["deqverify run --laww x", "deqverify sow", "make nothing", "python -m tools.nothing", "--law answers"]
)
def test_a_command_that_there_is_not_is_found(command: str) -> None:
    with pytest.raises((click.UsageError, AssertionError, KeyError)):
        check(shlex.split(command))


def test_the_class_of_a_page_is_a_target_as_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a file mine.py, without the last two lines of the snippet, which verify it."""
    lines = fenced("docs/numpy.md", "python")[0].rstrip().splitlines()
    assert "check_deq(" in lines[-2]
    (tmp_path / "mine.py").write_text("\n".join(lines[:-2]), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    ((_, *arguments),) = block_commands("docs/numpy.md")
    result = CliRunner().invoke(main, [*arguments, "--workers", "1"])
    assert "(enclosure)" in result.output
    assert result.exit_code == 1


def test_commands_are_found_in_sentences() -> None:
    said = "Call `deqverify run TARGET…`, `make` or\n`python -m\ntools.site`; `deqverify.toml`.\n```sh\n`make x`\n```\n"
    assert span_commands(said) == [["deqverify", "run"], ["make"], ["python", "-m", "tools.site"]]
