"""The faces as a user meets them: command line, pytest plugin, ``check_deq``, the decorator."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from deqverify import Accuracy, Claims, check_deq, cli, laws
from deqverify.cli import main
from deqverify.faults.parametrisation import GammaTwice, RowSoftmax
from deqverify.implementations import devices
from deqverify.running.results import Verdict
from tests import targets

ROOT = Path(__file__).parent.parent


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["run", *arguments])


def test_a_clean_run_exits_0_and_shows_the_matrix() -> None:
    result = run("reference", "--law", "mass", "--max-examples", "20", "--seed", "0")
    assert result.exit_code == 0, result.output
    assert "mass" in result.output
    assert "Nothing beyond the expectations" in " ".join(result.output.split())


def test_a_violation_exits_1_with_a_snippet_that_shows_it_again(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    chosen = ("--max-examples", "20", "--seed", "0", "--dtype", "float64")
    arguments = ("torchdeq", "--law", "gradient-x", *chosen, "--report", str(report))
    result = run(*arguments)
    assert result.exit_code == 1, result.output
    (entry,) = json.loads(report.read_text())["results"]
    assert entry["verdict"] == "violated"
    assert entry["violation"]["measured"] > entry["violation"]["allowed"]
    snippet = entry["violation"]["snippet"]
    assert "gives the gradient of one step" in " ".join(result.output.split())
    assert f"deqverify show {entry['violation']['id']}" in " ".join(result.output.split())
    shown = CliRunner().invoke(main, ["show", entry["violation"]["id"]])
    assert snippet in shown.output, "what is shown must paste"
    with pytest.raises(AssertionError, match="gradient-x"):
        exec(snippet, {})


def test_the_counterexample_of_the_phantom_gradient_is_the_simplest_problem() -> None:
    snippet = check_deq("torchdeq", laws=["gradient-x"], seed=0).results[0].violation.snippet  # type: ignore[union-attr]
    for part in ("A=np.array([[0.0]])", "B=np.array([[1.0]])", "Phi=np.array([[1.0]])", "gamma=0.5"):
        assert part in snippet


def test_an_expected_violation_exits_0_and_a_stale_expectation_1(tmp_path: Path) -> None:
    file = tmp_path / "expected.toml"
    file.write_text('[[expect]]\nlaw = "gradient-x"\ntarget = "torchdeq"\nreason = "phantom"\n')
    arguments = ("torchdeq", "--law", "gradient-x", "--max-examples", "20", "--seed", "0", "--expect", str(file))
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert "expected  gradient-x × torchdeq: phantom" in result.output
    file.write_text(file.read_text() + '[[expect]]\nlaw = "gone"\ntarget = "torchdeq"\nreason = "old"\n')
    result = run(*arguments)
    assert result.exit_code == 1
    assert "stale expectation" in result.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nothing",), "not installed"),
        (("reference", "--law", "nothing"), "did you mean"),
        (("reference", "--dtype", "float8"), "float8"),
        (("reference", "--device", "cuda:x", "--law", "mass"), "use cpu, cuda or cuda:1"),
        (("reference[", "--law", "mass"), "cannot read"),
        (("reference", "--expect", "/no/such/file"), "/no/such/file"),
        (("reference", "--report", "/no/such/folder/x.json"), "no folder"),
        (("reference", "--report", "x.pdf"), "has to end in one of .html, .md, .json, .xml"),
        ((), "Missing argument"),
    ],
)
def test_bad_input_exits_2_and_says_what_to_do(arguments: tuple[str, ...], said: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert said in " ".join(result.output.split())
    assert "Traceback" not in result.output


@pytest.mark.parametrize("command", [["run", "reference"], ["soak", "reference", "--minutes", "0"], ["bench"]])
def test_a_machine_without_cuda_says_so_at_once(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "cuda_present", lambda: False)
    result = CliRunner().invoke(main, [*command, "--device", "cuda"])
    assert result.exit_code == 2, result.output
    assert "no CUDA device is seen here" in " ".join(result.output.split())


def test_list_shows_every_law_and_implementation() -> None:
    result = CliRunner().invoke(main, ["list"])
    assert result.exit_code == 0
    for name in [*laws(), "reference", "torchdeq"]:
        assert name in result.output


def test_explain_shows_statement_source_bound_and_an_example() -> None:
    result = CliRunner().invoke(main, ["explain", "mass"])
    assert result.exit_code == 0, result.output
    for part in (laws()["mass"].statement, laws()["mass"].source, "Bound:", "SoftmaxProblem(", "measured"):
        assert part in result.output
    assert CliRunner().invoke(main, ["explain", "mas"]).exit_code == 2


def test_check_deq_accepts_a_layer_a_function_and_a_name() -> None:
    for deq in (targets.sound(), targets.solve, "reference"):
        report = check_deq(deq, laws=["enclosure", "gradient-x"], dtype="float64", seed=0, progress=False)
        assert report.ok, str(report)
        assert {result.verdict for result in report.results} == {Verdict.HOLDS}


def test_check_deq_reports_a_violation_with_a_snippet_for_the_object_in_hand() -> None:
    report = check_deq(RowSoftmax(), laws=["mass"], seed=0, progress=False)
    assert not report.ok
    assert "VIOLATED" in str(report)
    snippet = report.results[0].violation.snippet  # type: ignore[union-attr]
    with pytest.raises(AssertionError, match="mass"):
        exec(snippet, {"deq": RowSoftmax()})


@pytest.mark.parametrize(
    ("deq", "options", "error"),
    [
        (42, {}, TypeError),
        (RowSoftmax, {}, TypeError),
        (RowSoftmax(), {"dtype": "float16"}, ValueError),
        (RowSoftmax(), {"dtype": "float8"}, ValueError),
        (RowSoftmax(), {"laws": ["nothing"]}, ValueError),
        (RowSoftmax(), {"profile": "hasty"}, ValueError),
    ],
)
def test_check_deq_refuses_what_it_cannot_judge(deq: object, options: dict[str, object], error: type) -> None:
    with pytest.raises(error):
        check_deq(deq, progress=False, **options)  # type: ignore[arg-type]


def test_a_law_is_called_with_an_implementation() -> None:
    laws()["mass"](targets.sound(), examples=20)
    with pytest.raises(AssertionError, match=r"mass: 1ᵀẑ = 1ᵀφ/\(1−γ\)"):
        laws()["mass"](RowSoftmax(), examples=100)
    with pytest.raises(AssertionError):
        laws()["enclosure"](GammaTwice(), examples=20)


def test_claims_and_accuracies_are_checked() -> None:
    with pytest.raises(ValueError, match="rtol"):
        Accuracy(-1.0)
    with pytest.raises(ValueError, match="dtypes"):
        Claims(dtypes=("float8",))


USERS_TESTS = """
from deqverify import parametrize_with_laws
from deqverify.faults.parametrisation import RowSoftmax
from tests.targets import sound

