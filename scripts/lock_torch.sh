#!/bin/sh
# Prints a requirement of torch with the hashes of all its wheels in one package index: lock_torch.sh VERSION INDEX
#
# VERSION has the label of the builds if they have one, such as 2.13.0+cpu.
set -eu
page=$(mktemp)
trap 'rm -f "$page"' EXIT
curl --fail --silent --show-error --location --retry 3 "$2/torch/" >"$page"

name=$(echo "torch-$1-cp3" | sed 's/\./\\./g; s/+/%2B/')
hashes=$(sed -n "s/.*[\/\"]${name}1[1-9]-[a-z0-9_-]*\.whl#sha256=\([0-9a-f]\{64\}\)\".*/\1/p" "$page" | sort -u)
test -n "$hashes" || { echo "$2 has no wheels of torch $1 for Python 3.11 or newer" >&2; exit 1; }

echo "# Every build of this version for Python 3.11 and newer at $2, by make lock."
printf 'torch==%s' "$1"
printf ' \\\n    --hash=sha256:%s' $hashes
echo
