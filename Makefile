# SPDX-License-Identifier: Apache-2.0
# Each target makes the checkout ready by itself: see scripts/setup.
.DEFAULT_GOAL := help
.PHONY: help demo test lint types bench chaos docs lock clean
NOX := .venv/bin/nox --session

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

demo: ## a patch reaches a hypervisor, a vote and a page (ARGS="--once")
	@scripts/setup runtime
	@.venv/bin/hypervouch demo $(ARGS)

test: ## all tests (ARGS="tests/unit -k judge"; HYPERVOUCH_REQUIRE=NAMES: no skips, see CONTRIBUTING.md)
	@scripts/setup test
	@.venv/bin/python -m pytest $(ARGS)

lint: ## ruff, import layers and types
	@scripts/setup lint
	@$(NOX) lint types

types: ## mypy alone
	@scripts/setup lint
	@$(NOX) types

bench: ## measure this machine: event to vote, bursts, memory (ARGS passed on)
	@scripts/setup test
	@.venv/bin/python -m tests.bench $(ARGS)

chaos: ## a whole installation under faults, repeatable by its seed (ARGS="--seed 7 --database postgresql")
	@scripts/setup test
	@.venv/bin/python -m tests.chaos $(ARGS)

docs: ## check that the documents say what the code does
	@scripts/setup lint
	@$(NOX) docs

lock: ## write the lock files anew from pyproject.toml (ARGS="--upgrade")
	@scripts/setup lint
	@scripts/lock $(ARGS)

clean: ## remove what the targets made, all but the downloads in the user's cache
	rm -rf .venv .cache .nox .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build dist
