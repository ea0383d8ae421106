#!/usr/bin/env bash
# Runs in the fresh environment, from the checkout: pyproject.toml in the versions of constraints.txt.
set -euo pipefail
pip install --quiet -c constraints.txt -e .
