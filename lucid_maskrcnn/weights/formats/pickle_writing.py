"""Pickles written opcode by opcode: of arrays, under the names that other programs and older versions of NumPy know.

The standard library writes the names that the installed NumPy has for its functions, which NumPy before 2.0 does not
know.
Every function returns the opcodes that leave one object on the stack of whoever reads them.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable, Iterator, Mapping
from typing import BinaryIO

import numpy as np

from .stored_arrays import row_major

__all__ = ["PICKLED_HEADER", "ZIP_HEADER", "write_numpy_pickle", "write_torch_zip"]

#: Where the metadata stand, which a safetensors file has in its header: the key in a pickle, which detectron2 ignores.
PICKLED_HEADER = "lucid_maskrcnn"
#: The member in the folder of a file of PyTorch, which looks for its own alone.
ZIP_HEADER = "extra/lucid_maskrcnn.json"

# ------------------------------------------------------------------ objects


def _string(text: str) -> bytes:
    encoded = text.encode("utf-8")
    return pickle.BINUNICODE + len(encoded).to_bytes(4, "little") + encoded


def _integer(number: int) -> bytes:
    if 0 <= number < 2**31:
        return pickle.BININT + number.to_bytes(4, "little")
    encoded = number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True)
    return pickle.LONG1 + len(encoded).to_bytes(1, "little") + encoded


def _name(module: str, attribute: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{attribute}\n".encode("ascii")


def _tuple(*items: bytes) -> bytes:
    return pickle.MARK + b"".join(items) + pickle.TUPLE


def _integers(numbers: Iterable[int]) -> bytes:
    return _tuple(*(_integer(n) for n in numbers))


def _call(function: bytes, *arguments: bytes) -> bytes:
    return function + _tuple(*arguments) + pickle.REDUCE


_FALSE, _NONE = pickle.NEWFALSE, pickle.NONE


def _bytes_of(array: np.ndarray) -> memoryview:
    """Return the elements, little-endian and row-major, without a copy where they are so."""
    ordered = np.asarray(array, array.dtype.newbyteorder("<"), order="C")
    return ordered.reshape(-1).view(np.uint8).data


# ------------------------------------------------------------------ arrays of NumPy


def write_numpy_pickle(
    file: BinaryIO, arrays: Mapping[str, np.ndarray], author: str, metadata: Mapping[str, str]
) -> None:
    """Write detectron2's form, ``{"model": {name: array}, "__author__": author}``, which every NumPy can read.

    Parameters
    ----------
    file : BinaryIO
        Opened for writing.
    arrays : mapping of str to np.ndarray
        Of numbers, each of less than 4 GiB.
    author : str
        Who made the weights.
    metadata : mapping of str to str
        As for safetensors.
    """
    for part in _numpy_pickle(arrays, {"__author__": author, PICKLED_HEADER: _json(metadata)}):
        file.write(part)


def _json(metadata: Mapping[str, str]) -> str:
    return json.dumps(dict(sorted(metadata.items())), ensure_ascii=False)


def _numpy_pickle(arrays: Mapping[str, np.ndarray], texts: Mapping[str, str]) -> Iterator[bytes | memoryview]:
    yield pickle.PROTO + b"\x03" + pickle.EMPTY_DICT + pickle.MARK  # the first protocol that has bytes
    yield _string("model") + pickle.EMPTY_DICT + pickle.MARK
    for name, array in arrays.items():
        yield _string(name)
        yield from _numpy_array(array)
    yield pickle.SETITEMS
    yield b"".join(_string(key) + _string(text) for key, text in texts.items()) + pickle.SETITEMS + pickle.STOP


def _numpy_array(array: np.ndarray) -> Iterator[bytes | memoryview]:
    content = _bytes_of(array)
    no_bytes = pickle.SHORT_BINBYTES + b"\x01b"
    shell = _call(_name("numpy.core.multiarray", "_reconstruct"), _name("numpy", "ndarray"), _integers((0,)), no_bytes)
    yield shell + pickle.MARK + _integer(1) + _integers(array.shape) + _dtype(array.dtype) + _FALSE
    yield pickle.BINBYTES + len(content).to_bytes(4, "little")
    yield content
    yield pickle.TUPLE + pickle.BUILD


def _dtype(dtype: np.dtype) -> bytes:
    order = "|" if dtype.itemsize == 1 else "<"
    made = _call(_name("numpy", "dtype"), _string(dtype.str[1:]), _FALSE, pickle.NEWTRUE)
    minus_one = pickle.BININT + b"\xff" * 4
    return made + _tuple(_integer(3), _string(order), *[_NONE] * 3, *[minus_one] * 2, _integer(0)) + pickle.BUILD


# ------------------------------------------------------------------ tensors of PyTorch

_STORAGES = {
    "float16": "HalfStorage",
    "float32": "FloatStorage",
    "float64": "DoubleStorage",
    "int8": "CharStorage",
    "int16": "ShortStorage",
    "int32": "IntStorage",
    "int64": "LongStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
}
_FOLDER = "archive"  # which PyTorch writes where it does not know the file's name
_ALIGNMENT = 64  # of storages, so that they can be mapped into memory
_ZIP_HEADER, _EXTRA = 30, 4  # bytes of a member's header but for its name, and of that of an extra field
_DATE = (1980, 1, 1, 0, 0, 0)  # the first there is: the same arrays give the same bytes


def write_torch_zip(file: BinaryIO, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write a state dict in the form of ``torch.save``.

    Parameters
    ----------
    file : BinaryIO
        Opened for writing.
    arrays : mapping of str to np.ndarray
        By the names of the state dict.
    metadata : mapping of str to str
        As for safetensors.

    Raises
    ------
    ValueError
        If an array has a dtype that PyTorch does not have, before anything is written.
    """
    import zipfile  # here, as most models are built without a file

    entries = b"".join(_string(n) + _tensor(n, str(i), a) for i, (n, a) in enumerate(arrays.items()))
    state_dict = pickle.PROTO + b"\x02" + pickle.EMPTY_DICT + pickle.MARK + entries + pickle.SETITEMS + pickle.STOP
    texts = {"data.pkl": state_dict, "byteorder": b"little", ZIP_HEADER: _json(metadata).encode("utf-8")}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, content in texts.items():
            archive.writestr(zipfile.ZipInfo(f"{_FOLDER}/{name}", _DATE), content)
        for i, array in enumerate(arrays.values()):
            info = zipfile.ZipInfo(f"{_FOLDER}/data/{i}", _DATE)
            begin = file.tell() + _ZIP_HEADER + len(info.filename) + _EXTRA
            padding = -begin % _ALIGNMENT
            info.extra = b"FB" + padding.to_bytes(2, "little") + b"Z" * padding
            archive.writestr(info, _bytes_of(array))
        archive.writestr(zipfile.ZipInfo(f"{_FOLDER}/version", _DATE), b"3\n")


def _tensor(name: str, key: str, array: np.ndarray) -> bytes:
    storage = _STORAGES.get(array.dtype.name)
    if storage is None:
        raise ValueError(f"{name} has the dtype {array.dtype}, which .pth files cannot hold.")
    place = _tuple(_string("storage"), _name("torch", storage), _string(key), _string("cpu"), _integer(array.size))
    no_hooks = _call(_name("collections", "OrderedDict"))
    return _call(
        _name("torch._utils", "_rebuild_tensor_v2"),
        place + pickle.BINPERSID,
        _integer(0),
        _integers(array.shape),
        _integers(row_major(array.shape)),
        _FALSE,
        no_hooks,
    )
