# Each target creates what it needs: a virtual environment in .venv, filled again whenever the requirements change.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
REQUIREMENTS := setup.cfg pyproject.toml constraints.txt
export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: quickstart test test-slow test-wheel coverage mutation lint docs clean

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

# Which lines `make test` runs: about 30 minutes on two cores.
coverage: .venv/installed-all
	$(BIN)/python -m pytest -m "not slow" -n 2 --cov --cov-report=term --cov-report=html:build/coverage

# Whether the tests notice when the integer core is changed: over an hour, or a part: MUTANTS='faq_keras.tflite.int4*'.
# `mutmut results` in build/mutation lists what they did not notice. The copy has the layout of an installation, without
# links; it starts empty, because mutmut would keep the results of earlier tests.
MUTATION := build/mutation
MUTANTS := *
mutation: .venv/installed-all
	rm -rf $(MUTATION) && mkdir -p $(MUTATION)
	cp -rL faq_keras tests setup.cfg pyproject.toml $(MUTATION)
	cd $(MUTATION) && OMP_NUM_THREADS=1 TF_NUM_INTRAOP_THREADS=1 TF_NUM_INTEROP_THREADS=1 $(CURDIR)/$(BIN)/mutmut run --max-children 2 '$(MUTANTS)'

# Builds the wheel and runs the main job with it in a new environment: make test-wheel PYTHON=python3.12
WHEEL := build/wheel
test-wheel:
	rm -rf $(WHEEL) build/lib build/bdist.*
	$(PYTHON) -m venv $(WHEEL)/venv
	$(WHEEL)/venv/bin/pip wheel . --no-deps --wheel-dir $(WHEEL)
	$(WHEEL)/venv/bin/pip install $(WHEEL)/*.whl -c constraints.txt
	cp tests/smoke.py $(WHEEL) && cd $(WHEEL) && venv/bin/python smoke.py

clean:
	rm -rf build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage*

.venv/installed-base: $(REQUIREMENTS) | $(BIN)/python
	$(BIN)/pip install -e . -c constraints.txt
	touch $@

.venv/installed-all: $(REQUIREMENTS) | $(BIN)/python
	$(BIN)/pip install -e ".[dev,docs,torch,edge]" -c constraints.txt
	touch .venv/installed-base $@

$(BIN)/python:
	$(PYTHON) -m venv .venv
