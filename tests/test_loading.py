"""From the text of a target to an implementation: claims as options, and what is refused before anything runs."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from deqverify import Accuracy, Claims, check_deq
from deqverify.cli import main
from deqverify.clock import Hang, alarm
from deqverify.implementations import loading
from deqverify.implementations.loading import TargetError, load
from deqverify.implementations.options import KEYS, claimed
from deqverify.implementations.torch_base import TorchFixedPoint
from deqverify.reference.torch_direct import TorchDirect
from deqverify.running.results import Verdict

PLAIN = Claims(Accuracy(1e-6), Accuracy(1e-6))

MINE = """
import torch
from deqverify.reference.torch_direct import TorchDirect

def solve(step, z0):
    for _ in range(5):
        z0 = step(z0)
    return z0

def started(step, z0=None, tolerance=1e-6):
    return z0

def make(*options):
    layer = TorchDirect()
    layer.given = options
    return layer

def takes_none():
    return TorchDirect()

def three(step, z0, x):
    return z0

def exits():
    raise SystemExit(3)

class Net(torch.nn.Module):
    def forward(self, step, z0):
        return step(z0)

class NotOne:
    pass

class Half:
    def vjp(self, cell, theta, x, z0=None):
        raise NotImplementedError

class NoCap(TorchDirect):
    limited = None

def needs_more():
    import nowhere.at_all

