# Two commands: `make demo` and `make test`. Each sets up what it needs in .venv on its first run.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all lint bench chaos slurm-faults model clean

VENV := .venv
BIN := $(VENV)/bin
# The first interpreter of a version that the pins are tested with; another by
# `make PYTHON=/path/to/python3.12 ...`.
SUITS := import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3.13 python3,$(shell $(p) -c '$(SUITS)' >/dev/null 2>&1 && command -v $(p))))
# Extras of the package: test is all that tests and the demo need, nothing what every site needs.
EXTRAS := test
comma := ,
INSTALLED := $(VENV)/.installed-$(or $(subst $(comma),-,$(EXTRAS)),none)

help:
	@echo "make demo      run three synthetic sites and the hub; prints the path of the reports"
	@echo "make test      lint and the tests (some fifteen minutes on two cores)"
	@echo "               a part, without lint: make test TESTS=tests/unit/test_hub.py"
	@echo "               or by words of names: make test TESTS=\"-k 'hub and not report'\""
	@echo "make test-all  the long tests, which make test leaves out: real PACS, SLURM, containers"
	@echo "make lint      ruff, mypy, snakefmt and snakemake --lint"
	@echo "make bench     compare with named peers; writes docs/benchmarks.md (about an hour)"
	@echo "make chaos     disturb 300 runs at random (hours): make chaos ROUNDS=20 SEED=7 JOBS=4"
	@echo "make slurm-faults  break a SLURM cluster of this machine in the middle of runs (as root)"
	@echo "make setup     what these need, in .venv; for a site less: make setup EXTRAS= or EXTRAS=nnunet"
	@echo "make model     train a model like the demo's (about half an hour on two cores)"
	@echo "make clean     remove results of the demo and the virtual environment"

setup: $(INSTALLED)

# A set-up that was cut off, or another Python than last time, begins with an empty folder.
$(INSTALLED): pyproject.toml envs/constraints.txt envs/jipflow.post-deploy.sh
	@$(or $(PYTHON),false) -c '$(SUITS)' 2>/dev/null || { \
		echo "jipflow needs Python 3.11, 3.12 or 3.13 with venv (Debian: python3-venv): install one or say make PYTHON=/path/to/python3.12"; exit 1; }
	@echo "[setup 1/4] virtual environment in $(VENV) with $(PYTHON)"
	@grep -qsxF "$$($(PYTHON) -V)" $(VENV)/.installed* && clear= || clear=--clear; \
		rm -f $(VENV)/.installed*; $(PYTHON) -m venv $$clear $(VENV)
	@PATH="$(CURDIR)/$(BIN):$$PATH" envs/jipflow.post-deploy.sh $(EXTRAS)
	@$(PYTHON) -V > $@

demo: setup
	@$(BIN)/jipflow demo --out results/demo

# What is named runs whatever its mark, else all but the long tests.
TESTS :=
test: setup $(if $(TESTS),,lint)
	@$(BIN)/python -m pytest $(or $(TESTS),-m 'not long')

test-all: setup
	@$(BIN)/python -m pytest -m long

lint: setup
	@echo "[lint] ruff, mypy, snakefmt, snakemake --lint"
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/snakefmt --check --compact-diff Snakefile workflow/Snakefile rules
	@$(BIN)/snakemake --lint --config protocol=demo 'site={id: lint, name: lint}' \
		'sources=[{name: here, kind: folder, path: .}]'
	@$(BIN)/snakemake --lint --config protocol=phantom-train 'site={id: lint, name: lint}' \
		'sources=[{name: here, kind: folder, path: .}]'

# Some of them alone: make bench BENCH="ibsi extraction report"
BENCH := catalog catalog_memory cohort_filter seg nnunet ibsi extraction end_to_end exactness deidentification descriptions messages scale report
bench: setup
	@PATH="$(CURDIR)/$(BIN):$$PATH" python -m pip --disable-pip-version-check install --quiet \
		--constraint envs/constraints.txt --no-build-isolation --editable '.[test,bench]'
	@for name in $(BENCH); do \
		echo "[bench] $$name"; $(BIN)/python benchmarks/$$name.py || exit 1; \
	done

# What a round does is drawn by SEED and its number: one that failed is repeated by CHAOS="--repeat 17".
ROUNDS := 300
SEED := 1
JOBS := 1
CHAOS :=
chaos: setup
	@$(BIN)/python tests/pipeline/chaos.py --rounds $(ROUNDS) --seed $(SEED) --jobs $(JOBS) $(CHAOS)

# All, or some of them: make slurm-faults FAULTS="scancel memory"
FAULTS :=
slurm-faults: setup
	@$(BIN)/python benchmarks/slurm_faults.py $(FAULTS)

# Made once; a training that was cut off goes on when the same is called again.
results/model/phantom: | setup
	@rm -rf $@.partial
	@$(BIN)/jipflow phantom --out $@.partial --site training --patients 66 --seed 7401 \
		--no-defects --no-pet --organs && mv $@.partial $@

model: setup results/model/phantom
	@PATH="$(CURDIR)/$(BIN):$$PATH" snakemake --profile profiles/local train --config \
		protocol=phantom-train results=results/model \
		'site={id: training, name: Training of the demo model}' \
		'sources=[{name: phantom, kind: folder, path: results/model/phantom/dicom}]' \
		'identity={secret_file: results/model/secrets/identity.key, \
			signing_key_file: results/model/secrets/site.key, \
			audit_file: results/model/secrets/audit.jsonl}'

clean:
	rm -rf results/demo $(VENV)
