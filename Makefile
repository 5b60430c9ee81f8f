# make help lists every target. Everything runs from this folder; what needs root asks sudo for it.
PYTHON ?= python3
BIN := .venv/bin
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
# Root leaves no file of its own in an ordinary user's checkout.
ROOT := $(SUDO) env PYTHONDONTWRITEBYTECODE=1 $(BIN)
# The Debian of the demo's host: bookworm or trixie.
RELEASE := trixie
APT := python3-venv:/usr/share/doc/python3-venv redis-tools:/usr/bin/redis-cli git:/usr/bin/git curl:/usr/bin/curl openssl:/usr/bin/openssl \
  openssh-client:/usr/bin/ssh gcc:/usr/bin/gcc python3-dev:/usr/bin/python3-config

.DEFAULT_GOAL := help
.PHONY: help setup lab lint servers test-fast test-hosts test demo demo-info demo-down bench trial-upgrade trial-forky trial-limits clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.complete ## the controller: .venv with Salt and the test tools

.venv/.complete: pyproject.toml constraints.txt
	@missing=; for pair in $(APT); do test -e "$${pair#*:}" || missing="$$missing $${pair%%:*}"; done; \
	if test -n "$$missing"; then echo "Installing$$missing"; \
	  $(SUDO) apt-get update -qq && $(SUDO) env DEBIAN_FRONTEND=noninteractive \
	    apt-get install -qq --no-install-recommends $$missing >/dev/null; fi
	@echo "Installing Salt into .venv"
	@$(PYTHON) -m venv --clear .venv
	@$(BIN)/python config/install.py $(BIN)/python -r constraints.txt
	@mkdir -p .salt/cache/proc && touch $@

lab: setup ## what this machine needs to boot throwaway hosts
	@$(ROOT)/python -m lab setup

lint: setup ## ruff, and the house rules that a program can check
	@$(BIN)/ruff check . && $(BIN)/ruff format --check --quiet .
	@$(BIN)/pytest -q tests/lint

servers: ## the servers that fast tests start for themselves; nothing runs afterwards
	@test -n "$(wildcard /usr/lib/postgresql/*/bin/initdb)" || \
	  { echo "Installing postgresql, without a cluster"; $(SUDO) tests/install-postgres; }

test-fast: setup servers ## all tests that need no host, about a minute
	@$(BIN)/pytest -q -n 2 tests/lint tests/unit tests/render tests/daemons
	@$(BIN)/python -m tests.pythons

test-hosts: setup lab ## the tests on real systemd hosts, as root
	@$(ROOT)/pytest -q -p no:cacheprovider -n 3 --dist loadfile --no-loadscope-reorder tests/hosts

test: lint test-fast test-hosts ## all tests

demo: setup lab ## a bare host becomes a healthy HTTPS site, and stays until demo-down (RELEASE=bookworm: Debian 12)
	@$(ROOT)/python -m lab.demo up $(RELEASE)

demo-info: ## how to reach the demo host, as JSON
	@test -x $(BIN)/python || { echo 'There is no demo host. Try: make demo'; exit 1; }
	@$(ROOT)/python -m lab.demo info

demo-down: ## remove the demo host
	@test -x $(BIN)/python || { echo 'There is no demo host. Try: make demo'; exit 1; }
	@$(ROOT)/python -m lab.demo down

bench: setup lab ## measurements as JSON lines: min, median, max of 3; AGAINST=COMMIT: both in turn, five pairs
	@$(ROOT)/python -m $(if $(AGAINST),lab.against $(AGAINST),lab.bench)

trial-upgrade: setup lab ## a host of an old commit is taken over by this checkout while visitors ask
	@$(ROOT)/pytest -q -x -p no:cacheprovider tests/trials/test_upgrade.py

trial-forky: setup lab ## a host of Debian forky, which stands for Ubuntu 26.04: Python 3.14, Postgres 18, Redis 8
	@$(ROOT)/pytest -q -x -p no:cacheprovider tests/trials/test_forky.py

trial-limits: setup lab ## what a site may have of a host, tried to its end in a virtual machine beside a neighbour
	@$(ROOT)/pytest -q -x -s -p no:cacheprovider tests/trials/test_limits.py

clean: ## remove .venv and Salt's caches
	rm -rf .venv .salt
