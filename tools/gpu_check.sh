#!/usr/bin/env bash
# Checks and measures this package on a GPU, in at most 8 minutes: tools/gpu_check.sh OUT [--device cpu] [--only PARTS]
# Installs nothing: wheels that the machine lacks are unpacked from the folder .whl, where tools/gpu_wheels.sh put them.
set -euo pipefail
out=$1
shift
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
if ! "$python" -c "import fastai, pydantic, tomli_w" 2> /dev/null && compgen -G "$root/.whl/*.whl" > /dev/null; then
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site" "$root"/.whl/*.whl
    export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}
fi
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
"$python" "$root/tools/gpu_check.py" "$out" "$@"
