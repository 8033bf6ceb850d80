# Each target is one line that you could have typed yourself; `.venv` is made when it is missing or out of date.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.ready
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: demo test lab bench docs docs-serve slides readme clean help
help:            ## what there is
	@grep -E '^[a-z-]+: .*##|^[a-z-]+: +##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 12

demo: $(STAMP)   ## set up, then find defects on an embedded product: pictures and figures in demo/
	$(BIN)/memseg demo --out demo

test: $(STAMP)   ## set up, then all tests: the library's and every notebook
	$(BIN)/python -m pytest -n 3 --dist worksteal

lab: $(STAMP)    ## set up, then open the first lesson in JupyterLab
	$(BIN)/jupyter lab nbs/00_recipe.ipynb

bench: $(STAMP)  ## set up, then time the library against naive versions of itself, as ratios
	$(BIN)/memseg bench

docs: $(STAMP)   ## set up, then build the pages of the course and the reference into _docs/ (needs npm); with slides, if there are some
	$(BIN)/python docs/build.py

docs-serve: $(STAMP) ## show the built pages on this machine
	$(BIN)/python docs/serve.py

slides: $(STAMP) ## set up, then make slides of all chapters in build/slides/ (needs npm)
	$(BIN)/python docs/slides/make.py

readme: $(STAMP) ## export the library and make README.md from nbs/index.ipynb
	$(BIN)/nbdev-export && $(BIN)/python tests/make_readme.py

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "memseg_nb: no '$(PYTHON)' here: install Python 3.11 or newer, or name it: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "memseg_nb: $$($(PYTHON) -V) found: needs 3.11 or newer; name a newer one: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "memseg_nb: $$($(PYTHON) -V) has no venv module: install it (Debian, Ubuntu: apt install python3-venv)"; exit 1; }
	@$(PYTHON) -c 'import os, shutil, sys, sysconfig; sys.exit(not (shutil.which("cc") and os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h"))))' || { echo "memseg_nb: no C compiler or no Python headers: the package 'noise' (reference for the Perlin chapter) is built on installation (Debian, Ubuntu: apt install build-essential python3-dev)"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs,lab,onnx,test]'
	@touch $@

clean:           ## remove the environment and everything that was made
	rm -rf $(VENV) demo build dist _proc _docs .pytest_cache *.egg-info
	find nbs memseg_nb tests -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf
