#!/bin/sh
# The final stage, before the first stage's virtual environment is copied in: an interpreter, Redis, and a user.
set -eu
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends python3-minimal libpython3-stdlib redis-server redis-tools ca-certificates >/dev/null
rm -rf /var/lib/apt/lists/* /var/cache/apt /var/log/apt /var/log/dpkg.log /usr/share/doc /usr/share/man
mkdir -p /var/lib/wisp
chown 10001:10001 /var/lib/wisp
