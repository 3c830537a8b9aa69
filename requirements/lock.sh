#!/bin/sh
# Writes the three locks anew from pyproject.toml. Needs uv (pip install uv).
set -eu
cd "$(dirname "$0")/.."
lock() {
    out=$1; shift
    uv pip compile --quiet --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --no-annotate \
        --python-version 3.11 --python-platform "${PLATFORM:-x86_64-manylinux_2_28}" "$@" pyproject.toml --output-file "requirements/$out"
}
lock worker-cpu.txt --extra cpu --extra postgres
lock worker-gpu.txt --extra gpu --extra postgres
lock dev.txt --extra cpu --extra postgres --extra train --extra dev
