"""Tick files: Parquet, CSV and JSON lines as ticks in columns, with a dead letter for every row that can't be read."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from service.columns import as_records, to_json, to_ticks
from service.errors import TickwatchError
from service.logs import DeadLetter
from service.ticks import NUMBERS, Ticks, decode, wrong_unit

SUFFIXES: Final = (".parquet", ".csv", ".csv.gz", ".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")
CHUNK_ROWS: Final = 65_536
COLUMNS: Final = ("stream", "ts", *NUMBERS, "seq")

_BOM: Final = b"\xef\xbb\xbf"
_UNREADABLE: Final = (OSError, EOFError, zlib.error, pa.ArrowException)


@dataclass(frozen=True)
class FileChunk:
    """Some rows of a file in its order: partition is 0, offset is the row's number in the file, counted from 0.

    The value of a reject is a record that `decode` turns down for the same reason: the line itself of a JSON-lines file
    (its key is the stream that the file is named after), else a JSON object of the row's cells, or a JSON array of them
    where a CSV row has more or fewer than the header.
    """

    ticks: Ticks
    rejects: list[DeadLetter]


class Rejects:
    """Counts the rows that could not be read, and tells the first of them."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.n = 0
        self._say = say

    def tell(self, path: Path, letter: DeadLetter) -> None:
        """One more."""
        self.n += 1
        if self.n <= 5:
            self._say(f"{path}, row {letter.offset}: {letter.reason}")

    def check(self, rows: int) -> None:
        """Raise TickwatchError where these were all the rows there are."""
        if self.n == rows:
            raise TickwatchError(f"none of the {rows} rows could be read, the first ones for the reasons above")


def check_output(output: Path, inputs: list[Path]) -> None:
    """Raise TickwatchError where scores would take the place of ticks, or the name of another format."""
    if output.resolve() in [path.resolve() for path in inputs]:
        raise TickwatchError(f"--output {output}: holds ticks that are to be scored; name another file")
    if output.name.lower().endswith(SUFFIXES[1:]):
        raise TickwatchError(f"--output {output}: scores are written as Parquet; let its name end with .parquet")


@contextmanager
def whole(output: Path) -> Iterator[Path]:
    """Where to write what becomes the file `output` when the block ends, and leaves nothing behind when it fails.

    Raises TickwatchError when it can't be written.
    """
    partial = output.with_name(output.name + ".partial")
    try:
        yield partial
        partial.replace(output)
    except OSError as error:
        raise TickwatchError(f"--output {output}: cannot be written ({error.strerror or error})") from error
    finally:
        partial.unlink(missing_ok=True)


def tick_files(path: Path) -> list[Path]:
    """The file itself, or the tick files of a folder sorted by name. Raises TickwatchError where there is none."""
    if not path.exists():
        raise TickwatchError(f"{path} does not exist; give a tick file or a folder of tick files")
    if not path.is_dir():
        _suffix(path)
        return [path]
    files = [f for f in path.iterdir() if f.is_file() and f.name.lower().endswith(SUFFIXES) and f.name[0] != "."]
    if not files:
        raise TickwatchError(f"{path} holds no tick file; the names of tick files end with {', '.join(SUFFIXES)}")
    return sorted(files)


def count_ticks(paths: list[Path]) -> int:
    """Rows of all files, good and bad: from the metadata of Parquet, by counting the lines of the others."""
    return sum(map(_count, paths))


def read_ticks(path: Path, start: int = 0, rows: int = CHUNK_ROWS) -> Iterator[FileChunk]:
    """The rows of a file from row `start` on, in its order, at most `rows` at a time.

    Columns are `ts` (integer nanoseconds since 1970, a timestamp of any unit and zone, or ISO 8601 text), `price` and,
    where the file has them, `stream` (else all rows are one stream named after the file) and the other numbers of a
    tick and its `seq`; a null, an empty cell and NaN are missing. Blank lines are no rows, and a CSV cell holds no line
    break. Raises TickwatchError, at the first chunk or later, when the file and not one of its rows is at fault: it can't be
    read, or all its times are those of 1970 and would be of our days if they counted something else than nanoseconds.
    """
    suffix = _suffix(path)
    read = {".parquet": _read_parquet, ".csv": _read_csv}.get(suffix.removesuffix(".gz"), _read_json)
    empty = start == 0
    try:
        for ticks, rejects in read(path, start, rows):
            _check_unit(ticks)
            empty = False
            yield FileChunk(ticks, rejects)
    except TickwatchError as error:
        raise TickwatchError(f"{path}: {error}") from error
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error
    if empty:
        raise TickwatchError(f"{path} holds no ticks; remove it or give another file")


def not_read(path: Path) -> list[str]:
    """Columns of a Parquet or CSV file that are none of a tick's. Raises TickwatchError when it can't be read."""
    suffix = _suffix(path)
    try:
        if suffix == ".parquet":
            names = pq.read_schema(path).names
        else:
            names = _names(next(_lines(path), b"")) if suffix.startswith(".csv") else []
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error
    return [name for name in names if name and name not in COLUMNS]


