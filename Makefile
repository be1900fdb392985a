# als: everything a newcomer needs. Each target installs what is missing first; run them as root (sudo make demo).
.PHONY: help setup demo test compat lint bench soak fuzz man rpm clean

PYTHON := .venv/bin/python

help:
	@echo "make demo    two images through the store, with real podman; ends with a table"
	@echo "make test    every test (as root: mounts, podman); ARGS='-k tar -x' goes to pytest"
	@echo "make compat  every client, kind of image and operation; writes the tables of docs/compatibility.md"
	@echo "make lint    ruff and mypy"
	@echo "make bench   measurements beside plain overlay; JSON goes to .cache/bench/"
	@echo "make soak    gc in a loop beside pulls and runs of overlapping images (SECONDS=300, ARGS='--seed N'), once more with kills of the"
	@echo "             daemon, POINTS=300 power cuts, pulls and a daemon each of whose system calls fails once or is the last, rm and gc"
	@echo "             likewise, 200 kills of the daemon under readers and under containers, and every parser under a new seed"
	@echo "make fuzz    every parser with mutated input; CASES=100000, ARGS='--seed 7 --target tar'"
	@echo "make rpm     the RPM of the last commit, and its source RPM, in dist/"
	@echo "make man     the manual pages, into build/man"
	@echo "make clean   remove what was built, installed and cached in this folder"

setup:
	@bash packaging/dev/setup.sh

demo: setup
	@$(PYTHON) -m tests.harness.demo $(ARGS)

test: setup
	@$(PYTHON) -m pytest $(ARGS)

compat: setup
	@ALS_COMPAT_WRITE=1 $(PYTHON) -m pytest tests/compat $(ARGS)

lint: setup
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy --strict als cffi_build tests/harness bench

bench: setup
	@$(PYTHON) -m bench.warm
	@$(PYTHON) -m bench.pull $(ARGS)
	@$(PYTHON) -m bench.lazy --rounds 3 --large
	@$(PYTHON) -m bench.lazyrule
	@$(PYTHON) -m bench.memory
	@$(PYTHON) -m bench.files
	@$(PYTHON) -m bench.lazyfiles
	@$(PYTHON) -m bench.verity
	@$(PYTHON) -m bench.kill

POINTS := 300
soak: setup
	@$(PYTHON) -m tests.harness.soak $(or $(SECONDS),300) $(ARGS)
	@$(PYTHON) -m tests.harness.soak $(or $(SECONDS),300) --kills $(ARGS)
	@$(PYTHON) -m tests.life.powercuts $(POINTS) $(ARGS)
	@ALS_ALL_POINTS=1 $(PYTHON) -m pytest -q $(addprefix tests/life/test_life_,faults.py lazy_faults.py killed_calls.py)
	@ALS_ALL_POINTS=1 $(PYTHON) -m pytest -q tests/vm/test_vm_full.py tests/packaging/test_packaging_machine.py \
		tests/verity/test_verity_podman.py tests/verity/test_verity_swapped.py
	@$(PYTHON) -m tests.fuzz
	@ALS_KILLS=200 $(PYTHON) -m pytest -q -s tests/restart/test_restart_lazy.py tests/restart/test_restart_containers.py -k kills

CASES := 100000
fuzz: setup
	@$(PYTHON) -m tests.fuzz --cases $(CASES) $(ARGS)

rpm: setup
	@bash packaging/build.sh dist

man: setup
	@PYTHONPATH=$(CURDIR) $(PYTHON) packaging/dev/man.py build/man

clean:
	rm -rf .venv .cache build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis als/_*.so
	rm -f als/_kernel.c als/_fsverity.c als/_seccomp.c als/_crc64.c
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
