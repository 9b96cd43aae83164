# llmkit, from a fresh clone to a running lab. `make` alone lists the targets.
#
#   TORCH=cuda      build .venv with PyTorch's GPU build instead of the CPU wheel (Linux; `make clean` first)
#   PYTHON=...      the Python that .venv is made from; otherwise the newest of 3.14 to 3.11 that can
#   NOTEBOOK=...    what `make grade` grades; otherwise every notebook in exercises/
#
# pip's own configuration (PIP_INDEX_URL, PIP_FIND_LINKS, pip.conf) holds; PyTorch's CPU index is added to it.

TORCH ?= cpu
VENV  := .venv
READY := $(VENV)/.ready
RUN   := $(VENV)/bin/python -m
KIT   := $(VENV)/bin/llmkit

# A name on the PATH is no proof (pyenv's shims, Debian without python3-venv): the candidate has to answer.
ABLE   := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))
PYTHON ?= $(shell for p in python3.14 python3.13 python3.12 python3.11 python3 python; do \
	$$p -c '$(ABLE)' >/dev/null 2>&1 && { echo $$p; break; }; done)

# Small tensors: a second thread costs more than it brings, and the bits of a run depend on the number.
export OMP_NUM_THREADS := 1
export TORCH

.DEFAULT_GOAL := help
.PHONY: help lab demo test test-all grade bench lock clean

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 18

lab: $(READY) ## open JupyterLab on notebooks/00_start_here.ipynb
	$(KIT) lab

demo: $(READY) ## train, break, rescue, diagnose, report, without a browser: about a minute
	$(KIT) demo

test: $(READY) ## lint, unit tests, every notebook: at most 15 minutes on two cores
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) pytest -n 2 --dist loadgroup -m "not slow" tests
	$(RUN) pytest --nbval notebooks -n 2 --dist loadfile

test-all: $(READY) ## the same with the slow tests: at most 60 minutes
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) pytest -n 2 --dist loadgroup tests
	$(RUN) pytest --nbval notebooks -n 2 --dist loadfile

grade: $(READY) ## grade exercises/*.ipynb, or NOTEBOOK=...
	$(KIT) grade $(or $(NOTEBOOK),$(wildcard exercises/*.ipynb))

bench: $(READY) ## every benchmark, one after the other; takes the machine for itself
	@set -e; for script in benchmarks/*.py; do echo "== $$script"; $(VENV)/bin/python $$script; done

lock: $(READY) ## move every pin of requirements.lock to the newest that fits
	$(RUN) pip install --quiet uv
	$(VENV)/bin/python scripts/lock.py

clean: ## remove .venv and every cache; runs/ stays
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find . -name .ipynb_checkpoints -type d -prune -exec rm -rf {} +

$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { \
		echo "error: no Python 3.11 to 3.14 with the venv module was found; install one (Debian, Ubuntu: apt-get install python3 python3-venv) or name it with PYTHON=..." >&2; exit 3; }
	@echo "building $(VENV) with $(PYTHON) from requirements.lock (once; minutes, most of them downloading)"
	$(PYTHON) scripts/install.py $(VENV)
	@touch $@
