# SPDX-License-Identifier: BSD-3-Clause
# Everything is done by tools/bootstrap.py, which needs Python 3.11 or newer and nothing else.
#
#   PYTHON         the Python to use                           (python3)
#   SEALROOM_HOME  where the installation keeps its state      (.sealroom)
#   SEALROOM_PORT  the hub's port                              (8000)
#   SEALROOM_BIND  the hub's address; 127.0.0.1 unless asked   (127.0.0.1)
#   SEALROOM_DATA  folder with data that cannot be downloaded
#   ARGS           more arguments for `make test`'s pytest, or for `make bench` (names of benchmarks, --full)

PYTHON ?= python3
BOOTSTRAP = $(PYTHON) tools/bootstrap.py
export ARGS

.DEFAULT_GOAL := help
.PHONY: help up down clean status setup test test-hub5 test-cluster lint reformat bench docs demo-refusals

help: ## say what there is
	@awk 'BEGIN { FS = ":.*## " } /^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

up: ## set up and start everything; says where to log in
	@$(BOOTSTRAP) up

down: ## end everything
	@$(BOOTSTRAP) down

clean: ## end everything and remove what was set up, the notebooks in it too
	@$(BOOTSTRAP) clean

status: ## say what runs
	@$(BOOTSTRAP) status

setup: ## set up for development, start nothing
	@$(BOOTSTRAP) setup

test: ## run the tests, with real servers and a real browser
	@$(BOOTSTRAP) test

test-hub5: ## run the spawner's tests on JupyterHub 5.5
	@$(BOOTSTRAP) test-hub5

test-cluster: ## run the tests on a real Kubernetes, as root on Linux with Go
	@$(BOOTSTRAP) test-cluster

lint: ## check style, types, directions of imports, spelling, generated files
	@$(BOOTSTRAP) lint

reformat: ## format the sources and fix what can be fixed
	@$(BOOTSTRAP) reformat

bench: ## measure, against a named peer in the same run
	@$(BOOTSTRAP) bench

docs: ## build the documentation; warnings are errors
	@$(BOOTSTRAP) docs

demo-refusals: ## show three refusals: a tampered file, an altered report, an expired grant
	@$(BOOTSTRAP) demo-refusals
