# On a fresh machine: `make demo`, `make test`. Needs Python 3.11 to 3.13 and PyPI.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
EXTRAS := export,bench,constrain,eval,files,ray,serve,urls,web
OLDEST := .venv-oldest
WHEELS := .venv-wheels
# Up to four processes; the tests of a file stay together, since they share models.
PARALLEL := --numprocesses auto --maxprocesses 4 --dist loadfile

# Installing compiles them.
KERNELS := gpt2rt/kernels/build.py hatch_build.py $(wildcard gpt2rt/kernels/src/*)

PACKAGES := gpt2rt export/gpt2rt_export bench/gpt2rt_bench bench/gpt2rt_evals

.PHONY: demo test quick coverage oldest soak lint types docs check kernels kernel-tests wheels \
    web-runtime node-runtime demo-model clean

demo: $(INSTALLED)  ## export the embedded demo model to int8 and let it tell a story
	$(BIN)/gpt2rt export demo --int8 --force
	$(BIN)/gpt2rt generate --model demo-int8 --temperature 0.6 --seed 1

test: $(INSTALLED) web-runtime node-runtime  ## every test
	$(BIN)/python -m pytest $(PARALLEL)

quick: $(INSTALLED)  ## the tests that are fast
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow and not browser"

coverage: $(INSTALLED) web-runtime node-runtime  ## every test, and the share of each package's lines that they ran
	$(BIN)/python -m pytest $(PARALLEL) --cov --cov-report=
	@for package in $(PACKAGES); do \
	    echo "$$package: $$($(BIN)/coverage report --format=total --include="$$package/*") %"; \
	done

oldest: web-runtime node-runtime  ## every test with the least version of each library that pyproject.toml names
	$(PYTHON) -m venv --clear $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet uv
	$(OLDEST)/bin/uv pip install --quiet --python $(OLDEST)/bin/python --resolution lowest-direct --editable '.[$(EXTRAS)]' --group dev
	for file in .venv/node .venv/onnxruntime-web-*.tgz; do \
	    if [ -e $$file ]; then cp -R $$file $(OLDEST); fi; \
	done
	$(OLDEST)/bin/python -m pytest $(PARALLEL)

soak: $(INSTALLED)  ## what takes minutes: every script of tests/soak
	set -e; for script in tests/soak/*.py; do PYTHONPATH=tests/helpers $(BIN)/python $$script; done

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

docs: .venv/.docs  ## the documentation, into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

check: lint types docs test  ## what has to pass before a change lands

node-runtime: $(INSTALLED)  ## onnxruntime-node, for the test of docs/examples/bundle.mjs
	@if [ ! -d .venv/node/node_modules/onnxruntime-node ] && command -v npm >/dev/null; then \
	    npm install --silent --no-audit --no-fund --ignore-scripts --prefix .venv/node onnxruntime-node@1.30.0; \
	fi

web-runtime: $(INSTALLED)  ## onnxruntime-web, for the tests of the page for the browser
	@file=$$($(BIN)/python -c "from gpt2rt_export.web.runtime import FILE; print(FILE)"); \
	if [ ! -f .venv/$$file ] && command -v npm >/dev/null; then \
	    npm pack --silent --pack-destination .venv \
	        $$($(BIN)/python -c "from gpt2rt_export.web.runtime import PACKAGE; print(PACKAGE)"); \
	fi

kernels:  ## compile the kernels anew, and nothing else
	$(PYTHON) gpt2rt/kernels/build.py

kernel-tests: $(INSTALLED)  ## the tests of the kernels, with a sanitizer on every instruction set here
	$(BIN)/python -m pytest tests/kernels

wheels:  ## wheels with compiled kernels for every platform, into dist/
	$(PYTHON) -m venv --clear $(WHEELS)
	$(WHEELS)/bin/python -m pip install --quiet hatchling ziglang
	set -e; for target in $$($(PYTHON) gpt2rt/kernels/build.py targets); do \
	    GPT2RT_TARGET=$$target $(WHEELS)/bin/python -m hatchling build --target wheel; \
	done

demo-model: $(INSTALLED)  ## train the demo model anew (about 20 minutes) and renew its bundle
	$(BIN)/python export/demo/train.py
	$(BIN)/gpt2rt export demo --int8 --force --output gpt2rt/demo/bundle

$(INSTALLED): pyproject.toml $(KERNELS)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[$(EXTRAS)]' --group dev
	touch $@

.venv/.docs: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --group docs
	touch $@

clean:
	rm -rf .venv $(OLDEST) $(WHEELS) gpt2rt/kernels/libgpt2rt.* dist build site .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis
