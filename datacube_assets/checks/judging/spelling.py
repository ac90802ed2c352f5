"""Do names that are probably meant to be the same differ in how they are written?

Each spelling becomes a feature, region or value of its own, so that figures fall apart. Names are compared
without case, accents and spaces; countries letter by letter, too. Whether names can be asked for at all is
judged in `plausibility.py`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from datacube_assets.checks.judging.countries import BOXES
from datacube_assets.checks.judging.verdict import EXAMPLES, Verdict, names
from datacube_assets.kernels.schema import MISSING

MOST_COUNTRIES = 1_000
"""Names of countries beyond which they are none, and are not compared with each other."""
_SPACES = re.compile(r"[\s_-]+")
_LONG = 7
"""Letters from which on two of them may be wrong."""


def one_spelling(by_kind: Mapping[str, Iterable[str]]) -> Verdict:
    """Whether any names of a kind (`feature`, a level, a qualifier) are the same but for case or the like."""
    found: dict[str, list[list[str]]] = {}
    for kind, texts in by_kind.items():
        alike: dict[str, list[str]] = {}
        for text in sorted(set(texts)):
            alike.setdefault(_folded(text), []).append(text)
        if several := [some for some in alike.values() if len(some) > 1]:
            found[kind] = several
    first = [f"{kind} {' / '.join(map(repr, some[0]))}" for kind, some in found.items()]
    return Verdict(
        not found,
        f"Names differ in nothing but case, accents or spaces: {names(first)}. Each is counted on its own: "
        "write all of them the same way"
        if found
        else "No two names differ in case, accents or spaces alone.",
        {"names": {kind: some[:EXAMPLES] for kind, some in found.items()}},
    )


def countries(texts: Iterable[str]) -> Verdict:
    """Whether any name of a country is another one with a letter or two wrong.

    Countries that are known under both names (Niger and Nigeria) are two.
    """
    there = sorted({text for text in texts if text not in ("", MISSING)})
    pairs = [] if len(there) > MOST_COUNTRIES else _misspelled(there)
    said = [f"{odd!r} (is it {right!r}?)" for odd, right in pairs]
    return Verdict(
        not pairs,
        f"Countries look misspelled: {names(said)}. Their rows are counted for a country of their own: write "
        "each country one way"
        if pairs
        else "No country looks like another one with a letter wrong.",
        {"countries": len(there), "alike": [list(pair) for pair in pairs[:EXAMPLES]]},
    )


def _misspelled(there: Sequence[str]) -> list[tuple[str, str]]:
    """Names that no country is known by, each with the name of a country that it is close to."""
    folded = {text: _folded(text) for text in there}
    known = {text for text in there if text in BOXES}
    pairs = []
    for number, text in enumerate(there):
        if text in known:
            continue
        # Of two names that nobody knows, the later one is compared with the earlier.
        for other in (*sorted(known), *(one for one in there[:number] if one not in known)):
            one, two = folded[text], folded[other]
            allowed = 2 if min(len(one), len(two)) >= _LONG else 1
            # A country with a shorter name than that differs from many others in one letter.
            if min(len(one), len(two)) > 3 and _numbers(one) == _numbers(two) and _within(one, two, allowed):
                pairs.append((text, other))
                break
    return pairs


def _folded(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text.casefold())
    return _SPACES.sub(" ", "".join(sign for sign in plain if not unicodedata.combining(sign))).strip()


def _numbers(text: str) -> list[str]:
    """The numbers in a name: `Region 1` and `Region 2` are two."""
    return re.findall(r"\d+", text)


def _within(one: str, two: str, most: int) -> bool:
    """Whether so many letters at most have to be changed, put in, left out, or exchanged with the next."""
    if abs(len(one) - len(two)) > most:
        return False
    before, last = list[int](), list(range(len(two) + 1))
    for row, letter in enumerate(one, 1):
        now = [row]
        for place, other in enumerate(two, 1):
            cost = min(last[place] + 1, now[-1] + 1, last[place - 1] + (letter != other))
            if before and place > 1 and letter == two[place - 2] and one[row - 2] == other:
                cost = min(cost, before[place - 2] + 1)
            now.append(cost)
        if min(now) > most:
            return False
        before, last = last, now
    return last[-1] <= most
