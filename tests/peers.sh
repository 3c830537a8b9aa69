#!/bin/sh
# The tests speak to real DICOM peers: dcmtk's tools. Installed where they are missing and apt may do so.
set -eu
command -v storescu >/dev/null && command -v echoscu >/dev/null && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing dcmtk (the tests need storescu and echoscu)"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends dcmtk >/dev/null
else
    echo "the tests need dcmtk's storescu and echoscu: apt-get install dcmtk" >&2
    exit 1
fi
