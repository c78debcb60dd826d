# The two commands: `make reproduce` and `make test`. Each sets up what it needs; nothing has to be activated.
# Needed: git, make, Python 3.11 or later. Variables: PROFILE, RUN, JOBS, SET, PYTHON, VENV.

PROFILE ?= laptop
VENV ?= .venv
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3; do \
  $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)

BIN := $(VENV)/bin
# what `make setup` has installed is current if this number is what it left in the environment
KEY := $(shell cat pyproject.toml constraints.txt | cksum)
# and if the library in it is this checkout's, which is not so in a copied or moved one (-P: not the current folder)
HERE := import pathlib, sys, cunet; sys.exit(not pathlib.Path(cunet.__file__).parents[1].samefile("."))
WORKERS ?= 2
# what a user names reaches the shell by the environment: a quote or a space in it stays what it is
export PROFILE RUN JOBS SET
# of the data sets, what was drawn or computed; beside it lies what a user has fetched
MADE := $(addprefix .cache/datasets/,drawn decoded features)

.DEFAULT_GOAL := help
.PHONY: help setup reproduce reference test test-long test-browser test-slurm lint lab bench site clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; do \
	  printf '  %-16s %s\n' "$$name" "$$text"; done

setup: ## make .venv with the tested versions; does nothing when it is current
	@if [ "$$(cat $(VENV)/.setup 2>/dev/null)" = "$(KEY)" ] && $(BIN)/python -P -c '$(HERE)' 2>/dev/null; then \
	  echo "$(VENV) is up to date."; \
	elif [ -z "$(PYTHON)" ]; then \
	  echo "No Python 3.11 or later was found. Install one, or name it: make setup PYTHON=/path/to/python3" >&2; exit 1; \
	else \
	  { $(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV); } && \
	  $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable '.[dev]' && \
	  echo "$(KEY)" > $(VENV)/.setup && echo "$(VENV) is ready: $$($(BIN)/python --version), $$($(BIN)/python -m pip list 2>/dev/null | tail -n +3 | wc -l) packages."; \
	fi

reproduce: setup ## run the chain: make reproduce [PROFILE=laptop] [RUN=name] [JOBS=n] [SET="key=value ..."]
	@set -f -- --profile "$$PROFILE"; for setting in $$SET; do set -- "$$@" --set "$$setting"; done; \
	  $(BIN)/python -m cunet reproduce "$$@" $${RUN:+--run "$$RUN"} $${JOBS:+--jobs "$$JOBS"}

reference: setup ## the run that is committed: make it, publish it, write the README's results; hours
	@$(BIN)/python -m cunet reproduce --profile reference && $(BIN)/python -m cunet.publish reference-run

test: setup lint ## ruff, then all tests but the long ones, the smoke chain included; at most 10 minutes on two cores
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m 'not long'

test-long: setup ## the long forms of the tests; at most 30 minutes on two cores
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m long

test-browser: setup ## JupyterLab and the site in a real Chromium; on Debian, root installs Chromium
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable '.[browser]'
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || \
	  { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core; } || \
	  { echo "There is no Chromium. Install one: on Debian, apt-get install chromium as root." >&2; exit 1; }
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/browser

test-slurm: setup ## the smoke chain on a real Slurm of one node, a job cancelled; root, Debian's slurm-wlm and munge
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable '.[slurm]'
	@command -v slurmctld >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends slurm-wlm munge; } || \
	  { echo "There is no Slurm. Install it: on Debian, apt-get install slurm-wlm munge as root." >&2; exit 1; }
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/slurm

lint: setup
	@$(BIN)/python -m ruff check . && $(BIN)/python -m ruff format --check .

lab: setup ## JupyterLab on this machine only, with a token, open at the first notebook
	@$(BIN)/python -m cunet.lab

bench: setup ## parameters, MACs, memory and time of the networks, into the README too; nothing else may run beside
	@$(BIN)/python -m cunet bench --out papermill_runs/reference_bench && $(BIN)/python -m cunet.results_page

site: setup ## a run as a web site that needs no network, in site/: make site [RUN=name]
	@$(BIN)/python -m cunet.site "$${RUN:-$$PROFILE}" site

clean: ## remove caches and what was built; runs, .venv and the data sets that you fetched stay
	rm -rf site .cache/lab $(MADE) .pytest_cache .ruff_cache .hypothesis notebooks/.ipynb_checkpoints
	find cunet tests notebooks -name __pycache__ -prune -exec rm -rf {} +
