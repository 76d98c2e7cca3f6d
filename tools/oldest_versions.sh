#!/usr/bin/env bash
# Tries the lower bounds of pyproject.toml: an environment with the oldest versions that they allow, and the tests that
# need no engine, page or video.
#
#     tools/oldest_versions.sh [--resolve-only] [PYTEST ARGUMENTS]
#
# Needs `uv` (pip install uv; installed into the environment if it is missing), about 6 GB of disk, and Python 3.11.
set -euo pipefail
cd "$(dirname "$0")/.."
environment=${OLDEST_ENVIRONMENT:-/tmp/linknet-fastai-oldest}
python3 -m venv --clear "$environment"
"$environment/bin/pip" install --quiet uv
uv=("$environment/bin/uv" pip)
# The direct dependencies at their lower bounds, with two small extras that many tests import; what these depend on at
# its newest.
"${uv[@]}" compile --quiet --resolution lowest-direct --python "$environment/bin/python" \
    --extra distributed --extra wandb --output-file "$environment/oldest.txt" pyproject.toml
grep -E "^(fastai|fastcore|numpy|pydantic|timm|torch|typer)==" "$environment/oldest.txt"
[ "${1-}" = --resolve-only ] && exit
"${uv[@]}" install --python "$environment/bin/python" -r "$environment/oldest.txt" pytest hypothesis hatchling editables
"${uv[@]}" install --python "$environment/bin/python" --no-deps --no-build-isolation --editable .
if [ $# = 0 ]; then
    # What imports no other optional package, and does not start `fit` in several processes.
    set -- tests/config tests/core tests/data tests/learner tests/model tests/runs tests/scoring/test_metrics.py \
        tests/scoring/test_scores.py --ignore tests/learner/test_distributed.py
fi
"$environment/bin/python" -m pytest -p no:doctest --override-ini addopts=-q "$@"
