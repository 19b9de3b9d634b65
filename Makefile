# Everything runs in .venv; nothing outside this folder is changed. `make setup` is part of each target and costs nothing when done.
.POSIX:
.SUFFIXES:
.PHONY: setup setup-runtime demo test lint bench

# The first python3 that is new enough; `make PYTHON=/path/to/python demo` says another.
PYTHON = $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)
BIN = .venv/bin
PIP = PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install --quiet --root-user-action=ignore
# A worker per core; the tests that measure time or start many processes share one worker by their xdist group.
PYTEST_ARGS ?= -n auto --dist loadgroup

# Running needs less than testing, and the demo should not wait for what it does not use: two stamps.
RUNTIME = .venv/.installed-runtime
DEVELOPMENT = .venv/.installed-development

setup: $(DEVELOPMENT)

setup-runtime: $(RUNTIME)

demo: $(RUNTIME)
	$(BIN)/tollgate demo

test: $(DEVELOPMENT)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(DEVELOPMENT)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(DEVELOPMENT)
	$(BIN)/python -m bench

.venv/bin/pip:
	@test -n "$(PYTHON)" || { echo "Tollgate needs Python 3.11 or later; none was found as python3." >&2; exit 1; }
	$(PYTHON) -m venv .venv || { rm -rf .venv; echo "Python has no venv: on Debian and Ubuntu install python3-venv." >&2; exit 1; }

$(RUNTIME): requirements.txt pyproject.toml | .venv/bin/pip
	$(PIP) --require-hashes -r requirements.txt
	$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

$(DEVELOPMENT): requirements-dev.txt $(RUNTIME)
	$(PIP) --require-hashes -r requirements-dev.txt
	@touch $@
