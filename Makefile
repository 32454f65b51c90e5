# make demo   installs and continues the example documents with words and pictures → out/*.html
# make test   installs and runs the tests (minutes); make test-slow runs the long ones
SHELL := /bin/bash
# The first interpreter of a supported version that really runs (a version manager's shim may be on the path and refuse to).
PYTHON ?= $(shell for name in python3.11 python3.12 python3; do \
  $$name -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' >/dev/null 2>&1 && { echo $$name; break; }; done)
VENV := .venv
STAMP := $(VENV)/.installed

.PHONY: env demo test test-slow lint format coverage clean

env: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" && $(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' || \
	  { echo "error: Python 3.11 or 3.12 is needed and none was found$(if $(PYTHON), ('$(PYTHON)' is none)); run 'make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)'."; exit 2; }
	$(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[data,test,lint]'
	@touch $(STAMP)

demo: env
	$(VENV)/bin/mmi demo

# Two processes share the cores, so threads that wait sleep instead of spinning.
test: env
	OMP_WAIT_POLICY=PASSIVE $(VENV)/bin/python -m pytest -m "not slow and not gpu" -n 2 --dist loadfile --durations=15

test-slow: env
	$(VENV)/bin/python -m pytest -m "slow and not gpu" --durations=15

coverage: env
	$(VENV)/bin/python -m pytest -m "not slow and not gpu" --cov --cov-report=term

lint: env
	$(VENV)/bin/ruff check src tests benchmarks scripts
	$(VENV)/bin/ruff format --check src tests benchmarks scripts
	$(VENV)/bin/mypy
	$(VENV)/bin/mypy $(addprefix --disable-error-code ,arg-type assignment union-attr var-annotated) benchmarks scripts

format: env
	$(VENV)/bin/ruff check --fix src tests benchmarks scripts
	$(VENV)/bin/ruff format src tests benchmarks scripts

clean:
	rm -rf $(VENV) out .pytest_cache .mypy_cache .ruff_cache
