# Every target sets up .venv first; that costs nothing when it is up to date.

PYTHON := .venv/bin/python
MODELS := .venv/.models
STAMP := .venv/.installed
DOCS := .venv-docs/bin/mkdocs
OUTSIDE := .venv-outside/bin/python
OUTSIDE_STAMP := .venv-outside/.installed
LOWEST := .venv-lowest/bin/python
LOWEST_STAMP := .venv-lowest/.installed
OUTSIDE_PACKAGES := segmentation-models-pytorch ultralytics-opencv-headless monai transformers pytorchcv torchaudio \
	spandrel diffusers neuralforecast vit-pytorch pytorch-tcn snac pytest

# Tests start Python some hundred times: without bytecode each compiles the package again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install browser demo lint format test test-all test-lowest bench bench-speed exports coverage coverage-outside \
	docs proxy claims picture fuzz fuzz-files fuzz-networks clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP)  ## set up .venv with the tested versions of everything

# $(call venv,DIR): a virtual environment with a Python that is new enough
define venv
	@test -x $(1)/bin/python || for python in python3 python3.12 python3.11 python3.13; do \
		$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
			&& exec $$python -m venv $(1); \
	done || { echo 'precrop needs Python 3.11 or newer with its venv module' >&2; exit 1; }
endef

# The core with torchvision's and timm's networks; pip says what it fetches, since torch is large.
$(MODELS): pyproject.toml constraints.txt
	$(call venv,.venv)
	$(PYTHON) -m pip install --disable-pip-version-check -c constraints.txt -e '.[models]'
	@touch $@

$(STAMP): $(MODELS)
	$(PYTHON) -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

$(OUTSIDE_STAMP): pyproject.toml constraints.txt constraints-outside.txt
	$(call venv,.venv-outside)
	$(OUTSIDE) -m pip install --quiet --disable-pip-version-check -c constraints.txt -c constraints-outside.txt \
		-e '.[models]' $(OUTSIDE_PACKAGES)
	@touch $@

$(LOWEST_STAMP): pyproject.toml constraints-lowest.txt
	$(call venv,.venv-lowest)
	$(LOWEST) -m pip install --quiet --disable-pip-version-check -c constraints-lowest.txt -e '.[dev]'
	@touch $@

browser:  ## a Chromium for the tests of pages, on Debian; elsewhere install one by hand
	command -v chromium || command -v google-chrome || (apt-get update -qq && apt-get install -y -qq chromium)

demo: $(MODELS)  ## crop torchvision's ResNet-50 to half its parameters and half its MACs
	.venv/bin/precrop plan resnet50 --params 0.5 --macs 0.5

lint: install  ## ruff and mypy --strict
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

format: install  ## rewrite the sources in ruff's format
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

test: install  ## the tests, without the long matrix of networks
	$(PYTHON) -m pytest -n 2 --dist worksteal -m 'not matrix'

test-all: install  ## every test
	$(PYTHON) -m pytest -n 2 --dist worksteal

test-lowest: $(LOWEST_STAMP)  ## the tests with the oldest versions that pyproject.toml allows
	$(LOWEST) -m pytest -n 2 --dist worksteal -m 'not matrix'

fuzz-networks: install  ## crop 10,000 random networks, hours; goes on where it was stopped
	$(PYTHON) -m tests.fuzz_networks --count 10000 --results fuzz-networks.jsonl

bench: install  ## seconds per plan, against Torch-Pruning, per method; speed of training, of studies and of the page
	$(PYTHON) -m benchmarks.plan_speed
	$(PYTHON) -m benchmarks.methods_speed
	$(PYTHON) -m benchmarks.training_speed
	$(PYTHON) -m benchmarks.study_overhead
	$(PYTHON) -m benchmarks.explore

bench-speed: install  ## measured speed of cropped networks, written to docs/speed.md
	$(PYTHON) -m benchmarks.deployment_speed --fresh --markdown docs/speed.md

exports: install  ## export every network of the matrix, write docs/export.md
	$(PYTHON) -m scripts.export_table --cache results/exports.jsonl --markdown docs/export.md

coverage: install  ## measure every network of the matrix, write docs/coverage.md
	$(PYTHON) -m scripts.coverage_table --cache coverage.jsonl

proxy: install  ## judge objectives by published networks, write docs/evidence.md; DATA is their folder
	@test -n '$(DATA)' || { echo 'say where the table is: make proxy DATA=DIR' >&2; exit 1; }
	.venv/bin/precrop judge --data $(DATA) --processes 2 -o results/evidence
	$(PYTHON) -m scripts.objective_search --data $(DATA) --json results/evidence/objectives.json
	$(PYTHON) -m scripts.evidence_page

claims: install  ## what needs no data: PreConfig's seconds, sparse kernels, invariance; write docs/evidence.md
	$(PYTHON) -m benchmarks.preconfig_speed
	$(PYTHON) -m benchmarks.sparse_speed
	$(PYTHON) -m scripts.invariance
	$(PYTHON) -m scripts.evidence_page

fuzz: fuzz-files fuzz-networks  ## what is made at random: mutated files, networks; goes on where it was stopped

fuzz-files: install  ## 2,000 mutations of every kind of file
	$(PYTHON) -m scripts.fuzz_files --count 2000 --log fuzz-files.jsonl

docs: $(DOCS)  ## the documentation as a site, in build/site; no dead link gets through
	NO_MKDOCS_2_WARNING=1 $(DOCS) build --strict

# Not '.[docs]': the site reads sources and needs nothing that they import, such as torch.
$(DOCS): pyproject.toml constraints.txt
	$(call venv,.venv-docs)
	.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		'mkdocs-material>=9.5' 'mkdocstrings[python]>=0.27' ruff
	@touch $@

coverage-outside: $(OUTSIDE_STAMP)  ## measure networks of other packages, write docs/coverage-outside.md
	$(OUTSIDE) -m scripts.coverage_outside --cache coverage-outside.jsonl
	$(OUTSIDE) -m pytest -q -k ultralytics tests/examples

picture: install  ## the pictures in README and docs
	$(PYTHON) scripts/widths_picture.py
	$(PYTHON) -m scripts.explore_picture

clean:  ## remove the environments and every cache
	rm -rf .venv .venv-outside .venv-lowest .venv-docs .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
