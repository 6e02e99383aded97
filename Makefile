# Every verb works in a fresh checkout: it makes .venv first, and again when pyproject.toml has changed.
#   make setup                                                 make or complete .venv
#   make serve [PORT=8000] [CONFIG=file.yaml] [DASHBOARD_PORT=8265]   serve until Ctrl-C
#   make test | make test-system                               the tests | the slow ones, which may need Debian packages
#   make check | make format                                   format, lint, types, import contracts | apply the formatting
#   make bench [ARGS='--quick --out figures.json']           measure an endpoint beside HF generate
#   make bench ARGS='sweep --quick --out sweep'              measure an endpoint over lookaheads, loads and texts
#   make bench ARGS='engine --quick'                         measure the engines beside HF generate and vLLM
SHELL := /bin/bash
BIN := .venv/bin
STAMP := .venv/.setup

.PHONY: setup serve test test-system check format bench

setup: $(STAMP)

$(STAMP): pyproject.toml .ci/setup
	@.ci/setup

# exec, so that Ctrl-C and a signal sent to make reach the server itself.
serve: $(STAMP)
	@exec $(BIN)/outrider serve $(if $(PORT),--port $(PORT)) $(if $(CONFIG),--config $(CONFIG)) \
		$(if $(DASHBOARD_PORT),--dashboard-port $(DASHBOARD_PORT))

test: $(STAMP)
	@exec $(BIN)/python -m pytest -m "not system and not gpu" $(ARGS)

test-system: $(STAMP)
	@exec $(BIN)/python -m pytest -m system $(ARGS)

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)
	@exec $(BIN)/outrider bench $(ARGS)
