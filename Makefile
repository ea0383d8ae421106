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
# More processes than 4 cost more in their own fixtures than they gain.
TESTS := HF_HUB_OFFLINE=1 TQDM_DISABLE=1 pytest --numprocesses auto --maxprocesses 4 --dist worksteal
LOCK := uv pip compile pyproject.toml --quiet --universal --generate-hashes --no-annotate \
	--custom-compile-command 'make lock'
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: run test mutants parity lint format docs site lock clean

run: $(READY) ## train mappers, run all methods, write results/<run>/report/index.html
	proxykv run '$(CONFIG)' -- --cores '$(CORES)'

test: $(READY) ## the tests
	$(TESTS)

parity: export PATH := $(CURDIR)/$(KVPRESS)/bin:$(PATH)
parity: $(KVPRESS)/.ready ## the tests against kvpress, and the core on the oldest transformers
	$(TESTS) tests/parity tests/scoring tests/model tests/config \
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

site: $(READY) ## the documentation as a site, with the Python reference, in site/
	NO_MKDOCS_2_WARNING=1 mkdocs build --quiet --strict

lock: $(READY) ## constraints*.txt with hashes; versions stay where pyproject.toml admits them
	$(LOCK) --extra dev -o constraints.txt
	$(LOCK) --extra dev --extra kvpress -o constraints-kvpress.txt

clean: ## remove the environments; results and cache stay
	rm -rf .venv $(KVPRESS)

$(READY): PINS := constraints.txt
$(KVPRESS)/.ready: PINS := constraints-kvpress.txt

# pip compares every package with its hash, but for torch, whose build is the machine's.
$(READY) $(KVPRESS)/.ready: pyproject.toml $(wildcard constraints*.txt)
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip $(INSTALL) --require-hashes --no-deps -r $(PINS)
	$(@D)/bin/pip $(INSTALL) -r constraints-torch.txt
	$(@D)/bin/pip $(INSTALL) --no-deps --no-build-isolation -e .
	touch $@
