#!/usr/bin/env bash
# Fetches axe-core, which the test of accessibility runs in its browser, into build/axe by npm's own client. Quick
# where it is there already; the test skips itself where it is not. It is in no package of ours.
set -euo pipefail

VERSION=4.14.1
SHA256=29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c
FOLDER="$(cd "$(dirname "$0")/.." && pwd)/build/axe"

[ -f "$FOLDER/axe.min.js" ] && echo "$SHA256  $FOLDER/axe.min.js" | sha256sum --check --status && exit 0
command -v npm >/dev/null || { echo "npm is not installed: the test of accessibility skips itself." >&2; exit 1; }
mkdir -p "$FOLDER"
cd "$FOLDER"
npm pack --silent "axe-core@$VERSION" >/dev/null
tar -xzf "axe-core-$VERSION.tgz" --strip-components=1 package/axe.min.js package/LICENSE
rm "axe-core-$VERSION.tgz"
echo "$SHA256  axe.min.js" | sha256sum --check --status || { rm axe.min.js; echo "axe.min.js is not the one that was looked at." >&2; exit 1; }
