# make demo    set up .venv and let the bundled checkpoint write three answers
# make test    set up .venv and run the tests
# make lint    ruff and mypy
# make check   lint and test
# make picture draw the README's picture from recorded events
# make house   draw docs/house.* anew from the modules' docstrings
# make macs    write the tables of docs/macs.md anew from the code
# make modes   measure the three ways of writing and write docs/modes.json, docs/drafts*.json, docs/rounds*.json and the
#              tables of docs/modes.md
# make speed   measure which levers of denoising hold on both toys, and write the tables of docs/speed.md
# make quality measure the bundled checkpoint and write docs/quality.* and tests/floor.json; COUNT prompts a family
#
# PYTHON is the interpreter that .venv is made from, 3.11 or later; by default the first one found.

NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11 python3.14,\
          $(shell $(p) -c '$(NEW_ENOUGH)' 2>/dev/null && echo $(p))) python3)
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check -qq

COUNT ?= 100

.PHONY: demo test lint check picture house macs modes speed quality clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	@for prompt in "Copy: fig oak ant" "Reverse: fig oak ant" "In words: 4217"; do \
	  echo "> $$prompt"; $(BIN)/mlx-diffusion generate "$$prompt" </dev/null || exit 1; \
	done

test: $(VENV)/.tested
	@$(BIN)/python -m pytest

lint: $(VENV)/.tested
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

check: lint test

picture: $(VENV)/.installed
	@$(BIN)/python tests/draw_picture.py docs/canvas.svg

house: $(VENV)/.made
	@$(BIN)/python tests/draw_house.py

macs: $(VENV)/.installed
	@$(BIN)/python tests/macs_page.py

# On prompts by which no plan of drafts was chosen.
DRAFTED = $(BIN)/mlx-diffusion eval --suite all --count $(COUNT) --batch-size $(COUNT) --seed 1
DRAFTS = $(DRAFTED) --mode autoregressive --mode "speculative:M1 Ultra" --mode "speculative:M4 Pro" \
  --mode "speculative:M5 Max (40)"
ROUNDS = $(DRAFTED) --mode speculative --sweep draft_width=32

modes: $(VENV)/.tested
	@rm -f docs/modes.json docs/drafts.json docs/drafts-strict.json docs/rounds.json docs/rounds-strict.json
	@$(BIN)/mlx-diffusion eval --suite all --count $(COUNT) --batch-size 16 --mode reference --mode autoregressive \
	  --mode speculative --sweep temperature=0,1 --output docs/modes.json >/dev/null
	@$(DRAFTS) --output docs/drafts.json >/dev/null
	@$(DRAFTS) --model training/weights/strict --output docs/drafts-strict.json >/dev/null
	@$(ROUNDS) --output docs/rounds.json >/dev/null
	@$(ROUNDS) --model training/weights/strict --output docs/rounds-strict.json >/dev/null
	@$(BIN)/python tests/modes_page.py

speed: $(VENV)/.tested
	@$(BIN)/mlx-diffusion eval --calibrate --model training/weights/strict >/dev/null
	@$(BIN)/mlx-diffusion eval --calibrate --model mlx_diffusion/demo >/dev/null
	@$(BIN)/python tests/speed_page.py

quality: $(VENV)/.tested
	@rm -f docs/quality.json
	@$(BIN)/mlx-diffusion eval --count $(COUNT) --batch-size 16 --sweep max_denoising_steps=1,2,4,8,16,48 --mode reference \
	  --mode confidence:0.6 --mode confidence:0.8 --mode confidence:0.9 --output docs/quality.json
	@$(BIN)/mlx-diffusion eval --show docs/quality.json --markdown docs/quality.md --plot docs/quality.svg >/dev/null
	@$(BIN)/mlx-diffusion eval --count $(COUNT) --batch-size 16 --recipes 8bit,6bit,4bit,3bit,2bit,mxfp4 \
	  --output docs/recipes.json --markdown docs/recipes.md >/dev/null
	@$(BIN)/python tests/floor.py

clean:
	rm -rf $(VENV) build dist *.egg-info

$(VENV)/.made:
	@$(PYTHON) -c '$(NEW_ENOUGH)' 2>/dev/null || { \
	  echo "$(PYTHON) is missing or older than 3.11; install a newer Python or name one: make PYTHON=/path/to/python3" >&2; \
	  exit 1; }
	@echo "setting up $(VENV) ..." >&2
	@$(PYTHON) -m venv --clear $(VENV)
	@$(PIP) install --upgrade pip
	@touch $@

$(VENV)/.installed: $(VENV)/.made pyproject.toml
	@echo "installing the package and what it needs (some 300 MB, a few minutes) ..." >&2
	@$(PIP) install --editable .
	@touch $@

$(VENV)/.tested: $(VENV)/.installed
	@echo "installing what the tests need ..." >&2
	@$(PIP) install --editable '.[test]'
	@touch $@
