# `make demo` and `make test` begin with `make setup`, which does nothing when nothing changed.
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
COMPILER := $(VENV)/.compiler
# One process a core; tests of a file stay together as long as none is idle, for what they share.
PYTEST := $(BIN)/pytest -n auto --maxprocesses 8 --dist worksteal

.PHONY: setup compiler demo test test-all test-tpu-compile lint lock clean

setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml scripts/setup.sh
	@bash scripts/setup.sh $(VENV)
	@touch $@

# The TPU compiler, which `jaxllm compile` and a few tests need; it exists for x86 Linux only.
compiler: $(COMPILER)

$(COMPILER): requirements-aot.lock $(STAMP)
ifeq ($(shell uname -sm),Linux x86_64)
	@bash scripts/setup.sh $(VENV) requirements-aot.lock
endif
	@touch $@

demo: setup
	@$(BIN)/jaxllm train configs/demo.yaml

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint compiler
	$(PYTEST) -m "not slow and not tpu_compile"

test-all: lint compiler
	$(PYTEST) -m "not tpu_compile"

# Compiles every pod config with the TPU compiler, two to nine minutes of one core each, and shows
# the predicted times.
test-tpu-compile: compiler
	$(PYTEST) -m tpu_compile -rP

# Pins every version and hash, for every platform, naming no index address.
lock:
	uv pip compile pyproject.toml --group demo --group dev --universal --python-version 3.12 \
	    --generate-hashes --no-header --no-emit-index-url --quiet -o requirements.lock --upgrade
	echo 'libtpu==0.0.50.1' | uv pip compile - --python-version 3.12 --generate-hashes --no-header \
	    --no-annotate --no-emit-index-url --quiet -o requirements-aot.lock

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
