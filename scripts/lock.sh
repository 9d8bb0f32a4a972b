#!/bin/sh
# Rewrites requirements/{serve,train,dev}.txt from pyproject.toml: exact versions with the hashes of every platform's
# wheels. Existing pins stay unless pyproject.toml forbids them; `make lock ARGS=--upgrade` moves all of them,
# `ARGS="--upgrade-package NAME"` one. Run it with the oldest supported Python, so that all newer ones can install it.
set -eu
cd "$(dirname "$0")/.."
bin=${VENV:-.venv}/bin

# PyPI's Linux build of torch would pull its CUDA packages into the locks; the CPU index's build does not.
if [ -n "${TORCH_INDEX:-}" ]; then set -- "$@" --pip-args "--extra-index-url $TORCH_INDEX"; fi

compile() { # compile NAME [OPTION...]: torch itself is left to requirements/torch.txt, its dependencies are locked
    file=requirements/$1.txt
    shift
    echo "locking $file"
    CUSTOM_COMPILE_COMMAND="make lock" "$bin/pip-compile" --quiet --generate-hashes --unsafe-package torch --unsafe-package pip \
        --no-strip-extras --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-emit-options \
        --output-file "$file" "$@" pyproject.toml 2>"$log" || { cat "$log" >&2; exit 1; }
    # The closing warning (torch is not pinned here) is what we want; its advice is not.
    sed '/^# WARNING: The following packages were not pinned/,$d' "$file" >"$log" && cat "$log" >"$file"
    if grep -qE '^(nvidia|cuda|triton)[a-z0-9-]*==' "$file"; then
        echo "$file: CUDA packages got in; use TORCH_INDEX=https://download.pytorch.org/whl/cpu" >&2
        exit 1
    fi
}
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# Each lock constrains the next, so a package has one version in all three: dev contains train contains serve.
compile serve "$@"
compile train --extra train -c requirements/serve.txt "$@"
compile dev --extra train --extra client --extra ui --extra sagemaker --extra otel --extra test -c requirements/train.txt "$@"
