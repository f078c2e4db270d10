# Everything runs in .venv, made from the locked requirements. Needs Python 3.11 or newer and a package index.
PYTHON ?= python3
BIN := .venv/bin
# One more than there are cores: some tests wait for processes of their own.
WORKERS := $(shell echo $$(($$(getconf _NPROCESSORS_ONLN) + 1)))

.PHONY: demo test soak lint types audit cassettes lock clean

demo: .venv/.ready  ## the main job on a bundled task with the built-in simulator
	$(BIN)/promptopt optimize tasks/support/prompt.md --data support --model sim --budget-calls 1500

test: .venv/.ready  ## the whole test suite, with the network shut
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

soak: .venv/.ready  ## what takes too long for every change: kills, faults and random input at length
	$(BIN)/python -m pytest -m soak -n auto

lint: .venv/.ready  ## lint and format check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.ready  ## strict types of promptopt/, tasks/ and optimizers/
	PYTHON=$(CURDIR)/$(BIN)/python scripts/typecheck

audit: .venv/.ready  ## known vulnerabilities of the locked packages; status 3 of the script: not checked
	$(BIN)/python scripts/audit.py

cassettes: .venv/.ready  ## record cassettes/ anew, against promptopt simulate on this machine
	$(BIN)/python scripts/record_cassettes.py

lock:  ## renew requirements-dev.lock and requirements-audit.lock (needs uv)
	uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-header -q -o requirements-dev.lock
	uv pip compile --group audit --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-header -q -o requirements-audit.lock

clean:
	rm -rf .venv build *.egg-info

.venv/.ready: requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "promptopt needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
