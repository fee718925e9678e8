# make demo and make test are the two commands of the README. Each sets up what it needs in .venv, and no more, in the versions
# of wsss_fast/doctor/constraints.txt.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The pinned torch is a CPU build where pip finds one. TORCH="torch==2.12.0" or TORCH=path/to/torch.whl takes another.
TORCH ?=
# One CUDA architecture keeps the test build short; make wheel takes all usual ones.
export WSSS_CUDA_ARCHS ?= 90
export WSSS_BUILD_DIR ?= build/package

.PHONY: help demo test soak peers docs reference simt bench mutants lint format fresh oldest lock wheel wheelhouse clean

help:
	@echo "make demo        label three photos and say where the results are"
	@echo "make test        everything that must hold, under 10 minutes on 2 cores once it is set up"
	@echo "make soak        the same at full sizes and counts; hours"
	@echo "make peers       install what benchmarks compare with; what cannot be had is left out"
	@echo "make docs        the pages as HTML in build/docs; warnings are errors"
	@echo "make reference   write docs/cli.md and docs/api.md from the parsers and docstrings"
	@echo "make simt        the CUDA kernels as a CPU module, for impl=\"simt\""
	@echo "make bench       time the operations against their peers"
	@echo "make mutants     seed faults and see that the tests catch them"
	@echo "make lint        ruff and clang-format, without changing anything; make format applies them"
	@echo "make fresh       the demo and some tests with the newest version of everything; make lock keeps those versions"
	@echo "make oldest      the same with the oldest versions that pyproject.toml allows, on Python 3.10"
	@echo "make wheel       sdist and a wheel for each Python in dist/, checked and tried; CUDA=1: wheels with CUDA kernels"
	@echo "make wheelhouse  pure-Python wheels that benchmarks/on_gpu.sh takes to a machine without network"

# ---- What is installed: a stamp in .venv for each set of packages --------------------------------------------------------------

INSTALL = $(BIN)/python tools/install.py $(if $(TORCH),--torch "$(TORCH)")
LISTS := pyproject.toml tools/install.py $(or $(WSSS_CONSTRAINTS),wsss_fast/doctor/constraints.txt)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo-packages: $(LISTS) | $(BIN)/python
	$(INSTALL) --extras demo
	@touch $@

$(VENV)/test-packages: $(LISTS) | $(BIN)/python
	$(INSTALL) --extras demo train export ray dev
	$(INSTALL) --guests rtx
	@touch $@ $(VENV)/demo-packages $(VENV)/docs-packages

$(VENV)/docs-packages: $(LISTS) | $(BIN)/python
	$(INSTALL) --extras docs --bare
	@touch $@

peers: $(VENV)/test-packages
	$(INSTALL) --guests peers

# ---- The compiled module --------------------------------------------------------------------------------------------------------

# Everything that it is made of; the emulator is not.
SOURCES := setup.py CMakeLists.txt wsss_fast/_version.py \
  $(shell find csrc -path csrc/simt -prune -o -type f \( -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' \) -print)

# The pinned cmake and ninja are in .venv: without build isolation, pip puts no folder of its own on PATH.
BUILD = PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pip install --quiet --no-build-isolation --no-deps -e .

# The demo runs on the CPU, and compiling the CUDA kernels takes longer than all the rest of it.
$(VENV)/cpu-kernels: $(VENV)/demo-packages $(SOURCES)
	WSSS_CUDA=OFF $(BUILD)
	@touch $@

$(VENV)/kernels: $(VENV)/test-packages $(SOURCES)
	$(BUILD)
	@touch $@ $(VENV)/cpu-kernels

simt: $(VENV)/kernels
	$(BIN)/cmake -S . -B build/simt -G Ninja -DWSSS_CUDA=OFF \
	  -DWSSS_VERSION=$$($(BIN)/python -c "import wsss_fast; print(wsss_fast.__version__)") \
	  -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja \
	  -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python -Dpybind11_DIR=$$($(BIN)/python -m pybind11 --cmakedir) \
	  -DCMAKE_LIBRARY_OUTPUT_DIRECTORY=$(CURDIR)/wsss_fast
	$(BIN)/cmake --build build/simt --target _simt

# ---- What one calls -------------------------------------------------------------------------------------------------------------

demo: $(VENV)/cpu-kernels
	$(BIN)/wsss demo --out wsss-demo

# A file's tests stay in one process: they share what they build.
test: $(VENV)/kernels simt
	$(BIN)/pytest -n $$(nproc) --dist loadfile

soak: $(VENV)/kernels simt
	$(BIN)/pytest -m "soak or not soak"

docs: $(VENV)/docs-packages
	$(BIN)/mkdocs build --clean

reference: $(VENV)/kernels
	$(BIN)/python docs/reference.py

bench: $(VENV)/kernels peers
	$(BIN)/wsss bench all --conditions

mutants: $(VENV)/kernels simt
	$(BIN)/python tests/mutants/run.py

CPP_FILES = $(shell find csrc export tests -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')

lint: $(VENV)/test-packages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CPP_FILES)

format: $(VENV)/test-packages
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP_FILES)

# ---- The world moves: other versions than the pinned ones ---------------------------------------------------------------------

# On another Python: make fresh NEWEST=3.13, make oldest OLDEST=3.11. Torch stays at the pinned version unless TORCH says otherwise,
# since a newer one may bring gigabytes; TORCH=torch takes the newest.
PINNED_TORCH := $(shell sed -n 's/^\(torch==[^ ;]*\).*/\1/p' wsss_fast/doctor/constraints.txt)

fresh:
	tools/other_versions.sh newest $(or $(NEWEST),3.11) "$(or $(TORCH),$(PINNED_TORCH))"

oldest:
	tools/other_versions.sh oldest $(or $(OLDEST),3.10) "$(TORCH)"

lock: fresh
	cp build/newest/constraints.txt wsss_fast/doctor/constraints.txt

# ---- Releases -------------------------------------------------------------------------------------------------------------------

# What wheels with CUDA kernels are built for; PYTHONS="3.11 3.12" makes fewer wheels.
WHEEL_ARCHS ?= 80;86;89;90;100;120

$(VENV)/release-packages: $(LISTS) | $(BIN)/python
	$(INSTALL) --extras release --bare
	@touch $@

wheel: $(VENV)/release-packages
	$(BIN)/python tools/wheels.py build $(if $(PYTHONS),--pythons $(PYTHONS)) $(if $(CUDA),--cuda "$(WHEEL_ARCHS)") \
	  $(if $(TORCH),--torch "$(TORCH)")

wheelhouse: $(VENV)/test-packages
	$(BIN)/pip download --no-deps --only-binary=:all: -d wheelhouse jsonargparse

clean:
	rm -rf build dist wheelhouse wsss-demo *.egg-info wsss_fast/*.so
