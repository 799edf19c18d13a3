# Every target makes its own virtual environment in .venv, from PyPI alone. PYTHON=python3.12 picks another interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo serve test lint types guests guests-check bench bench-update bench-neighbours bench-nn cluster-test clean
.DEFAULT_GOAL := help

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /  make \1\t/' | expand -t 24

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("wisp needs Python 3.11 or newer; set PYTHON=") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: $(VENV)/.installed ## start a platform, deploy the example tenants, call them, show what it cost, stop
	$(BIN)/wisp demo

serve: $(VENV)/.installed ## the same platform, kept up, with a curl line for each function
	$(BIN)/wisp serve --dev

test: $(VENV)/.installed ## all tests
	$(BIN)/python -m pytest

lint: $(VENV)/.installed ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed ## mypy, strict, over source and tests
	$(BIN)/mypy

guests: ## rebuild the prebuilt guests (needs Rust and clang)
	$(PYTHON) sdk-rust/build.py

guests-check: ## the prebuilt guests match their sources (needs neither)
	$(PYTHON) sdk-rust/build.py --check

bench: $(VENV)/.installed ## what a request costs, against the floor, workerd and a bare server, as ratios; ten minutes
	$(BIN)/python tests/bench/bench_speed.py
	$(BIN)/python tests/bench/bench_claims.py

bench-update: $(VENV)/.installed ## what updates in a row cost callers, and how soon they answer on two nodes
	$(BIN)/python tests/bench/bench_update.py

bench-neighbours: $(VENV)/.installed ## what hostile neighbours cost an honest tenant; a quarter of an hour
	$(BIN)/python tests/bench/bench_neighbours.py

bench-nn: $(VENV)/.installed ## inference against onnxruntime alone, FastAPI and MLServer, as ratios; a quarter of an hour
	$(BIN)/python tests/bench/bench_nn.py

cluster-test: $(VENV)/.installed ## three nodes on a Redis Cluster behind haproxy, upgraded and killed under load; five minutes
	$(BIN)/python tests/bench/bench_cluster.py

clean: ## everything that these targets made, the virtual environment too
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis sdk-rust/target
