# Everything that people and CI call. CI calls nothing else.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# The containers hold one package each; nothing is installed, so one virtual environment serves every checkout.
export PYTHONPATH := $(CURDIR)/crds:$(CURDIR)/bus:$(CURDIR)/operator:$(CURDIR)/runner:$(CURDIR)/facade:$(CURDIR)/cli
export PYTHONDONTWRITEBYTECODE := 1
SOURCES := crds bus operator runner facade cli
CHECKED := $(SOURCES) tests benchmarks
# Set late: it builds the environment where the cache has none.
PY = $$(hack/setup-python)/bin
PY_LINT = $$(hack/setup-python --without-native)/bin

.PHONY: help
help: ## list the commands
	@awk -F ':.*## ' '/^[a-zA-Z_-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## from nothing to a model's answers: first without a cluster, then in a pod
	@hack/demo

.PHONY: test
test: ## unit, contract (real API server, Redis, model) and end-to-end tests (real node)
	@hack/test

.PHONY: test-unit test-contract test-e2e
test-unit: ## pure tests: seconds
	@hack/test unit
test-contract: ## against a real API server, Redis and model
	@hack/test contract
test-e2e: ## on a real node
	@hack/test e2e

.PHONY: chaos chaos-mutants
chaos: ## kill, freeze, cut off and flush everything while tasks run; CHAOS_TASKS=10000 for the long run
	@hack/chaos $(ARGS)
chaos-mutants: ## break the product on purpose, and see each defect found
	@hack/chaos mutants $(ARGS)

.PHONY: lint
lint: ## style, types and import contracts
	@hack/setup-system base
	@bin="$(PY_LINT)"; "$$bin/ruff" format --check --quiet $(CHECKED) || { echo "run: make format" >&2; exit 1; }; \
	"$$bin/ruff" check --quiet $(CHECKED); \
	for package in $(SOURCES); do echo "mypy $$package" >&2; done; \
	"$$bin/mypy" $(foreach s,$(SOURCES),$(s)/headrace_$(s)); \
	"$$bin/lint-imports" --no-cache

.PHONY: format
format: ## rewrite the sources in the project's style
	@bin="$(PY_LINT)"; "$$bin/ruff" format --quiet $(CHECKED); "$$bin/ruff" check --fix --quiet $(CHECKED)

.PHONY: generate
generate: ## rewrite everything that is generated
	@bin="$(PY_LINT)"; "$$bin/python" -m headrace_crds.generate .

.PHONY: verify
verify: lint ## lint, and fail when something generated is out of date or the house rules are broken
	@hack/verify

.PHONY: lock
lock: ## pin the dependencies anew
	@hack/lock

.PHONY: cluster cluster-down images
cluster: ## a cluster with a node: HEADRACE_KUBECONFIG, else kind, else one built here
	@tests/cluster/up
cluster-down: ## end it and everything that it left
	@tests/cluster/down
	@tests/cluster/down --control-plane-only
images: ## build the images and bring them to the cluster
	@tests/cluster/images

.PHONY: install
install: ## install or upgrade the chart in that cluster
	@hack/install

.PHONY: bench-engine bench-facade bench-latency bench-planner bench-providers bench-queue bench-structured bench-tasks
bench-engine: ## tokens per second of many tasks on one model, beside llama.cpp's own server
	@hack/bench-engine $(ARGS)
bench-facade: ## a chat request through facade and runner, beside LiteLLM and Portkey before the same upstream
	@hack/bench-facade $(ARGS)
bench-latency: ## overhead of kubectl apply → Complete over the engine's own time
	@hack/bench-latency
bench-planner: ## who gets GPUs: the planner beside swapping and autoscaling, in simulated time
	@hack/bench-planner $(ARGS)
bench-providers: ## tasks of a remote model beside the provider's SDK by itself, and under limits of requests per minute
	@hack/bench-providers $(ARGS)
bench-queue: ## jobs per second through the bus, beside SAQ and BullMQ on the same Redis
	@hack/bench-queue $(ARGS)
bench-structured: ## JSON Schemas that a small model is made to answer, judged by a second validator
	@hack/bench-structured $(ARGS)
bench-tasks: ## LLMTasks per second from create to outcome, beside what the API server allows and beside empty Jobs
	@hack/bench-tasks $(ARGS)

.PHONY: clean
clean: ## remove what tools left in the checkout; caches outside it stay
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
