# Two commands for a fresh machine with Python >= 3.11: `make run` and `make test`.
# All packages go to .venv, in the exact versions of constraints.txt. kvpress needs older ones than
# we do: `make parity` puts those of constraints-kvpress.txt in .venv-kvpress and compares there.

PYTHON ?= python3
CORES ?= all
CONFIG ?= config.yaml
BIN := .venv/bin
READY := .venv/.ready
KVPRESS := .venv-kvpress
INSTALL := install --quiet --disable-pip-version-check
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: run test mutants parity lint format docs clean

run: $(READY) ## train mappers, run all methods, write results/<run>/report/index.html
	snakemake --cores '$(CORES)' --configfile '$(CONFIG)' --quiet rules host reason

test: $(READY) ## the tests
	HF_HUB_OFFLINE=1 TQDM_DISABLE=1 pytest

parity: export PATH := $(CURDIR)/$(KVPRESS)/bin:$(PATH)
parity: $(KVPRESS)/.ready ## the tests against kvpress, and the core on the oldest transformers
	HF_HUB_OFFLINE=1 TQDM_DISABLE=1 pytest tests/parity tests/scoring tests/model tests/config \
		tests/test_api.py tests/test_guides.py tests/test_versions.py

mutants: $(READY) ## docs/results/mutants.md: which edits of the code no test notices (hours; resumes)
	python tests/tools/mutants.py

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

clean: ## remove the environments; results and cache stay
	rm -rf .venv $(KVPRESS)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip $(INSTALL) -c constraints.txt -e '.[dev]'
	touch $@

$(KVPRESS)/.ready: pyproject.toml constraints-kvpress.txt
	$(PYTHON) -m venv $(KVPRESS)
	$(KVPRESS)/bin/pip $(INSTALL) -c constraints-kvpress.txt -e '.[dev,kvpress]'
	touch $@
