#!/usr/bin/env bash
# Runs in the fresh environment, from the checkout. pip compares every package with its hash in
# constraints.txt, but for torch, whose build is the machine's.
set -euo pipefail
pip install --quiet --require-hashes --no-deps -r constraints.txt
pip install --quiet -r constraints-torch.txt
pip install --quiet --no-deps --no-build-isolation -e .
