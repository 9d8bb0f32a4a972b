#!/bin/sh
# Replaces the byte code that a run left in the given directories: compile_used.sh VENV DIRECTORY... Python uses the new
# files without checking the source's date, which an image builder may rewrite. Modules that no run imported get no byte
# code; a program that imports one compiles it in memory.
set -eu
python=$1/bin/python
# models/: an artifact holds only what its manifest lists.
find "$@" -name '*.cpython-*.pyc' | sed -E 's|__pycache__/([^/]+)\.cpython-[0-9]+(\.opt-[12])?\.pyc$|\1.py|' >/tmp/used
"$python" -m compileall -q -f --invalidation-mode unchecked-hash -i /tmp/used
echo "byte code of $(wc -l </tmp/used) modules"
rm /tmp/used
