# make demo: the embedded main job. make test: lint, types, import arrows and the tests. Each sets itself up in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check slow docs test-oldest bench-gpu format clean

demo: $(VENV)/.demo
	$(BIN)/layercache demo

test: check
	$(BIN)/python -m pytest -q -n auto --maxprocesses 8 --dist loadfile

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_arrows.py

# First in two processes, then one by one those that need the machine to themselves, also after a failure.
slow: $(VENV)/.dev
	status=0; \
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "(slow or real) and not alone" || status=1; \
	$(BIN)/python -m pytest -q -m "(slow or real) and alone" || status=1; \
	exit $$status

# The book, in site/: offline, with warnings as errors.
docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build -q

# The tests with the oldest versions that pyproject.toml allows, in an environment of their own. Deprecations are no
# errors there: indirect dependencies are the newest.
test-oldest: | $(BIN)/python
	$(BIN)/python -m pip install -q 'uv>=0.5,<1'
	$(BIN)/uv venv -q --clear --python $(BIN)/python $(VENV)-oldest
	$(BIN)/uv pip install -q --python $(VENV)-oldest --resolution lowest-direct -e '.[report,test]'
	$(VENV)-oldest/bin/python -m pytest -q -W default -n auto --maxprocesses 8 --dist loadfile

# All measurements on a GPU in under eight minutes; results in gpu.json. It takes .venv if there is one, else python3 and
# the wheels in WHEELS (CONTRIBUTING.md).
bench-gpu: BENCH_PYTHON = $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))
bench-gpu:
	$(if $(WHEELS),$(BENCH_PYTHON) -m pip install -q --no-index --no-deps --upgrade --target $(WHEELS)/site $(WHEELS)/*.whl)
	PYTHONPATH=$(if $(WHEELS),$(abspath $(WHEELS)/site),$$PYTHONPATH) $(BENCH_PYTHON) -m benchmarks.gpu --out $(or $(OUT),.)/gpu.json

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -q -e '.[report]'
	touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -q -e '.[report,dev]'
	touch $@ $(VENV)/.demo

clean:
	rm -rf $(VENV) $(VENV)-oldest build dist site *.egg-info
