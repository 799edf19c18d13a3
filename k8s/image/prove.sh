#!/bin/bash
# The image's steps without an image builder: the same scripts in roots that debootstrap makes, then a platform started
# from the result as the manifests start it (a user without rights, a root that cannot be written to), asked and stopped.
# Needs root, debootstrap and the network of a build. Usage: prove.sh [DIR]   (DIR: where the roots go; default: a new one)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repository=$(cd "$here/../.." && pwd)
roots=${1:-$(mktemp -d)}
suite=bookworm
port=18080
mkdir -p "$roots"
cleanup() { for mount in "$roots"/*/proc; do mountpoint -q "$mount" && umount "$mount"; done; [ -n "${1:-}" ] || rm -rf "$roots"; }
trap 'cleanup ${1:-}' EXIT

inside() { # ROOT COMMAND...: with what the host's pip and name service are told, which an image builder lends as well
  local root=$1; shift
  cp /etc/resolv.conf "$root/etc/resolv.conf"
  mkdir -p "$root/etc/ssl/certs"
  [ -z "${PIP_CERT:-}" ] || cp "$PIP_CERT" "$root/lent-certificates.pem"
  mountpoint -q "$root/proc" || mount -t proc proc "$root/proc"
  env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root \
    ${PIP_CERT:+PIP_CERT=/lent-certificates.pem} ${PIP_INDEX_URL:+PIP_INDEX_URL="$PIP_INDEX_URL"} \
    ${http_proxy:+http_proxy="$http_proxy"} ${https_proxy:+https_proxy="$https_proxy"} chroot "$root" "$@"
}

echo "base: debootstrap $suite"
[ -d "$roots/base/usr" ] || debootstrap --variant=minbase "$suite" "$roots/base" >"$roots/debootstrap.log"
for stage in build image; do
  rm -rf "${roots:?}/$stage"
  cp -a "$roots/base" "$roots/$stage"
done

echo "stage 1: build.sh"
mkdir -p "$roots/build/src"
(cd "$repository" && tar c pyproject.toml README.md platform policies k8s/image) | tar x -C "$roots/build/src"
inside "$roots/build" sh /src/k8s/image/build.sh /src /opt/wisp

echo "stage 2: runtime.sh"
cp "$here/runtime.sh" "$roots/image/tmp/"
inside "$roots/image" sh /tmp/runtime.sh
rm -f "$roots/image/tmp/runtime.sh" "$roots/image/lent-certificates.pem"
cp -a "$roots/build/opt/wisp" "$roots/image/opt/wisp"
! inside "$roots/image" sh -c 'command -v cc gcc clang cargo pip make' || { echo "a compiler or installer is in the image"; exit 1; }
rm -f "$roots/image/lent-certificates.pem"
umount "$roots/image/proc"
size() { du -sm --apparent-size "$1" | cut -f1; }
echo "size: $(size "$roots/image") MB (base $(size "$roots/base") MB, wisp with its packages $(size "$roots/image/opt/wisp") MB)"

echo "start: user 10001, no new privileges, a root that cannot be written to"
key=$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')
unshare --mount bash -euc '
  root=$1 port=$2 key=$3
  mount --bind "$root" "$root"
  mount -t proc proc "$root/proc"
  mount -t tmpfs -o mode=755 dev "$root/dev"
  for node in null zero urandom random; do touch "$root/dev/$node"; mount --bind "/dev/$node" "$root/dev/$node"; done
  mount -t tmpfs -o uid=10001,gid=10001,mode=700 data "$root/var/lib/wisp"
  mount -o remount,bind,ro "$root"
  ! chroot --userspec=10001:10001 "$root" touch /tmp/x 2>/dev/null
  exec timeout 60 chroot --userspec=10001:10001 "$root" setpriv --no-new-privs \
    env -i PATH=/usr/bin:/bin WISP_OPERATOR_KEY="$key" WISP_DATA_DIR=/var/lib/wisp WISP_BIND="127.0.0.1:$port" \
    /opt/wisp/bin/wisp serve
' _ "$roots/image" "$port" "$key" 2>"$roots/serve.log" &
node=$!
ask() { curl --silent --max-time 5 --header "Authorization: Bearer $key" "$@"; }
for _ in $(seq 100); do
  ready=$(ask "http://127.0.0.1:$port/readyz" || true)
  case $ready in *'"ready": true'* | *'"ready":true'*) break ;; esac
  kill -0 "$node" 2>/dev/null || break
  sleep 0.2
done
echo "readyz: $ready"
made=$(ask --request POST --data '{"tenant": "acme"}' --header 'Content-Type: application/json' "http://127.0.0.1:$port/v1/tenants")
deploy=$(printf '%s' "$made" | sed 's/.*"secret": *"\([^"]*\)".*/\1/')
hello=$repository/tenants/acme/hello
deployed=$(curl --silent --max-time 20 --request PUT --header "Authorization: Bearer $deploy" \
  --form "module=@$hello/module.wasm" --form "policy=@$hello/policy.yaml" "http://127.0.0.1:$port/v1/tenants/acme/functions/hello")
echo "deployed: $deployed"
answer=$(curl --silent --max-time 5 --header "Authorization: Bearer $deploy" "http://127.0.0.1:$port/t/acme/hello?name=image")
echo "answer: $answer"
pkill -TERM -P "$node" -f 'wisp serve' || kill -TERM "$node"
wait "$node" && status=0 || status=$?
echo "exit: $status"
case $answer in *image*) [ "$status" = 0 ] ;; *) tail -20 "$roots/serve.log"; exit 1 ;; esac
