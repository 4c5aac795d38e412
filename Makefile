# make demo | test | test-slow | docs | dist | commands | lint | format | constraints | clean: each sets up .venv by itself.
# Needs Python 3.11+ with pip. Another interpreter: make test PYTHON=python3.12.
# On Linux without a GPU, UV_TORCH_BACKEND=cpu make ... avoids the download of the CUDA libraries.

PYTHON ?= python3
UV_VERSION := 0.13.9
BIN := .venv/bin
STAMP := .venv/.stamp

export HF_HUB_DISABLE_TELEMETRY := 1
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

# One thread per process: two torch threads beside another busy process lose most of their speed. Hypothesis's profile
# "ci": the same examples every time, and no deadline that a busy machine would miss.
PYTEST := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n 2 --dist loadfile --hypothesis-profile ci

.PHONY: help demo test test-slow test-stress test-newest-trl docs docs-serve dist commands lint format constraints clean

help:
	@sed -n '1,3s/^# //p' Makefile

demo: $(STAMP)
	$(BIN)/ibpo demo

test: lint
	$(PYTEST) -m "not slow and not stress"

# pytest exits with 5 when it finds no test: having no slow test is fine.
test-slow: $(STAMP)
	$(PYTEST) -m slow --timeout 1200 || [ $$? -eq 5 ]

# Many minutes on an idle machine: not part of CI.
test-stress: $(STAMP)
	$(PYTEST) -m stress --timeout 3600

# What ibpo/training relies on, with the newest TRL (and the transformers that it asks for), in an environment of its own.
# The newest torch too, unless NEWEST_TORCH=torch==2.13.0 (or UV_TORCH_BACKEND=cpu) avoids its download.
NEWEST := .venv-newest-trl
NEWEST_TORCH ?= torch
test-newest-trl: $(STAMP)
	$(BIN)/python -m venv --clear $(NEWEST)
	$(BIN)/uv pip install --python $(NEWEST)/bin/python --upgrade -e '.[dev]' $(NEWEST_TORCH)
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(NEWEST)/bin/python -m pytest -m "not slow and not stress" \
		tests/training/test_trl_contract.py tests/training/test_trainer.py tests/training/test_takes_what_trl_takes.py

# Commands of README and the tutorials: at the tested versions, and one thread per process, as above.
AS_TESTED := PIP_CONSTRAINT=$(CURDIR)/constraints.txt OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive

# The site, in site/; any warning is an error. NO_MKDOCS_2_WARNING: an advertisement for the successor.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs-serve: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

# The wheel, at most 3 MB, tried in an empty environment: README's quick starts run with it.
dist: $(STAMP)
	rm -rf dist
	$(BIN)/uv build --wheel --out-dir dist
	@size=$$(cat dist/*.whl | wc -c); echo "$$size bytes"; test $$size -le 3000000 || { echo "the wheel is above 3 MB"; exit 1; }
	$(AS_TESTED) $(BIN)/python docs/run_commands.py --wheel dist/*.whl

# Every command of README.md and of the tutorials, in a fresh clone with a clean environment.
commands: $(STAMP)
	$(AS_TESTED) $(BIN)/python docs/run_commands.py

# The one command that pre-commit and CI run too.
lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python docs/house.py
	$(BIN)/python docs/plain_english.py

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Resolve the dependencies again. A constraints file, not a lock: it names versions and no address.
constraints: $(STAMP)
	env -u UV_FIND_LINKS $(BIN)/uv pip compile pyproject.toml --extra dev --universal -p 3.11 --upgrade \
		--no-header --no-annotate -o constraints.txt

clean:
	rm -rf .venv .venv-newest-trl .hypothesis .import_linter_cache .pytest_cache .ruff_cache build dist site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# uv where it is available (half a minute), pip otherwise (two minutes). uv does not read pip's configuration, so pip's
# wheel folders are handed on; without bytecode every first import of the trainer costs 13 seconds more.
$(STAMP): pyproject.toml constraints.txt hatch_build.py ibpo/allocation/kernels.c
	@$(PYTHON) -c 'import sys; sys.exit("ibpo needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	@links="$${PIP_FIND_LINKS:-$$($(PYTHON) -m pip config get global.find-links 2>/dev/null)}"; \
	export UV_FIND_LINKS="$${UV_FIND_LINKS:-$$(echo $$links | tr ' ' ',')}" UV_COMPILE_BYTECODE=1; \
	if $(BIN)/python -m pip install --quiet uv==$(UV_VERSION) && \
		$(BIN)/uv pip install --python $(BIN)/python -c constraints.txt -e '.[dev]'; then :; \
	else \
		echo "uv did not work here; installing with pip"; \
		$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'; \
	fi
	@touch $@
