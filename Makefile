# make up      sets up .venv and runs a swarm of two dht nodes
# make test    sets up .venv and runs everything a change must pass; CI runs the same
# make format  rewrites the code in the project's format
# make bench   measures beside Redis, beanstalkd, SQLite and DuckDB (Debian packages: redis-server beanstalkd gcc), dumps and
#              start-up, TLS and logins; writes bench/README.md's tables
# make screenshots  runs a swarm under load and writes docs/images/dashboard-*.png (Debian packages: chromium chromium-driver)

PYTHON ?= python3
BIN := .venv/bin

.PHONY: up test check format bench screenshots clean

up: .venv/installed
	$(BIN)/swarm up

test: check
	$(BIN)/python -m pytest -n 2 --dist worksteal

check: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv/installed-bench
	$(BIN)/python -m bench.dht --write-readme
	$(BIN)/python -m bench.queue --write-readme
	$(BIN)/python -m bench.logfiles --write-readme
	$(BIN)/python -m bench.restart --write-readme
	$(BIN)/python -m bench.security --write-readme

screenshots: .venv/installed
	$(BIN)/python -m tests.dashboard.screenshots

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

.venv/installed-bench: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,bench]'
	touch $@

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
