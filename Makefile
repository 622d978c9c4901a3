# Every target sets up .venv when it is missing or when the requirements changed.
# PYTHON: the interpreter .venv is made from (3.11 or newer).   WORKERS: test processes.

PYTHON  ?= python3
WORKERS ?= 2
BIN     := .venv/bin
STAMP   := .venv/.set-up
BROWSER := .venv/.browser
ARVIZ1  := .venv-arviz1

# One thread per test process: the processes are the parallelism.
test check-long test-browser: export OMP_NUM_THREADS := 1
test check-long test-browser: export MKL_NUM_THREADS := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo docs lint format types test test-arviz1 test-browser check-long notebooks bench clean

help:
	@echo "make setup       .venv with the package and all that the tests need"
	@echo "make demo        fit radon, hide five counties, adapt to three houses in each (runs/demo)"
	@echo "make test        lint, types, tests: what has to pass before a change goes in"
	@echo "make test-browser  pages and the interactive view in a real browser, which has to be there: Chromium"
	@echo "make test-arviz1 PYTHON=python3.13  the converter on ArviZ 1.x, without torch, on Python 3.12 or newer"
	@echo "make check-long  the tests marked long"
	@echo "make notebooks   run the notebooks at full size and write their outputs into them"
	@echo "make bench       all benchmarks; python -m benchmarks NAME runs one (--help lists them)"
	@echo "make docs        the documentation as pages in runs/docs, links and all checked"
	@echo "make lint        ruff, formatter and types only;  make format rewrites"
	@echo "make clean       remove .venv, runs and caches"

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test]'
	touch $(STAMP)

$(BROWSER): $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test,browser]'
	touch $(BROWSER)

setup: $(STAMP)

demo: $(STAMP)
	$(BIN)/python -m bayesmeta.demo --out runs/demo

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

types: $(STAMP)
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: lint
	$(BIN)/python -m pytest -q -n $(WORKERS) --durations=10

# An environment of its own, without torch: the released nutpie asks for ArviZ before 1.0.
$(ARVIZ1)/.set-up: tests/arviz.txt
	test -x $(ARVIZ1)/bin/python || $(PYTHON) -m venv $(ARVIZ1)
	$(ARVIZ1)/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 12) and "ArviZ 1.x needs Python 3.12: \
	rm -r $(ARVIZ1), then make test-arviz1 PYTHON=python3.12 or newer" or 0)'
	$(ARVIZ1)/bin/python -m pip install --quiet -r tests/arviz.txt
	touch $@

test-arviz1: $(ARVIZ1)/.set-up
	$(ARVIZ1)/bin/python -m pytest -q -c tests/arviz.ini tests/test_arviz.py

test-browser: $(BROWSER)
	$(BIN)/python -m pytest -q -n0 -m browser --durations=5 tests/browser

check-long: $(STAMP)
	$(BIN)/python -m pytest -q -n $(WORKERS) -m long --durations=10

docs: export NO_MKDOCS_2_WARNING := 1
docs: $(STAMP)
	$(BIN)/mkdocs build --strict --quiet
	@echo "python -m http.server --directory runs/docs shows them with their search"

notebooks: $(STAMP)
	$(BIN)/python notebooks/refresh.py

bench: $(STAMP)
	$(BIN)/python -m benchmarks

clean:
	rm -rf .venv $(ARVIZ1) runs dist build .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
