# Everything runs in a virtual environment of its own, made when first needed and renewed when the pins change.

VENV ?= .venv
BIN = $(VENV)/bin
# Of thousands of files few are ever imported: those are compiled and kept then, and the others need not be. Without keeping, every
# process of a command or a test would compile all that it imports.
PIP = $(BIN)/python -m pip install --no-compile
unexport PYTHONDONTWRITEBYTECODE
ENV = $(VENV)/.installed
# The first of these that is new enough; another one: make PYTHON=/path/to/python
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c '$(NEW_ENOUGH)' 2>/dev/null && echo $$p && break; done)
NEW_ENOUGH = import sys; sys.exit(sys.version_info < (3, 11))
WORKERS ?= $(shell nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
# Carries axe-core, with which the tests check the report in Chromium, and asks for playwright, which they do without.
AXE = axe-playwright-python
REPORT = runs/demo/run/report.html

.PHONY: help demo env test lint docs bench clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-6s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(REPORT)  ## train on real pictures and names, print the path of the report
	@echo "The report is $(abspath $(REPORT)) (remove runs/demo to train again)"

env: $(ENV)  ## install fusetune, its pinned dependencies and pretrained weights into .venv

test: $(ENV)  ## run the whole test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 8 --dist worksteal

lint: $(ENV)  ## check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(ENV)  ## build the documentation into site/; a warning, such as a link that leads nowhere, is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "The documentation is $(abspath site/index.html)"

bench: $(ENV)  ## run every benchmark in its quick form
	@set -e; for file in benchmarks/[a-z]*.py; do echo "== $$file"; $(BIN)/python $$file --quick; done

clean:  ## remove environments, caches and the demo's pictures; runs/ stays
	rm -rf .venv .ci/env build dist site src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(ENV): pyproject.toml constraints.txt
	@$(or $(PYTHON),false) -c '$(NEW_ENOUGH)' || { \
		echo "fusetune needs Python 3.11 or newer, and there is none on the PATH as python3.11 or python3." >&2; \
		echo "Install it, or name it: make PYTHON=/path/to/python" >&2; exit 1; }
	@echo "Installing into $(VENV) (about 2 GB; a few minutes)"
	$(PYTHON) -m venv $(VENV)
	$(PIP) -c constraints.txt -e ".[dev,docs,weights,onnx,lora,ocr,skops,augment,dicom,track,serve,cluster]"
	$(PIP) -c constraints.txt --no-deps $(AXE)
	$(BIN)/python -c "import fusetune; fusetune.fit, fusetune.load"
	@touch $@

# A run that was interrupted goes on where it stopped.
$(REPORT): | $(ENV)
	$(BIN)/fusetune demo --out runs/demo --preset good --minutes 2.5
