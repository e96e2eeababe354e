#!/bin/sh
# What both images do: an environment of its own in /opt/venv, with the versions that are known to work together.
set -eu
cd "$(dirname "$0")/.."
python3 -m venv /opt/venv
/opt/venv/bin/pip install --no-cache-dir -c constraints.txt ".[${EXTRAS:-quantization,ray}]"
/opt/venv/bin/conrad-bench list >/dev/null