@parametrize_with_laws([sound(), RowSoftmax()], laws=["mass", "uniqueness"])
def test_mine(law, deq):
    law(deq)
"""


def pytest_in(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", *arguments]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(folder), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, check=False)


def test_the_decorator_parametrises_a_users_own_test(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(USERS_TESTS)
    done = pytest_in(tmp_path, "-q", "test_mine.py")
    assert "1 failed, 1 passed, 2 skipped" in done.stdout, done.stdout
    assert "mass-RowSoftmax" in done.stdout or "mass-sound" in done.stdout


def test_pytest_runs_the_laws_with_a_header(tmp_path: Path) -> None:
    options = (
        "--pyargs",
        "deqverify.properties",
        "--deq",
        "reference",
        "--deq",
        "torchdeq",
        "--deq-max-examples",
        "10",
    )
    done = pytest_in(tmp_path, *options, "--deq-seed", "0", "-k", "mass or gradient-x or scale")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "deqverify: reference, torchdeq in every dtype claimed on cpu" in done.stdout
    assert "seed 0" in done.stdout
    assert re.search(r"2 failed, \d+ passed, \d+ skipped", done.stdout), done.stdout
    assert 'laws()["gradient-x"].replay("torchdeq"' in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--pyargs", "deqverify.properties"), "--deq TARGET"),
        (("--deq", "reference"), "no law was selected"),
        (("--pyargs", "deqverify.properties", "--deq", "reference", "--deq-profile", "hasty"), "hasty"),
    ],
)
def test_pytest_says_what_is_missing(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    done = pytest_in(tmp_path, *arguments)
    assert done.returncode not in (0, 1, 5)
    assert said in done.stdout + done.stderr


def test_each_law_is_collected_once_in_a_checkout() -> None:
    done = pytest_in(ROOT, "properties", "--deq", "reference", "--deq-dtype", "float64", "--collect-only", "-q")
    names = [line for line in done.stdout.splitlines() if "::" in line]
    assert len(names) == len(set(names)) == len(laws()), done.stdout


LIGHT = """
import sys
import pytest
before = set(sys.modules)
import deqverify.pytest_plugin
print(sorted(n for n in set(sys.modules) - before if n.partition(".")[0] not in sys.stdlib_module_names))
"""


def test_importing_the_plugin_is_light() -> None:
    """Every run of pytest imports it where deqverify is installed: it brings itself, and what pytest has already."""
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['deqverify', 'deqverify.pytest_plugin']"


WORKER = """
import sys
import deqverify.running.workers
from deqverify import laws
laws()
print([name for name in ("scipy.integrate", "scipy.optimize", "torch", "jax", "matplotlib") if name in sys.modules])
"""


def test_a_worker_loads_what_is_large_when_it_is_used() -> None:
    """Two workers start in every run, and each would take half a second or several more."""
    done = subprocess.run([sys.executable, "-c", WORKER], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_torch_module_is_refused_with_what_to_pass_instead() -> None:
    import torch

    with pytest.raises(TypeError, match=r"deq: got a Sequential, .* wrap_torch\(module, .* def solve\(step, z0\)"):
        check_deq(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Tanh()))


def test_a_missing_library_is_one_line_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needs_more.py").write_text("import a_library_that_nobody_has\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for target, said in {
        "needs_more:deq": "target 'needs_more:deq': there is no module 'a_library_that_nobody_has'; "
        "pip install a_library_that_nobody_has",
        "not_here:deq": "target 'not_here:deq': there is no module 'not_here'; run where not_here.py lies, "
        "or put its folder on PYTHONPATH",
    }.items():
        report = check_deq(target, progress=False)
        assert report.exit_code == 2
        assert {result.reason for result in report.results} == {said}
        text = str(report)
        assert " ".join(text.split()).count(said) == 1
        assert f"could not run: {len(report.results)} laws × {target}" in text


def test_the_pytest_face_finds_a_target_beside_ones_work(tmp_path: Path) -> None:
    (tmp_path / "beside_my_work.py").write_text("def deq(step, z0):\n    return step(z0)\n")
    command = [sys.executable, "-c", "import sys, pytest; sys.path.pop(0); sys.exit(pytest.main(sys.argv[1:]))"]
    command += [
        "--pyargs",
        "deqverify.properties",
        "--deq",
        "beside_my_work:deq",
        "-k",
        "mass",
        "-q",
        "--deq-seed",
        "0",
    ]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "VIOLATED" in done.stdout or "measured" in done.stdout, done.stdout + done.stderr
    assert "No module named" not in done.stdout


FORWARD_ONLY = """
import torch

