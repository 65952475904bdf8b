# Every target makes the environment it needs on first use. `make help` lists them.
SHELL := /bin/bash
PYTHON ?= python3
# CPU or GPU build: whatever this requirement resolves to; extra words go to pip as they are.
TORCH ?= torch==2.13.0
# SYSTEM_SITE=1: the environment sees the interpreter's own packages and keeps its torch.
SYSTEM_SITE ?=
PROFILE ?= default
PORT ?= 5000

VENV := .venv
STAMP := $(VENV)/.installed
# A peer of the benchmarks, in an environment of its own; what both use has the same version there.
MERGEKIT := benchmarks/.venv-mergekit
BENCH ?=
STUDIES := $(sort $(patsubst pipelines/studies/%/dvc.yaml,%,$(wildcard pipelines/studies/*/dvc.yaml)))
BIN := $(abspath $(VENV))/bin
# Stages call `python`: the environment's, whether make or a user's shell starts DVC.
RUN := PATH="$(BIN):$$PATH"

.PHONY: help setup report repro verify test test-slow lint profile plan study studies grid release bench ui clean
.DEFAULT_GOAL := help

help: ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

$(STAMP): requirements.txt constraints.txt pyproject.toml
	$(PYTHON) -m venv $(if $(SYSTEM_SITE),--system-site-packages) $(VENV)
	$(if $(SYSTEM_SITE),$(BIN)/python -c "import torch",$(BIN)/pip install $(TORCH))
	$(BIN)/pip install -r requirements.txt -c constraints.txt
	$(BIN)/pip install --no-deps -e .
	touch $@

setup: $(STAMP) ## Make the environment in .venv from pinned requirements

repro: $(STAMP) ## Run what is out of date of the pipeline (dvc repro)
	@$(RUN) python -m pipelines.broken_locks
	$(RUN) dvc repro $(STAGE)

report: $(STAMP) ## The whole experiment: a first report before training, then reports/REPORT.md
	@export LESA_PIPELINE_RUN="$${LESA_PIPELINE_RUN:-$$(date +%s)-$$$$}" && \
	$(MAKE) --no-print-directory repro STAGE=first_report && \
	echo "first report: reports/initialisation.md" && $(MAKE) --no-print-directory repro
	@echo "report: reports/REPORT.md, reports/report.html and reports/report.pdf"

verify: $(STAMP) ## Check report, metrics and dvc.lock; RERUN="stage…" or all: run again and compare
	@$(RUN) python -m pipelines.verify $(RERUN)

test: $(STAMP) ## Tests, without those marked slow; files side by side, each on one core
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

test-slow: $(STAMP) ## The tests marked slow, on the pipeline's own artifacts
	$(BIN)/python -m pytest -m slow

lint: $(STAMP) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

profile: $(STAMP) ## Write params.yaml for PROFILE=smoke, default, llama3-8b, qwen2.5-1.5b
	$(RUN) python -m pipelines.profile "$(PROFILE)"

plan: $(STAMP) ## What PROFILE would need on this machine: layers, parameters, memory, disk, time
	@$(RUN) python -m pipelines.plan "$(PROFILE)"

study: $(STAMP) ## A study, NAME=budget, code, fits, grid, humaneval, official, rates, removal, scale, sft, start or variants: its cost, then the run
	$(if $(word 2,$(NAME))$(filter-out $(STUDIES),$(or $(NAME),none)),\
	$(error NAME: no study "$(NAME)"; there are $(STUDIES)))
	@sed -n '/^# Cost: /,/^[^#]/s/^# //p' pipelines/studies/$(NAME)/dvc.yaml
	@$(RUN) python -m pipelines.broken_locks
	$(RUN) dvc repro pipelines/studies/$(NAME)/dvc.yaml
	mkdir -p metrics/$(NAME) && find artifacts/$(NAME) -maxdepth 2 -name '*.json' -exec cp {} metrics/$(NAME)/ \;

studies: ## All studies but humaneval, which runs what models wrote; days
	@for name in $(filter-out humaneval,$(STUDIES)); do $(MAKE) study NAME=$$name || exit; done

grid: ## The learning-rate grid of every model; training reads metrics/grid/<model>.json
	@$(MAKE) study NAME=grid

release: $(STAMP) ## release/MODEL to hand on: weights, tokenizer, card; PUSH=owner/name uploads it
	$(RUN) python -m pipelines.release "$(MODEL)" $(if $(PUSH),--push "$(PUSH)")

$(MERGEKIT)/.installed: benchmarks/requirements-mergekit.txt requirements.txt constraints.txt
	$(PYTHON) -m venv $(if $(SYSTEM_SITE),--system-site-packages) $(MERGEKIT)
	$(if $(SYSTEM_SITE),,$(MERGEKIT)/bin/pip install $(TORCH))
	$(MERGEKIT)/bin/pip install -r $< -c requirements.txt -c constraints.txt
	touch $@

bench: $(STAMP) $(if $(filter expansion,$(or $(BENCH),expansion)),$(MERGEKIT)/.installed) ## Speed and memory beside peers (BENCH=name: one of them)
	$(RUN) python -m benchmarks $(BENCH)

ui: $(STAMP) ## MLflow's pages on the runs so far, at the address that it prints
	@echo "MLflow: http://127.0.0.1:$(PORT); stop with Ctrl-C"
	$(BIN)/mlflow ui --port $(PORT) --backend-store-uri "$${MLFLOW_TRACKING_URI:-sqlite:///mlflow.db}"

clean: ## Remove artifacts and unfinished work; the environment and git's files stay
	rm -rf artifacts .dvc/cache .dvc/tmp mlruns mlflow.db
