#!/bin/sh
# The first stage: wisp and what it needs, every file of it locked by hash, in a virtual environment of its own.
# build.sh SOURCE TARGET
set -eu
source=$1 target=$2
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends python3-venv ca-certificates >/dev/null

python3 -m venv /tmp/build
/tmp/build/bin/pip install --quiet --no-cache-dir --require-hashes -r "$source/k8s/image/build.lock"
/tmp/build/bin/pip wheel --quiet --no-cache-dir --no-deps --no-build-isolation --wheel-dir /tmp/wheel "$source"

python3 -m venv "$target"
"$target/bin/pip" install --quiet --no-cache-dir --only-binary :all: --require-hashes -r "$source/k8s/image/requirements.lock"
"$target/bin/pip" install --quiet --no-cache-dir --no-deps /tmp/wheel/*.whl
"$target/bin/pip" check

# Nothing that installs or compiles goes into the image; what would be compiled at the first start is compiled now.
"$target/bin/pip" uninstall --quiet --yes pip setuptools
find "$target" -type d \( -name tests -o -name test \) -prune -exec rm -rf {} +
"$target/bin/python" -m compileall -q -j 0 "$target/lib"
