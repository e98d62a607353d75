# The commands of development; `make help` lists them.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UP_ARGS ?=
# Test processes, each with its own servers: two more than processors, because some tests wait; at most 4.
TEST_PROCESSES ?= $(shell $(PYTHON) -c 'import os; print(min(4, (os.cpu_count() or 1) + 2))')
IMAGE ?= comment-monitor:0.1.0
BASE ?= python:3.11-slim
DOCKER_ARGS ?=
E2E_ARGS ?=
BENCH_ARGS ?=

##@ Run
help: ## list the commands
	@awk -F ':.*## ' '/^##@ /{printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z0-9-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

up: ## run everything on this machine until Ctrl-C (embedded servers, data in ./data)
	@scripts/install-venv runtime
	@exec $(BIN)/comment-monitor up $(UP_ARGS)

##@ Check a change
test: ## run the whole test suite on its own embedded servers
	@scripts/install-venv dev
	@scripts/install-tools || echo "Without Helm the chart's tests are skipped." >&2
	@$(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist worksteal $(TEST_ARGS)

# Their bounds of time and disk space do not hold while coverage.py measures.
UNMEASURED := --deselect tests/unit/core/test_addresses.py::test_the_start_fails_if_there_is_no_space_for_metrics \
  --deselect tests/integration/web/test_bodies.py::test_bodies_of_many_invalid_comments_delay_no_health_probe \
  --deselect tests/integration/observability/test_traces.py::test_a_hanging_collector_does_not_delay_the_shutdown

coverage: ## run the tests of the program and fail below 95 % branch coverage (half an hour)
	@scripts/install-venv dev
	@$(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist worksteal --timeout 400 --cov \
	  --cov-report term:skip-covered tests/unit tests/integration $(UNMEASURED) $(TEST_ARGS)

mutants: ## change important modules in small ways and list the changes that no test notices (half an hour)
	@scripts/install-venv dev
	@scripts/check-mutants

lint: ## check the style of Python and YAML, and the import layers
	@scripts/install-venv dev
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports && scripts/check-words
	@$(BIN)/yamllint --strict compose.yaml deploy tests/e2e chart/*.yaml chart/files .github .pre-commit-config.yaml

types: ## check types strictly
	@scripts/install-venv dev
	@$(BIN)/mypy

##@ Measure
bench: ## measure every performance claim and write docs/performance.md (a quarter of an hour)
	@scripts/install-venv dev
	@$(BIN)/python -m bench $(BENCH_ARGS)

##@ Build and deploy
tools: ## install Helm 3 and 4, kubectl, Prometheus and checkov into .tools (for the chart's tests)
	@scripts/install-tools

image: ## build the container image (BASE=...: another base image)
	@docker build $(DOCKER_ARGS) --build-arg BASE=$(BASE) --build-arg REVISION=$$(git rev-parse HEAD) -t $(IMAGE) .

e2e: ## test a deployment from installation to removal on kubectl's current cluster (in its own namespace)
	@scripts/install-tools
	@tests/e2e/run $(E2E_ARGS)

e2e-kind: ## the same on a temporary kind cluster
	@scripts/install-tools
	@tests/e2e/run-on-kind $(E2E_ARGS)

##@ Maintain the files
docs: ## regenerate pages under docs/, the chart's README, settings and dashboard, and compose's alerts
	@scripts/install-venv dev
	@$(BIN)/python scripts/generate-docs
	@$(BIN)/python scripts/generate-chart-settings
	@$(BIN)/python scripts/generate-chart-readme
	@$(BIN)/python scripts/generate-dashboard
	@$(BIN)/python scripts/generate-compose-rules

lock: ## resolve the dependencies again and write requirements/*.lock
	@scripts/lock

clean: ## remove the virtual environment and caches, never ./data
	@rm -rf $(VENV) .coverage .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

.PHONY: help up test coverage mutants lint types bench docs tools image e2e e2e-kind lock clean
