# Every target makes the virtual environment it needs; nothing but Python >= 3.11, pip and make is assumed.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
BENCH  := $(VENV)/.installed-bench
SITE   := $(VENV)/.installed-docs

# One thread a process: two processes with two threads each wait for each other.
export OMP_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= 1

# Hundreds of processes start in a run of the tests: what one compiled the next one finds.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help venv verify matrix test test-elsewhere test-jax test-libraries coverage mutants soak bench lint docs site site-check release-check clean

help: ## show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'

venv: $(STAMP) ## create .venv with pinned dependencies

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; try make PYTHON=python3.11"; exit 1; }
	@echo "installing into $(VENV) (about a minute; torch is large)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

verify: venv ## verify the reference and torchdeq, every violation against the expectations; three minutes
	$(BIN)/deqverify run reference torchdeq 'torchdeq[ift]' --profile quick --max-examples 16 --seed 0 \
		--expect expectations.toml

# The defaults and the best settings of each library that can share an environment.
LIBRARIES := reference torchdeq 'torchdeq[ift,broyden]' xitorch 'xitorch[broyden2]' jaxopt 'jaxopt[gmres,vmap,tight]' \
	optimistix 'optimistix[newton]' torchopt 'torchopt[inv,tight]' scipy 'scipy[krylov]'

matrix: $(BENCH) ## every library, with its defaults and at its best, against what is known of them; half an hour
	@mkdir -p build
	cat expectations.toml expectations-libraries.toml > build/expectations.toml
	$(BIN)/deqverify run $(LIBRARIES) --profile quick --max-examples 12 --dtype float64 --seed 0 \
		--expect build/expectations.toml --report build/matrix.html

test: venv ## the whole test suite
	$(BIN)/pytest -n 2

# What the libraries offer for making one processor round like another, without its wider instructions.
ELSEWHERE := MKL_CBWR=COMPATIBLE MKL_ENABLE_INSTRUCTIONS=SSE4_2 OPENBLAS_CORETYPE=Nehalem ATEN_CPU_CAPABILITY=default

test-elsewhere: venv ## the whole test suite with the rounding of another processor
	$(ELSEWHERE) $(BIN)/pytest -n 2

# What is skipped where JAX, or a library that is verified, is missing.
OF_LIBRARIES := $(addprefix tests/,test_jax.py test_reference_jax_fast.py test_newton.py test_libraries.py test_frameworks.py test_findings.py \
	test_cells_all.py test_correct.py test_rivals.py test_readme.py test_standalone.py wrapped)

# Those of them that JAX alone is asked for, which CI runs after the rest: nothing else may need it.
test-jax: venv ## the tests of JAX, which it installs first
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,jax]'
	$(BIN)/pytest -n 2 $(addprefix tests/,test_jax.py test_reference_jax_fast.py test_newton.py test_frameworks.py test_cells_all.py) -k jax

test-libraries: venv ## the tests that need JAX and the libraries, which it installs first
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,libraries]'
	$(BIN)/pytest -n 2 $(OF_LIBRARIES)

MINUTES ?= 10
TARGETS ?= reference

soak: venv ## try all laws in all dtypes on the reference for MINUTES, and show how near the bounds it came
	$(BIN)/deqverify soak $(TARGETS) --minutes $(MINUTES) --picture .deqverify/soak/soak.svg

# The ground floor and the tests that are its own. test_reference's run of every law would cover it by accident.
GROUND := problem dtypes namespaces losses claims comparison bounds carrying inexact dual tangent_errors oracle errors cells theory reference
GROUND_TESTS := $(addprefix tests/,test_problem.py test_claims.py test_cells.py test_cells_all.py test_cells_drawn.py test_cells_moved.py \
	test_bounds.py test_bounds_entrywise.py test_losses.py test_balls.py test_ball_errors.py test_ball_errors_decided.py test_ball_errors_terms.py \
	test_claimed.py test_passes.py test_judges.py test_oracle.py test_oracle_losses.py test_tangents.py test_inexact.py test_second.py \
	test_certified.py test_reference.py test_reference_fast.py test_reference_fast_cost.py test_reference_fast_parts.py \
	test_reference_iterative.py test_reference_sweeps.py test_quantised.py test_reference_jax_fast.py test_newton.py test_splitting.py test_worst.py theory wrapped)

coverage: venv ## branch coverage of the ground floor, at least 95 %
	$(BIN)/pytest -n 2 $(GROUND_TESTS) -k 'not no_law_rejects' \
		$(GROUND:%=--cov=deqverify.%) --cov-branch --cov-report=term-missing --cov-fail-under=95

mutants: venv ## mutation testing of the ground floor, an hour or so; see CONTRIBUTING.md
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[mutation]'
	nice $(BIN)/python -m tools.mutants run

$(BENCH): $(STAMP)
	@echo "installing what the benchmarks compare with (jax, asv and others; minutes)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,bench]'
	@touch $@

bench: $(BENCH) ## time every target on one fixed problem, with what each achieved
	$(BIN)/deqverify bench

lint: venv ## ruff and the type checker
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: venv ## write docs/laws.md from the laws' docstrings
	$(BIN)/python -c "from deqverify.reporting.explain import page; print(page(), end='')" > docs/laws.md

$(SITE): $(STAMP)
	@echo "installing what the site is built with"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,docs,browser]'
	@touch $@

site: $(SITE) ## build the documentation site, build/site/html; a warning is an error
	$(BIN)/python -m tools.site

site-check: site ## the same, and open its pages in headless Chromium
	DEQVERIFY_SITE=1 $(BIN)/pytest -q tests/test_site.py

EXTRAS ?=

release-check: ## build wheel and sdist, look into them, install them into fresh environments; half an hour. EXTRAS="bare jax": those alone
	$(PYTHON) -m venv build/release/tools
	build/release/tools/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt build setuptools twine
	build/release/tools/bin/python -m tools.release $(EXTRAS)

clean: ## remove the environment and everything generated
	rm -rf $(VENV) build dist *.egg-info .deqverify .hypothesis .pytest_cache .mypy_cache .ruff_cache
