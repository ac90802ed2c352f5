"""The Dagster UI as a person uses it: what is clicked, and where that leads.

Tests and the pictures of the docs share these clicks. What the tour (docs/tour.md) names in bold is what is
clicked: a label that it does not name cannot be clicked here, so a newcomer finds all of them in the UI.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from playwright.sync_api import expect

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

TOUR = (Path(__file__).parents[2] / "docs" / "tour.md").read_text()
LABELS = frozenset(re.findall(r"\*\*(.+?)\*\*", TOUR))

GROUPS = ("dojo", "points", "aggregates", "datacube", "results")


def named(label: str) -> str:
    """A label of the UI. Raises AssertionError when the tour does not name it."""
    assert label in LABELS, f"docs/tour.md does not name **{label}**"
    return label


class DagsterUI:
    """A page of the webserver at `url`."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url

    def open(self) -> None:
        """The address that the tour names."""
        self.page.goto(self.url)
        # The entry for jobs comes last, and moves those below it.
        expect(self._entry("Jobs")).to_be_visible()

    def _entry(self, label: str) -> Locator:
        return self._labelled("a[class*=MainNavigation]", label)

    def _labelled(self, what: str, label: str) -> Locator:
        # By their text: names for screen readers begin with that of the icon.
        return self.page.locator(what).filter(has_text=re.compile(rf"^{re.escape(label)}\s*$"))

    def navigate(self, label: str) -> None:
        """Click an entry on the left."""
        self._entry(named(label)).click()

    def press(self, label: str) -> None:
        """Click a button."""
        self._labelled("button", named(label)).click()

    def follow(self, label: str) -> None:
        """Click a link in the page."""
        self._labelled("a", named(label)).click()

    def tab(self, label: str) -> None:
        self._labelled("[role=tab]", named(label)).first.click()

    # --- the graph ------------------------------------------------------------------------------

    def lineage(self) -> Locator:
        """The boxes of the asset graph."""
        self.navigate("Lineage")
        boxes = self.boxes()
        expect(boxes.first).to_be_visible()
        return boxes

    def boxes(self) -> Locator:
        return self.page.locator("svg foreignObject")

    def box(self, name: str) -> Locator:
        """The box of a group or an asset: of a group that is open, its title."""
        return self.boxes().filter(has_text=re.compile(f"^{re.escape(name)}")).first

    # --- runs -----------------------------------------------------------------------------------

    def choose(self, partition: str) -> None:
        """Choose a partition in the dialog of a launch."""
        self.page.get_by_role("dialog").get_by_text("Select a partition").click()
        self.page.get_by_role("menuitem").filter(has_text=partition).click()
        self.page.keyboard.press("Escape")

    def launch_run(self, partition: str) -> str:
        """In the dialog of a launch: one run of a partition. Returns the first part of the run's id."""
        self.choose(partition)
        self.press("Launch 1 run")
        return self._launched(r"Launched run (\w+)")

    def launch_backfill(self) -> str:
        """From the graph: a backfill of all partitions. Returns its id."""
        self.lineage()
        self.press("Materialize all…")
        self.press("All")
        self.press("Launch backfill")
        return self._launched(r"Created backfill (\w+)")

    def _launched(self, words: str) -> str:
        note = self.page.get_by_text(re.compile(words)).last
        expect(note).to_be_visible()
        found = re.search(words, note.inner_text())
        assert found
        return found[1]

    def runs(self, tab: str | None = None) -> None:
        """The list of runs, or of backfills."""
        self.navigate("Runs")
        if tab:
            self.tab(tab)

    def line(self, *texts: str) -> Locator:
        """The line of a list that has all these texts, the first if there are several."""
        found = self.page.locator("[class*=VirtualizedTable_row]")
        for text in texts:
            found = found.filter(has_text=text)
        return found.first

    def backfill(self, backfill_id: str) -> None:
        """The page of a backfill, from the list."""
        self.page.get_by_role("link", name=backfill_id).first.click()
        expect(self.page.get_by_text("Partition selection")).to_be_visible()

    # --- assets ---------------------------------------------------------------------------------

    def asset(self, name: str) -> None:
        """The page of an asset, from the catalog."""
        self.navigate("Catalog")
        self.page.locator(f"a[href='/assets/{name}']").first.click()
        expect(self.page.get_by_role("tab", name="Overview").first).to_be_visible()

    def partition(self, partition: str) -> None:
        """What an asset's materialization of a partition says."""
        self.tab("Partitions")
        self.line(partition).click()
        expect(self.page.get_by_text(re.compile(r"View all historical events \([1-9]"))).to_be_visible()

    def figure(self, name: str) -> Locator:
        """What the metadata of a materialization say under this name."""
        cell = self.page.get_by_role("cell", name=name, exact=True)
        return self.page.get_by_role("row").filter(has=cell).get_by_role("cell").nth(1)

    def picture(self) -> Locator:
        """The picture of a materialization, opened."""
        self.figure("picture").get_by_text(named("[Show Markdown]")).click()
        return self.page.get_by_role("dialog").get_by_role("img", name="picture")
