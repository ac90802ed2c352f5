"""Words that ticks of sensors share: what they say is a log that people read."""

from collections.abc import Sequence

NAMED = 5
"""Things that a line names; of more it gives the number."""


def count(number: int, thing: str) -> str:
    """A number of things: 1 run, 2 runs."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def listed(names: Sequence[str]) -> str:
    """Some names, and how many more there are."""
    shown = ", ".join(names[:NAMED])
    return f"{shown} and {len(names) - NAMED:,} more" if len(names) > NAMED else shown
