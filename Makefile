# `make help` lists the targets. Needed on the machine: make, and Python 3.11 to 3.14 with venv and pip.
# Variables:  PYTHON  the interpreter that .venv is made from
#             ARGS    further arguments of the command, as in: make test ARGS="-k tiles -x"

# The one that people have, if it will do; else the newest that will.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
  $$p -c $(IS_KNOWN) 2>/dev/null && echo $$p && exit; done; echo python3)
IS_KNOWN := 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))'
PYTHONS := 3.11 3.12 3.13 3.14
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := -m pip --disable-pip-version-check -qq
PIP_AUDIT := 2.10.1
STAMP := $(VENV)/.installed

# Dagster's telemetry stays off in everything that is started from here.
export DAGSTER_DISABLE_TELEMETRY := 1

.DEFAULT_GOAL := help
.PHONY: help install demo view cluster dev s3 notebook stack postgres prometheus containers test expected fuzz browser axe screenshots lint types format bench docs soak audit lock wheels clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP) ## set up .venv with the locked versions
	@:

demo: $(STAMP) ## run the main job on a small sample and say what was published
	@$(BIN)/datacube demo $(ARGS)

view: $(STAMP) ## look at what is published, on a map
	@$(BIN)/datacube view $(ARGS)

cluster: $(STAMP) ## run a Dask scheduler and workers on this machine, for runs to share
	@$(BIN)/python -P -m datacube_assets.development.dask_cluster $(ARGS)

dev: $(STAMP) ## open the Dagster UI beside simulators of Dojo and CauseMos
	@$(BIN)/datacube dev $(ARGS)

s3: $(STAMP) ## run a real S3 server on this machine, with buckets to develop against
	@$(BIN)/datacube s3 $(ARGS)

stack: $(STAMP) ## run the production stack on this machine: Postgres, Dask, gateway and all
	@$(BIN)/python infra/stack.py $(ARGS)

postgres: ## install Postgres, where it is missing, for the stack and its tests (Debian, as root)
	@infra/postgres.sh

prometheus: ## install Prometheus, where it is missing, for tests of alerts (Debian, as root)
	@infra/prometheus.sh

containers: ## install buildah and podman, where they are missing, for the test of Compose (Debian, as root)
	@infra/containers.sh

notebook: $(VENV)/.notebook ## open the notebook that explores a datacube, in JupyterLab
	@$(BIN)/jupyter lab $(ARGS) docs/notebooks/explore_datacube.ipynb

test: $(STAMP) ## run the tests
	@$(BIN)/python -m pytest $(ARGS)

expected: $(STAMP) ## write the expected bytes of the unit tests anew; read the difference before you commit it
	@$(BIN)/python -m pytest -q -n 0 --inline-snapshot=create,fix datacube_assets_tests/unit $(ARGS) || true
	@$(BIN)/ruff format -q datacube_assets_tests/unit
	@git diff --stat datacube_assets_tests/unit

fuzz: $(STAMP) ## try random input: ARGS="--minutes 5"
	@$(BIN)/python -m datacube_assets_tests.fuzz $(ARGS)

browser: ## install Chromium for the tests that need one, where it is missing (Debian, as root)
	@infra/browser.sh

axe: ## fetch axe-core for the test of accessibility, where it is missing (npm)
	@infra/axe.sh

screenshots: $(STAMP) ## make the pictures of the docs anew, with Chromium
	@$(BIN)/python -m datacube_assets_tests.browser.screenshots $(ARGS)

lint: $(STAMP) ## check style and formatting
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check

types: $(STAMP) ## check types
	@$(BIN)/mypy $(ARGS)

format: $(STAMP) ## format, and repair what can be repaired
	@$(BIN)/ruff check --fix-only
	@$(BIN)/ruff format

docs: $(STAMP) ## build the documentation's site in build/docs
	@$(BIN)/python docs/reference.py
	@$(BIN)/python -m sphinx -q -W --keep-going -b html docs build/docs $(ARGS)
	@echo "The site is in build/docs: open build/docs/index.html"

bench: $(STAMP) ## run the benchmark
	@$(BIN)/python -m benchmarks $(ARGS)

soak: $(STAMP) ## run the whole system for some minutes while things break
	@$(BIN)/python -m benchmarks soak $(ARGS)

audit: $(STAMP) ## look for known vulnerabilities of the locked versions
	@[ -x $(VENV)-audit/bin/pip-audit ] || { \
	  $(BIN)/python -m venv --clear $(VENV)-audit && $(VENV)-audit/bin/python $(PIP) install pip-audit==$(PIP_AUDIT); }
	@$(BIN)/python infra/audit.py $(VENV)-audit/bin/pip-audit $(ARGS)

wheels: $(STAMP) ## show that the locked versions can be installed on every Python
	@$(BIN)/python infra/wheels.py $(or $(ARGS),$(PYTHONS))

# The lock is resolved in a fresh environment without constraints, so it may move every version.
lock: ## resolve the newest versions into infra/constraints.txt
	@rm -rf $(VENV)-lock
	$(call make_venv,$(VENV)-lock)
	@env -u PIP_CONSTRAINT $(VENV)-lock/bin/python $(PIP) install --upgrade pip setuptools
	@env -u PIP_CONSTRAINT $(VENV)-lock/bin/python $(PIP) install --editable '.[dev,notebook]'
	@{ echo "# Exact versions of everything that is installed, on any Python. Written by \`make lock\`; see \`make wheels\`."; \
	   $(VENV)-lock/bin/python -m pip freeze --all --exclude-editable > $(VENV)-lock/frozen && \
	   grep -v -i -E '^(pip|datacube-assets)[ =]' $(VENV)-lock/frozen; } > $(VENV)-lock/constraints.txt
	@mv $(VENV)-lock/constraints.txt infra/constraints.txt
	@rm -rf $(VENV)-lock
	@echo "infra/constraints.txt is rewritten. Next: make wheels, make lint types test, and read its diff."

clean: ## remove .venv, caches and build results (no data)
	@rm -rf $(VENV) $(VENV)-lock $(VENV)-audit build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .fuzz
	@find benchmarks datacube_assets datacube_assets_tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml infra/constraints.txt
	@echo "Setting up $(VENV), which takes a few minutes ..."
	$(call make_venv,$(VENV))
	@$(BIN)/python $(PIP) install --constraint infra/constraints.txt --editable '.[dev]'
	@touch $@

$(VENV)/.notebook: $(STAMP)
	@echo "Adding JupyterLab to $(VENV) ..."
	@$(BIN)/python $(PIP) install --constraint infra/constraints.txt --editable '.[notebook]'
	@touch $@

# $(call make_venv,FOLDER): an environment of the right Python, or a hint why there is none.
define make_venv
@[ -x $(1)/bin/python ] || { \
  $(PYTHON) -c $(IS_KNOWN) 2>/dev/null || { \
    echo "Python 3.11 to 3.14 is needed, and '$(PYTHON)' is none of them. Name one: make PYTHON=python3.13" >&2; exit 1; }; \
  $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
    echo "'$(PYTHON)' cannot make virtual environments. On Debian or Ubuntu: apt install python3-venv" >&2; exit 1; }; \
  $(PYTHON) -m venv --clear $(1); }
endef
