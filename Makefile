PORT   ?= 8080
MODEL  ?= models/default
# The recipe for GPT-2 itself; configs/default.toml is the recipe of the compact models/default.
CONFIG ?= training/configs/gpt2.toml
OUTPUT ?= models/trained
IMAGE  ?= gpt2-classifier
# The image that `make image` builds: serve, train (which also serves) or page.
TARGET ?= serve
# The Python that creates .venv. Empty: the first suitable one that scripts/find_python.sh finds.
PYTHON ?=
# The package index for torch alone. If it is not given, scripts/torch_index.sh chooses it; if it is empty, pip's own
# index is used. It matters only when torch is installed; `make clean` removes that installation.
TORCH_INDEX ?=

CPU_INDEX := https://download.pytorch.org/whl/cpu
# Images get torch's CPU build unless TORCH_INDEX is given.
image_index = $(if $(filter file,$(origin TORCH_INDEX)),$(CPU_INDEX),$(TORCH_INDEX))
torch_index = $(if $(filter file,$(origin TORCH_INDEX)),$$(sh scripts/torch_index.sh $(python)),$(TORCH_INDEX))
# Size of pip's downloads for each file of locked packages with an empty cache (Linux, x86-64, Python 3.11; without torch).
size_serve := 62 MB
size_train := 187 MB
size_page  := 123 MB
size_dev   := 403 MB
torch_locks := requirements/torch.txt requirements/torch-cpu.txt requirements/cuda.txt
python    := .venv/bin/python
# --no-compile: Python then writes byte code only for the modules that a run imports, not for all of torch (28 s less on two cores).
pip       := $(python) -m pip --disable-pip-version-check install --no-compile
# All tests run in one process for each CPU, and each file in one of them. With ARGS there is one process, which starts faster.
parallel  := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
# If this were set, every start would compile these modules again (12 s on two cores).
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help serve app test test-slow test-machines check train bench soak fuzz image image-test audit openapi lock clean need-data

help:  ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

serve: .venv/.serve  ## run the service: PORT=8080 MODEL=models/default
	@SERVICE_PORT='$(PORT)' SERVICE_MODEL_DIR='$(MODEL)' exec $(python) -m service

app: .venv/.page  ## run the page on port 8501 for the service at CLASSIFIER_URL
	@exec $(python) -m streamlit run client/page/app.py

test: .venv/.dev  ## run the tests: ARGS="-k batcher"
	@$(python) -m pytest $(or $(ARGS),$(parallel))

test-slow: .venv/.dev  ## run the slow tests (minutes)
	@$(python) -m pytest -m slow $(or $(ARGS),$(parallel))

test-machines: .venv/.dev  ## run the model's tests as on older CPUs (minutes): ARGS=--short
	@$(python) scripts/machines.py $(ARGS)

check: .venv/.dev  ## check style, format and types, and that generated files are up to date
	@$(python) -m ruff check .
	@$(python) -m ruff format --check .
	@$(python) -m mypy
	@$(python) scripts/export_openapi.py --check
	@$(python) scripts/export_settings.py --check

train: need-data .venv/.train  ## fine-tune a model: DATA=articles.csv OUTPUT=models/trained ARGS="--epochs 2"
	@exec $(python) -m training train --config '$(CONFIG)' --data '$(DATA)' --output '$(OUTPUT)' $(ARGS)

bench: .venv/.dev  ## measure speed beside other runtimes and servers (hours): ARGS=--quick
	@exec $(python) -m benchmarks $(ARGS)

soak: .venv/.dev  ## send the service 100,000 mixed requests with injected faults: ARGS=--quick, ARGS=stream, ARGS=attacks
	@exec $(python) -m benchmarks.soak $(ARGS)

fuzz: .venv/.dev  ## send the service requests generated from openapi.yaml: EXAMPLES=2000
	@FUZZ_EXAMPLES='$(or $(EXAMPLES),2000)' $(python) -m pytest --timeout 0 tests/contract/test_schemathesis.py

