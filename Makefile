PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help demo venv quick test slow docs lint check clean

help:  ## List the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 14

demo: $(READY)  ## Code three photographs with the small PerCo that ships
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m experiments.run codec=perco

venv: $(READY)  ## Install everything into .venv

# A thread that waits sleeps: each worker has a core, and some tests have more threads than that.
PYTEST := OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile
QUICK := $(filter-out tests/test_contract.py tests/test_adding_a_codec.py tests/test_devices.py, $(wildcard tests/test_*.py)) \
	$(addprefix tests/, callbacks coding datamodules diffusion metrics networks results training weights)

quick: $(READY) check  ## Format, lint, types and unit tests: under two minutes on two cores
	$(PYTEST) $(QUICK) --deselect tests/test_structure.py::test_ruff --deselect tests/test_structure.py::test_mypy

test: $(READY)  ## All that a change must pass: format, lint, types and the default tests
	$(PYTEST) --no-loadscope-reorder

slow: $(READY)  ## The tests that take more than a minute each, for an hour
	$(PYTEST) -m slow

docs: $(READY)  ## Build the site into build/site; broken links and missing docstrings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

lint: $(READY)  ## Format the code and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/mypy

# uv installs this in seconds; pip does the same, slowly. Compiled at once, as pip does by itself:
# where Python may not write bytecode, each process would spend seconds on it again.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv && \
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -c constraints.txt -e '.[dev]' || \
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

clean:  ## Remove .venv, build and outputs
	rm -rf $(VENV) build outputs
