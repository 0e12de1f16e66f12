# Two promises, on a bare Debian 12: `make demo` runs the main job, `make test` runs every check.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# Caches stay in this folder, so that deleting it leaves nothing behind.
export XDG_CACHE_HOME := $(CURDIR)/.cache
# Images set it. Then each of the thousands of processes here would compile all that it imports: 2 s instead of 0.6 s.
unexport PYTHONDONTWRITEBYTECODE
BIN := .venv/bin
UV := .tools/bin/uv

.PHONY: help demo check quick-tests test tests soak fuzz lint types proto check-proto reference check-lock lock packages test-packages clean audit sbom wheel

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

demo: packages .venv/.ready ## token, fleet root, daemon, 1,000 devices, checked; in .demo
	PATH="$(CURDIR)/$(BIN):$$PATH" demo/run

test: test-packages .venv/.ready ## every check and every test
	$(MAKE) --no-print-directory --jobs=2 tests lint types check-proto check-lock

check: .venv/.ready ## while you work: lint, types, and the unit tests without PostgreSQL and Hypothesis
	$(MAKE) --no-print-directory --jobs=2 quick-tests lint types

quick-tests: .venv/.ready
	$(BIN)/pytest -n $$(nproc) --dist worksteal -m "not postgresql and not hypothesis" tests/unit

tests: .venv/.ready ## every test
	$(BIN)/pytest -n $$(( $$(nproc) * 2 )) --dist loadfile --no-loadscope-reorder

lint: .venv/.ready ## ruff, import-linter, buf lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	scripts/lint-proto

types: .venv/.ready ## mypy --strict
	$(BIN)/mypy

proto: .venv/.ready ## generate the stubs in otahsm/v1 from proto/
	scripts/generate-stubs otahsm

check-proto: .venv/.ready ## fail if the stubs are stale
	scripts/check-stubs

reference: .venv/.ready ## generate docs/reference from the code
	$(BIN)/python scripts/generate_reference.py

lock: $(UV) ## choose versions anew
	scripts/lock --upgrade

check-lock: $(UV) ## fail if requirements.lock does not fit pyproject.toml
	scripts/lock --check

packages: ## what the daemon needs of the system: SoftHSM2, OpenSSL
	scripts/install-packages softhsm2 openssl

audit: .venv/.ready ## known vulnerabilities of what is locked; asks PyPI, or whom AUDIT='--service osv ...' names
	$(BIN)/python scripts/audit.py $(AUDIT)

sbom: .venv/.ready ## what a server installs, as CycloneDX, in dist/
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(BIN)/python scripts/sbom.py

wheel: .venv/.ready ## sdist and wheel of the last commit, in dist/: the same bytes for everyone
	scripts/build

soak: test-packages .venv/.ready ## kill everything 200 times, on SQLite and PostgreSQL; lose the token 1,000 times; draw 10,000 changes to ledgers; draw five times the examples; install 200 devices; hold 64 streams
	PYTHONPATH=tests $(BIN)/python -m soak.storm --engine sqlite
	PYTHONPATH=tests $(BIN)/python -m soak.storm --engine postgresql
	PYTHONPATH=tests $(BIN)/python -m soak.reconnects 1000
	OTAHSM_TAMPER_CHANGES=5000 OTAHSM_TAMPER_SEED=$$RANDOM $(BIN)/pytest --timeout 7200 tests/unit/test_tamper_engine.py
	OTAHSM_TEST_EXAMPLES=full $(BIN)/pytest -m hypothesis tests/unit tests/integration
	OTAHSM_TEST_EXAMPLES=full $(BIN)/pytest tests/faults/test_replicas.py
	OTAHSM_TEST_DEVICES=200 $(BIN)/pytest tests/acceptance/test_guide.py
	OTAHSM_TEST_STREAMS=64 $(BIN)/pytest tests/faults/test_costs.py -k streams

fuzz: .venv/.ready ## fuzz what reads hostile input, for an hour; what is found is kept in .cache/fuzz
	$(BIN)/python tests/fuzz/run.py --seconds 3600

test-packages: packages ## what the tests need besides: GnuTLS, nginx, PostgreSQL, pkcs11-spy, groff, systemd, a C compiler
	scripts/install-packages gnutls-bin nginx-light postgresql gcc libc6-dev procps opensc opensc-pkcs11 p11-kit p11-kit-modules \
		swtpm tpm2-abrmd libtpm2-pkcs11-1 libtss2-tcti-swtpm0 libtss2-tcti-tabrmd0 dbus \
		openssh-server openssh-client busybox-static sudo curl groff-base \
		systemd mount util-linux

$(UV): scripts/uv.lock
	scripts/install-packages python3-venv
	python3 -m venv .tools
	.tools/bin/python -m pip install --quiet --no-cache-dir --only-binary :all: --require-hashes -r scripts/uv.lock
	touch $@

.venv/.ready: requirements.lock pyproject.toml $(UV)
	test -x $(BIN)/python || $(UV) venv --quiet --python "$$(command -v python3)" .venv
	$(UV) pip sync --quiet --no-build --require-hashes requirements.lock
	$(UV) pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

clean: ## remove everything that make made here
	rm -rf .venv .tools .cache .demo .pytest_cache .mypy_cache .ruff_cache .hypothesis dist
