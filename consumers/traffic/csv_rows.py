"""A CSV file as rows of typed values."""

from __future__ import annotations

import csv
import gzip
import math
import zlib
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from streamgauge.detectors.errors import StreamgaugeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from streamgauge.stream.config import Task

CsvValue = int | float | str | None
CsvFeatures = dict[str, CsvValue]
Target = int | float | str

DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|"}
CLASSES_MAX = 20  # a numeric target with more distinct values is taken for a quantity
DIGITS_MAX = 100  # Python refuses to convert thousands
# How programs write that there is no value, in lower case.
_MISSING = frozenset({"", "?", "n/a", "na", "nan", "none", "null"})


class CsvError(StreamgaugeError, ValueError):
    """The file cannot be used; the message says where and why."""


class ColumnError(CsvError):
    """A column that was asked for cannot be had; `option` is `target` or `drop`."""

    def __init__(self, option: str, message: str) -> None:
        super().__init__(message)
        self.option = option


class CsvRow(NamedTuple):
    """One row of the file; `number` is 0-based without the header, `line` as editors count."""

    number: int
    line: int
    features: CsvFeatures
    target: str


def parse_value(text: str) -> CsvValue:
    """Return what a cell holds: a finite number, nothing, or text.

    >>> [parse_value(text) for text in ("7", "0.5", "", "NaN", "n/a", "1_000", "7 days")]
    [7, 0.5, None, None, None, '1_000', '7 days']
    """
    try:
        number = float(text)
    except ValueError:
        return _text(text)
    if "_" in text or not math.isfinite(number):
        return _text(text)
    if len(text) <= DIGITS_MAX and text.strip().lstrip("+-").isdecimal():
        whole = int(text)
        # Beyond 64 bits JSON readers disagree about whole numbers.
        return whole if -(2**63) <= whole < 2**63 else number
    return number


def _text(text: str) -> str | None:
    return None if text.strip().lower() in _MISSING else text


def count_rows(path: Path, delimiter: str = ",") -> int:
    """Count the rows that `read_rows` gives, in one pass.

    Raises:
        CsvError: no such file, or not a CSV.
    """
    return max(0, sum(1 for _ in _csv_lines(path, delimiter)) - 1)


def read_rows(
    path: Path,
    target: str,
    drop: Sequence[str] = (),
    delimiter: str = ",",
    decimal: str = ".",
) -> Iterator[CsvRow]:
    """Yield the rows of a CSV file (gzip by its suffix); unnamed columns are left out.

    Raises:
        ColumnError: no such column.
        CsvError: no such file, not a CSV, a name for two columns, a ragged row, an empty target.
    """
    lines = _csv_lines(path, delimiter)
    _, header = next(lines, (0, []))
    if not any(cell.strip() for cell in header):
        raise CsvError(f"{path}: no header line")
    columns = _columns(path, header, target, drop)
    at = columns.pop(target)
    for number, (line, texts) in enumerate(lines):
        if len(texts) != len(header):
            raise CsvError(f"{path}: line {line}: {len(texts)} values for {len(header)} columns")
        if not texts[at].strip():
            raise CsvError(f"{path}: line {line}: the target {target!r} is empty")
        cells = texts if decimal == "." else [_with_point(text, decimal) for text in texts]
        features = {name: parse_value(cells[i]) for name, i in columns.items()}
        yield CsvRow(number, line, features, cells[at])


def _csv_lines(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of each line that is not blank; the header is the first."""
    opened: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter)
            for cells in reader:
                if cells:
                    yield reader.line_num, cells
    except (csv.Error, UnicodeDecodeError, EOFError, zlib.error) as error:
        raise CsvError(f"{path}: not a CSV file in UTF-8 ({error})") from None
    except OSError as error:
        raise CsvError(f"{path}: {error.strerror or error}") from None


def _columns(path: Path, header: list[str], target: str, drop: Sequence[str]) -> dict[str, int]:
    """Return where the target and each feature are."""
    for option, names in (("target", [target]), ("drop", drop)):
        for name in names:
            if name not in header:
                problem = f"no column {name!r}; its columns are {', '.join(header)}"
                if any(delimiter in "".join(header) for delimiter in DELIMITERS.values()):
                    problem += "; is another delimiter between them?"
                raise ColumnError(option, f"{path}: {problem}")
    if target in drop:
        raise ColumnError("drop", f"{path}: the target {target!r} cannot be dropped")
    used = [name for name in header if name.strip() and name not in drop]
    for name, n in Counter(used).items():
        if n > 1:
            raise CsvError(f"{path}: {n} columns are named {name!r}; give each its own name")
    return {name: header.index(name) for name in used}


def _with_point(text: str, decimal: str) -> str:
    """Return a cell as `parse_value` reads numbers.

    >>> [_with_point(text, ",") for text in ("0,5", "-1,5e3", "1,2,3", "a,b", "7")]
    ['0.5', '-1.5e3', '1,2,3', 'a,b', '7']
    """
    pointed = text.replace(decimal, ".", 1)
    return pointed if isinstance(parse_value(pointed), int | float) else text


def are_many(targets: Sequence[CsvValue]) -> bool:
    """Return whether numeric targets are no classes: fractions, or under five rows to a class.

    >>> are_many([1.5, 2.0]), are_many([*range(26)] * 5), are_many(range(100))
    (True, False, True)
    """
    numbers = {target for target in targets if isinstance(target, int | float)}
    if any(not float(number).is_integer() for number in numbers):
        return True
    return len(numbers) > max(CLASSES_MAX, len(targets) / 5)


def are_names(targets: Sequence[CsvValue]) -> bool:
    """Return whether targets cannot be classes, numbers or not: many, with under two rows to each.

    >>> are_names([f"customer {i}" for i in range(100)]), are_names(["yes", "no"])
    (True, False)
    """
    return len(set(targets)) > max(CLASSES_MAX, len(targets) / 2)


def infer_task(targets: Iterable[CsvValue]) -> Task:
    """Return whether a target is a class or a quantity: text or few whole numbers are classes.

    >>> infer_task([0.0, 1.0]), infer_task(range(21)), infer_task(["1", "up"])
    ('classification', 'regression', 'classification')
    """
    distinct = set(targets)
    if any(isinstance(target, str) for target in distinct):
        return "classification"
    whole = all(float(target or 0).is_integer() for target in distinct)
    return "classification" if whole and len(distinct) <= CLASSES_MAX else "regression"
