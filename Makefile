# Two commands for a fresh machine with Python >= 3.11: `make run` and `make test`.
# All packages go to .venv, in the exact versions of constraints.txt.

PYTHON ?= python3
CORES ?= all
CONFIG ?= config.yaml
BIN := .venv/bin
READY := .venv/.ready
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: run test lint format docs clean

run: $(READY) ## train mappers, run all methods, write results/<run>/report/index.html
	snakemake --cores '$(CORES)' --configfile '$(CONFIG)' --quiet rules host reason

test: $(READY) ## the tests
	HF_HUB_OFFLINE=1 TQDM_DISABLE=1 pytest

lint: $(READY) ## formatting, lint, types, workflow
	ruff check .
	ruff format --check .
	snakefmt --check Snakefile workflow
	pyright
	snakemake --lint

format: $(READY) ## put all files in the common format
	ruff check --fix .
	ruff format .
	snakefmt Snakefile workflow

docs: $(READY) ## the generated pages of docs/reference/
	env -u PROXYKV_CONFIG python docs/generate.py

clean: ## remove the environment; results and cache stay
	rm -rf .venv

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@
