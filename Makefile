# Everything runs in a virtual environment beside this file; `make demo` or `make test` alone is enough on a fresh machine.

# What may be set on the command line: make test PYTHON=python3.12
PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
# Where pip takes torch from, for example PyTorch's index of CPU-only builds; default pip's own.
TORCH_INDEX ?=
# Further options for every pip install, for example --find-links FOLDER.
PIP_ARGS ?=
# The C++ extension: auto builds it where there is a compiler, 1 makes its absence an error, 0 leaves it out.
export FFRL_CPP ?= auto
# The CUDA extension: auto builds it where nvcc and a CUDA build of torch are, 1 and 0 as above, compile only compiles it.
export FFRL_CUDA ?= auto
DEMO_ITERATIONS ?= 2500
DEMO_OUT ?= runs/demo
# Further options for pytest, for example TEST_ARGS="-k oracle -x".
TEST_ARGS ?=

# Set to nothing on a machine with a GPU: make test INTERPRETED=
INTERPRETED ?= TRITON_INTERPRET=1
# The interpreter has one thread: files side by side, each with its tests in their order.
KERNEL_TESTS := tests/kernels $(if $(INTERPRETED),-n 2 --dist loadfile)

RUN_EXTRAS := train,data,figures,test
VENV_PYTHON := $(VENV)/bin/python
PIP_INSTALL := $(VENV_PYTHON) -m pip install --quiet --disable-pip-version-check $(PIP_ARGS)
CPP_FILES = $(shell find csrc -type f \( -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' \) 2>/dev/null)

ifeq ($(filter auto 0 1,$(FFRL_CPP)),)
$(error FFRL_CPP = $(FFRL_CPP) is not allowed; expected auto, 0 or 1)
endif
ifeq ($(filter auto 0 1 compile,$(FFRL_CUDA)),)
$(error FFRL_CUDA = $(FFRL_CUDA) is not allowed; expected auto, 0, 1 or compile)
endif

# A data folder beside the checkout is used where there is one.
ifeq ($(origin FFRL_DATA),undefined)
ifneq ($(wildcard ../shared/data/.),)
export FFRL_DATA := $(CURDIR)/../shared/data
endif
endif
export MPLBACKEND ?= Agg

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test slow lint format bench clean

help: ## list the targets
	@echo "Usage: make TARGET [VARIABLE=value ...]"
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  \1|\2/p' $(firstword $(MAKEFILE_LIST)) | awk -F'|' '{ printf "%-10s %s\n", $$1, $$2 }'
	@echo "Variables: PYTHON=$(PYTHON) VENV=$(VENV) TORCH=$(TORCH) TORCH_INDEX PIP_ARGS FFRL_CPP=$(FFRL_CPP) FFRL_CUDA=$(FFRL_CUDA) DEMO_ITERATIONS=$(DEMO_ITERATIONS) DEMO_OUT=$(DEMO_OUT) TEST_ARGS"

# Each step leaves a stamp in $(VENV), written last: an interrupted one is done again, a finished one is not.
$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "ffrl needs Python 3.11 or later, and '$(PYTHON)' is `$(PYTHON) --version 2>/dev/null || echo missing`; name another: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(VENV_PYTHON) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV) || { \
	    echo "'$(PYTHON) -m venv' failed; on Debian and Ubuntu it needs the package python3-venv" >&2; exit 1; }
	$(PIP_INSTALL) --upgrade 'setuptools>=77'
	@$(PIP_INSTALL) ninja || echo "without ninja the C++ sources are compiled one after the other"
	@touch $@

$(VENV)/.torch: $(VENV)/.created
	@if $(VENV_PYTHON) -c 'import sys, torch; sys.exit(tuple(map(int, torch.__version__.split(".")[:2])) < (2, 11))' 2>/dev/null; \
	then echo "torch in $(VENV) is kept"; \
	else echo "installing $(TORCH) (a large download)"; $(PIP_INSTALL) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) '$(TORCH)'; fi
	@touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml setup.py $(wildcard csrc/*.py) $(wildcard kernels/__init__.py) $(CPP_FILES)
	$(PIP_INSTALL) --no-build-isolation -e '.[$(RUN_EXTRAS)]'
	@[ ! -e ffrl/_C_missing.txt ] || cat ffrl/_C_missing.txt
	@touch $@

# An extension that was left out and is now demanded, or the other way round: the installation is done again.
ifneq ($(filter 0 1,$(FFRL_CPP)),)
ifneq ($(FFRL_CPP),$(if $(wildcard ffrl/_C.*.so),1,0))
$(VENV)/.installed: again
endif
endif
ifneq ($(filter 0 1,$(FFRL_CUDA)),)
ifneq ($(FFRL_CUDA),$(if $(wildcard ffrl/_C_cuda.*.so),1,0))
$(VENV)/.installed: again
endif
endif
again:

$(VENV)/.lint: $(VENV)/.installed
	$(PIP_INSTALL) --no-build-isolation -e '.[dev]'
	@touch $@

setup: $(VENV)/.installed $(VENV)/.lint ## make the virtual environment and install everything
	@echo "ready: $(VENV_PYTHON)"

demo: $(VENV)/.installed ## train, evaluate and draw the small model; continues what an interrupted demo left
	$(VENV_PYTHON) -m ffrl.train --preset small --data auto --iterations $(DEMO_ITERATIONS) --out $(DEMO_OUT) \
	    $$([ ! -e '$(DEMO_OUT)/config.json' ] || echo --resume)
	$(VENV_PYTHON) -m ffrl.evaluate $(DEMO_OUT) --likelihood-images 250
	$(VENV_PYTHON) -m ffrl.traverse $(DEMO_OUT)

# The Triton kernels run in Triton's interpreter where there is no GPU, which is a choice of the whole process.
test: $(VENV)/.installed ## run the quick tests
	$(VENV_PYTHON) -m pytest --ignore=tests/kernels $(TEST_ARGS)
	$(INTERPRETED) $(VENV_PYTHON) -m pytest $(KERNEL_TESTS) $(TEST_ARGS) || [ $$? -eq 5 ] # 5: TEST_ARGS chose none of them

slow: $(VENV)/.installed ## run the slow tests
	$(VENV_PYTHON) -m pytest -m slow $(TEST_ARGS)

lint: $(VENV)/.lint ## check style, formatting and types; changes nothing
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright --pythonpath $(VENV_PYTHON)
	$(if $(CPP_FILES),$(VENV)/bin/clang-format --dry-run -Werror $(CPP_FILES))

format: $(VENV)/.lint ## rewrite the sources in the project's format
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .
	$(if $(CPP_FILES),$(VENV)/bin/clang-format -i $(CPP_FILES))

bench: $(VENV)/.installed ## run every benchmark bench/bench_*.py
	@set -e; set -- bench/bench_*.py; [ -e "$$1" ] || { echo "there is no bench/bench_*.py to run" >&2; exit 1; }; \
	for script; do echo "$$script"; $(VENV_PYTHON) -m "bench.$$(basename "$$script" .py)"; done

clean: ## remove build outputs and caches; the virtual environment and runs/ stay
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .benchmarks ffrl/_C.*.so ffrl/_C_cuda.*.so ffrl/_C*_missing.txt
	rm -f $(VENV)/.installed
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
