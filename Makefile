# The two words that need nothing but python3.11, make and git: `make run` and `make test`.
.DEFAULT_GOAL := help
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
SCANS ?= worker/sample/study
# Tests at once: much of what they do is waiting. 0 is one after another, for a busy machine makes those fail that race with it.
JOBS ?= 0

# A GPU worker where an NVIDIA driver answers, a CPU worker elsewhere. FLAVOUR=cpu overrides it.
FLAVOUR ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)
PROVIDER_gpu := cuda
PROVIDER_cpu := cpu

.PHONY: help run dev test check format bench bench-networks chaos fuzz deploy-check lock clean

help:  ## what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

run: $(VENV)/.worker-$(FLAVOUR)  ## score the sample study, or make run SCANS=path
	@SLICEWISE_PROVIDER=$${SLICEWISE_PROVIDER:-$(PROVIDER_$(FLAVOUR))} $(BIN)/slicewise run "$(SCANS)"

test: $(VENV)/.dev  ## install what the tests need, then run all of them: JOBS=2 runs two at once
	@tests/peers.sh
	@# A file's tests share servers and trained networks, so they stay together.
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile

dev: $(VENV)/.dev  ## install what training, exporting and the tests need

check: $(VENV)/.dev  ## formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.dev  ## put every file into the house's form
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.dev  ## slices per second: run, bare ONNX Runtime, keras predict; receive, storescp, Orthanc
	@tests/peers.sh
	$(BIN)/python -m tests.bench.throughput
	$(BIN)/python -m tests.bench.receive

bench-networks: $(VENV)/.dev  ## slices per second of the networks and their 8-bit variants: BUNDLES="further.onnx"
	$(BIN)/python -m tests.bench.networks $(BUNDLES)

chaos: $(VENV)/.dev  ## kill at random for an hour or more: CHAOS_KILLS=1000 CHAOS_SEED=1
	CHAOS_KILLS=$${CHAOS_KILLS:-1000} $(BIN)/python -m pytest -s tests/chaos

fuzz: $(VENV)/.dev  ## damaged files, PDUs and HTTP bodies for an hour or more: FUZZ_TIMES=50
	@tests/peers.sh
	FUZZ_TIMES=$${FUZZ_TIMES:-50} $(BIN)/python -m pytest -o timeout=0 $$(grep -rl tests.fuzzing tests --include='test_*.py')

deploy-check:  ## lint the Dockerfiles, the compose file and the unit (needs npm and systemd)
	deploy/check.sh

lock:  ## resolve requirements/*.txt anew (needs uv)
	requirements/lock.sh

clean:  ## remove what make has made
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "slicewise needs Python 3.11 or newer; set PYTHON="; exit 1; }
	$(PYTHON) -m venv $(VENV)

# onnxruntime and onnxruntime-gpu break each other: a change of flavour takes both out first.
define install
	@echo "installing $(1) (a few minutes the first time)"
	@$(BIN)/pip uninstall --quiet --yes $(2) 2>/dev/null || true
	@rm -f $(VENV)/.worker-* $(VENV)/.dev
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/$(1).txt
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@
endef

$(VENV)/.worker-cpu: requirements/worker-cpu.txt pyproject.toml | $(VENV)/bin/python
	$(call install,worker-cpu,onnxruntime-gpu)

$(VENV)/.worker-gpu: requirements/worker-gpu.txt pyproject.toml | $(VENV)/bin/python
	$(call install,worker-gpu,onnxruntime onnxruntime-gpu)

$(VENV)/.dev: requirements/dev.txt pyproject.toml | $(VENV)/bin/python
	$(call install,dev,onnxruntime-gpu)
	@touch $(VENV)/.worker-cpu
