"""What a run writes into the terminal: of an error that was worded for people, the words and no stack trace.

The event log of Dagster keeps everything, the stack trace included; only what is printed is shortened.
"""

from __future__ import annotations

import copy
import logging

from dagster import InitLoggerContext, colored_console_logger

from datacube_assets.orchestration.failures import told


class _Plain(logging.Formatter):
    """Another formatter, with the error of an event in the words it was raised with."""

    def __init__(self, wrapped: logging.Formatter | None) -> None:
        super().__init__()
        self._wrapped = wrapped or logging.Formatter()

    def format(self, record: logging.LogRecord) -> str:
        event = getattr(record, "dagster_meta", {}).get("dagster_event")
        error = getattr(getattr(event, "event_specific_data", None), "error", None)
        words = told(error)
        if event is None or words is None:
            return self._wrapped.format(record)
        short = copy.copy(record)
        where = event.step_key or event.job_name
        short.msg, short.args = f"{event.event_type_value} - {where} - {words}", ()
        short.exc_info = short.exc_text = short.stack_info = None
        return self._wrapped.format(short)


def shorten() -> None:
    """Have the console logger of this process leave out stack traces that tell nobody anything."""
    build = colored_console_logger.logger_fn

    def plain(context: InitLoggerContext) -> logging.Logger:
        logger: logging.Logger = build(context)
        for handler in logger.handlers:
            handler.setFormatter(_Plain(handler.formatter))
        return logger

    # Runs without a configuration of loggers take this one, and no other can be given to all of them.
    colored_console_logger._logger_fn = plain