def default_stream(path: Path) -> str:
    """The stream of rows that name none: the file's name without its suffix."""
    return path.name[: -len(_suffix(path))]


def _suffix(path: Path) -> str:
    found = [s for s in SUFFIXES if path.name.lower().endswith(s) and len(path.name) > len(s)]
    if not found:
        raise TickwatchError(f"{path} is no tick file by its name, which must end with one of {', '.join(SUFFIXES)}")
    return found[0]


def _unreadable(path: Path, error: BaseException) -> TickwatchError:
    what = str(error).partition("\n")[0] or type(error).__name__
    return TickwatchError(f"{path} can't be read as {_suffix(path)}: {what}; is the file complete and rightly named?")


def _count(path: Path) -> int:
    suffix = _suffix(path)
    try:
        if suffix == ".parquet":
            return int(pq.read_metadata(path).num_rows)
        lines = sum(1 for _ in _lines(path))
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error
    return max(0, lines - suffix.startswith(".csv"))


def _lines(path: Path) -> Iterator[bytes]:
    """The lines of a text file that are not blank, without their ends."""
    with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
        if file.peek(len(_BOM)).startswith(_BOM):
            file.read(len(_BOM))
        for line in file:
            if line.strip():
                yield line.rstrip(b"\r\n")


def _read_json(path: Path, start: int, rows: int) -> Iterator[tuple[Ticks, list[DeadLetter]]]:
    lines = islice(_lines(path), start, None)
    key = default_stream(path).encode()
    at = start
    while batch := list(islice(lines, rows)):
        if at == 0 and not any(line.lstrip().startswith(b"{") for line in batch):
            raise TickwatchError(
                f"no JSON object in the first {len(batch)} lines, which start with {batch[0][:60]!r}; "
                'each line must be one tick such as {"ts": 1700000000000000000, "price": 189.98}'
            )
        yield decode(as_records(np.arange(at, at + len(batch)), [*batch], key))
        at += len(batch)


def _read_csv(path: Path, start: int, rows: int) -> Iterator[tuple[Ticks, list[DeadLetter]]]:
    lines = _lines(path)
    header = next(lines, None)
    if header is None:
        return
    names = _names(header)
    wanted = _wanted(names)
    lines = islice(lines, start, None)
    at = start
    while batch := list(map(_cells, islice(lines, rows))):
        offset = np.arange(at, at + len(batch))
        whole = np.array(list(map(len, batch))) == len(names)
        columns = list(zip(*(batch[i] for i in np.flatnonzero(whole).tolist()), strict=True)) or [()] * len(names)
        texts = {n: pa.array(columns[names.index(n)], pa.binary()).view(pa.string()) for n in wanted}
        ticks, rejects = to_ticks(texts, offset[whole], default_stream(path))
        torn: list[bytes | None] = [
            b"[" + b",".join(map(to_json, batch[i])) + b"]" for i in np.flatnonzero(~whole).tolist()
        ]
        rejects += decode(as_records(offset[~whole], torn))[1]
        yield ticks, sorted(rejects, key=lambda reject: reject.offset)
        at += len(batch)


def _names(header: bytes) -> list[str]:
    return [cell.decode("utf-8", "replace").strip() for cell in _cells(header)]


def _cells(line: bytes) -> list[bytes]:
    """The cells of a CSV line; a line that is not CSV is one cell, which no header has."""
    if b'"' not in line:
        return line.split(b",")
    try:
        (cells,) = csv.reader([line.decode("latin-1")])  # latin-1 keeps every byte
    except csv.Error:
        return [line]
    return [cell.encode("latin-1") for cell in cells]


def _read_parquet(path: Path, start: int, rows: int) -> Iterator[tuple[Ticks, list[DeadLetter]]]:
    with pq.ParquetFile(path) as file:
        wanted = _wanted(file.schema_arrow.names)
        at = first = 0
        while first < file.num_row_groups and at + file.metadata.row_group(first).num_rows <= start:
            at += file.metadata.row_group(first).num_rows
            first += 1
        for batch in file.iter_batches(rows, row_groups=range(first, file.num_row_groups), columns=wanted):
            rest = batch.slice(max(0, start - at))
            at += len(batch)
            if len(rest):
                columns = dict(zip(rest.schema.names, rest.columns, strict=True))
                yield to_ticks(columns, np.arange(at - len(rest), at), default_stream(path))


def _check_unit(ticks: Ticks) -> None:
    if unit := wrong_unit(ticks.ts):
        raise TickwatchError(unit)


def _wanted(names: list[str]) -> list[str]:
    """The columns of a tick among those of a file. Raises TickwatchError when it lacks one or has one twice."""
    wanted = [n for n in COLUMNS if n in names]
    found = ", ".join(map(repr, names))[:300]
    for name in ("ts", "price"):
        if name not in wanted:
            raise TickwatchError(f"there is no column {name!r}, only {found}; rename the column that holds it")
    for name in wanted:
        if names.count(name) > 1:
            raise TickwatchError(f"there is more than one column {name!r} among {found}; keep one of them")
    return wanted
