#!/usr/bin/env bash
# Installs Postgres' server from Debian's packages, unless there is one already, for `make stack` and its
# tests, which start one of their own: the one that Debian would start is not. Quick where there is nothing to
# do; fails with a reason where it cannot be done.
set -euo pipefail

# Where infra/stack.py looks.
if compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null; then
  exit 0
fi

command -v apt-get >/dev/null || { echo "There is no apt-get here: install Postgres in this system's own way." >&2; exit 1; }
[ "$(id -u)" = 0 ] || { echo "Only root can install packages: run 'apt install postgresql' as root." >&2; exit 1; }

echo "Installing Postgres ..."
export DEBIAN_FRONTEND=noninteractive
wait_for_lock=(-o DPkg::Lock::Timeout=120)
timeout 300 apt-get -qq "${wait_for_lock[@]}" update
# The package before the server keeps it from making, and starting, a cluster of its own.
timeout 300 apt-get -qq "${wait_for_lock[@]}" install --yes --no-install-recommends postgresql-common >/dev/null
sed -i 's/^#\?create_main_cluster.*/create_main_cluster = false/' /etc/postgresql-common/createcluster.conf
timeout 600 apt-get -qq "${wait_for_lock[@]}" install --yes --no-install-recommends postgresql >/dev/null
