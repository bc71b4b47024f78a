# Two commands matter: `make demo` (a talking portrait in output/demo.mp4) and `make test`.
# Everything runs in one Python: that of the ComfyUI named by COMFYUI_PATH (and COMFYUI_PYTHON), else of the one
# that `make setup` puts once into ~/.cache/starcaster (or STARCASTER_CACHE).

BOOT ?= python3
PY = $$($(BOOT) scripts/provision_comfyui.py --print python)
COMFYUI = $$($(BOOT) scripts/provision_comfyui.py --print comfyui)
DEMO_ARGS ?=
FRONTEND ?= 1.58.1
TYPES_ARGS ?= --baselinemode=discard

.PHONY: setup demo test test-frontend lint check types wheel bench bench-gpu thumbnails

setup:  ## a real ComfyUI with our requirements, made once
	$(BOOT) scripts/provision_comfyui.py

demo: setup  ## output/demo.mp4, rendered by our nodes inside ComfyUI
	$(PY) scripts/demo.py $(DEMO_ARGS)

lint: setup  ## format, lint, types
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(MAKE) --no-print-directory types

check: lint  ## these, and the quick unit tests
	OMP_NUM_THREADS=1 $(PY) -m pytest tests/unit tests/packaging -q -m "not slow"

types: setup  ## static types of the nodes, the models, sampling and the pipeline
	PYTHONPATH="$(COMFYUI)" $(PY) -m basedpyright --pythonpath "$(PY)" $(TYPES_ARGS)

wheel: setup  ## build the wheel, install it into a fresh environment, render one second from there
	$(PY) scripts/check_wheel.py

test: setup  ## everything: unit, real server, real frontend
	$(PY) -m pytest tests

test-frontend: setup  ## the browser tests with a newer frontend than ComfyUI pins, fetched once
	STARCASTER_FRONTEND=$(FRONTEND) $(PY) -m pytest tests/browser

bench: setup  ## seconds of computing per second of video, as JSON in benchmarks/results/
	$(PY) -m starcaster_core bench

bench-gpu: setup  ## the paper's scale on a GPU, with random weights: JSON in benchmarks/results/, and a table
	$(PY) -m starcaster_core bench-gpu

thumbnails: setup  ## run the shipped workflows and photograph the results
	$(PY) scripts/make_thumbnails.py