@torch.no_grad()
def solve(step, z0):
    return step(z0)
"""


def test_a_solver_without_a_graph_is_told_so_once_and_can_claim_to_be_forward_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "forward_only.py").write_text(FORWARD_ONLY)
    monkeypatch.syspath_prepend(str(tmp_path))
    arguments = ("--law", "gradient", "--law", "second-order", "--max-examples", "5", "--seed", "0", "--workers", "1")
    result = run("forward_only:solve", *arguments)
    said = " ".join(result.output.split())
    assert result.exit_code == 1, result.output
    assert "one cause of what is violated" in said
    assert "the equilibrium has no graph: no gradient reaches θ or x" in said
    assert "claim Claims(backward=None) for a forward pass alone" in said
    assert "does not require grad" not in said
    result = run("forward_only:solve[backward=none]", *arguments)
    assert result.exit_code == 0, result.output
    assert "no graph" not in result.output


def test_another_deqverify_in_the_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Worker processes would import that one: a clone that is not installed hung without a word."""
    (tmp_path / "deqverify").mkdir()
    (tmp_path / "deqverify" / "__init__.py").touch()
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["list"])
    assert done.exit_code == 2
    assert "install this one" in done.output


def test_an_interrupt_is_heard_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """``timeout`` sends two at once; a later one is another, as where the first one did not end a command."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with cli.heard_once():
            monkeypatch.setattr(cli, "ONE_INTERRUPT", 3600.0)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            monkeypatch.setattr(cli, "ONE_INTERRUPT", 0.0)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
