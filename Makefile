# Everything a person or CI does, one word each. `make help` lists it.
PYTHON ?= python3
LOCK ?= cpu
BIN := .venv/bin
SERVE_ARGS ?=
.DEFAULT_GOAL := help

.PHONY: help install serve test test-fast lint format demo-model bench-start lock clean

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 24

install: ## create .venv from the lock (LOCK=cpu, gpu, base or dev); a second run is a no-op
	@$(PYTHON) scripts/install.py $(LOCK)

serve: install ## serve the demo model on this CPU (SERVE_ARGS="--port 8080")
	@exec $(BIN)/hybridserve serve $(SERVE_ARGS)

test: LOCK = dev
test: install lint ## every test, with the real engine and the real stack
	$(BIN)/pytest

test-fast: LOCK = dev
test-fast: install ## the tests that need no engine, in under a minute
	$(BIN)/pytest -m "not engine and not stack and not chart"

lint: LOCK = dev
lint: install ## format, lint, types, and the one direction of imports
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy --no-error-summary
	$(BIN)/lint-imports --no-timing

format: LOCK = dev
format: install ## rewrite the code in the one format
	$(BIN)/ruff format --quiet .
	$(BIN)/ruff check --fix --quiet .

demo-model: LOCK = dev
demo-model: install ## train the demo model again, in minutes
	$(BIN)/python demo/train.py --out src/hybridserve/demo_model

bench-start: LOCK = dev
bench-start: install ## time to ready, ours and vLLM's own, in pairs
	$(BIN)/python benchmarks/start.py

lock: LOCK = dev
lock: install ## resolve pyproject.toml into requirements/*.txt again
	$(BIN)/python scripts/lock.py

clean: ## remove the environment and every cache
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis dist build
