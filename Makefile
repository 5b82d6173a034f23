# `make demo` and `make test` begin with `make setup`, which does nothing when nothing changed.
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo test test-all test-tpu-compile lint lock clean

setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml scripts/setup.sh
	@bash scripts/setup.sh $(VENV)
	@touch $@

demo: setup
	@$(BIN)/jaxllm train configs/demo.yaml

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/pytest -m "not slow and not tpu_compile"

test-all: lint
	$(BIN)/pytest -m "not tpu_compile"

# Compiles every pod config with the TPU compiler, about two minutes each.
test-tpu-compile: setup
	$(BIN)/pytest -m tpu_compile -s

# Pins every version and hash, for every platform, naming no index address.
lock:
	uv pip compile pyproject.toml --group demo --group dev --universal --python-version 3.12 \
	    --generate-hashes --no-header --no-emit-index-url --quiet -o requirements.lock --upgrade

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
