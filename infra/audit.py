"""Ask whether the locked versions have known vulnerabilities: what `make audit` runs.

    python infra/audit.py PIP_AUDIT [OPTION...]

Exits with 0 when everything was looked up and nothing is known, with 1 when something is, and with 2 when
not everything could be looked up: that nothing is known then says nothing. Installing pip-audit is the
Makefile's business.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

LOCKED = Path(__file__).with_name("constraints.txt")


def main(program: str, *options: str) -> int:
    command = [program, "--disable-pip", "--no-deps", "--requirement", str(LOCKED), *options]
    command += ["--format", "json", "--progress-spinner", "off"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        last = (done.stderr.strip().splitlines() or ["pip-audit said nothing"])[-1]
        print(f"The service could not be asked, so nothing is known: {last[:300]}", file=sys.stderr)
        return 2
    skipped = [package for package in packages if "skip_reason" in package]
    known = [package for package in packages if package.get("vulns")]
    for package in known:
        for one in package["vulns"]:
            fixed = ", ".join(one["fix_versions"]) or "no version yet"
            print(f"{package['name']} {package['version']}: {one['id']}, mended in {fixed}")
    print(f"{len(packages)} packages: {len(packages) - len(skipped)} looked up, {len(known)} vulnerable")
    if skipped:
        print(
            f"{len(skipped)} could not be looked up, so nothing is known about them. The first: "
            f"{skipped[0]['skip_reason'][:200]}",
            file=sys.stderr,
        )
    return 1 if known else 2 if skipped else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
