# The four targets to remember: quickstart, test, check, clean.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CEILING := .venv-ceiling
.DEFAULT_GOAL := help

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1 — /p' Makefile

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "deepsynth needs Python 3.11 or newer; found $$($(PYTHON) --version). Use: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -e '.[dev]'
	@touch $@

install: $(VENV)/.installed  ## make .venv and install DeepSynth into it

# Reads passages that were written for this and that no model has trained on; the run's name says which pages, and when.
READ := deepsynth predict --config configs/quickstart.yaml --data.source=JsonlSource \
	--data.source.path=configs/quickstart_unseen.jsonl --trainer.default_root_dir=runs/quickstart \
	--trainer.enable_progress_bar=false
LIGHT := '--data.renderer.ink=[black]' '--data.renderer.paper=[white]'

quickstart: $(VENV)/.installed  ## teach the built-in model light type on dark ground, and measure it before and after
	@rm -rf runs/quickstart
	$(BIN)/deepsynth fit --config configs/quickstart.yaml --config configs/data/inverse_video.yaml
	$(BIN)/$(READ) --run_name dark-before
	$(BIN)/$(READ) --run_name dark-after --ckpt_path runs/quickstart/adapter
	$(BIN)/$(READ) $(LIGHT) --run_name light-before
	$(BIN)/$(READ) $(LIGHT) --run_name light-after --ckpt_path runs/quickstart/adapter
	@echo "Look at runs/quickstart/gallery.html: the same pages as read before and after"

test: $(VENV)/.installed  ## run the default tests (no network, no GPU)
	$(BIN)/python -m pytest -n logical --dist worksteal

$(CEILING)/.installed: pyproject.toml
	$(PYTHON) -m venv $(CEILING)
	$(CEILING)/bin/python -m pip install -q -e '.[dev]' transformers==5.17.0 datasets==4.8.5
	@touch $@

test-ceiling: $(CEILING)/.installed  ## the same tests with the newest versions that Unsloth takes
	$(CEILING)/bin/python -m pytest -n logical --dist worksteal

check: $(VENV)/.installed  ## lint, types, tests: what CI runs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n logical --dist worksteal

clean:  ## remove the environment and caches; runs/ stays
	rm -rf $(VENV) $(CEILING) .pytest_cache .mypy_cache .ruff_cache build dist

.PHONY: help install quickstart test test-ceiling check clean
