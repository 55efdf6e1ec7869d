# One Makefile, few targets. Each installs what it needs first (tools/setup); `make help` lists them.
.DEFAULT_GOAL := help
SHELL := bash
PY := .venv/bin/python
.PHONY: help setup setup-image demo test test-unit test-long lint fix crds docs agent bench clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

setup: ## make .venv and install what is missing
	@tools/setup

setup-image: ## install what building and booting images needs
	@tools/setup-image

demo: setup ## a real control plane, 12 simulated hosts, one rollout, one host that returns by itself
	@.venv/bin/hostplane demo

test: setup setup-image ## everything: style, unit, cluster, image, virtual machines
	@$(PY) -m pytest -m "not long"

test-unit: setup ## the pure parts, in seconds
	@$(PY) -m pytest -q tests/unit -m "not long"

test-long: setup setup-image ## the campaigns: deeper worlds, every fault
	@$(PY) -m pytest -m "long or not long" --timeout 3600

lint: setup ## style, types, architecture
	@$(PY) -m pytest -q tests/unit/test_style.py

fix: setup ## repair what can be repaired by itself
	@.venv/bin/ruff check -q --fix . || true
	@.venv/bin/ruff format -q .

crds: setup ## write deploy/crds from the types
	@$(PY) -m hostplane.api.crds --write

docs: setup ## write the generated reference pages
	@$(PY) tools/docs

agent: setup ## build dist/hostplane-agent.pyz
	@$(PY) tools/build-agent

bench: setup setup-image ## measure; prints a table and writes bench/results
	@$(PY) -m bench

clean: ## remove what can be made again
	@rm -rf .venv .tools dist build .pytest_cache .ruff_cache .mypy_cache .hypothesis bench/results
