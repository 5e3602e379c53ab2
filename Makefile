# Everything a newcomer needs; `make help` lists it. Only git, make and Python are taken for granted.
.NOTPARALLEL:

PYTHON ?= python3
BIN := .venv/bin
DEMO := results/demo

# A lossless slice through the skull base of a real head, from the files that pydicom installs.
SLICE := J2K_pixelrep_mismatch.dcm

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/make \1|\2/p' Makefile | awk -F'|' '{printf "%-12s %s\n", $$1, $$2}'

demo: .venv/installed page/vendor/niivue.js  ## mask the brain in a real head CT slice and in a synthetic CTA
	$(BIN)/python synthetic.py --sample $(DEMO)/sample_cta.nii.gz
	$(BIN)/python pred.py "$$($(BIN)/python -c 'from pydicom.data import get_testdata_file; \
	    print(get_testdata_file("$(SLICE)", download=False))')" \
	    $(DEMO)/sample_cta.nii.gz --out $(DEMO) --overwrite
	@echo; echo "Masks and overlays:"; ls $(DEMO)/*_prediction/*_predicted_mask.* $(DEMO)/*_prediction/*_overlay.png

app: .venv/installed page/vendor/niivue.js  ## serve the page to this machine's browser
	$(BIN)/python app.py

test: lint page/vendor/niivue.js  ## check the style, run every test
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: .venv/installed-dev  ## check the style alone
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: .venv/installed-dev  ## time and score this against other ways
	$(BIN)/python benchmarks/run.py

clean:  ## remove what make made: .venv, the viewer, caches, the demo's results
	rm -rf .venv .pytest_cache .ruff_cache page/vendor $(DEMO)
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/created:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { \
	    echo "error: Python 3.11, 3.12 or 3.13 is needed, and $(PYTHON) is not one of them;" \
	        "name one, as in: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	@touch $@

.venv/installed: .venv/created requirements.txt
	@echo "Installing into .venv: some 850 MB to fetch, 3 GB on the disk, once."
	$(BIN)/python -m pip install --quiet -r requirements.txt
	@$(BIN)/python -m compileall -q *.py common dataset predict scan server synthesis testing training  # as pip does with what it installs: a quick first start
	@touch $@

.venv/installed-dev: .venv/installed requirements-cluster.txt requirements-dev.txt
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	@touch $@

page/vendor/niivue.js: page/fetch.py | .venv/installed
	@$(BIN)/python -m page.fetch || echo "Going on without it."

.PHONY: help demo app test lint bench clean
