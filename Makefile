# SPDX-License-Identifier: Apache-2.0
# A thin front door: every target is one command of the project's own Python, which can also be called by itself.

.DEFAULT_GOAL := help
.PHONY: help image run stop test bench soak check lint versions clean
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
USER_DATA ?=
# The machine of `make run` reaches nothing beyond this host, unless this is `open`.
NETWORK ?= closed
PYTEST_ARGS ?=
# One virtual machine at a time: it uses both cores of a small host, and time limits inside Kubernetes are met.
MACHINES ?= 1
# After so many minutes of `make test` no further test on a machine begins; 0: no limit.
MINUTES ?= 65
STARTED := $(shell date +%s)
# Machines of `make run`; more than one make a cluster.
CONTROL_PLANES ?= 1
WORKERS ?= 0
# What `make soak` repeats.
SOAK = $(addprefix tests/, torture/test_single.py torture/test_cluster.py vm/test_first_boot.py vm/test_life.py \
	vm/test_torture.py vm/test_workers.py vm/test_control_planes.py)
REPEAT ?= 10
TORTURE_SECONDS ?= 120
SEED ?= $(shell date +%s)
PAIRS ?= 2
BUILD ?= warm
CLUSTERS ?= 1
# A process for each machine and one for all the rest; see tests/lanes.py.
RUN = exec $$venv/bin/python -m pytest -p tests.lanes --numprocesses=$$(($(MACHINES) + 1)) --machines=$(MACHINES) \
	--no-loadscope-reorder -v --durations=0 --durations-min=10
# The environment is made by the first target that needs it, so it is only looked up inside recipes.
VENV = $$($(PYTHON) -m image.venv)

help: ## Show this
	@echo "usage: make TARGET [NAME=VALUE...]"
	@echo
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

image: ## Build the disk image, build/basalt.raw (root)
	@$(PYTHON) -m image.build

run: image ## Boot it in QEMU, wait until Ready; USER_DATA=FILE or CONTROL_PLANES=3 WORKERS=1, NETWORK=open (root)
	@$(PYTHON) -m image.run start $(if $(filter open,$(NETWORK)),--open) --control-planes=$(CONTROL_PLANES) \
		--workers=$(WORKERS) $(USER_DATA)

stop: ## Shut the machines of `make run` down; their disks stay (root)
	@$(PYTHON) -m image.run stop

test: image ## Units and linters, datastores under torture, virtual machines (root); PYTEST_ARGS='-k NAME' for some
	@venv=$(VENV) && $(RUN) -p tests.timebox --started=$(STARTED) --minutes=$(MINUTES) \
		tests -m 'not soak' $(PYTEST_ARGS)

bench: image ## Boots beside a cluster started by hand, size, build, clusters, features (root); PAIRS=2, BUILD=warm|cold|none, CLUSTERS=1
	@venv=$(VENV) && exec $$venv/bin/python -m tests.bench --pairs=$(PAIRS) --build=$(BUILD) --clusters=$(CLUSTERS)

soak: image ## The tests of durability again and again (root); REPEAT=10, TORTURE_SECONDS=120 of writes, SEED=N
	@venv=$(VENV) && export TORTURE_SECONDS=$(TORTURE_SECONDS) && exec $$venv/bin/python -m pytest -p tests.soak \
		--repeat=$(REPEAT) --seed=$(SEED) --numprocesses=$(MACHINES) -v $(SOAK) $(PYTEST_ARGS)

check: ## Unit tests and linters: seconds, no root, no network
	@venv=$(VENV) && exec $$venv/bin/pytest tests/unit $(PYTEST_ARGS)

lint: ## Linters and types only
	@venv=$(VENV) && exec $$venv/bin/pytest tests/unit/test_linters.py

versions: ## Show the version of everything inside
	@$(PYTHON) -m image.versions

clean: stop ## Remove build/; the caches in $XDG_CACHE_HOME/basalt stay
	@rm -rf build
