# The two commands: make repro, make test. `make help` lists the rest.
SHELL := /bin/bash
PYTHON ?= python3
# One more than the cores of a small machine: many tests wait for processes that they start.
WORKERS ?= 3
# An image has it elsewhere: the checkout may be mounted.
VENV := $(or $(PLUMBLINE_VENV),$(CURDIR)/.venv)
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export PATH := $(BIN):$(PATH)
export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true

.DEFAULT_GOAL := help
.PHONY: help in-git setup repro test coverage test-all faults media-faults bench check format params reference lock \
	docs report mlflow gc clean verify

help:  ## This list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY)  ## The environment: .venv from requirements.lock

$(READY): requirements.lock pyproject.toml tools/check_machine.py
	@$(PYTHON) tools/check_machine.py $(CURDIR)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing requirements.lock into $(VENV) (about 7 GB, some minutes)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@# Another Python than that of the record is another key; with the same one nothing changes.
	@$(BIN)/python -m stages.check_params --write
	@touch $(READY)

# Before the set-up, which takes minutes.
in-git:
	@git rev-parse --git-dir > /dev/null 2>&1 || { echo "error: not a git checkout: git clone the project first" >&2; exit 1; }

repro: in-git $(READY)  ## Run what changed of the pipeline, then print the headline figures
	@plumbline repro

PYTEST := PLUMBLINE_TRACKING=off pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test: $(READY)  ## The test suite (a quarter of an hour on two cores, offline)
	$(PYTEST) -m "not slow"

coverage: $(READY)  ## The test suite with the coverage of each package, which has a floor
	$(PYTEST) -m "not slow" --cov --cov-report=term-missing:skip-covered --cov-report=json:coverage.json --cov-fail-under=85
	@python -m tools.coverage_floors coverage.json

test-all: $(READY)  ## The suite with what takes longer
	$(PYTEST)

faults: $(READY)  ## Kill every stage again and again; KILLS=300 SEED=0
	PYTHONPATH=src python -m tests.faults.kills $(if $(KILLS),--kills $(KILLS)) $(if $(SEED),--seed $(SEED))

media-faults: $(READY)  ## Damage images, sounds and features; COUNT=30000 SEED=0
	PYTHONPATH=src python -W ignore -m tests.faults.media_mutations --count $(or $(COUNT),30000) --seed $(or $(SEED),0)

bench: $(READY)  ## Every claim about a CPU beside its peer, into docs/benchmarks; CLAIMS="loader packing"
	PYTHONPATH=src python -m bench $(CLAIMS)

check: $(READY)  ## Lint, format and types, and figures of how the code is kept
	ruff check
	ruff format --check
	mypy
	python -m tools.house

format: $(READY)  ## Put the code into its form
	ruff check --fix
	ruff format

params: $(READY)  ## Compose params.yaml from conf/
	plumbline params

reference: $(READY)  ## Write docs/reference and schema/ from the code
	python -m tools.settings_reference .
	python -m tools.command_reference .

# The site needs nothing of the project's own environment, only its texts.
DOCS := $(CURDIR)/docs/_build/venv
$(DOCS)/.ready: requirements-docs.lock
	@test -x $(DOCS)/bin/python || $(PYTHON) -m venv $(DOCS)
	@$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-docs.lock
	@touch $@

docs: $(DOCS)/.ready  ## The docs as a site; offline, a warning or a dead link fails
	@$(DOCS)/bin/python -m sphinx --fail-on-warning --keep-going --nitpicky --quiet --fresh-env docs docs/_build/html
	@echo "docs: docs/_build/html/index.html"

LOCKED = --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-annotate --quiet
lock:  ## Write requirements.lock from pyproject.toml, with hashes; keeps versions that fit (needs uv)
	uv pip compile pyproject.toml $(addprefix --extra ,s3 sweep vision adapters tensorboard dev) $(LOCKED) -o requirements.lock
	echo 'datasets>=4' | uv pip compile - -c requirements.lock $(LOCKED) -o requirements-hub.lock
	echo 'gcsfs>=2025.9' | uv pip compile - -c requirements.lock $(LOCKED) -o requirements-gs.lock
	printf 'furo>=2025.9\nmyst-parser>=5\nsphinx>=9\n' | uv pip compile - -c requirements.lock $(LOCKED) -o requirements-docs.lock
	echo 'ray>=2.60' | uv pip compile - -c requirements.lock $(LOCKED) -o requirements-cluster.lock
	echo 'wandb>=0.31' | uv pip compile - -c requirements.lock $(LOCKED) -o requirements-wandb.lock

report: $(READY)  ## Build the report and say where it is
	@plumbline repro report

mlflow: $(READY)  ## Open the live view of the project's runs, on PORT=5000
	@python -m plumbline.tracking.live_view $(if $(PORT),--port $(PORT))

verify: $(READY)  ## Rerun the commit in a clean clone, compare with its record; PRESET=smoke: two clones
	plumbline verify $(if $(PRESET),--preset $(PRESET))

gc: $(READY)  ## Show what caches, old training state and experiments take; YES=1 removes
	plumbline gc $(if $(YES),--yes) $(if $(EXPERIMENTS),--experiments)

clean:  ## Remove what the pipeline built in the workspace (DVC's cache stays)
	rm -rf work models/* exports/* report docs/_build .ckpt .plumbline
