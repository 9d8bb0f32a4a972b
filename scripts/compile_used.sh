#!/bin/sh
# Replaces the byte code that a run left in the given directories by files that are taken without asking for the
# source's date, which an image builder may rewrite: compile_used.sh VENV DIRECTORY... Modules that no run imported stay
# without; a program that does import one compiles it in memory.
set -eu
python=$1/bin/python
# models/: an artifact holds only what its manifest lists.
find "$@" -name '*.cpython-*.pyc' | sed -E 's|__pycache__/([^/]+)\.cpython-[0-9]+(\.opt-[12])?\.pyc$|\1.py|' >/tmp/used
"$python" -m compileall -q -f --invalidation-mode unchecked-hash -i /tmp/used
echo "byte code of $(wc -l </tmp/used) modules"
rm /tmp/used
