"""The checks of the asset group `results`: is `results.json` as written, in time, and much like the one
before, and was CauseMos told?
"""

from __future__ import annotations

from dagster import AssetCheckSeverity, AssetRecordsFilter

from datacube_assets.assets.results import pipeline_results
from datacube_assets.checks.check import Check, Subject, warns
from datacube_assets.checks.datacube import OBJECTS_AS_RECORDED, Reading
from datacube_assets.checks.judging import objects
from datacube_assets.checks.judging.changes import regions_stay
from datacube_assets.checks.judging.reports import MOST, undelivered
from datacube_assets.checks.judging.reports import NAME as REPORTS_DELIVERED
from datacube_assets.checks.judging.verdict import CannotCompareError, Verdict
from datacube_assets.checks.judging.waiting import NAME as PUBLISHED_IN_TIME
from datacube_assets.checks.judging.waiting import in_time
from datacube_assets.resources.waiting import asked_at
from datacube_assets.storage.history import History
from datacube_assets.storage.publishing import manifest_entries
from datacube_assets.storage.reports import Outbox


def _results_as_recorded(subject: Subject) -> Verdict:
    name = pipeline_results.key.path[-1]
    subject.standing(name)
    recorded = manifest_entries(subject.lake, subject.run, name)
    altered = [key for key, _ in Reading(subject.bucket)(recorded)]
    found = objects.Found({name: recorded.num_rows}, altered=altered, compared=recorded.num_rows)
    return objects.as_recorded(found)


def _reports_delivered(subject: Subject) -> Verdict:
    return undelivered(*Outbox(subject.lake).stuck(MOST))


def _regions_stay(subject: Subject) -> Verdict:
    version = History(subject.lake, subject.run).published()
    if version is None or version.changes is None:
        raise CannotCompareError("there is no version before this one that has its tables")
    return regions_stay(version.changes, subject.limits, since_back=version.back_to)


def _published_in_time(subject: Subject) -> Verdict:
    instance = subject.context.instance
    published = instance.fetch_materializations(
        AssetRecordsFilter(pipeline_results.key, asset_partitions=[subject.run.key]), limit=1
    ).records
    run = instance.get_run_record_by_id(published[0].run_id) if published else None
    if run is None:
        raise CannotCompareError("Dagster does not know the run that published it")
    return in_time(published[0].timestamp - asked_at(instance, run), subject.limits.max_wait_seconds)


OF_RESULTS = (
    warns(
        pipeline_results,
        "regions_stay_as_they_were",
        "Few regions changed much since the version before, and few are gone.",
        _regions_stay,
    ),
    Check(
        pipeline_results,
        OBJECTS_AS_RECORDED,
        "results.json is in the bucket as it was written.",
        _results_as_recorded,
        AssetCheckSeverity.ERROR,
    ),
    warns(
        pipeline_results,
        PUBLISHED_IN_TIME,
        "From when Dojo or a request asked for it to `results.json` no more time passed than is allowed.",
        _published_in_time,
    ),
    Check(
        pipeline_results,
        REPORTS_DELIVERED,
        "No report to CauseMos, about whichever run, waits because an attempt to deliver it failed.",
        _reports_delivered,
        of_partition=False,
    ),
)
