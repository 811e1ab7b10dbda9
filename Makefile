# Everything runs in .venv, which `make setup` builds; nothing else has to be installed but Python.

PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal

.PHONY: setup demo format lint types quick-tests tests all-tests quick test test-all clean

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup
	$(BIN)/gac run --explain "What is 77 - 49?"

format: setup
	$(BIN)/ruff format .

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: setup
	$(BIN)/mypy

quick-tests: setup
	$(PYTEST) -m "not wide and not slow"

tests: setup
	$(PYTEST) -m "not wide"

all-tests: setup
	$(PYTEST)

quick: setup # while editing
	@$(MAKE) --no-print-directory --jobs 2 --output-sync lint types quick-tests

test: lint types tests

test-all: lint types all-tests # every combination in the matrices of the laws

clean:
	rm -rf .venv build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
