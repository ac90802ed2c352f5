#!/usr/bin/env bash
# Installs what builds and runs containers without Docker, from Debian's packages, for the test that builds the
# image and brings up Compose. Quick where there is nothing to do; fails with a reason where it cannot be done.
set -euo pipefail

missing=
for name in buildah podman runc mmdebstrap catatonit iptables ip; do
  command -v "$name" >/dev/null || missing=1
done
[ -n "$missing" ] || exit 0

command -v apt-get >/dev/null || { echo "There is no apt-get here: install buildah, podman and mmdebstrap in this system's own way." >&2; exit 1; }
[ "$(id -u)" = 0 ] || { echo "Only root can install packages: run 'make containers' as root." >&2; exit 1; }

echo "Installing buildah and podman ..."
export DEBIAN_FRONTEND=noninteractive
wait_for_lock=(-o DPkg::Lock::Timeout=120)
timeout 300 apt-get -qq "${wait_for_lock[@]}" update
timeout 900 apt-get -qq "${wait_for_lock[@]}" install --yes --no-install-recommends \
  buildah podman runc netavark aardvark-dns catatonit mmdebstrap iptables iproute2 >/dev/null