layer = TorchDirect()
net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Tanh())
three_of_them, text, nothing = 3, "solve", None
"""


@pytest.fixture(autouse=True)
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "stumbling.py").write_text(MINE)
    monkeypatch.syspath_prepend(str(tmp_path))
    loading.forget()
    yield tmp_path
    sys.modules.pop("stumbling", None)


@pytest.mark.parametrize(
    ("options", "claims"),
    [
        ("rtol=1e-8", Claims(Accuracy(1e-8), Accuracy(1e-8))),
        ("atol=1e-3", Claims(Accuracy(atol=1e-3), Accuracy(atol=1e-3))),
        ("rtol=1e-6,atol=0,backward=none", Claims(Accuracy(1e-6), None)),
        ("norm=max", Claims(Accuracy(1e-6, norm="max"), Accuracy(1e-6, norm="max"))),
        (
            "rtol=1e-3,atol=1e-6,eps=1e-9,norm=rms,per=batch",
            Claims(*[Accuracy(1e-3, 1e-6, 1e-9, norm="rms", per="batch")] * 2),
        ),
        ("of=value,backward.rtol=1e-8", Claims(Accuracy(1e-6, of="value"), Accuracy(1e-8, of="value"))),
        ("backward.atol=1e-4", Claims(Accuracy(1e-6), Accuracy(atol=1e-4))),
        ("dtypes=float64", Claims(Accuracy(1e-6), Accuracy(1e-6), dtypes=("float64",))),
        ("devices=cpu+cuda", Claims(Accuracy(1e-6), Accuracy(1e-6), devices=("cpu", "cuda"))),
        (
            "status=no, separable=no,starts=no,empty=no,repeated_pulls=no,copies=yes",
            Claims(
                Accuracy(1e-6),
                Accuracy(1e-6),
                status=False,
                separable=False,
                starts=False,
                empty=False,
                repeated_pulls=False,
                copies=True,
            ),
        ),
        ("atol=1e-3,claim=relative", Claims(Accuracy(1e-3), Accuracy(1e-3))),
    ],
)
def test_the_options_of_a_plain_function_are_its_claims(options: str, claims: Claims) -> None:
    implementation = load(f"stumbling:solve[{options}]")
    assert isinstance(implementation, TorchFixedPoint)
    assert implementation.claims == claims
    assert implementation.name.startswith("stumbling:solve[")


def test_no_options_leave_the_claims_as_they_are() -> None:
    assert load("stumbling:solve").claims == claimed([], PLAIN) == PLAIN
    assert load("stumbling:started").claims == PLAIN, "a start with a default does not make a factory of a solver"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("tol=1e-6", "there is no option 'tol' (did you mean rtol?); a function takes its claims: rtol, atol, eps, "),
        ("fast", "there is no option 'fast'; a function takes its claims: "),
        ("rtol=small", "rtol: takes a number, as in rtol=1e-6, got 'small'"),
        ("rtol", "rtol: takes a value, as in rtol=1e-6"),
        ("rtol=-1", "rtol: must be finite and not negative, got -1.0"),
        ("rtol=nan", "rtol: must be finite and not negative, got nan"),
        ("rtol=1e-6,rtol=1e-7", "rtol: is given twice"),
        ("norm=3", 'norm: is "1" or "2" or "rms" or "max", got \'3\''),
        ("backward.per=row", 'backward.per: is "point" or "batch", got \'row\''),
        ("backward=exact", "backward: takes none, for a forward pass alone, got 'exact'"),
        ("backward=none,backward.rtol=1", "backward=none: contradicts backward.rtol; leave one of them out"),
        ("status=maybe", "status: takes yes or no, got 'maybe'"),
        ("status", "status: takes a value, as in status=no"),
        ("dtypes=float8", "dtypes: 'float8' is not known"),
        ("devices=tpu", "devices: takes some of cpu and cuda, joined by +, got 'tpu'"),
    ],
)
def test_a_bad_option_names_the_key_and_what_it_takes(options: str, said: str) -> None:
    with pytest.raises(TargetError) as caught:
        load(f"stumbling:solve[{options}]")
    assert str(caught.value).startswith(f"target 'stumbling:solve[{options}]': {said}")


def test_every_flag_of_the_claims_is_a_key() -> None:
    flags = {name for name, value in vars(Claims()).items() if isinstance(value, bool)}
    assert flags <= set(KEYS)


def test_options_are_never_dropped() -> None:
    assert load("stumbling:make[a,b]").given == ("a", "b")
    for target, said in {
        "stumbling:layer[rtol=1]": "it is a TorchDirect, made already, and takes no options",
        "stumbling:takes_none[fast]": "takes_none cannot be called with the options fast",
    }.items():
        with pytest.raises(TargetError, match=said):
            load(target)


def test_relative_claims_of_one_target_leave_another_of_the_same_instance_alone() -> None:
    assert load("stumbling:layer[claim=relative]") is not load("stumbling:layer")


@pytest.mark.parametrize(
    ("attribute", "said"),
    [
        ("net", "got a Sequential, a torch.nn.Module with weights of its own; .* as in def solve\\(step, z0\\)"),
        ("Net", "got a Net, a torch.nn.Module with weights of its own; .* as in def solve\\(step, z0\\)"),
        ("NotOne", "<stumbling.NotOne .*> is not a DEQ; .* as in def solve\\(step, z0\\)"),
        ("Half", "Half has vjp and lacks name and framework and claims; a layer has name = "),
        ("three_of_them", "3 is not a DEQ; "),
        ("text", "'solve' is not a DEQ; "),
        ("nothing", "None is not a DEQ; "),
        ("three", "three\\(step, z0, x\\) cannot be called as solve\\(step, z0\\)"),
        ("NoCap", "limited: is None; leave the attribute out where the layer has no cap to lower"),
        ("exits", "building it failed: SystemExit: 3"),
        ("needs_more", "there is no module 'nowhere'; pip install nowhere$"),
    ],
)
def test_what_is_no_deq_is_refused_before_anything_runs(attribute: str, said: str) -> None:
    with pytest.raises(TargetError, match=f"^target 'stumbling:{attribute}': {said}"):
        load(f"stumbling:{attribute}")


def test_the_command_line_refuses_a_module_once() -> None:
    result = CliRunner().invoke(main, ["run", "stumbling:net", "--max-examples", "5", "--workers", "1"])
    assert result.exit_code == 2, result.output
    assert "VIOLATED" not in result.output
    assert result.output.count("a torch.nn.Module") == 1


def test_check_deq_refuses_classes_with_an_example() -> None:
    import torch

    class Net(torch.nn.Module):
        pass

    with pytest.raises(TypeError, match=r"deq: got the class TorchDirect; pass an instance, as in check_deq\(Torch"):
        check_deq(TorchDirect)
    with pytest.raises(TypeError, match=r"deq: got a Net, a torch.nn.Module .* as in def solve\(step, z0\)"):
        check_deq(Net)


@pytest.mark.parametrize(
    "name", ["limited", "at_tolerance", "mode", "traced", "jvp", "second_order", "start_gradient", "claims"]
)
@pytest.mark.parametrize("value", [None, 3])
def test_an_attribute_that_is_no_method_is_refused(name: str, value: Any) -> None:
    layer = TorchDirect()
    setattr(layer, name, value)
    with pytest.raises(TypeError, match=f"^{name}: is {value}; "):
        check_deq(layer)


def test_a_framework_that_is_not_known_is_refused() -> None:
    layer = TorchDirect()
    layer.framework = "tensorflow"
    with pytest.raises(TypeError, match='framework: is \'tensorflow\'; write "numpy" or "torch" or "jax"'):
        check_deq(layer)


HALF_DONE = """
import half_done.part
raise RuntimeError("no licence")
"""
PART = """
from pathlib import Path
with (Path(__file__).parent / "imports").open("a") as log:
    log.write("once")
