# The contract with CI and with people. `make` alone prints the targets.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help smoke-gcp demo example up down test test-fast test-all test-composer install images lint types format compile composer-bundle functions-bundle lock dist bench fault-table faults soak clean

# CPython 3.11; name another with `make PYTHON=/path/to/python3.11 …`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
# State of everything that runs on this machine.
export BANDIT_HOME ?= $(CURDIR)/var
# Without cached bytecode TensorFlow and Airflow take three times as long to import.
unexport PYTHONDONTWRITEBYTECODE
export PYTHONPATH := $(CURDIR):$(CURDIR)/plugins

UV := .uv/bin/uv
PY := .venv/bin/python
READY := .venv/.ready

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

demo: $(READY) ## the whole loop, once: startup, then three times traffic and a retrain; writes var/demo/report.json
	@$(PY) -m local_stack demo

example: $(READY) ## another bandit: a news front page, from a CSV to the third retrain; writes var/example/report.json
	@$(PY) -m local_stack example

up: $(READY) ## start Airflow, and a server and a logger for each bandit, as far as they do not run: make up [BANDIT=name]
	@$(PY) -m local_stack up $(if $(BANDIT),--bandit $(BANDIT))

down: $(READY) ## stop what `make up` started
	@$(PY) -m local_stack down

# A worker for each core; a file's tests stay together, real Airflows follow each other (tests/harness/groups.py).
PYTEST = $(PY) -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

test: $(READY) ## every promise, each by a test at least: eleven minutes on two cores
	$(PYTEST) -m "not long"

test-all: $(READY) ## every test there is, and what took longest: the better part of an hour
	$(PYTEST) --durations 25

test-fast: $(READY) ## no Airflow, no TensorFlow, no processes, no emulators: under a minute
	$(PYTEST) -m "not (long or slow or process or emulated or tf or airflow or browser)"

lint: $(READY) ## style, house rules, compiled pipelines up to date
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m pipeline_defs.compile --check

types: $(READY) ## mypy, strict
	$(PY) -m mypy

format: $(READY) ## rewrite the code in the house style
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

compile: $(READY) ## rewrite pipeline_defs/compiled
	$(PY) -m pipeline_defs.compile

# One resolution: dev holds everything, airflow and job are constrained by it.
LOCK = $(UV) pip compile --quiet --upgrade --no-header --python-version 3.11 --generate-hashes --override requirements/overrides.txt
lock: $(UV) ## refresh requirements/*.txt from requirements/*.in
	$(LOCK) requirements/dev.in -o requirements/dev.txt
	$(LOCK) -c requirements/dev.txt requirements/airflow.in -o requirements/airflow.txt
	$(LOCK) -c requirements/dev.txt requirements/job.in -o requirements/job.txt
	$(LOCK) -c requirements/dev.txt requirements/server.in -o requirements/server.txt
	$(LOCK) -c requirements/dev.txt requirements/functions.in -o requirements/functions.txt
	$(LOCK) -c requirements/dev.txt requirements/postgres.in -o requirements/postgres.txt
	for version in $(COMPOSER_PROVIDERS); do \
	  $(LOCK) requirements/composer-$$version.in -o requirements/composer-$$version.txt; done

smoke-gcp: $(READY) ## ask a real project what our stand-ins believe: make smoke-gcp PROJECT=… [REGION=…] [IMAGE=…]
	$(PY) -m stand_ins.smoke $(if $(PROJECT),--project $(PROJECT)) $(if $(REGION),--region $(REGION)) $(if $(IMAGE),--image $(IMAGE))

bench: $(READY) ## the figures of docs/performance.md, measured here
	@for script in benchmarks/bench_*.py; do echo "== $$script"; $(PY) $$script; done

fault-table: $(READY) ## the table of docs/reliability.md, played on a real Airflow (a quarter of an hour)
	@$(PY) -m reliability.fault_table

faults: $(READY) ## the storm: 200 kills, full disks, a damaged bus; writes var/faults/report.json (a quarter of an hour)
	@$(PY) -m reliability.storm $(if $(SEED),--seed $(SEED))

soak: $(READY) ## 15 minutes of traffic with policies swapped under it; writes var/soak/report.json
	@$(PY) -m reliability.soak $(if $(MINUTES),--minutes $(MINUTES))

dist: $(READY) ## write dist/banditloop-<version>-py3-none-any.whl, to be installed elsewhere
	@rm -f dist/banditloop-*.whl
	$(UV) build --quiet --wheel --no-build-isolation --python $(PY) --out-dir dist
	@ls dist/banditloop-*.whl

clean: ## forget all state (keeps the installed packages); refuses while something runs
	@if [ -x $(PY) ]; then $(PY) -m local_stack clean; fi

functions-bundle: $(READY) ## write dist/functions/<bandit>.zip, the Cloud Functions of each bandit with backend gcp
	@$(PY) -m scripts.functions_bundle

images: ## build the images of docker-compose.yaml (needs a Docker engine)
	docker build --file docker/job.Dockerfile --target job --build-arg REVISION="$$(git rev-parse HEAD)" --tag python-banditloop:local .
	docker build --file docker/job.Dockerfile --target server --build-arg REVISION="$$(git rev-parse HEAD)" --tag python-banditloop-server:local .
	docker build --file docker/airflow.Dockerfile --tag banditloop-airflow:local .

composer-bundle: $(READY) ## write dist/composer: what goes into dags, plugins and data of Cloud Composer
	@$(PY) scripts/composer_bundle.py

# Composer's newest Google provider, and the one that runs here; pass no argument that either lacks.
COMPOSER_PROVIDERS := 22.4.0 22.8.0
test-composer: $(COMPOSER_PROVIDERS:%=.venv-composer-%/.ready) $(READY) ## the bundle where only Airflow and the Google provider are, in two versions
	$(PY) -m pytest tests/composer

install: $(READY) $(COMPOSER_PROVIDERS:%=.venv-composer-%/.ready) ## the packages of every target, into this checkout

.venv-composer-%/.ready: requirements/composer-%.txt $(UV)
	$(UV) venv --quiet --clear --python "$(PYTHON)" $(@D)
	$(UV) pip sync --quiet --python $(@D)/bin/python --require-hashes --compile-bytecode $<
	@touch $@

$(UV): requirements/uv.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
	  { echo "error: $(PYTHON) is not CPython 3.11, which banditloop needs. Name one: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	"$(PYTHON)" -m venv --clear .uv
	.uv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@touch $@

$(READY): requirements/dev.txt $(UV)
	$(UV) venv --quiet --clear --python "$(PYTHON)" .venv
	@echo "installing $$(grep -c '==' requirements/dev.txt) packages into .venv (a minute or two) …"
	$(UV) pip sync --quiet --python .venv/bin/python --require-hashes --compile-bytecode requirements/dev.txt
	@ln -sf ../../scripts/banditloop .venv/bin/banditloop
	@touch $@
