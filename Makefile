# make demo   installs and continues the example documents with words and pictures → out/*.html
# make test   installs and runs the tests (minutes); make test-slow runs the long ones
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.12 || command -v python3.11 || command -v python3)
VENV := .venv
STAMP := $(VENV)/.installed

.PHONY: env demo test test-slow lint format coverage clean

env: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' || \
	  { echo "error: Python 3.11 or 3.12 is needed, '$(PYTHON)' is $$($(PYTHON) -V 2>&1); run 'make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)'."; exit 2; }
	$(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[data,test,lint]'
	@touch $(STAMP)

demo: env
	$(VENV)/bin/mmi demo

test: env
	$(VENV)/bin/python -m pytest -m "not slow and not gpu" --durations=15

test-slow: env
	$(VENV)/bin/python -m pytest -m "slow and not gpu" --durations=15

coverage: env
	$(VENV)/bin/python -m pytest -m "not slow and not gpu" --cov --cov-report=term

lint: env
	$(VENV)/bin/ruff check src tests benchmarks scripts
	$(VENV)/bin/ruff format --check src tests benchmarks scripts
	$(VENV)/bin/mypy

format: env
	$(VENV)/bin/ruff check --fix src tests benchmarks scripts
	$(VENV)/bin/ruff format src tests benchmarks scripts

clean:
	rm -rf $(VENV) out .pytest_cache .mypy_cache .ruff_cache
