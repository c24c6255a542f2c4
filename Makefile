# The ways to look at O9's code from all sides; CONTRIBUTING.md says when to use which.

PYTHON ?= $(if $(wildcard .venv/bin/python),.venv/bin/python,python3)
BENCHMARKS = store tracking submission lifecycle control scale statistics pruning verdict alerts

.DEFAULT_GOAL := help
.PHONY: help fast test check docs screenshots chaos openapi bench size coverage

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s  %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

fast: ## the tests for every change
	$(PYTHON) -m pytest -q -m "not slow and not long"

test: ## all tests, as the README starts them
	$(PYTHON) -m pytest -q

check: ## style, types, who may import whom, words, and the documentation's examples
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(PYTHON) -c "from importlinter.cli import lint_imports_command as lint; lint()"
	$(PYTHON) -m pytest -q tests/quality/test_docs.py tests/quality/test_words.py

docs: ## the API reference from the docstrings, into build/docs
	$(PYTHON) docs/reference.py build/docs

screenshots: ## the pictures of docs/prefect-guide.md, by a walk through it in Chromium
	rm -rf build && $(PYTHON) -m build --wheel --no-isolation --outdir build/wheel .
	$(PYTHON) docs/screenshots.py build/wheel/*.whl docs/images

chaos: ## kills, outages and clocks that jump, in their long forms; SEED=N gives the blows of that seed
	O9_LONG_TESTS=1 $(PYTHON) -m pytest -q tests/chaos $(if $(SEED),--chaos-seed $(SEED))

openapi: ## the OpenAPI document against what the API does, at length
	O9_LONG_TESTS=1 $(PYTHON) -m pytest -q tests/integration/test_openapi.py

bench: ## every benchmark in turn, to the end, also where one misses its target
	@$(MAKE) --no-print-directory --keep-going --jobs=1 $(BENCHMARKS:%=bench-%)

bench-%: # one of them: make bench-store
	$(PYTHON) benchmarks/$*.py

size: ## lines of Python by room, and the modules of over 600
	@find -L src -name '*.py' -exec wc -l {} + | awk ' \
		$$2 == "total" { next } \
		{ split($$2, part, "/"); room[part[2] == "o9" ? part[3] : part[2]] += $$1; total += $$1 } \
		$$1 > 600 { long = long sprintf("%7d  %s\n", $$1, $$2) } \
		END { for (each in room) printf "%7d  %s\n", room[each], each | "sort -rn"; close("sort -rn"); \
			printf "%7d  in all\n\nover 600 lines:\n%s", total, long ? long : "   none\n" }'

coverage: ## which lines all tests together reach, also in the processes that they start
	$(PYTHON) -m pytest -q --cov --cov-report=term:skip-covered
