# iac_lightning: `make` lists what can be made.
PYTHON     ?= python3
VENV       ?= .venv
EXPERIMENT ?=
ARGS       ?=
SWEEP      ?= experiments/sweeps/patch_size_x_upsampling_cpu.yaml
LAUNCHER   ?=
RUN        ?= runs/vit_mae
SPLIT      ?= test
INPUT      ?=
OUT        ?= prediction
PHANTOM     = $(if $(EXPERIMENT)$(findstring --dry-run,$(ARGS)),,$(COHORT))
TEMPLATE   ?= $(wildcard ../shared/data/scct_template_hu.nii.gz)
SCAN       ?= $(wildcard ../shared/data/ge_head_dicom)
TRAIN_ARGS  = $(if $(LAUNCHER),launcher=$(LAUNCHER)) $(ARGS)
COHORT     := data/phantom/cohort.csv
BIN        := $(VENV)/bin
IAC        := $(BIN)/iac
# A file's tests in one process, which makes what they share once; in the order of folders, long ones (integration) first.
PYTEST      = OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder
PIP        := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev demo pretrain finetune baseline sweep evaluate predict ui bench lint format types docs test test-all fuzz kills mutants clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'
	@echo
	@echo '  EXPERIMENT=experiments/…yaml ARGS="key=value …" choose what pretrain, finetune and baseline run;'
	@echo '  LAUNCHER=slurm sends them, and sweep, to a cluster.'

setup: $(VENV)/.runtime ## virtual environment with everything needed to run
setup-dev: $(VENV)/.dev ## the same with tests, linter and type checker

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("$(PYTHON) is too old: 3.11 or newer is needed; name one: make PYTHON=python3.11 …" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
$(VENV)/.runtime: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing into $(VENV) (about two minutes, once)"
	@$(PIP) --editable . && touch $@
# timm, which tests hold the encoder against, by itself: of what it depends on, they need torch alone.
$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/.runtime
	@echo "installing the tools for development into $(VENV)"
	@$(PIP) --editable '.[dev]' && $(PIP) --no-deps timm && touch $@ $(VENV)/.runtime

$(COHORT): | $(VENV)/.runtime
	$(IAC) phantom data/phantom --patients 150 --seed 0

demo: $(VENV)/.runtime ## phantom cohort, MAE, three ViTs and a CNN, compared in one report (a quarter of an hour on 2 cores)
	$(IAC) demo $(ARGS)

# Without EXPERIMENT the defaults run on the phantom cohort, which is made on first use (ARGS=--dry-run needs none).
pretrain: $(VENV)/.runtime $(PHANTOM) ## pre-train a masked autoencoder
	$(IAC) pretrain $(or $(EXPERIMENT),experiments/pretrain/mae.yaml) $(TRAIN_ARGS)

finetune: $(VENV)/.runtime $(PHANTOM) ## fine-tune the ViT (without EXPERIMENT: after the default pre-training)
	$(if $(PHANTOM),$(IAC) pretrain experiments/pretrain/mae.yaml $(if $(LAUNCHER),launcher=$(LAUNCHER)))
	$(IAC) finetune $(or $(EXPERIMENT),experiments/finetune/vit_mae.yaml) $(TRAIN_ARGS)

baseline: $(VENV)/.runtime $(PHANTOM) ## train the nnU-Net-style CNN
	$(IAC) finetune $(or $(EXPERIMENT),experiments/baselines/cnn.yaml) $(TRAIN_ARGS)

sweep: $(VENV)/.runtime ## an ablation and its report: SWEEP=experiments/sweeps/….yaml
	$(IAC) sweep $(SWEEP) $(TRAIN_ARGS)

evaluate: $(VENV)/.runtime ## measure RUN=runs/… on SPLIT=test
	$(IAC) evaluate $(RUN) --split $(SPLIT) $(ARGS)

predict: $(VENV)/.runtime ## segment INPUT=scan with RUN=runs/… into OUT=folder (TEMPLATE=template.nii.gz, ARGS=…)
	@test -n "$(INPUT)" || { echo 'say which scan: make predict INPUT=scan.nii.gz RUN=runs/… OUT=folder'; exit 2; }
	$(IAC) predict $(INPUT) $(OUT) --run $(RUN) $(if $(TEMPLATE),--template $(TEMPLATE)) $(ARGS)

ui: $(VENV)/.runtime ## show tracked runs in the browser, on 127.0.0.1 (ARGS="--port 5050")
	$(IAC) ui $(ARGS)

bench: $(VENV)/.runtime ## speed and memory against peers: bench.json and a table (SCAN=real scan, TEMPLATE=…, ARGS="--models 10 --series 500")
	$(BIN)/python -m benchmarks bench $(if $(SCAN),--scan $(SCAN)) $(if $(TEMPLATE),--template $(TEMPLATE)) $(ARGS)

lint: $(VENV)/.dev ## style, imports, lengths, repeated blocks, dependencies (half a minute)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/python -m tools.lengths
	$(BIN)/deptry .
	$(BIN)/pylint benchmarks data_modules iac_lightning tools

format: $(VENV)/.dev ## mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.dev ## mypy
	$(BIN)/mypy

docs: $(VENV)/.dev ## the documentation, as pages in site/ (ARGS=serve shows them while you write)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs $(or $(ARGS),build --strict)

test: $(VENV)/.dev ## all tests but the slow ones
	$(PYTEST) -m "not slow and not gpu" $(ARGS)

test-all: $(VENV)/.dev ## every test, with coverage, which makes them half as long again
	$(PYTEST) --cov --cov-report=term $(ARGS)

fuzz: $(VENV)/.dev ## damaged inputs of every kind: named, warned about or read rightly (minutes; ARGS="--seed 3 --only dicom:17")
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz.run $(ARGS)

kills: $(VENV)/.dev ## kill commands at random moments and run them again (half an hour; ARGS="--kills 10 --only predict")
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.kills.run $(ARGS)

mutants: $(VENV)/.dev ## break the code and see whether tests notice (hours; ARGS="'*.power.*'" for some of it)
	$(BIN)/python tests/mutation/run.py $(ARGS)

clean: ## remove the environment and caches; never runs or data
	rm -rf $(VENV) mutants .pytest_cache .mypy_cache .ruff_cache .coverage* build dist site *.egg-info
	find . \( -path ./runs -o -path ./data -o -path ./.git \) -prune -o -name __pycache__ -prune -exec rm -rf {} +
