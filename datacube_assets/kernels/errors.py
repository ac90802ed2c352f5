"""What a modeller is told when an input cannot become a datacube.

Only the exception belongs here; each check lives beside the code that needs it.
"""

from __future__ import annotations

from collections.abc import Sequence

_LONGEST_NAME = 200
"""Characters of a name that are shown, and so of a line that a terminal or a log has to bear."""
_MOST_NAMES = 20


class InputError(ValueError):
    """An input that cannot be processed, said so that a modeller can act on it.

    `problem` says what is wrong, `remedy` what to do; `file`, `column` and `example` say where.
    The run is added by whoever knows it (`in_run`).
    """

    def __init__(
        self,
        problem: str,
        *,
        remedy: str,
        run: str | None = None,
        file: str | None = None,
        column: str | None = None,
        example: object = None,
    ) -> None:
        self.problem = problem
        self.remedy = remedy
        self.run = run
        self.file = file
        self.column = column
        self.example = example
        super().__init__(str(self))

    def __str__(self) -> str:
        places = [
            f"{name} {shown(value)}"
            for name, value in (("run", self.run), ("file", self.file), ("column", self.column))
            if value is not None
        ]
        where = f"{', '.join(places)}: " if places else ""
        example = "" if self.example is None else f" (for example {shorten(self.example)})"
        return f"{where}{self.problem}{example}. {self.remedy}"

    def __reduce__(self) -> tuple[object, ...]:
        # A worker process sends the error back pickled; keyword arguments need help for that.
        fields = ("remedy", "run", "file", "column", "example")
        return _rebuild, (self.problem, {name: getattr(self, name) for name in fields})

    def in_run(self, run: str) -> InputError:
        """The same error, naming the model run or dataset it belongs to."""
        return InputError(
            self.problem,
            remedy=self.remedy,
            run=run,
            file=self.file,
            column=self.column,
            example=self.example,
        )


def _rebuild(problem: str, fields: dict[str, object]) -> InputError:
    return InputError(problem, **fields)  # type: ignore[arg-type]


def shorten(value: object, length: int = 80) -> str:
    """A value as one short line of text, for messages."""
    text = repr(value)
    return text if len(text) <= length else f"{text[: length - 3]}..."


def shown(name: str) -> str:
    """A name as it is, unless it is long or could pass for something else: control or hidden characters."""
    return name if name.isprintable() and len(name) <= _LONGEST_NAME else shorten(name, _LONGEST_NAME)


def listed(names: Sequence[str]) -> str:
    """Names for a message, not more than can be read."""
    first = ", ".join(map(shown, names[:_MOST_NAMES]))
    more = len(names) - _MOST_NAMES
    return f"{first} and {more:,} more" if more > 0 else first
