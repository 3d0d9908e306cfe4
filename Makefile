# Each target creates what it needs: a virtual environment in .venv, filled again whenever the requirements change.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
REQUIREMENTS := setup.cfg pyproject.toml constraints.txt
export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: quickstart test test-slow lint docs clean

quickstart: .venv/installed-base
	$(BIN)/faq quickstart

# Two workers, each with one TensorFlow thread (tests/conftest.py).
test: .venv/installed-all
	$(BIN)/python -m pytest -m "not slow" -n 2

test-slow: .venv/installed-all
	$(BIN)/python -m pytest -m slow

lint: .venv/installed-all
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

# The site, in build/docs; a warning is an error.
docs: .venv/installed-all
	$(BIN)/sphinx-build -W --keep-going -b html -d build/doctrees docs build/docs

clean:
	rm -rf build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

.venv/installed-base: $(REQUIREMENTS) | $(BIN)/python
	$(BIN)/pip install -e . -c constraints.txt
	touch $@

.venv/installed-all: $(REQUIREMENTS) | $(BIN)/python
	$(BIN)/pip install -e ".[dev,docs,torch,edge]" -c constraints.txt
	touch .venv/installed-base $@

$(BIN)/python:
	$(PYTHON) -m venv .venv
