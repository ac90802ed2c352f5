#!/usr/bin/env bash
# Installs Chromium from Debian's packages, unless there is one already. Quick where there is nothing to do;
# fails with a reason where it cannot be done. Tests that need a browser then skip themselves.
set -euo pipefail

# The names that datacube_assets_tests/browser/conftest.py looks for.
for name in "${DATACUBE_CHROMIUM:-}" chromium chromium-browser google-chrome google-chrome-stable; do
  if [ -n "$name" ] && command -v "$name" >/dev/null; then
    exit 0
  fi
done

command -v apt-get >/dev/null || { echo "There is no apt-get here: install Chromium in this system's own way." >&2; exit 1; }
[ "$(id -u)" = 0 ] || { echo "Only root can install packages: run 'apt install chromium' as root." >&2; exit 1; }

echo "Installing Chromium ..."
export DEBIAN_FRONTEND=noninteractive
wait_for_lock=(-o DPkg::Lock::Timeout=120)
timeout 300 apt-get -qq "${wait_for_lock[@]}" update
# Without recommended packages, except for fonts: without any, pages have no text.
timeout 600 apt-get -qq "${wait_for_lock[@]}" install --yes --no-install-recommends chromium fonts-dejavu-core >/dev/null
