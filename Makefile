# make demo        two commands' worth of isochrone: install, train, measure, plan, report
# make test        lint, types and every test
# make test-fast   the tests that take less than five seconds each
# make coverage    every test, and the share of lines that they reach (at least 96 %)
# Needs Python 3.11-3.13 with venv, pip and git; everything else lands in .venv.

PY ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN ?= runs/demo
# Held-out pairs that the demo plans between; `isochrone eval` alone takes 500.
PAIRS ?= 200
# What pip is told about torch, e.g. TORCH_ARGS="--index-url URL" for an index that holds the small CPU wheel.
TORCH := torch==2.13.0
TORCH_ARGS ?=
# Processes that share the tests, a file at a time.
JOBS ?= 2
PYTEST = $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

# One thread per process: latent-size tensors lose more to a second thread than they win.
export OMP_NUM_THREADS ?= 1
export MPLBACKEND := Agg
# Python keeps what it compiled, whatever the shell says: the tests start some fifty processes.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast coverage lint types clean install

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

$(BIN)/python:
	@$(PY) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v < (3, 14) else \
	  f"isochrone needs Python 3.11 to 3.13, this is {v[0]}.{v[1]}: make PY=python3.12 ...")'
	$(PY) -m venv $(VENV)

# torch first and alone: its version is pinned here, and every later install sees it in place.
$(VENV)/.torch: constraints.txt | $(BIN)/python
	$(PIP) $(TORCH_ARGS) $(TORCH)
	@touch $@

$(VENV)/.log: pyproject.toml constraints.txt $(VENV)/.torch
	$(PIP) -e '.[log]'
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt $(VENV)/.torch
	$(PIP) -e '.[log,test]'
	@touch $@

install: $(VENV)/.log

# A demo that was interrupted goes on where it stopped.
demo: $(VENV)/.log
	@if [ -e $(RUN)/config.json ]; then $(BIN)/isochrone train --resume $(RUN); \
	else $(BIN)/isochrone train zhp --run $(RUN); fi
	@$(BIN)/isochrone eval $(RUN) --eval.pairs $(PAIRS)
	@$(BIN)/isochrone plan $(RUN)
	@$(BIN)/isochrone report $(RUN)
	@echo "open $(RUN)/report.html"

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test
	$(BIN)/pyright

# The types are checked beside the tests: pyright is one process, and takes half a minute.
test: lint
	@$(BIN)/pyright & types=$$!; $(PYTEST); tests=$$?; wait $$types && exit $$tests

# Not part of `test`: before Python 3.12, which can count lines at no cost, it makes the tests half as slow again.
coverage: $(VENV)/.test
	$(PYTEST) --cov --cov-report=term --cov-fail-under=96

test-fast: $(VENV)/.test
	$(PYTEST) -q -m "not slow"

clean:
	rm -rf $(VENV) build dist htmlcov .coverage .pytest_cache .ruff_cache .hypothesis
	find src tests bench studies -name __pycache__ -type d -prune -exec rm -rf {} +
