# The four targets to remember: quickstart, test, check, clean.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOWEST := .venv-lowest
NEWEST := .venv-newest
TESTED := constraints/tested.txt
PYTEST := -m pytest -n logical --dist worksteal
.DEFAULT_GOAL := help

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1 — /p' Makefile

$(VENV)/.installed: pyproject.toml $(TESTED)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "deepsynth needs Python 3.11 or newer; found $$($(PYTHON) --version). Use: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -e '.[dev]' -c $(TESTED)
	@touch $@

install: $(VENV)/.installed  ## make .venv and install DeepSynth into it

quickstart: $(VENV)/.installed  ## teach the built-in model light text on a dark background; a table of before and after
	$(BIN)/deepsynth quickstart

$(VENV)/.docs: $(VENV)/.installed
	$(BIN)/python -c 'import mkdocs, material, mkdocstrings' 2>/dev/null || $(BIN)/python -m pip install -q -e '.[docs]' -c $(TESTED)
	@touch $@

docs: $(VENV)/.docs  ## build the documentation in site/ (strict; needs no network once installed)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict -q

tutorials: $(VENV)/.installed  ## run the tutorials whole, on the built-in model
	$(BIN)/python -m pytest -n 0 -m slow tests/test_tutorials.py

test: $(VENV)/.installed  ## run the default tests (no network, no GPU)
	$(BIN)/python $(PYTEST)

# MODULE is a file or folder below src/deepsynth: make mutation MODULE=data/text/linebreak
mutation: $(VENV)/.installed  ## put bugs into a MODULE (hub, data/text/linebreak) and list those that no test notices
	@test -n '$(MODULE)' || { echo "make mutation MODULE=…: a file or folder below src/deepsynth, such as hub"; exit 1; }
	@$(BIN)/python -c 'import cosmic_ray' 2>/dev/null || $(BIN)/python -m pip install -q -e '.[mutation]' -c $(TESTED)
	$(BIN)/python scripts/mutation.py $(MODULE) --sample $(or $(SAMPLE),20) --seed $(or $(SEED),0)

$(LOWEST)/.installed: pyproject.toml constraints/lowest.txt
	$(PYTHON) -m venv --clear $(LOWEST)
	$(LOWEST)/bin/python -m pip install -q -e '.[dev]' -c constraints/lowest.txt
	@touch $@

test-lowest: $(LOWEST)/.installed  ## the same tests with the oldest versions that pyproject.toml allows
	$(LOWEST)/bin/python $(PYTEST)

test-newest:  ## the same tests with the newest versions there are, beyond pyproject.toml's bounds: what breaks tomorrow
	$(PYTHON) -m venv --clear $(NEWEST)
	$(PYTHON) scripts/requirements.py newest >$(NEWEST)/requirements.txt
	$(NEWEST)/bin/python -m pip install -q -r $(NEWEST)/requirements.txt
	$(NEWEST)/bin/python -m pip install -q --no-deps -e .
	@echo "< tested  > newest"; $(FREEZE) | diff $(TESTED) - | grep '^[<>]' || true
	$(NEWEST)/bin/python $(PYTEST)

# A local build's tag (torch's +cpu) is not part of the version that others can install.
FREEZE = $(NEWEST)/bin/python -m pip freeze --exclude-editable | sed 's/+.*//'

constraints:  ## renew constraints/: the newest versions that pyproject.toml allows, and the oldest (with Python 3.11)
	$(PYTHON) -m venv --clear $(NEWEST)
	$(NEWEST)/bin/python -m pip install -q -e '.[dev,docs,mutation]'
	$(FREEZE) >$(TESTED)
	$(PYTHON) scripts/requirements.py lowest >constraints/lowest.txt

lint: $(VENV)/.installed  ## lint and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: $(VENV)/.installed  ## lint, types, tests: what CI runs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python $(PYTEST)

clean:  ## remove the environments and caches; runs/ stays
	rm -rf $(VENV) $(LOWEST) $(NEWEST) .pytest_cache .mypy_cache .ruff_cache build dist site

.PHONY: help install quickstart docs tutorials lint test mutation test-lowest test-newest constraints check clean
