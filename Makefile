# make demo and make test need Python 3.11+, make and a package index; they build .venv themselves.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test check docs teacher corpus bench peers kim-rush gkd on-policy best-student clean help

help:  ## the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, found " + sys.version.split()[0] + "; name one with make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

demo: $(STAMP)  ## distil the bundled translator: nine to twenty minutes on two cores
	$(BIN)/seqdistill demo $(ARGS)

test: $(STAMP)  ## all unit tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

check: $(STAMP)  ## format, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(STAMP)  ## build the documentation site into site/
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement docs/requirements.lock
	PYTHONPATH=. $(BIN)/mkdocs build --strict

teacher: $(STAMP)  ## train the bundled teacher again: hours
	$(BIN)/seqdistill train teacher $(ARGS)

corpus: $(STAMP)  ## build the bundled corpus again from its packages (Debian 12)
	$(BIN)/python -m corpora.en_de.build --output src/seqdistill/bundled/en-de $(ARGS)

bench: $(STAMP)  ## measure losses, rollouts written ahead, sparse teachers; on GPUs benchmarks/gpu.sh
	$(BIN)/python benchmarks/fused_loss.py
	PYTHONPATH=. $(BIN)/python -m benchmarks.token_selection
	PYTHONPATH=. $(BIN)/python -m benchmarks.near_policy
	PYTHONPATH=. $(BIN)/python -m benchmarks.sparse_teachers

peers: $(STAMP)  ## measure TRL and plain scripts beside this package, or go on with it: hours
	PYTHONPATH=. $(BIN)/python -m benchmarks.peers.run --environment runs/peers-environment $(ARGS)

kim-rush: $(STAMP)  ## run Kim and Rush's tables, or go on with them: many hours
	$(BIN)/python -m experiments.kim_rush.run $(ARGS)

gkd: $(STAMP)  ## run the on-policy distillation experiment, or go on with it: many hours
	$(BIN)/python -m experiments.gkd.run $(ARGS)

on-policy: $(STAMP)  ## run the sweeps on where on-policy distillation pays, or go on with them: many hours
	$(BIN)/python -m experiments.on_policy.run $(ARGS)

best-student: $(STAMP)  ## make the best student of the bundled translator, or go on with it: hours
	$(BIN)/python -m experiments.on_policy.best_student $(ARGS)

clean:  ## remove the environment and caches, keep runs
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
