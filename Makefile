# `make` lists the targets. Each one first sets up .venv if it is missing or out of date.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV ?= .venv
BIN := $(VENV)/bin
EXTRAS ?= deepspeed,eval,dicom,privacy,tracking,turing,c2pa,web,dev,docs
# The first interpreter on this machine that is new enough; override with `make PYTHON=/path/to/python setup`.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)
# Two stamps: the demo needs the core only; everything else needs the extras and the tools too.
CORE := $(VENV)/.core
STAMP := $(VENV)/.installed
ENOUGH := $(if $(wildcard $(STAMP)),$(STAMP),$(CORE))
# Byte code is written at first import: compiling all of it here would take a minute, mostly for files that are never imported.
INSTALL = $(BIN)/python -m pip install --disable-pip-version-check --quiet --no-compile --constraint constraints.txt --editable
DEMO_OUT ?= demo
PYTEST_ARGS ?=
BENCH_ARGS ?=

# For two cores: one thread per worker. Nothing is fetched at run time.
export HF_HUB_OFFLINE := 1
export TRANSFORMERS_OFFLINE := 1
export HF_DATASETS_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: help setup demo test test-long test-faults check format bench bench-gpu golden docs notebooks demo-train clean doctor

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "No Python >= 3.11 found. Fix: install one, or make PYTHON=/path/to/python $(MAKECMDGOALS)" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || \
		{ rm -rf $(VENV); echo "$(PYTHON) cannot create a virtual environment. Fix: install its venv package (Debian: python3-venv)" >&2; exit 2; }

$(CORE): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing the core into $(VENV) (with PyTorch: takes minutes the first time) ..."
	@$(INSTALL) '.'
	@touch $@

$(STAMP): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing the pinned set into $(VENV) (with PyTorch: takes minutes the first time) ..."
	@$(INSTALL) '.[$(EXTRAS)]'
	@touch $(CORE) $@

setup: $(STAMP) ## create .venv and install the pinned set

demo: $(ENOUGH) ## generate in all 12 directions from the shipped checkpoint, and write demo/index.html
	$(BIN)/medcodi demo --out $(DEMO_OUT)

doctor: $(ENOUGH) ## check what this machine can do
	$(BIN)/medcodi doctor

test: $(STAMP) ## all tests but the longest, on two workers
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not faults and not long" $(PYTEST_ARGS)

test-long: $(STAMP) ## what takes minutes: snippets of the docs, the wheel, servers, browsers, whole chains
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "long and not faults" $(PYTEST_ARGS)

test-faults: $(STAMP) ## the long tests of training: kills at many moments, every stage on one and two ranks
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m faults $(PYTEST_ARGS)

check: $(STAMP) ## lint, format, types, import directions, words, figures, changelog
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/python tools/words.py
	$(BIN)/python tools/figures.py
	$(BIN)/pyright --pythonpath $(BIN)/python medcodi
	@grep -q '^## \[Unreleased\]' CHANGELOG.md || { echo "CHANGELOG.md has no '## [Unreleased]' section. Fix: add one and say what changed" >&2; exit 1; }

format: $(STAMP) ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# By name only: what needs a card, gigabytes, or data of your own, or takes more than some minutes. What remains takes less than 20.
LONG_BENCHMARKS = $(addsuffix .py,$(addprefix benchmarks/,ablations decoding denoiser editing end_to_end estimate few_steps \
	full_size generation_memory gpu peers private real_words record serve turing_export turing_statistics watermark weak_scaling))
bench: $(STAMP) ## speed and memory figures, one JSON line each, in 20 minutes; the long ones by name: python benchmarks/NAME.py
	@for script in $(filter-out $(LONG_BENCHMARKS),$(wildcard benchmarks/*.py)); do echo "== $$script"; $(BIN)/python "$$script"; done

bench-gpu: $(ENOUGH) ## everything worth knowing of one card, in at most 8 minutes
	$(BIN)/python benchmarks/gpu.py $(BENCH_ARGS)

docs: $(STAMP) ## the documentation as a site: build/site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -q

notebooks: $(STAMP) ## the examples as notebooks: build/notebooks/*.ipynb
	@mkdir -p build/notebooks
	@for script in examples/*.py; do $(BIN)/jupytext --quiet --to ipynb --output "build/notebooks/$$(basename "$$script" .py).ipynb" "$$script"; done
	@ls build/notebooks

golden: $(STAMP) ## rewrite the pinned numbers of tests/golden (review the diff before you commit it)
	MEDCODI_WRITE_GOLDEN=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/golden -n 0 -q

demo-train: $(STAMP) ## train the shipped checkpoint from scratch, by the four stages
	$(BIN)/python launch/demo_train.py

clean: ## remove everything that make created, .venv included
	rm -rf $(VENV) $(DEMO_OUT) .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