def deq(step, z0):
    return step(z0)
"""


def half_done(folder: Path) -> Path:
    """A package that fails when it is imported, after a part of it was."""
    (folder / "half_done").mkdir()
    (folder / "half_done" / "__init__.py").write_text(HALF_DONE)
    (folder / "half_done" / "part.py").write_text(PART)
    return folder / "half_done" / "imports"


def test_importing_a_target_does_not_count_against_an_example(mine: Path) -> None:
    (mine / "slow.py").write_text("import time\ntime.sleep(0.6)\ndeq = 7\n")
    with alarm(0.2):
        assert loading.find("slow:deq") == 7


def test_an_example_that_is_over_while_a_target_is_built_says_nothing_of_the_target(mine: Path) -> None:
    (mine / "sleepy.py").write_text("import time\ndef make():\n    time.sleep(60.0)\n")
    with pytest.raises(Hang), alarm(0.2):
        load("sleepy:make")


def test_a_failed_import_is_remembered_until_told_to_forget(mine: Path) -> None:
    log = half_done(mine)
    for _ in range(3):
        with pytest.raises(TargetError, match="importing it failed: RuntimeError: no licence"):
            load("half_done.part:deq")
    assert log.read_text() == "once"
    (mine / "half_done" / "__init__.py").write_text("")
    sys.modules.pop("half_done.part", None)
    report = check_deq("half_done.part:deq", laws=["answers"], seed=0, progress=False)
    assert report.results[0].verdict is not Verdict.COULD_NOT_RUN


def test_a_target_that_cannot_be_loaded_is_tried_once_and_the_others_run(
    mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = half_done(mine)
    (mine / "dies.py").write_text("import ctypes\nctypes.string_at(0)\n")
    monkeypatch.chdir(mine)
    chosen = ("--seed", "0", "--max-examples", "5", "--dtype", "float64", "--dtype", "float32")
    arguments = ("half_done.part:deq", "dies:deq", "reference", *chosen)
    result = CliRunner().invoke(main, ["run", *arguments, "--law", "equilibrium", "--workers", "1"])
    assert result.exit_code == 2, result.output
    said = " ".join(result.output.split())
    assert said.count("importing it failed: RuntimeError: no licence") == 1
    assert said.count("target 'dies:deq': the process died of importing or building it: SIGSEGV") == 1
    assert re.search(r"enclosure\W+holds", said), "the other target runs"
    assert "error" not in said.partition("laws × implementations")[2].partition("could not run")[0]
    assert log.read_text() == "once"


def test_the_pytest_face_says_once_what_cannot_be_loaded(mine: Path) -> None:
    half_done(mine)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", "-q", "-rs", "--pyargs"]
    command += ["deqverify.properties", "--deq", "half_done.part:deq", "-k", "enclosure or uniqueness or restart"]
    done = subprocess.run(command, cwd=mine, capture_output=True, text=True, check=False)
    assert "1 failed, 2 skipped" in done.stdout, done.stdout + done.stderr
    assert done.stdout.count("could not run: target 'half_done.part:deq': importing it failed") == 1
