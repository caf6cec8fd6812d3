# Each target sets itself up: a virtual environment in .venv with the locked, hashed dependencies.
PYTHON ?= python3
BIN := .venv/bin
TYPES := $(wildcard ppgstream/*/*.pxd)
COMPILED := setup.py ppgstream/binaries.py ppgstream/core/ready.py ppgstream/core/tile.py $(TYPES) $(TYPES:.pxd=.py)

.PHONY: demo test wheel dist docs faults check lock clean

demo: .venv/runtime
	@$(BIN)/ppgstream demo

# What is compiled is tested once more as it is interpreted.
INTERPRETED := $(addprefix tests/test_,binaries.py measured.py scripts.py segments.py sequence.py)
test: .venv/dev
	$(BIN)/python -m pytest -n auto --dist loadgroup
	PPGSTREAM_PURE=1 $(BIN)/python -m pytest -q -n auto --dist loadgroup $(INTERPRETED)

# On Linux auditwheel says which systems the binaries run on, in the wheel's name.
wheel: .venv/dev
	@[ -n "$(KEEP)" ] || rm -rf dist
	@mkdir -p dist
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation -w dist .
	@if [ "$$(uname -s)" = Linux ]; then \
		PATH="$(CURDIR)/.venv/bin:$$PATH" $(BIN)/auditwheel repair -w dist dist/*-linux_*.whl && rm dist/*-linux_*.whl; \
	fi
	@ls dist/*.whl

# The attacks in full: a quarter of an hour of what `make test` does for a minute.
faults: .venv/dev
	PPGSTREAM_FAULTS=long $(BIN)/python -m pytest -n auto --timeout 3600 tests/faults tests/test_binaries.py tests/test_resample.py tests/test_scripts.py
	$(BIN)/python -m tools.breaks

check: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: .venv/dev
	$(BIN)/python -m tools.site site

# What is published: .ci/release builds it, checks it and tries it in an empty environment.
dist: .venv/dev
	.ci/release

# What pip resolves today, with hashes and no word of an index.
lock: .venv/dev
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --extra build pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -c requirements.lock requirements-light.in -o requirements-light.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --extra dev --extra build -c requirements.lock pyproject.toml -o requirements-dev.lock

.venv/bin/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if (3, 11) <= v < (3, 14) else "ppgstream needs Python 3.11 to 3.13 (TensorFlow has no wheels for others); this is %d.%d: make PYTHON=python3.12 ..." % v[:2])'
	@echo "setting up .venv (TensorFlow is about 600 MB: this takes a minute or two, once)"
	$(PYTHON) -m venv .venv

.venv/runtime: .venv/bin/python requirements.lock pyproject.toml $(COMPILED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

.venv/dev: .venv/bin/python requirements-dev.lock pyproject.toml $(COMPILED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@ .venv/runtime

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
