"""How long has somebody waited for a datacube?"""

from datacube_assets.checks.judging.verdict import Verdict

NAME = "published_in_time"


def in_time(waited: float, allowed: float) -> Verdict:
    """What is to be said of a datacube that was published so many seconds after it was asked for."""
    figures = {"seconds waited": round(waited, 1), "seconds allowed": allowed}
    if waited <= allowed:
        return Verdict(True, f"Published {waited:,.0f} s after it was asked for.", figures)
    return Verdict(
        False,
        f"Published {waited:,.0f} s after it was asked for, and {allowed:,.0f} s are allowed. The page of "
        "the run shows what took so long: its place in the queue, tries that failed, or a step",
        figures,
    )
