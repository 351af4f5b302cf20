# The two commands: `make demo` trains the worked example, `make test` runs every test. Both set everything up first.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all test-slurm lint clean

PYTHON ?= $(shell command -v python3.11 || command -v python3)
# Files of tests at a time.
WORKERS ?= 2
# PyTorch's index of CPU wheels, where the configured index has no torch==2.13.0+cpu.
TORCH_INDEX ?=

VENV := .venv
# Of what is installed: a change of either file sets up anew.
STAMP := $(VENV)/.installed-$(shell cat requirements-cpu.txt pyproject.toml | cksum | cut -d' ' -f1)

help:
	@echo "make setup      a virtual environment in .venv with pinned packages"
	@echo "make demo       train the worked example with SPRO, on the CPU"
	@echo "make test       lint, type check and every test that fits into 20 minutes"
	@echo "make test-all   the slow tests too"
	@echo "make test-slurm two nodes of a Slurm on this host (apt-get install slurm-wlm munge)"

setup: $(STAMP)

$(STAMP): requirements-cpu.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; v == (3, 11) or sys.exit(f"Python 3.11 is needed, this is {v[0]}.{v[1]}: make setup PYTHON=/path/to/python3.11")'
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@echo "installing pinned packages into $(VENV) (about two minutes)"
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps \
		$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -r requirements-cpu.txt \
		|| { echo; echo "set-up failed: the lines above say which package. If it is torch==2.13.0+cpu, the configured"; \
		     echo "package index has no CPU build of it: make setup TORCH_INDEX=<PyTorch's index of CPU wheels>"; exit 1; }
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@rm -f $(VENV)/.installed-* && touch $@

demo: setup
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" bash examples/arithmetic/run.sh

lint: setup
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy

test: lint
	@$(call pytest,and not slow)

test-all: lint
	@$(call pytest,)

# Files side by side, then one by one the tests that nothing may disturb. A run of the stack takes 7 GiB: WORKERS=1 on a
# small machine.
define pytest
failed=0; \
$(VENV)/bin/python -m pytest -n $(WORKERS) --dist loadfile -m "not alone $(1)" || failed=1; \
$(VENV)/bin/python -m pytest -m "alone $(1)" || failed=1; \
exit $$failed
endef

test-slurm: setup
	@$(VENV)/bin/python -m pytest -rs tests/e2e/test_slurm.py

clean:
	rm -rf $(VENV) build *.egg-info outputs
