#!/bin/sh
# Installs torch at its locked version: install_torch.sh INDEX PIP...
#
# INDEX is the package index for torch alone, "" for pip's own; PIP is the command to run pip with. Every file must have one of
# the hashes of requirements/. The CPU's build is taken where the index has it, else PyPI's build; if that is one for CUDA, its
# libraries come from cuda.txt. Everything else that torch requires is in serve.txt.
set -eu
index=$1
shift
requirements=$(dirname "$0")/../requirements
pip="$*"
install() {
    $pip install --no-compile --no-deps --require-hashes "$@"
}
install ${index:+--index-url "$index"} -r "$requirements/torch-cpu.txt" 2>/dev/null ||
    install ${index:+--index-url "$index"} -r "$requirements/torch.txt"
if $pip show torch | grep -q '^Requires: .*nvidia-'; then
    install -r "$requirements/cuda.txt"
fi
