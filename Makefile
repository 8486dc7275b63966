# make quickstart   the whole way, a minute on two CPU cores, after the installation
# make test         the default tests            make test-slow   those marked slow
# make check        format, lint, types and the default tests, before every commit
# make reliability  the table of trials at its full counts; parts: make reliability ROWS="R1 P1" COUNT=full (or ci, or 5)
# make clean        removes the environment; runs (outputs/, mlflow.db) stay

PYTHON ?= python3
VENV   := .venv
RUN    := $(VENV)/bin/python
READY  := $(VENV)/.ready

ROWS   ?=
COUNT  ?= full

.PHONY: quickstart test test-slow check reliability clean
.DEFAULT_GOAL := quickstart

# Made again only if the files it installs from have changed; the mark is set when the installation has finished.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "Python 3.10 or newer is needed: make PYTHON=python3.12"; exit 1; }
	@echo "installing into $(VENV): about 6.5 GB, some minutes, once"
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

quickstart: $(READY)
	$(RUN) -m resnet_exp experiment=quickstart

test: $(READY)
	$(RUN) -m pytest -m 'not slow' --durations=10

test-slow: $(READY)
	$(RUN) -m pytest -m slow --durations=10

check: $(READY)
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(RUN) -m pytest -q -m 'not slow'

reliability: $(READY)
	$(RUN) -m tests.reliability $(ROWS) --count $(COUNT)

clean:
	rm -rf $(VENV)
