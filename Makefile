# SPDX-License-Identifier: Apache-2.0
# Needs git, make and Python 3.10 or newer; everything else goes into .venv here.
#
#   make demo    a real Airflow runs the example with a live view       make demo ARGS=--serve keeps it up
#   make test    all tests                                              make test ARGS="-k words -x"
#                AIRFLOW=pre: with the newest Airflow pre-release
#   make lint    ruff, mypy, import contracts
#   make bench   the store and the scheduler's loop, and plots          make bench BENCH=local: beside LocalExecutor
#                                                                       make bench BENCH=containers: Docker, Kubernetes
#                                                                       make bench BENCH=pull: workers over HTTP
#   make build   the wheel, in dist/
#   make docs    check every example in README and docs/
#   make openapi write the documents of worker API and pool API anew
#   make clean   remove what these commands leave behind (not .venv; make distclean does)

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

ARGS ?=
BENCH ?= store
PYTHON ?=
export PYTHON

# AIRFLOW=pre: the newest Airflow there is, pre-releases too, in an environment of its own.
AIRFLOW ?= pinned
ifeq ($(AIRFLOW),pre)
VENV := .venv-pre
INSTALL := -e .[test,postgres] "apache-airflow>=3.4.0.dev0,<4"
INSTALL_MYSQL := -e .[mysql]
INSTALL_BENCH := -e .[bench]
INSTALL_EDGE := "apache-airflow>=3.4.0.dev0,<4"
else
VENV := .venv
INSTALL := -c constraints.txt -e .[test,lint,postgres]
INSTALL_MYSQL := -c constraints.txt -e .[mysql]
INSTALL_BENCH := -c constraints.txt -e .[bench]
INSTALL_EDGE := -c constraints.txt apache-airflow
endif
# Beside ours: EdgeExecutor, in an environment of its own.
EDGE_VENV := $(VENV)-edge
EDGE_STAMP := $(EDGE_VENV)/.installed
INSTALL_EDGE += "apache-airflow-providers-edge3>=5.1,<6" psycopg2-binary asyncpg
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BENCH_STAMP := $(VENV)/.installed-bench
MYSQL_STAMP := $(VENV)/.installed-mysql

.PHONY: help
help:
	@sed -n 's/^#   /  /p' Makefile

$(STAMP): pyproject.toml constraints.txt tools/venv.sh
	@tools/venv.sh $(VENV) $(INSTALL)
	@touch $@

# Not made where the drivers can't be compiled: then looked for again the next time, in no time.
$(MYSQL_STAMP): $(STAMP) tools/mysql.sh
	@tools/mysql.sh $(VENV) $@ $(INSTALL_MYSQL)

# Only plots need it.
$(BENCH_STAMP): $(STAMP)
	@tools/venv.sh $(VENV) $(INSTALL_BENCH)
	@touch $@

# Where it can't be installed, the benchmark goes without.
$(EDGE_STAMP): constraints.txt tools/venv.sh
	@if tools/venv.sh $(EDGE_VENV) $(INSTALL_EDGE); then touch $@; fi

.PHONY: venv
venv: $(STAMP) $(MYSQL_STAMP)
	@:

.PHONY: demo
demo: $(STAMP)
	@AIRFLOW_HOME="$(CURDIR)/.demo" $(BIN)/airflow workpools demo --home .demo $(ARGS)

.PHONY: test
test: $(STAMP) $(MYSQL_STAMP)
	@$(BIN)/python -m pytest $(ARGS)

.PHONY: lint
lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: bench
bench: $(BENCH_STAMP) $(if $(filter pull,$(BENCH)),$(EDGE_STAMP))
	@$(BIN)/python -m benchmarks.$(BENCH) $(ARGS)

.PHONY: docs
docs: $(STAMP)
	@$(BIN)/python -m pytest -q tests/unit/test_docs.py $(ARGS)

.PHONY: build
build: $(STAMP)
	@rm -rf dist
	@$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	@ls dist/*.whl

# After a deliberate upgrade in .venv: write down what is installed now.
.PHONY: constraints
constraints:
	@$(BIN)/python tools/constraints.py > constraints.txt.new
	@mv constraints.txt.new constraints.txt

# After a deliberate change of the worker API or the pool API.
.PHONY: openapi
openapi: $(STAMP)
	@$(BIN)/python -m tools.openapi

.PHONY: clean
clean:
	rm -rf .demo .test .bench dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

.PHONY: distclean
distclean: clean
	rm -rf .venv .venv-pre .venv-edge .venv-pre-edge
