# Needs Python 3.11 or newer and make. Every target installs what it needs in .venv.

PYTHON ?= python3
PORT ?= 8000

# pip needs a home directory for its cache, even if the user has none.
export HOME := $(or $(HOME),$(CURDIR)/.make/home)
# The caller's Python settings must not affect the tests.
unexport PYTHONPATH PYTHONHOME PYTHONUNBUFFERED PYTHONDONTWRITEBYTECODE

# Three processes keep two cores busy: many tests wait for a process or a time.
WORKERS ?= 3

BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
VENV := .venv/.created
READY := .venv/.ready
DEMO_READY := .venv/.demo-ready
DOCS_READY := .venv/.docs-ready
SYSTEM_READY := .venv/.system-ready
# Apps with many dependencies, each in an environment of its own.
APPS_READY := .make/apps/mlflow/.ready .make/apps/prefect/.ready
BENCH_READY := .venv/.bench-ready
MUTATE_READY := .venv/.mutate-ready
GUIDED_READY := .venv/.guided-ready
DIST_READY := .venv/.dist-ready

.PHONY: help demo docs test coverage test-system test-all dist bench soak fuzz format clean timing mutate fuzz-guided

soak: MINUTES ?= 30
fuzz fuzz-guided: MINUTES ?= 5

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

demo: $(DEMO_READY) ## Serve the FastAPI example with a new key, and print curl commands; PORT=8000
	@$(BIN)/basicauth-mw demo --port $(PORT)

docs: $(DOCS_READY) ## Build the documentation site in site/; a warning is an error
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --jobs auto -c docs -d .make/doctrees . site
	@echo "Open site/index.html"

test: $(READY) ## Lint, type-check and run all tests; T=tests/auth/test_cache.py runs only these
ifeq ($(origin T),command line)
	$(BIN)/pytest $(T)
else
	@$(BIN)/python -c 'import platform as p; print("Testing on", p.python_implementation(), p.python_version())'
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	@# Meanwhile the other core compiles the tests. If one has an error, the tests report it.
	@echo $(BIN)/mypy; $(BIN)/pytest -qq --collect-only >/dev/null 2>&1 & $(BIN)/mypy; status=$$?; wait; exit $$status
	$(BIN)/pytest -n $(WORKERS)
endif

coverage: $(READY) ## Run all tests and report branch coverage
	$(BIN)/pytest -n $(WORKERS) --cov=basicauth_mw

test-system: $(SYSTEM_READY) $(APPS_READY) ## Run the tests that need nginx, Chromium, Prometheus and large apps
	@set -- $$(.ci/missing-packages); if [ $$# -gt 0 ]; then \
	  echo "error: not installed: $$*. Run:  apt-get install --no-install-recommends $$*" >&2; exit 1; \
	fi
	$(BIN)/pytest -n 2 tests/system

test-all: $(VENV) ## Run the core of the tests on each Python here, with the newest and the lowest dependencies; PYTHONS=3.13
	$(BIN)/python tests/release/pythons.py $(PYTHONS)

dist: $(DIST_READY) ## Build the packages and a bill of materials in dist/, and check them
	$(BIN)/python -m tests.release.dist

bench: $(BENCH_READY) ## Compare performance with other packages; writes benchmarks/RESULTS.md; BENCH_ARGS=--quick
	$(BIN)/python benchmarks/run.py $(BENCH_ARGS)

timing: $(READY) ## Test whether the time of a refusal reveals its reason; BENCH_ARGS=--quick
	$(BIN)/python benchmarks/timing.py $(BENCH_ARGS)

soak: $(READY) ## Run real servers under load, faults and key changes; MINUTES=30 SOAK_ARGS='--seed 7 --write'
	$(BIN)/python -m tests.soak.soak --minutes $(MINUTES) $(SOAK_ARGS)

fuzz: $(READY) ## Send random input to the parser and both middlewares; MINUTES=5 or FUZZ_ARGS='--inputs 50000000'
	$(BIN)/python -m tests.fuzz.fuzz $(if $(FUZZ_ARGS),$(FUZZ_ARGS),--minutes $(MINUTES))

fuzz-guided: $(GUIDED_READY) ## Send random input to the parser alone, guided by coverage; MINUTES=5
	@mkdir -p .make/fuzz
	$(BIN)/python -m tests.fuzz.guided -max_len=300 -max_total_time=$$(($(MINUTES) * 60)) .make/fuzz tests/fuzz/corpus

mutate: $(MUTATE_READY) ## List changes to the deciding code that no test detects; MUTANTS='basicauth_mw.auth.path_rules*'
	set -f; $(BIN)/mutmut run --max-children 2 $(MUTANTS)
	$(BIN)/mutmut results | grep -v 'not checked' || echo "no survivors"

format: $(READY) ## Fix lint errors and format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean: ## Remove everything that make created
	rm -rf .venv .make dist site mutants .coverage .coverage.* htmlcov .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp file is written last, so that an interrupted installation is repeated.
$(VENV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is required; choose one with: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(PIP) --upgrade 'pip>=25.1'
	@touch $@

$(DEMO_READY): $(VENV) pyproject.toml
	$(PIP) -e '.[cli,dashboard]' --group demo
	@touch $@

$(DOCS_READY): $(VENV) pyproject.toml
	$(PIP) -e '.[standard]' --group docs
	@touch $@

$(READY): $(VENV) pyproject.toml
	$(PIP) -e '.[standard,postgres]' --group dev
	@touch $@ $(DEMO_READY) $(DOCS_READY)

$(SYSTEM_READY): $(READY)
	$(PIP) --group system
	@touch $@

$(APPS_READY): .make/apps/%/.ready: tests/system/real/%.txt pyproject.toml
	$(PYTHON) -m venv .make/apps/$*
	.make/apps/$*/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -e . -r $<
	@touch $@

$(BENCH_READY): $(READY) benchmarks/requirements.txt
	$(PIP) -r benchmarks/requirements.txt
	@touch $@

$(MUTATE_READY): $(READY) tests/mutation/requirements.txt
	$(PIP) -r tests/mutation/requirements.txt
	@touch $@

$(GUIDED_READY): $(READY) tests/fuzz/requirements.txt
	$(PIP) -r tests/fuzz/requirements.txt
	@touch $@

$(DIST_READY): $(VENV) pyproject.toml
	$(PIP) --group dist
	@touch $@
