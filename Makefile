# make demo: replay a bag through the node, pictures and a report in out/demo (BAG=path TOPIC=/x for a bag of yours)
# make test: all tests
# make .venv: only the environment of these two; PYTHON=python3.12 chooses the interpreter (3.10 to 3.12)
PYTHON ?= python3
BAG ?=
TOPIC ?=
DEMO_READY := .venv/.demo-ready
TEST_READY := .venv/.test-ready

.PHONY: demo test .venv

demo: $(DEMO_READY)
	.venv/bin/python -m copilot4d_ros.demo --out out/demo $(if $(BAG),--bag "$(BAG)") $(if $(TOPIC),--topic "$(TOPIC)")

test: $(TEST_READY)
	.venv/bin/python -m pytest

.venv: $(TEST_READY)

# What a robot needs: no torch.
$(DEMO_READY): setup.py
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --editable ".[ros]"
	touch $@

$(TEST_READY): setup.py
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet "torch==2.13.*"
	.venv/bin/python -m pip install --quiet --editable ".[train,ros,test]"
	touch $@ $(DEMO_READY)
