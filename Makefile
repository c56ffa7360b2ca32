# make demo: replay a bag through the node, pictures and a report in out/demo (BAG=path TOPIC=/x for a bag of yours)
# make test: all tests, with branch coverage of core and nodes, and an error below 90 %
# make fuzz, make soak: what the package survives, for TIME= seconds; writes out/trust and the table in docs/reliability.md
# make coverage: what the last make test left out, file by file
# make faults: every fault as often as TIME=seconds allows (90 minutes for all), a row each in docs/reliability.md
# make lock: requirements.lock, of what is installed
# make .venv: only the environment of these two; PYTHON=python3.12 chooses the interpreter (3.10 to 3.12)
PYTHON ?= python3
BAG ?=
TOPIC ?=
TIME ?=
# Exact versions for the Python that they were tried with; another one takes what setup.py allows.
LOCKED := $(shell $(PYTHON) -c "import sys; print('--constraint requirements.lock' if sys.version_info[:2] == (3, 11) else '')")
# Tests start hundreds of processes: each module is compiled by the first that imports it, whatever the caller's environment says.
BYTECODE := env -u PYTHONDONTWRITEBYTECODE PYTHONPYCACHEPREFIX="$(CURDIR)/.venv/bytecode"
DEMO_READY := .venv/.demo-ready
TEST_READY := .venv/.test-ready

.PHONY: demo test coverage fuzz soak faults lock .venv

demo: $(DEMO_READY)
	.venv/bin/python -m copilot4d_ros.demo --out out/demo $(if $(BAG),--bag "$(BAG)") $(if $(TOPIC),--topic "$(TOPIC)")

test: $(TEST_READY)
	$(BYTECODE) .venv/bin/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --timeout 600 --cov --cov-report=

fuzz: $(TEST_READY)
	PYTHONPATH=test .venv/bin/python -m trust.fuzz --seconds $(or $(TIME),120)

soak: $(TEST_READY)
	PYTHONPATH=test .venv/bin/python -m trust.soak --seconds $(or $(TIME),60)

coverage: $(TEST_READY)
	.venv/bin/python -m coverage report --skip-covered --show-missing

faults: $(TEST_READY)
	PYTHONPATH=test .venv/bin/python -m faults.run --seconds $(or $(TIME),5400)

.venv: $(TEST_READY)

lock: $(TEST_READY)
	.venv/bin/python test/locked_versions.py > requirements.lock

# What a robot needs: no torch.
$(DEMO_READY): setup.py requirements.lock
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet $(LOCKED) --editable ".[ros]"
	touch $@

# Most modules of these packages are never imported; see BYTECODE for the others.
$(TEST_READY): setup.py requirements.lock
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --no-compile $(LOCKED) "torch==2.13.*"
	.venv/bin/python -m pip install --quiet --no-compile $(LOCKED) --editable ".[train,ros,view,data,rate,test]"
	touch $@ $(DEMO_READY)