# With attestations, an image is an index of several, which SageMaker does not take.
image:  ## build an image: TARGET=serve|train|page IMAGE=gpt2-classifier BASE=an image with Python
	@BUILDX_NO_DEFAULT_ATTESTATIONS=1 docker build --target '$(TARGET)' $(if $(BASE),--build-arg BASE='$(BASE)') \
		--build-arg TORCH_INDEX='$(image_index)' --tag '$(IMAGE)' .

image-test:  ## build the images and run them as SageMaker, EC2 and Kubernetes do (minutes): ARGS=--skip-train
	@python=$$(sh scripts/find_python.sh $(PYTHON)) && \
		exec "$$python" scripts/image_test.py --torch-index '$(image_index)' $(ARGS)

audit: .venv/.audit  ## look up the locked packages in the database of vulnerabilities (needs a network)
	@for lock in torch cuda serve train page; do \
		echo "requirements/$$lock.txt"; \
		.venv/audit/bin/pip-audit --strict --disable-pip --require-hashes --requirement requirements/$$lock.txt $(ARGS) || exit 1; \
	done

openapi: .venv/.dev  ## write openapi.yaml and the table of docs/settings.md from the code
	@$(python) scripts/export_openapi.py
	@$(python) scripts/export_settings.py

lock: .venv/.dev  ## write requirements/*.txt from pyproject.toml: ARGS=--upgrade, also for the images' base
	@TORCH_INDEX='$(TORCH_INDEX)' sh scripts/lock.sh $(ARGS)

clean:  ## remove .venv and caches
	@rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

need-data:
	@test -n '$(DATA)' || { echo 'make train needs a file with labelled texts: make train DATA=articles.csv' >&2; exit 2; }

# All verbs share one .venv. A stamp file says that a lock file is installed. dev.txt contains train.txt, which contains
# serve.txt, at the same versions, so installing more never changes an installed package.
.venv/.created:
	@python=$$(sh scripts/find_python.sh $(PYTHON)) && echo "creating .venv with $$python" && \
		"$$python" -m venv --clear .venv && touch $@

.venv/.serve: requirements/serve.txt $(torch_locks) | .venv/.created
	$(call install,serve)
	@touch $@

.venv/.train: requirements/train.txt $(torch_locks) | .venv/.created
	$(call install,train)
	@touch .venv/.serve $@

# The packages of the page and the client have the versions of dev.txt, so they fit beside what is installed.
.venv/.page: requirements/page.txt | .venv/.created
	@echo "installing the packages of requirements/page.txt (a download of $(size_page) at most)"
	@$(pip) --quiet --no-deps --require-hashes -r requirements/page.txt
	@touch $@

.venv/.dev: requirements/dev.txt $(torch_locks) | .venv/.created
	$(call install,dev)
	@touch .venv/.serve .venv/.train .venv/.page $@

# The auditor needs other versions of some packages, so it has an environment of its own inside .venv.
.venv/.audit: requirements/audit.txt | .venv/.created
	@$(python) -m venv .venv/audit
	@.venv/audit/bin/python -m pip --disable-pip-version-check install --quiet --no-deps --require-hashes \
		-r requirements/audit.txt
	@touch $@

define install
	@echo "installing the packages of requirements/$(1).txt (a download of $(size_$(1)) at most)"
	@$(pip) --quiet --no-deps --require-hashes -r requirements/$(1).txt
	@index="$(torch_index)"; if [ -n "$$index" ]; \
		then echo "installing torch from $$index (its CPU build: 190 MB; TORCH_INDEX=https://pypi.org/simple takes that for CUDA)"; \
		else echo "installing torch from pip's own index (190 MB; for Linux, PyPI's build brings 3 GB of CUDA libraries)"; fi; \
	sh scripts/install_torch.sh "$$index" $(python) -m pip --disable-pip-version-check
endef
