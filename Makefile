# make quickstart   the main job end to end, on data it renders itself (or PRETRAIN=… VISA=…)
# make test         the tests
# make lint         ruff and mypy
# make docs         the documentation, into site/; warnings are errors
# make rehearsal    train, evaluate, card, publish, pull, verify: the whole chain at its smallest
# make weights      train every released weight again and compare: make weights FILES="folders of data and starts"
# make test-slow    the tests that take minutes
# make oldest       the tests with the oldest versions that pyproject.toml allows, in .venv-oldest
# make test-gpu     the tests that need a CUDA device
# make test-kill    kills training runs hundreds of times
#
# JOBS is the number of processes that run the tests (2).
# PIP_ARGS is passed to pip. On a Linux machine without a GPU this saves gigabytes:
#   make quickstart PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"

PYTHON   ?= python3
VENV     ?= .venv
PIP_ARGS ?=
OUT      ?= runs/quickstart
PRETRAIN ?=
VISA     ?=
JOBS     ?= 2
FILES    ?=
BIN      := $(VENV)/bin

.PHONY: quickstart rehearsal weights test test-slow oldest test-gpu test-kill lint docs clean

quickstart: $(VENV)/.installed-run
	$(BIN)/python -m examples.quickstart --out "$(OUT)" $(if $(PRETRAIN),--pretrain "$(PRETRAIN)") $(if $(VISA),--visa "$(VISA)")

rehearsal: $(VENV)/.installed-run
	$(BIN)/python -m examples.quickstart --smallest --out runs/rehearsal

weights: $(VENV)/.installed-run
	$(BIN)/python -m examples.retrain --files $(FILES)

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m "not slow and not gpu and not kill" -n $(JOBS) --dist loadfile

test-slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m "slow and not gpu"

test-gpu: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m gpu

test-kill: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m kill -s

oldest:
	$(MAKE) VENV=.venv-oldest .venv-oldest/bin/python
	.venv-oldest/bin/python -m pip install --quiet 'uv>=0.7'
	.venv-oldest/bin/python -m uv pip install --quiet --python .venv-oldest/bin/python \
		--resolution lowest-direct $(PIP_ARGS) -e '.[dev]'
	.venv-oldest/bin/python -m pytest -m "not slow and not gpu and not kill" -n $(JOBS) --dist loadfile

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "site/index.html"

# Some distributions ship Python without ensurepip; virtualenv, unpacked beside, does the same job.
$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "spd-weights needs Python >= 3.10, this is " + sys.version)'
	$(PYTHON) -m venv "$(VENV)" || { \
		rm -rf "$(VENV)"; \
		$(PYTHON) -m pip install --quiet --target "$(VENV).bootstrap" virtualenv && \
		PYTHONPATH="$(VENV).bootstrap" $(PYTHON) -m virtualenv --quiet "$(VENV)"; }

$(VENV)/.installed-run: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -e '.[train,eval]'
	touch $@

$(VENV)/.installed-dev: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -e '.[dev]'
	touch $@ $(VENV)/.installed-run

$(VENV)/.installed-docs: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -e '.[docs]'
	touch $@

clean:
	rm -rf "$(VENV)" "$(VENV).bootstrap" .venv-oldest site build dist .mypy_cache .pytest_cache .ruff_cache
