"""What a check says, without Dagster: whether something passed, in one sentence, and the figures.

Judging is in the modules beside this one; how a verdict reaches the UI is in `check.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

EXAMPLES = 10
"""Instances of a fault that a verdict lists: the event log is no place for thousands."""


@dataclass(frozen=True)
class Verdict:
    """The result of a check."""

    passed: bool
    says: str
    """For people: what holds, or what does not and what to do."""
    figures: Mapping[str, Any] = field(default_factory=dict)
    only_warns: bool = False
    """Whether a failure is one to look at, in a check whose failures stop publication otherwise."""


class ChecksFailedError(RuntimeError):
    """Checks that stop publication failed; the message says which, and what they say."""

    def __init__(self, run: str, said: Sequence[str]) -> None:
        faults = "\n".join(f"  {one}" for one in said)
        super().__init__(
            f"{run} is not published: its datacube would mislead\n{faults}\n"
            "docs/checks.md says what to do about each check"
        )


class CannotCompareError(LookupError):
    """What has to be compared is not there, or was made from another input; the message says which."""


def names(some: Sequence[str]) -> str:
    """The first of some names, for a sentence."""
    listed = ", ".join(some[:EXAMPLES])
    return listed if len(some) <= EXAMPLES else f"{listed} and {len(some) - EXAMPLES:,} more"
