#!/bin/sh
# Writes requirements/{serve,train,dev}.txt from pyproject.toml, and requirements/{torch,torch-cpu,cuda,page,sbom,audit}.txt:
# exact versions with the hashes of every platform's wheels. Existing versions stay unless pyproject.toml forbids them; `make lock
# ARGS=--upgrade` upgrades all of them and the digest of the images' base, `ARGS="--upgrade-package NAME"` one. Run it with the
# oldest supported Python, so that all newer ones can install the result.
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
    # The warning at the end (torch is not pinned here) is intended; do not follow its advice.
    sed '/^# WARNING: The following packages were not pinned/,$d' "$file" >"$log" && cat "$log" >"$file"
    if grep -qE '^(nvidia|cuda|triton)[a-z0-9-]*==' "$file"; then
        echo "$file: CUDA packages got in; use TORCH_INDEX=https://download.pytorch.org/whl/cpu" >&2
        exit 1
    fi
}
tool() { # tool NAME COMMENT REQUIREMENT...: packages that are not of one environment with the service
    file=requirements/$1.txt
    comment=$2
    shift 2
    echo "locking $file"
    printf '%s\n' "$@" | "$bin/pip-compile" --quiet --generate-hashes --unsafe-package torch --unsafe-package pip \
        --no-strip-extras --no-header --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-emit-options \
        -c requirements/dev.txt --output-file - - >"$log" 2>/dev/null
    {
        echo "# $comment: $*"
        echo "# Locked by make lock, at the versions of dev.txt where it has them."
        sed '/^# WARNING: The following packages were not pinned/,$d' "$log"
    } >"$file"
}

log=$(mktemp)
upgrade=$(case " $* " in *" --upgrade "*) echo yes ;; esac)
trap 'rm -f "$log"' EXIT

# Each lock constrains the next, so a package has one version in all three: dev contains train contains serve.
compile serve "$@"
compile train --extra train -c requirements/serve.txt "$@"
compile dev --extra train --extra client --extra ui --extra sagemaker --extra otel --extra test -c requirements/train.txt "$@"
tool page "For the page and the client" 'streamlit>=1.50' 'h11>=0.14' 'httpx>=0.28' 'prometheus-client>=0.21' 'pydantic>=2.10' 'pyarrow>=18' 'rich>=13.7'
tool sbom "For the list of an image's packages" cyclonedx-bom
tool audit "For make audit" pip-audit

version=$(sed -n 's/^ *"torch==\([0-9.]*\)".*/\1/p' pyproject.toml)
echo "locking requirements/torch.txt, requirements/torch-cpu.txt"
sh scripts/lock_torch.sh "$version" https://pypi.org/simple >"$log"
cat "$log" >requirements/torch.txt
sh scripts/lock_torch.sh "$version+cpu" https://download.pytorch.org/whl/cpu >"$log"
cat "$log" >requirements/torch-cpu.txt
tool cuda "For torch's build for CUDA on Linux" "torch==$version"
if ! grep -q '^nvidia' requirements/cuda.txt; then
    echo "requirements/cuda.txt: pip did not find PyPI's build of torch; has it an index of its own?" >&2
    exit 1
fi

if [ -n "$upgrade" ]; then
    base=$(sed -n 's/^ARG BASE=\([^@]*\).*/\1/p' Dockerfile)
    echo "resolving the digest of $base"
    digest=$(docker buildx imagetools inspect "$base" --format '{{.Manifest.Digest}}')
    sed "s|^ARG BASE=.*|ARG BASE=$base@$digest|" Dockerfile >"$log" && cat "$log" >Dockerfile
fi
