PORT   ?= 8080
MODEL  ?= models/default
# The recipe for GPT-2 itself; configs/default.toml is that of the compact models/default.
CONFIG ?= training/configs/gpt2.toml
OUTPUT ?= models/trained
IMAGE  ?= gpt2-classifier
# What `make image` builds: serve, train (which also serves) or page.
TARGET ?= serve
# Interpreter for .venv; empty: the first suitable one (scripts/find_python.sh).
PYTHON ?=
# Package index for torch alone; empty: the ordinary one. On Linux its torch brings gigabytes of CUDA libraries;
# https://download.pytorch.org/whl/cpu has a build without. It counts when torch is installed: `make clean` to change.
TORCH_INDEX ?=

CPU_INDEX := https://download.pytorch.org/whl/cpu
# Images serve on a CPU unless TORCH_INDEX says otherwise; said to be empty, it means the ordinary index there too.
image_index = $(if $(filter file,$(origin TORCH_INDEX)),$(CPU_INDEX),$(TORCH_INDEX))
python    := .venv/bin/python
# --no-compile: byte code is then written for the few modules that a run imports, not for all of torch (28 s less on two cores).
pip       := $(python) -m pip --disable-pip-version-check install --no-compile
# Where this is set, every start would compile these modules again (12 s on two cores).
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help serve app test test-slow check train bench soak fuzz image image-test audit openapi lock clean need-data

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

serve: .venv/.serve  ## run the service: PORT=8080 MODEL=models/default
	@SERVICE_PORT='$(PORT)' SERVICE_MODEL_DIR='$(MODEL)' exec $(python) -m service

app: .venv/.page  ## the page on :8501, for the service at CLASSIFIER_URL
	@exec $(python) -m streamlit run client/page/app.py

test: .venv/.dev  ## run the tests: ARGS="-k batcher"
	@$(python) -m pytest $(ARGS)

test-slow: .venv/.dev  ## run the tests that take minutes
	@$(python) -m pytest -m slow $(ARGS)

check: .venv/.dev  ## lint, format, types, and openapi.yaml as the code has it
	@$(python) -m ruff check .
	@$(python) -m ruff format --check .
	@$(python) -m mypy
	@$(python) scripts/export_openapi.py --check

train: need-data .venv/.train  ## fine-tune a model: DATA=articles.csv OUTPUT=models/trained ARGS="--epochs 2"
	@exec $(python) -m training train --config '$(CONFIG)' --data '$(DATA)' --output '$(OUTPUT)' $(ARGS)

bench: .venv/.dev  ## measure speed beside other runtimes and servers (hours): ARGS="--quick"
	@exec $(python) -m benchmarks $(ARGS)

soak: .venv/.dev  ## ask the real service 100,000 mixed requests, faults among them: ARGS="--quick", ARGS="stream"
	@exec $(python) -m benchmarks.soak $(ARGS)

fuzz: .venv/.dev  ## send the service whatever its contract allows and forbids: EXAMPLES=2000
	@FUZZ_EXAMPLES='$(or $(EXAMPLES),2000)' $(python) -m pytest --timeout 0 tests/contract/test_schemathesis.py

image:  ## build an image: TARGET=serve|train|page IMAGE=gpt2-classifier BASE=python:3.11-slim-bookworm
	@docker build --target '$(TARGET)' $(if $(BASE),--build-arg BASE='$(BASE)' --build-arg RUNTIME='$(BASE)') \
		--build-arg TORCH_INDEX='$(image_index)' --tag '$(IMAGE)' .

image-test:  ## build the images, run them as SageMaker, EC2 and Kubernetes do (minutes): ARGS="--skip-train"
	@python=$$(sh scripts/find_python.sh $(PYTHON)) && \
		exec "$$python" scripts/image_test.py --torch-index '$(image_index)' $(ARGS)

audit: .venv/.audit  ## look the locked packages up in the advisory database (needs a network)
	@.venv/audit/bin/pip-audit --strict --disable-pip --no-deps --requirement requirements/torch.txt $(ARGS)
	@for lock in serve train page; do \
		echo "requirements/$$lock.txt"; \
		.venv/audit/bin/pip-audit --strict --disable-pip --require-hashes --requirement requirements/$$lock.txt $(ARGS) || exit 1; \
	done

openapi: .venv/.dev  ## write openapi.yaml from the code
	@$(python) scripts/export_openapi.py

lock: .venv/.dev  ## write requirements/*.txt from pyproject.toml: ARGS=--upgrade
	@TORCH_INDEX='$(TORCH_INDEX)' sh scripts/lock.sh $(ARGS)

clean:  ## remove .venv and caches
	@rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

need-data:
	@test -n '$(DATA)' || { echo 'make train needs the file with the examples: make train DATA=articles.csv' >&2; exit 2; }

# One .venv for all verbs. A stamp says that a lock file is installed; dev contains train contains serve, at the same
# versions, so installing more never changes what is there.
.venv/.created:
	@python=$$(sh scripts/find_python.sh $(PYTHON)) && echo "creating .venv with $$python" && \
		"$$python" -m venv --clear .venv && touch $@

.venv/.serve: requirements/serve.txt requirements/torch.txt | .venv/.created
	$(call install,serve)
	@touch $@

.venv/.train: requirements/train.txt requirements/torch.txt | .venv/.created
	$(call install,train)
	@touch .venv/.serve $@

# The page's and the client's packages, beside whatever is there: their versions are those of dev.txt.
.venv/.page: requirements/page.txt | .venv/.created
	@echo "installing the packages of requirements/page.txt"
	@$(pip) --quiet --no-deps --require-hashes -r requirements/page.txt
	@touch $@

.venv/.dev: requirements/dev.txt requirements/torch.txt | .venv/.created
	$(call install,dev)
	@touch .venv/.serve .venv/.train .venv/.page $@

# The auditor is no part of the project and needs other versions: an environment of its own inside .venv.
.venv/.audit: requirements/audit.txt | .venv/.created
	@$(python) -m venv .venv/audit
	@.venv/audit/bin/python -m pip --disable-pip-version-check install --quiet --no-deps --require-hashes \
		-r requirements/audit.txt
	@touch $@

# torch comes last and with its dependencies: they are in place at their locked versions, but for its build's own.
define install
	@echo "installing the packages of requirements/$(1).txt (a minute or so)"
	@$(pip) --quiet --no-deps --require-hashes -r requirements/$(1).txt
	@echo "installing torch"
	@$(pip) $(if $(TORCH_INDEX),--index-url '$(TORCH_INDEX)') -r requirements/torch.txt
endef
