# make test and make demo are the two commands of the README. Each sets up everything it needs in .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A CPU build of torch where the index offers one under this name; set TORCH= to use another build or version.
TORCH ?= torch==2.13.0
EXTRAS := dev,peers,demo,train,export,ray
# One CUDA architecture keeps the test build short; make wheel takes all usual ones.
export WSSS_CUDA_ARCHS ?= 90
export WSSS_BUILD_DIR ?= build/package

.PHONY: help demo test soak docs simt bench mutants wheel wheelhouse format lint clean

help:
	@echo "make demo        label three photos and say where the results are"
	@echo "make test        everything that must hold, under 15 minutes on 2 cores"
	@echo "make soak        the same at full sizes and counts; hours"
	@echo "make docs        the pages as HTML in build/docs; warnings are errors"
	@echo "make simt        the CUDA kernels as a CPU module, for impl=\"simt\""
	@echo "make bench       time the operations against their peers"
	@echo "make mutants     seed faults and see that the tests catch them"
	@echo "make lint        ruff and clang-format, without changing anything; make format applies them"
	@echo "make wheel       sdist, and a wheel for all usual CUDA architectures, in dist/"
	@echo "make wheelhouse  pure-Python wheels that benchmarks/on_gpu.sh takes to a machine without network"

# torch first: no plain requirement may then pull another build of it. This first install builds in isolation, without CUDA:
# what `pip install .` does on a machine without a CUDA compiler.
$(VENV)/extras-ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --upgrade "pip>=24" "setuptools>=77" wheel
	$(BIN)/pip install "$(TORCH)"
	WSSS_CUDA=OFF WSSS_BUILD_DIR= $(BIN)/pip install -e ".[$(EXTRAS)]"
	$(BIN)/pip install tensorrt-rtx || echo "tensorrt-rtx cannot be had here: what needs it will say so"
	touch $@

# Everything the compiled module is made of; the emulator is not.
SOURCES := setup.py CMakeLists.txt wsss_fast/_version.py \
  $(shell find csrc -path csrc/simt -prune -o -type f \( -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' \) -print)

$(VENV)/ready: $(VENV)/extras-ready $(SOURCES)
	$(BIN)/pip install --no-build-isolation --no-deps -e .
	touch $@

simt: $(VENV)/ready
	$(BIN)/cmake -S . -B build/simt -G Ninja -DWSSS_CUDA=OFF \
	  -DWSSS_VERSION=$$($(BIN)/python -c "import wsss_fast; print(wsss_fast.__version__)") \
	  -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python -Dpybind11_DIR=$$($(BIN)/python -m pybind11 --cmakedir) \
	  -DCMAKE_LIBRARY_OUTPUT_DIRECTORY=$(CURDIR)/wsss_fast
	$(BIN)/cmake --build build/simt --target _simt

# A file's tests stay in one process: they share what they build.
test: $(VENV)/ready simt
	$(BIN)/pytest -n $$(nproc) --dist loadfile

soak: $(VENV)/ready simt
	$(BIN)/pytest -m "soak or not soak"

demo: $(VENV)/ready
	$(BIN)/wsss demo --out wsss-demo

docs: $(VENV)/ready
	$(BIN)/python docs/reference.py
	$(BIN)/mkdocs build --clean

bench: $(VENV)/ready
	$(BIN)/wsss bench all --conditions

mutants: $(VENV)/ready
	$(BIN)/python tests/mutants/run.py

CPP_FILES = $(shell find csrc export tests -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CPP_FILES)

format: $(VENV)/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP_FILES)

wheel: $(VENV)/ready
	WSSS_BUILD_DIR= WSSS_CUDA_ARCHS="80;86;89;90;100;120" $(BIN)/python -m build

wheelhouse: $(VENV)/ready
	$(BIN)/pip download --no-deps --only-binary=:all: -d wheelhouse jsonargparse

clean:
	rm -rf build dist wheelhouse wsss-demo *.egg-info wsss_fast/*.so
