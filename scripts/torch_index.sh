#!/bin/sh
# Prints the package index from which torch is to be installed, or nothing for pip's own: torch_index.sh PYTHON
#
# PyPI's torch for Linux brings about 3 GB of CUDA libraries, which serve only a machine with an NVIDIA GPU. PyTorch's
# index of CPU builds has the same version without them (190 MB). The CPU index is chosen on Linux where `nvidia-smi`
# finds no GPU, unless pip is configured with its own index or directory, which is then used.
set -eu
cpu_index=https://download.pytorch.org/whl/cpu

if [ "$(uname -s)" != Linux ] || nvidia-smi -L >/dev/null 2>&1; then
    exit 0
fi
# `pip config list` shows pip's files and the PIP_* variables: global.index-url='...', :env:.find-links='...'
if "$1" -m pip config list 2>/dev/null | grep -Eq '^[^=]*\.(index-url|extra-index-url|find-links|no-index)='; then
    exit 0
fi
echo "$cpu_index"
