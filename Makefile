# Every target does its own set-up in .venv; after the first time that costs nothing.
#   make PYTHON=python3.12 ...    another interpreter (3.11 or newer)
#   make demo ARGS="--out DIR"    options for `varmini demo`
#   make PIP_FLAGS="..." ...      options for pip; pip's own variables (PIP_INDEX_URL, ...) work too

.DEFAULT_GOAL := help
.PHONY: help setup demo test versions torture lint notebooks lab book slides page clean distclean results bench

VENV := .venv
PY := $(VENV)/bin/python
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
  $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
PIP_FLAGS ?=
ARGS ?=

# Threads that wait soon sleep: training does not collapse beside a browser (results/bench/busy.csv).
ifndef OMP_WAIT_POLICY
export OMP_WAIT_POLICY := PASSIVE
export GOMP_SPINCOUNT ?= 1000
endif

# The poorest kind of processor, as far as a richer one can be told to be it: AVX2, no bfloat16.
POOREST := ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2

# The stamp's name holds a checksum of what pip was asked for, so a changed requirement installs anew.
STAMP := $(VENV)/.ready-$(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)
BOOK := $(VENV)/.book-$(notdir $(STAMP))
NOTEBOOKS := $(wildcard notebooks/*.ipynb)
ASSIGNMENTS := $(wildcard notebooks/assignments/*.ipynb notebooks/assignments/source/*.ipynb)

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## the environment: .venv with the pinned packages (about 1.6 GB with torch for CPUs)
	@echo "$(VENV) is ready"

$(STAMP):
	@test -n "$(PYTHON)" || { echo "varmini needs Python 3.11 or newer, and no such python3 is on the PATH: install one, or name it with 'make PYTHON=/path/to/python3.11'" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "varmini needs Python 3.11 or newer, and PYTHON=$(PYTHON) is not: name another with 'make PYTHON=/path/to/python3.11'" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) comes without venv or ensurepip: install them (Debian and Ubuntu: the package python3-venv)" >&2; exit 1; }
	@"$(PY)" -c 'import pip' 2>/dev/null || "$(PYTHON)" -m venv --clear "$(VENV)"
	@echo "installing into $(VENV) (the first time takes some minutes, most of it for torch)"
	@"$(PY)" -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt -e '.[dev,notebooks]'
	@"$(PY)" -c 'import matplotlib.font_manager'  # builds its font cache, which would speak up in a notebook
	@rm -f "$(VENV)"/.ready-* && touch "$@"

demo: $(STAMP) ## train both stages on Fashion-MNIST, sample, load the shipped CIFAR-10 models: out/demo/index.html
	@"$(PY)" -m varmini demo --overwrite $(ARGS)

lint: $(STAMP) ## ruff
	@"$(PY)" -m ruff check --output-format concise .

# One thread for each of two workers; the notebooks' outputs were saved with one thread as well.
# The quick forms once more as the poorest kind, so that a richer machine notices what fails there.
test: lint ## ruff, the tests and every notebook (nbval)
	@OMP_NUM_THREADS=1 "$(PY)" -m pytest -n 2 --dist loadscope --nbval --nbval-current-env --nbval-cell-timeout=600 \
	  tests $(NOTEBOOKS) $(ASSIGNMENTS) $(ARGS)
	@$(POOREST) OMP_NUM_THREADS=1 "$(PY)" -m pytest -q -n 2 tests/fast

torture: $(STAMP) ## kill, starve and feed rubbish, within an hour: results/torture.csv
	@PYTHONPATH=tests "$(PY)" -m torture --out results/torture.csv $(ARGS)

versions: $(STAMP) ## the tests with other torch and numpy, and Python 3.11 to 3.13: results/versions.csv
	@"$(PY)" scripts/release/try_versions.py --pip-flags="$(PIP_FLAGS)" $(ARGS)

# VARMINI_WIDGETS=off: a saved page keeps a widget's picture, not a widget without a kernel.
notebooks: $(STAMP) ## run every notebook and save its outputs, as `make test` will compare them
	@for notebook in $(NOTEBOOKS); do \
	  OMP_NUM_THREADS=1 VARMINI_WIDGETS=off "$(PY)" -m nbconvert --to notebook --execute --inplace \
	    --ExecutePreprocessor.store_widget_state=False --ExecutePreprocessor.record_timing=False \
	    --CoalesceStreamsPreprocessor.enabled=True "$$notebook" || exit 1; done

results: $(STAMP) ## tables and figures of results/ and the ledger of claims again, from the CSV files
	@"$(PY)" scripts/evidence/make_results.py $(ARGS)
	@"$(PY)" scripts/evidence/make_claims.py

bench: $(STAMP) ## speed and memory, quick form against plain form: results/bench/ (15 minutes)
	@"$(PY)" -m varmini bench $(ARGS)

lab: $(STAMP) ## JupyterLab with the course
	@"$(PY)" -m jupyterlab notebooks

# Nothing is run: the pages show the outputs that the notebooks were saved with.
book: $(BOOK) ## the course as a static, searchable site: out/book/html/index.html
	@rm -rf out/book/html
	@"$(PY)" -m sphinx -q -W --keep-going -c docs/book -d out/book/.doctrees . out/book/html
	@"$(PY)" scripts/release/export_page.py --out out/book/html/page
	@"$(PY)" scripts/release/check_links.py out/book/html
	@echo "out/book/html/index.html"

# From cells with a Slide Type; reveal.js and MathJax lie beside the decks, so no network is needed.
slides: $(BOOK) ## decks for lectures, from the notebooks' tagged cells: out/slides/index.html
	@"$(PY)" scripts/course/slides.py build --out out/slides

$(BOOK): $(STAMP)
	@"$(PY)" -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt -e '.[book]'
	@rm -f "$(VENV)"/.book-* && touch "$@"

page: $(STAMP) ## a small VAR that draws in the browser (needs no Node): out/page/index.html
	@rm -rf out/page
	@"$(PY)" scripts/release/export_page.py --out out/page

clean: ## remove caches and build leftovers (out/, runs/ and .venv stay)
	@rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	@find . -path ./$(VENV) -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -type d -exec rm -rf {} +

distclean: clean ## clean, and remove .venv
	@rm -rf $(VENV)
