# Everything starts here: `make` lists the targets. Each one sets up .venv first if that is missing or out of date.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV ?= .venv
BIN := $(VENV)/bin
EXTRAS ?= deepspeed,eval,dicom,tracking,turing,dev
# The first interpreter on this machine that is new enough; override with `make PYTHON=/path/to/python setup`.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)
# Two stamps: the demo needs the core only; everything else wants the extras and the tools too.
CORE := $(VENV)/.core
STAMP := $(VENV)/.installed
ENOUGH := $(if $(wildcard $(STAMP)),$(STAMP),$(CORE))
# Byte code is written at first import: compiling all of it here costs a minute, for files mostly never read.
INSTALL = $(BIN)/python -m pip install --disable-pip-version-check --quiet --no-compile --constraint constraints.txt --editable
DEMO_OUT ?= demo
PYTEST_ARGS ?=

# Two cores are the measure: one thread a worker, nothing fetched at run time.
export HF_HUB_OFFLINE := 1
export TRANSFORMERS_OFFLINE := 1
export HF_DATASETS_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: help setup demo test test-faults check format bench golden demo-train clean doctor

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "No Python >= 3.11 found. Mend: install one, or make PYTHON=/path/to/python $(MAKECMDGOALS)" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || \
		{ rm -rf $(VENV); echo "$(PYTHON) cannot make a virtual environment. Mend: install its venv package (Debian: python3-venv)" >&2; exit 2; }

$(CORE): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing the core into $(VENV) (PyTorch among it: minutes the first time) ..."
	@$(INSTALL) '.'
	@touch $@

$(STAMP): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing the pinned set into $(VENV) (PyTorch among it: minutes the first time) ..."
	@$(INSTALL) '.[$(EXTRAS)]'
	@touch $(CORE) $@

setup: $(STAMP) ## create .venv and install the pinned set

demo: $(ENOUGH) ## generate in all 12 directions from the shipped checkpoint, and write demo/index.html
	$(BIN)/medcodi demo --out $(DEMO_OUT)

doctor: $(ENOUGH) ## what this machine can do
	$(BIN)/medcodi doctor

test: $(STAMP) ## every test but the longest, on two workers
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not faults" $(PYTEST_ARGS)

test-faults: $(STAMP) ## the long tests of training: kills at many moments, every stage on one and two ranks
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m faults $(PYTEST_ARGS)

check: $(STAMP) ## lint, format, types, import directions, changelog
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright --pythonpath $(BIN)/python medcodi
	@grep -q '^## \[Unreleased\]' CHANGELOG.md || { echo "CHANGELOG.md has no '## [Unreleased]' section. Mend: add one and say what changed" >&2; exit 1; }

format: $(STAMP) ## rewrite the code in the house's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) ## speed and memory figures, one JSON line each
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python "$$script"; done

golden: $(STAMP) ## write the pinned numbers of tests/golden anew (look at the diff before you commit it)
	MEDCODI_WRITE_GOLDEN=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/golden -n 0 -q

demo-train: $(STAMP) ## train the shipped checkpoint from nothing, by the four stages
	$(BIN)/python launch/demo_train.py

clean: ## remove what make made, .venv included
	rm -rf $(VENV) $(DEMO_OUT) .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
