#!/usr/bin/env bash
# Speed on a CUDA machine against its limits, in at most 8 minutes: `perf/gpu.sh --out results/gpu`.
# It uses the torch, triton and transformers of `python3` (or of $PYTHON), without a network. What
# else is needed are the wheels of perf/gpu/wheels.txt. Where there is a network, download them:
#
#     pip download --no-deps --only-binary=:all: -d perf/wheels -r perf/gpu/wheels.txt
#
# and take the folder along; `--miniature` runs every section in seconds on any machine. What fails, fails
# alone; the exit code is 1 then.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
export HF_HUB_OFFLINE=1 TQDM_DISABLE=1 PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
if [ -d perf/wheels ]; then
    packages=$(mktemp -d)
    trap 'rm -rf "$packages"' EXIT
    for wheel in perf/wheels/*.whl; do # pure Python: unpacked is installed
        "$python" -m zipfile -e "$wheel" "$packages"
    done
    export PYTHONPATH="$packages:$PYTHONPATH"
fi
"$python" -m perf.gpu "$@"
