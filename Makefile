# Two commands are all a new machine needs: make demo, make test.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One stamp for each set of extras that is installed; the development extras contain the hub's.
DEMO := $(VENV)/.workstation
DEV := $(VENV)/.dev

.PHONY: demo loop test coverage test-long test-arm64 check bench bench-gpu docs clean

$(DEMO): pyproject.toml constraints.txt scripts/install.py
	$(PYTHON) scripts/install.py $(VENV) workstation
	@touch $@

$(DEV): $(DEMO)
	$(PYTHON) scripts/install.py $(VENV) workstation,dev
	@touch $@

demo: $(DEMO)
	$(BIN)/edgeloop run exercise_watch --runs runs
	$(BIN)/python scripts/demo_agent.py runs

# Real agents and a real hub: drift, labels, retraining, gate, rollout; some minutes. Leaves runs/loop/loop.html.
loop: $(DEV)
	$(BIN)/python scripts/closed_loop.py runs/loop

# Three processes, for two cores: many tests wait for devices, polls and clocks.
test: $(DEV)
	$(BIN)/pytest -n 3 --dist worksteal

# The share of lines that these tests run in their own processes; `.venv/bin/coverage report` has it by file. It takes a quarter longer.
coverage: $(DEV)
	$(BIN)/pytest -n 2 --dist worksteal --cov --cov-report=

# What takes long to protect: kill -9 loops, thousands of devices, whole matrices.
test-long: $(DEV)
	$(BIN)/pytest -n 2 --dist worksteal -m long

# On emulated cores of a Raspberry Pi 4 and 5: the agent, and the int8 parity of the golden bundle. Needs Debian's archive, no rights.
test-arm64: $(DEV)
	$(BIN)/python scripts/arm64.py

check: $(DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy --config-file benchmarks/mypy.ini
	$(BIN)/lint-imports

bench: $(DEV)
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e ".[bench]" || echo "peers are not installed: their rows say so"
	@failed=; for script in main train compression agent hub drift split; do \
		$(BIN)/python benchmarks/$$script.py || failed="$$failed $$script"; done; \
		test -z "$$failed" || { echo "failed:$$failed"; exit 1; }

# What a CPU cannot show: throughput, precisions and memory of training, on a machine with a GPU.
bench-gpu: $(DEV)
	@$(BIN)/python -c "import torch, sys; sys.exit(0 if torch.cuda.is_available() else 'bench-gpu: no GPU that PyTorch can use')"
	$(BIN)/edgeloop doctor
	$(BIN)/python benchmarks/train.py

# The pages are Markdown; this checks that their links and commands are real.
docs: $(DEV)
	$(BIN)/pytest -n 0 tests/e2e/test_docs.py

clean:
	rm -rf $(VENV) runs dist .arm64
