"""Parts of a job as Parquet: the rows of its JSON lines in columns, for pandas, Arrow, DuckDB, Spark and the like.

One row an image. Columns: ``id`` int64, ``source`` string, ``page`` int32, ``height`` and ``width`` int32, ``error``
string, and ``detections``, a list of structs with the keys of COCO results. Numbers are as in JSON (float64). ``error``
is null where there are detections, and the other way round. The metadata of the file has an entry ``lucid_maskrcnn``:
JSON with the settings of the job.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lucid_maskrcnn.atomic import replacing

from .job_rows import is_row

if TYPE_CHECKING:
    import pyarrow

__all__ = ["parquet_text", "read_parquet", "require_pyarrow", "write_parquet"]

_ROWS_AT_ONCE = 256  # a row group: so many images with their masks are in memory
_OPTIONS: dict[str, Any] = {"compression": "zstd", "write_page_checksum": True}


def require_pyarrow() -> None:
    """Raise ``ImportError`` with the command that installs pyarrow, if it is missing."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        remedy = "pip install 'lucid-maskrcnn[parquet]'"
        raise ImportError(f"format='parquet' (--format parquet) needs pyarrow: {remedy}.") from error


def parquet_text(text: str) -> str:
    r"""Return what stands in a column for a text: Parquet takes no part of a file name that is not UTF-8.

    It stands there as JSON spells it, ``\udcff``.
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _schema(metadata: Mapping[str, Any]) -> pyarrow.Schema:
    import pyarrow as pa

    segmentation = pa.struct([("size", pa.list_(pa.int32())), ("counts", pa.string())])
    result = pa.struct(
        [
            ("image_id", pa.int64()),
            ("category_id", pa.int64()),
            ("bbox", pa.list_(pa.float64())),
            ("score", pa.float64()),
            ("segmentation", segmentation),
        ]
    )
    columns = [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        ("page", pa.int32()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("error", pa.string()),
        ("detections", pa.list_(result)),
    ]
    return pa.schema(columns, {"lucid_maskrcnn": json.dumps(metadata)})


def write_parquet(path: Path, rows: Iterable[Mapping[str, Any]], metadata: Mapping[str, Any]) -> None:
    """Write rows as a Parquet file, whole or not at all.

    Parameters
    ----------
    path : Path
    rows : iterable of mapping
        As in ``results/part-00000.jsonl``.
    metadata : mapping
        JSON values.

    Raises
    ------
    OSError
        If it cannot be written. The error names ``path``.
    """
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    schema = _schema(metadata)
    with replacing(path) as file, ParquetWriter(file, schema, **_OPTIONS) as writer:
        for batch in itertools.batched(rows, _ROWS_AT_ONCE):
            writer.write_table(pa.Table.from_pylist([_columns(row) for row in batch], schema))


def _columns(row: Mapping[str, Any]) -> dict[str, Any]:
    height, width = row.get("size", (None, None))
    error = row.get("error")
    return {
        "id": row["id"],
        "source": parquet_text(row["source"]),
        "page": row["page"],
        "height": height,
        "width": width,
        "error": None if error is None else parquet_text(str(error)),
        "detections": row.get("detections"),
    }


def read_parquet(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet file as they were given to :func:`write_parquet`, but for names that are not UTF-8.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is damaged, or something else than a part of a job.
    """
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    with open(path, "rb") as opened:
        try:
            file = ParquetFile(opened, page_checksum_verification=True)
            if not file.schema_arrow.equals(_schema({})):
                raise ValueError("other columns")
            for batch in file.iter_batches(_ROWS_AT_ONCE):
                yield from map(_row, batch.to_pylist())
        except (pa.ArrowException, OSError, ValueError) as error:  # a damaged one is also an OSError
            raise ValueError(f"{str(path)!r} is damaged, or is no part of a job.") from error


def _row(columns: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {name: columns[name] for name in ("id", "source", "page")}
    if columns["error"] is not None:
        return {**row, "error": columns["error"]}
    row |= {"size": [columns["height"], columns["width"]], "detections": columns["detections"]}
    if not is_row(row):
        raise ValueError("a row without a result")
    return row
