# The main roads: `make demo` trains a small model, `make test` runs the tests. Each makes .venv by itself.

SHELL := /bin/sh
VENV := .venv
ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
else
BIN := $(VENV)/bin
endif
PYTHON ?= $(shell command -v python3.11 2>/dev/null || command -v python3 2>/dev/null || echo python)
MODEL := demo/run
# Two test processes with one thread of torch each, so that they do not get in each other's way.
# `make test COVERAGE=1`: the same tests, and which lines they reach, at the settings of [tool.slipcover] in
# pyproject.toml. The floor is checked by tools/show_coverage.py.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python
TESTS := $(PYTEST) $(if $(COVERAGE),-m slipcover --out build/coverage.json) -m pytest -n 2
# Tests marked `untraced` fail where their lines are traced; with coverage they run by themselves, behind the others.
UNTRACED = $(shell grep -rl --include='test_*.py' 'mark.untraced' tests)

.PHONY: help demo setup test quick coverage durations fuzz lint docs package clean
help:
	@echo "make demo    train a small model on Python's own documentation, and show what it has learnt (minutes)"
	@echo "make test    all tests            make quick   without the slow ones"
	@echo "make fuzz    damaged files against every reader, for MINUTES=10"
	@echo "make lint    style, types, words  make docs    the documentation, to docs/_build/html"
	@echo "make coverage  all tests, and which lines they reach (make test COVERAGE=1)"
	@echo "make package   the wheel and the source archive, tried in a fresh environment"
	@echo "make durations which tests are slow on this machine, to tests/durations.json"
	@echo "make setup   .venv with everything for development"
	@echo "make clean   remove .venv, demo and what was built"

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "blankfill needs Python 3.11 or newer, and $(PYTHON) is not; install it, or name one: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.made pyproject.toml
	@echo "installing blankfill in $(VENV), which takes some minutes"
	$(BIN)/python -m pip install --disable-pip-version-check -q -e .
	@touch $@

$(VENV)/.developed: $(VENV)/.made pyproject.toml
	@echo "installing what development needs in $(VENV), which takes some minutes"
	$(BIN)/python -m pip install --disable-pip-version-check -q -e '.[dev]'
	@touch $@ $(VENV)/.installed

setup: $(VENV)/.developed

demo: $(VENV)/.installed
	rm -rf $(MODEL)
	$(BIN)/blankfill demo --out $(MODEL)

test: $(VENV)/.developed
	$(if $(COVERAGE),mkdir -p build)
	$(TESTS) $(if $(COVERAGE),-m "not untraced")
	$(if $(COVERAGE),$(PYTEST) -m pytest -n 2 -m untraced $(UNTRACED))
	$(if $(COVERAGE),$(BIN)/python tools/show_coverage.py build/coverage.json)

quick: $(VENV)/.developed
	$(TESTS) -m "not slow"

coverage:
	$(MAKE) test COVERAGE=1

# Which tests count as slow is measured, not guessed: those that took longer than tests/conftest.py says.
durations: $(VENV)/.developed
	$(TESTS) --write-durations

# atheris chooses the damage by the lines that it reaches; where it has no wheel, the tests' own mutations serve.
fuzz: $(VENV)/.developed
	-$(BIN)/python -m pip install --disable-pip-version-check -q --only-binary :all: atheris
	cd tests && OMP_NUM_THREADS=1 $(abspath $(BIN))/python -m fuzz --minutes $(or $(MINUTES),10)

lint: $(VENV)/.developed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python tools/language.py

docs: $(VENV)/.developed
	$(BIN)/python -m sphinx -W --keep-going -q docs docs/_build/html
	@echo "docs/_build/html/index.html"

package: $(VENV)/.developed
	$(BIN)/python tools/try_package.py --out dist

clean:
	rm -rf $(VENV) demo docs/_build build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
