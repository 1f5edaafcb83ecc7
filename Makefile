# make run    set up what running needs and start the relay on http://127.0.0.1:9077 (flags: make run FLAGS="--port 9078")
# make test   set up and run everything that CI runs
# make test PYTHON=python3.13 VENV=.venv-3.13  the same on another Python, in an environment of its own
# make test-pythons  run the tests of relay, clients, stores and wire on each other Python of this machine, on PATH or in
#             pyenv (ONLY=3.12 for one of them); make test has the oldest of them do the main work once
# make coverage  the same tests, with the share of lines and branches that they run (95 % at least)
# make test-long  run the tests of the relay on both event loops and on both stores, all of them, and repeat more
# make torture  run what takes minutes: 20,000 refusals of each kind, the tests marked torture (MINUTES=10 for longer), and
#             the tests that repeat themselves, as often as they can; the tests of a relay with --store over Redis; then
#             kills and losses of power at operations of the disk, case after case (SEED=1 FIRST=0 is where it begins, and
#             its last line says where to go on), and storms over whole relays, their agents, servers, network and clocks
#             (STORM=0 is where these begin)
# make test-floors  run the tests with the lowest version of each package that pyproject.toml allows
# make test-page  run all tests of the page in Chromium, those that take minutes too, and measure it
# make screenshots  take pictures of every view of the page, and of a portal's, into .cache/screenshots
# make bench  set up and measure the relay beside the floor
# make test-proxy  run the relay behind nginx and Caddy, as references/operations.md configures them; takes those that
#             are installed, or unpacks Debian's packages under .cache

PYTHON ?= python3
VENV := .venv
ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
else
BIN := $(VENV)/bin
endif
INSTALLED := $(VENV)/.installed
READY := $(VENV)/.ready
# Three a processor of the smallest machine of CI: tests also wait, for other processes, browsers and the network.
SPREAD := --numprocesses 6 --dist loadfile --no-loadscope-reorder
PYTEST := $(BIN)/python -m pytest $(SPREAD)
# What depends most on the version of Python: the loop, cancellation, waits, connections, the disk.
EVERYWHERE := tests/protocol tests/domain tests/relay tests/client/test_stream.py tests/client/test_aio.py \
	tests/client/test_sync.py tests/client/link tests/store/test_memory.py tests/store/test_sqlite.py \
	tests/server/test_websocket.py tests/server/test_sse.py tests/server/test_accepting.py tests/server/test_run.py \
	tests/server/test_old_clients.py tests/system/test_attacks.py tests/system/test_old_polls.py tests/doors/test_registry.py

# Each process of a test run would compile again what it does not keep.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: torture run test suite types oldest test-pythons compiled coverage test-long test-floors test-proxy test-page screenshots bench clean FORCE

run: $(INSTALLED)
	$(BIN)/clawlink serve $(FLAGS)

test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(MAKE) --jobs=3 types oldest suite

# Types are checked beside it: tests also wait.
suite: compiled
	$(PYTEST) $(FLAGS)

types:
	$(BIN)/mypy

# Types show what an older Python lacks, but not what it does otherwise.
oldest:
	$(PYTHON) .ci/pythons.py --smoke

test-pythons:
	$(PYTHON) .ci/pythons.py --only "$(ONLY)" $(SPREAD) $(or $(TESTS),$(EVERYWHERE)) $(FLAGS)

# Otherwise each process of the tests compiles all of them. The tests themselves report an error of a file. This imports
# the files, and looks for no tests in them.
compiled:
	-$(BIN)/python -m pytest --collect-only -qq -o python_functions=no_function -o python_classes=NoClass > $(VENV)/.collected

# Measuring takes as long again as the tests.
coverage: $(READY)
	$(PYTEST) --cov --cov-report=term-missing:skip-covered --cov-fail-under=95 $(FLAGS)

test-long: $(READY)
	CLAWLINK_TEST_LONG=1 $(PYTEST) --loops all --stores all tests/domain tests/store tests/relay tests/server tests/system tests/client tests/doors $(FLAGS)

test-floors:
	@$(PYTHON) .ci/environment.py $(VENV)-floors test --floors
	$(VENV)-floors/$(notdir $(BIN))/python -m pytest $(SPREAD) $(FLAGS)

test-proxy: $(READY)
	$(BIN)/python -m tests.binaries nginx caddy
	CLAWLINK_TEST_PROXY=1 $(BIN)/python -m pytest tests/proxy tests/doors/*/test_proxy.py $(FLAGS)

test-page: $(READY)
	$(PYTHON) -m tests.browser.programs
	CLAWLINK_TEST_PAGE=1 $(BIN)/python -m pytest tests/page tests/server/test_page_files.py $(FLAGS)
	$(BIN)/python -m tests.page.measure

screenshots: $(READY)
	$(PYTHON) -m tests.browser.programs
	$(BIN)/python -m tests.page.screenshots .cache/screenshots
	$(BIN)/python -m tests.doors.portal.page.screenshots .cache/screenshots

torture: $(READY)
	-$(BIN)/python -m tests.binaries redis-server
	CLAWLINK_TEST_REFUSALS=20000 $(BIN)/python -m pytest tests/server/test_garbage.py $(FLAGS)
	CLAWLINK_TORTURE_MINUTES=$(or $(MINUTES),0) $(BIN)/python -m pytest -m torture $(FLAGS)
	CLAWLINK_TORTURE=1 $(PYTEST) -m storm $(FLAGS)
	CLAWLINK_TEST_SERVER=redis-server $(PYTEST) --stores valkey -m shared tests/server $(FLAGS)
	CLAWLINK_TEST_SERVER=redis-server $(PYTEST) tests/system/test_relays.py tests/system/test_nodes.py \
		tests/store/test_valkey.py $(FLAGS)
	$(BIN)/python -m tests.torture.disk --seed $(or $(SEED),1) --first $(or $(FIRST),0) --minutes $(or $(MINUTES),5)
	$(BIN)/python -m tests.torture.relay --seed $(or $(SEED),1) --first $(or $(STORM),0) --minutes $(or $(MINUTES),5) \
		--on data,always,cluster-wait

bench: $(READY)
	$(BIN)/clawlink bench --floor $(FLAGS)

# Each installs what is missing, and makes a broken environment anew.
$(INSTALLED): FORCE
	@$(PYTHON) .ci/environment.py $(VENV) ""

$(READY): FORCE
	@$(PYTHON) .ci/environment.py $(VENV) test

FORCE:

clean:
	$(PYTHON) -c "import glob, shutil; [shutil.rmtree(d, True) for d in ('$(VENV)', '$(VENV)-floors', *glob.glob('.venv-3.*'), 'build', '.mypy_cache', '.ruff_cache', '.pytest_cache', '.hypothesis')]"
