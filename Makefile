# Every target sets up what it needs in .venv; nothing else is installed or changed.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: quickstart test check bench docs clean

STORAGE := local
quickstart: $(INSTALLED)  ## the whole main job on generated images, in runs/quickstart
	$(BIN)/python jobs/quickstart.py --storage $(STORAGE)

test: $(INSTALLED)  ## the test suite, two files at a time: each half has its own Ray and S3 server
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: $(INSTALLED)  ## lint, format, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports --no-cache

bench: $(INSTALLED)  ## every figure a ratio within one run; table in runs/bench
	$(BIN)/python -m tests.bench

docs: $(INSTALLED)  ## what is made from the code: docs/cli.md, the plans in docs/performance.md
	$(BIN)/python docs/make_cli.py
	$(BIN)/python docs/make_forecast.py

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,crf]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
