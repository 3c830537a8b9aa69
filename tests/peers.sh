#!/bin/sh
# The peers that the tests of the DICOM network talk to: dcmtk's tools, Orthanc with its DICOMweb, and openssl for certificates. On a Debian
# and as root, what is missing is installed; anywhere else it is named, and the tests do not begin.
set -eu
PATH=$PATH:/usr/sbin

missing=
for pair in storescu:dcmtk Orthanc:orthanc openssl:openssl; do
    command -v "${pair%:*}" >/dev/null || missing="$missing ${pair#*:}"
done
[ -e /usr/share/orthanc/plugins/libOrthancDicomWeb.so ] || missing="$missing orthanc-dicomweb"
[ -n "$missing" ] || exit 0
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "the tests need$missing: apt-get install --no-install-recommends$missing" >&2
    exit 1
fi
echo "installing what the tests talk to:$missing"
apt-get update -qq
# One word each.
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $missing >/dev/null
# Debian's package starts a server of its own; the tests start theirs.
if command -v systemctl >/dev/null; then
    systemctl disable --quiet --now orthanc 2>/dev/null || true
fi
