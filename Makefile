# From a clean clone with Python 3.10 or newer and PyPI; only bench wants data besides.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.DEFAULT_GOAL := help
.PHONY: help install example test test-slow test-examples test-matrix fuzz bench lint fmt build clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[demo]'
	@touch $@

$(VENV)/.installed: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bm25,cli,demo,dev,lora,merge,openai,plot]'
	@touch $@ $(VENV)/.demo

install: $(VENV)/.installed ## create .venv and install everything for development

example: $(VENV)/.demo ## finetune the packaged MiniLM both ways on the standard library, and compare
	$(BIN)/python examples/01_quickstart.py

test: $(VENV)/.installed ## the fast suite
	$(BIN)/python -m pytest

test-slow: $(VENV)/.installed ## the slow suite: real model, wheel in a new environment, examples
	$(BIN)/python -m pytest -m slow

test-examples: $(VENV)/.installed ## the examples and the notebook, on small data
	$(BIN)/python -m pytest -m slow --durations=9 tests/integration/test_examples.py

test-matrix: $(VENV)/.installed ## the wheel on every Python here, with the oldest and newest libraries
	$(BIN)/python -m nox

fuzz: $(VENV)/.installed ## ten minutes of hostile files for every reader
	$(BIN)/python tests/fuzz/fuzz.py --minutes 10

bench: $(VENV)/.installed ## side-by-side measurements, minutes to hours (DATA=folder RETIRED=python)
	$(BIN)/python benchmarks/results.py $(if $(DATA),--data $(DATA)) $(if $(RETIRED),--retired $(RETIRED))

lint: $(VENV)/.installed ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fmt: $(VENV)/.installed ## format and mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

build: $(VENV)/.installed ## wheel and sdist into dist/
	$(BIN)/python -m build

clean: ## remove the environment and everything built
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache
