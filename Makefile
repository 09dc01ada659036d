# The verbs of the house; `make` alone lists them. GNU make 3.81 and newer.
#
#   make setup PYTHON=python3.12          another interpreter, 3.11 or newer
#   make setup TORCH_INDEX=URL            a further package index to take torch from (CPU builds)
#   make test ARGS='-k ring' WORKERS=4    more for pytest, more processes
#   make bench ONLY=fold                  one benchmark

PYTHON ?= python3
TORCH_INDEX ?=
WORKERS ?= 2
ARGS ?=
ONLY ?= *

BIN := .venv/bin
STAMP := .venv/.stamp
# Nothing is ever installed outside .venv, in whatever state an interruption left it.
PIP := PIP_REQUIRE_VIRTUALENV=1 $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt
PROTOS := $(sort $(wildcard protocol/v1/*.proto))
# One thread a worker: two workers with two torch threads each starve the daemons under test.
PYTEST := OMP_NUM_THREADS=1 MPLBACKEND=Agg $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help setup demo test check format e2e faults bench proto bridge

help: ## list these verbs
	@awk -F ':.*## ' '/^[a-z][a-z0-9]*:.*## / {printf "  make %-8s %s\n", $$1, $$2}' Makefile

setup: $(STAMP) ## make .venv with all that the other verbs need (skipped when nothing changed)

# The stamp is written last: a set-up that was interrupted is not taken for one that ended.
$(STAMP): pyproject.toml constraints.txt Makefile
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else \
	  "weft needs Python 3.11 or newer, $(PYTHON) is %d.%d: make setup PYTHON=python3.12" % v[:2])'
	@echo "setting up .venv: a few minutes the first time"
	@$(BIN)/python -c 'import sys, pip; sys.exit(sys.prefix == sys.base_prefix or \
	  not pip.__file__.startswith(sys.prefix))' 2>/dev/null || $(PYTHON) -m venv --clear .venv
	@# torch alone and first: pinned, so that nothing below pulls another build of gigabytes
	@$(PIP) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch hatchling editables
	@$(PIP) --no-build-isolation --editable '.[dev]'
	@touch $@

demo: setup ## a coordinator and four nodes on this machine, real data, a report
	@$(BIN)/weft demo $(ARGS)

test: setup ## every test but the faults, in under ten minutes on two cores
	@$(PYTEST) -q -n $(WORKERS) --dist loadgroup -m 'not faults' $(ARGS)

check: setup ## what CI wants before the tests: format, lint, types, generated code
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(PYTEST) -q tests/test_generated_code.py

format: setup ## write every file as `make check` wants it
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

e2e: setup ## the tests with real processes over real sockets
	@$(PYTEST) -q -s tests/e2e -m 'not faults' $(ARGS)

faults: setup ## kill, stop and starve real processes; minutes long, prints its counts
	@$(PYTEST) -s -m faults $(ARGS)

bench: setup ## every benchmark, one after the other (ONLY=name for one)
	@for file in benchmarks/$(ONLY).py; do \
	  [ -f "$$file" ] || { echo "no benchmark $$file; there are:" benchmarks/*.py >&2; exit 2; }; \
	  echo "== $$file"; $(BIN)/python "$$file" $(ARGS) || exit 1; \
	done

proto: setup ## generate protocol/v1 again from its .proto files
	@$(BIN)/python -m grpc_tools.protoc -Isrc --python_out=src --pyi_out=src --grpc_python_out=src \
	  $(addprefix weft/,$(PROTOS))

bridge: ## lay the links src/weft/<folder> again (after a checkout without links)
	@for folder in merging topology checkpoints protocol coordinator node simulations cli; do \
	  rm -f "src/weft/$$folder"; ln -s "../../$$folder" "src/weft/$$folder"; \
	done
