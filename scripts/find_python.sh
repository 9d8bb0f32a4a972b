#!/bin/sh
# Prints the first of the given commands (or of the usual names) that is Python 3.11 or newer and can make a virtual
# environment. Each is run, not only looked up: pyenv's shims exist for versions that are not selected.
if [ $# -eq 0 ]; then set -- python3.11 python3.12 python3.13 python3.14 python3; fi
without_venv=
for python in "$@"; do
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
    if "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        echo "$python"
        exit 0
    fi
    without_venv=$python # Debian and Ubuntu package these two modules apart from Python
done
if [ -n "$without_venv" ]; then
    echo "$without_venv cannot make virtual environments; on Debian or Ubuntu: apt-get install python3-venv" >&2
else
    echo "Python 3.11 or newer is needed, none found as: $*; install it, or name it: make PYTHON=/path/to/python" >&2
fi
exit 1
