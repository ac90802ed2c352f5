#!/usr/bin/env bash
# Installs Prometheus from Debian's packages, unless there is one already, for the tests of alerts and dashboard.
# Quick where there is nothing to do; fails with a reason where it cannot be done.
set -euo pipefail

if command -v promtool >/dev/null && command -v prometheus >/dev/null; then
  exit 0
fi

command -v apt-get >/dev/null || { echo "There is no apt-get here: install Prometheus in this system's own way." >&2; exit 1; }
[ "$(id -u)" = 0 ] || { echo "Only root can install packages: run 'apt install prometheus' as root." >&2; exit 1; }

echo "Installing Prometheus ..."
export DEBIAN_FRONTEND=noninteractive
wait_for_lock=(-o DPkg::Lock::Timeout=120)
timeout 300 apt-get -qq "${wait_for_lock[@]}" update
# The programs are wanted, not a service that watches this machine: a unit that is masked is not started.
[ ! -d /etc/systemd/system ] || ln -sf /dev/null /etc/systemd/system/prometheus.service
timeout 600 apt-get -qq "${wait_for_lock[@]}" install --yes --no-install-recommends prometheus >/dev/null
