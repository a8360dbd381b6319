# Two commands do all the set-up on a fresh machine with Python and make:
#   make demo    trains seven methods on handwritten digits and writes a report
#   make test    runs the test suite; make test ARGS="-m slow" the tests that take longer,
#                make test ARGS="-m release" those that take long, before a release
# And make dist builds the wheel and the source archive into dist/; make test-oldest tests with the
# oldest of everything that pyproject.toml allows; make audit looks up what is installed in the
# database of known vulnerabilities.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
WORKERS ?= 2
OLDEST_PYTHON ?= python3.10
OLDEST = $(VENV)-oldest

.PHONY: demo test test-oldest lint audit dist clean
.DELETE_ON_ERROR:

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: $(VENV)/installed
	$(BIN)/mixwell compare --data digits --seeds 3 --workers 2 --threads 1 --out runs/demo \
	  --methods erm,mixup,regmixup,sk_mixup,decoupled,infinite_class,am_mixup

# Bytecode is kept, whatever the shell says of it: the tests start some hundreds of processes.
PYTEST_ENV = OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=
QUICK = -n $(WORKERS) --dist worksteal -m "not slow and not release"

test: $(VENV)/installed
	$(PYTEST_ENV) $(BIN)/python -m pytest $(QUICK) $(ARGS)

$(OLDEST)/installed: pyproject.toml
	$(OLDEST_PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet uv
	$(OLDEST)/bin/uv pip install --quiet --python $(OLDEST)/bin/python \
	  --resolution lowest-direct --editable '.[all,test]'
	touch $@

test-oldest: $(OLDEST)/installed
	$(PYTEST_ENV) $(OLDEST)/bin/python -m pytest $(QUICK) $(ARGS)

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

audit: $(VENV)/installed
	$(PYTHON) -m venv $(VENV)-audit
	$(VENV)-audit/bin/python -m pip install --quiet pip-audit
	$(BIN)/python -m pip freeze --exclude-editable > $(VENV)-audit/installed.txt
	$(VENV)-audit/bin/pip-audit --requirement $(VENV)-audit/installed.txt --no-deps --disable-pip

dist: $(VENV)/installed
	rm -rf dist
	$(BIN)/python -m build --quiet --no-isolation --outdir dist .
	ls dist

clean:
	rm -rf $(VENV) $(OLDEST) $(VENV)-audit runs dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
