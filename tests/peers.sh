#!/bin/sh
# The tests speak to real DICOM peers, dcmtk's tools; `tests/peers.sh orthanc` is for the benchmark, which has Orthanc beside it.
# Installed where they are missing and apt may do so.
set -eu
missing=""
for tool in storescu echoscu storescp; do command -v "$tool" >/dev/null || missing="dcmtk"; done
if [ "${1:-}" = orthanc ]; then command -v Orthanc >/dev/null || missing="$missing orthanc"; fi
[ -n "$missing" ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing $missing"
    apt-get update -qq
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
else
    echo "real DICOM peers are needed: apt-get install $missing" >&2
    exit 1
fi
