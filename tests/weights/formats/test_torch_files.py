"""PyTorch's files in the zip format and the legacy one: read exactly, and refused where they lie."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_files import (
    SIX,
    Built,
    Call,
    Name,
    Raw,
    Reference,
    assert_same,
    code,
    good_zip,
    pickled,
    read,
    refused,
    storage,
    tensor,
    traced,
    write_legacy,
    write_zip,
)

from lucid_maskrcnn.weights.formats import open_checkpoint, torch_files

# ------------------------------------------------------------------ tensors


def test_tensors_in_zip_and_legacy_format(tmp_path: Path) -> None:
    plain = SIX.reshape(2, 3)
    state = {"_metadata": Call(Name("collections", "OrderedDict"), ())}
    for write, parts in ((write_zip, ()), (write_legacy, (None,))):
        kept = storage(parts=parts)
        entries = {
            "whole": tensor(kept),
            "turned": tensor(kept, (3, 2), (1, 3)),
            "row": tensor(kept, (3,), (1,), 3),
            "column": tensor(kept, (2,), (3,), 2),
            "one": tensor(kept, (), (), 5),
            "none": tensor(kept, (0, 7), (9, 9), 2),
            "with metadata": tensor(kept, more=({},)),
            "old": Call(Name("torch._utils", "_rebuild_tensor"), (kept, 0, (6,), (1,))),
            "parameter": Call(Name("torch._utils", "_rebuild_parameter"), (tensor(kept), True, None)),
            "attributes": Call(Name("torch._utils", "_rebuild_parameter_with_state"), (tensor(kept), True, None, {})),
            "number": Call(
                Name("numpy.core.multiarray", "scalar"),
                (Call(Name("numpy", "dtype"), ("f4", False, True)), b"\0\0\x20\x40"),
            ),
        }
        content = Built(Call(Name("collections", "OrderedDict"), ()), state)
        filled = Raw(code(content) + b"(" + b"".join(code(p) for item in entries.items() for p in item) + b"u")
        path = write(
            tmp_path / "model.pth",
            filled if write is write_legacy else Raw(b"\x80\2" + filled.code + b"."),
            {"0": SIX.tobytes()},
        )
        wanted = dict.fromkeys(("whole", "with metadata", "parameter", "attributes"), plain) | {
            "turned": plain.T,
            "row": plain[1],
            "column": plain[:, 2],
            "one": plain[1, 2],
            "none": np.zeros((0, 7), np.float32),
            "old": SIX,
            "number": np.float32(2.5),
        }
        assert_same(read(path), wanted)


def test_only_the_bytes_of_a_slice_are_read(tmp_path: Path) -> None:
    many = np.arange(100_000, dtype="<f4")
    kept = storage(count=many.size)
    entries = {"rows": tensor(kept, (2, 5), (10, 1), 50_000), "all": tensor(kept, (100_000,), (1,))}
    arrays = open_checkpoint(write_zip(tmp_path / "model.pth", entries, {"0": many.tobytes()})).arrays
    np.asarray(arrays["rows"])
    with traced() as peak:
        rows = np.asarray(arrays["rows"])
    np.testing.assert_array_equal(rows, many[50_000:50_020].reshape(2, 10)[:, :5])
    assert peak() < 50_000  # of 400,000


@pytest.mark.parametrize("order", ["little", "big"])
def test_byte_order(tmp_path: Path, order: str) -> None:
    sign = "<>"[order == "big"]
    kinds = {"Float": f"{sign}f4", "Half": f"{sign}f2", "Long": f"{sign}i8", "Short": f"{sign}i2", "Byte": "u1"}
    entries = {name: tensor(storage(name, kind=Name("torch", f"{name}Storage"))) for name in (*kinds, "BFloat16")} | {
        "v3": tensor(
            storage("v3", 12, kind=Name("torch.storage", "UntypedStorage")),
            more=(Name("torch", "uint16"),),
            rebuild="v3",
        )
    }
    data = {name: np.arange(6).astype(kind).tobytes() for name, kind in (kinds | {"v3": f"{sign}u2"}).items()}
    data["BFloat16"] = (SIX.view("<u4") >> 16).astype(f"{sign}u2").tobytes()
    wanted: dict[str, Any] = {name: np.arange(6).astype(kind).reshape(2, 3) for name, kind in kinds.items()}
    wanted |= {"v3": np.arange(6, dtype=np.uint16).reshape(2, 3), "BFloat16": SIX.reshape(2, 3)}
    assert_same(read(write_zip(tmp_path / "model.pth", entries, data, byteorder=order)), wanted)
    del entries["v3"], data["v3"], wanted["v3"]
    legacy = {name: tensor(storage(name, kind=Name("torch", f"{name}Storage"), parts=(None,))) for name in entries}
    system = {"protocol_version": 1001, "little_endian": order == "little"}
    path = write_legacy(tmp_path / "legacy.pth", legacy, data, system=system, sizes=dict.fromkeys(data, 6))
    assert_same(read(path), wanted)


def test_legacy_storage_views(tmp_path: Path) -> None:
    entries = {"part": tensor(storage(parts=(("view", 2, 4),)), (2, 2), (2, 1))}
    path = write_legacy(tmp_path / "old.pth", entries, {"0": SIX.tobytes()})
    assert_same(read(path), {"part": SIX[2:].reshape(2, 2)})
    entries = {"part": tensor(storage(parts=(("view", 2, 4),)), (5,), (1,))}
    refused(
        write_legacy(path, entries, {"0": SIX.tobytes()}),
        "has a tensor that is not inside its storage 0 of 4 elements",
    )
    entries = {"part": tensor(storage(parts=(("view", 3, 4),)), (2,), (1,))}
    refused(write_legacy(path, entries, {"0": SIX.tobytes()}), "has a part of the storage 0 that is not inside it")


def test_bool_tensors_from_any_byte(tmp_path: Path) -> None:
    entries = {"mask": tensor(storage(kind=Name("torch", "BoolStorage")))}
    (mask,) = read(write_zip(tmp_path / "model.pth", entries, {"0": bytes([0, 1, 2, 255, 0, 1])})).values()
    assert mask.view(np.uint8).tolist() == [[0, 1, 1], [1, 0, 1]]


MALFORMED_TENSORS: dict[str, tuple[Any, str]] = {
    "reaches too far": (tensor(storage(), (2, 4), (3, 1)), "has a tensor that is not inside its storage 0 of 6"),
    "starts too late": (tensor(storage(), start=1), "has a tensor that is not inside its storage 0 of 6"),
    "grows from nothing": (tensor(storage(), (2**40,), (0,)), "has a tensor that is not inside its storage 0 of 6"),
    "sizes that overflow": (
        tensor(storage(), (2**40, 2**40, 0), (0, 0, 0)),
        "has an array of the shape (1099511627776",
    ),
    "strides that overflow": (
        tensor(storage(), (2, 3), (2**70, 1)),
        "has a tensor that is not inside its storage 0 of 6",
    ),
    "negative size": (tensor(storage(), (-2, -3)), "has an array with a negative or too large size"),
    "negative stride": (
        tensor(storage(), (2, 3), (-3, 1), 3),
        "has a tensor whose offset or strides are not non-negative",
    ),
    "negative start": (tensor(storage(), start=-1), "has a tensor whose offset or strides are not non-negative"),
    "stride of floats": (
        tensor(storage(), (2, 3), (3.0, 1)),
        "has a tensor whose offset or strides are not non-negative",
    ),
    "strides missing": (tensor(storage(), (2, 3), (1,)), "has a tensor whose offset or strides are not non-negative"),
    "no storage": (tensor("x"), "has a tensor without a storage"),
    "conjugated": (tensor(storage(), more=({"conj": True},)), "has a tensor with a conjugate or negative bit"),
    "too many arguments": (tensor(storage(), more=(None, None)), "calls torch._utils._rebuild_tensor_v2 with 8 arg"),
    "other type": (
        tensor(storage(), more=(Name("torch", "float64"),), rebuild="v3"),
        "has a tensor of float64 in a storage of float32",
    ),
    "type that is a storage": (
        tensor(storage(), more=(Name("torch", "FloatStorage"),), rebuild="v3"),
        "has a tensor without a dtype",
    ),
    "no type": (
        tensor(storage(count=24, kind=Name("torch.storage", "UntypedStorage"))),
        "has a tensor without a dtype",
    ),
    "storage of a type": (tensor(storage(kind=Name("torch", "float32"))), "has a storage without a class or a key"),
    "storage of no type": (tensor(storage(kind="torch.FloatStorage")), "has a storage without a class or a key"),
    "storage of another type": (
        [storage(), storage(kind=Name("torch", "IntStorage"))],
        "describes the storage 0 in two ways",
    ),
    "storage of another size": ([storage(), storage(count=5)], "describes the storage 0 in two ways"),
    "storage of negative size": (storage(count=-1), "says that the storage 0 is larger than the file"),
    "storage of any size": (storage(count=2**60), "says that the storage 0 is larger than the file"),
    "storage of no size": (storage(count=True), "says that the storage 0 is larger than the file"),
    "storage that is not there": (storage("../0"), "lacks the storage ../0"),
    "storage of wrong size": ([tensor(storage(count=5), (5,), (1,))], "has 24 bytes in the storage 0, which should"),
    "module": (storage(tag="module"), "refers to a module, which is not an array: it is refused"),
    "short reference": (Reference(("storage",)), "refers to something that is not a storage: it is refused"),
    "reference to a number": (Reference(1), "refers to something that is not a storage: it is refused"),
    "quantized": (
        Call(Name("torch._utils", "_rebuild_qtensor"), (storage(kind=Name("torch", "QInt8Storage"), count=24),)),
        "has a quantized tensor, which cannot be read: dequantize the model with PyTorch",
    ),
    "storage of an unknown class": (
        tensor(storage(kind=Name("torch", "Float4Storage"))),
        "has a tensor in a torch.Float4Storage, which is not supported",
    ),
    "float8": (
        tensor(
            storage(count=24, kind=Name("torch.storage", "UntypedStorage")),
            more=(Name("torch", "float8_e4m3fn"),),
            rebuild="v3",
        ),
        "has a tensor of torch.float8_e4m3fn, which is not supported: convert it to float32 with PyTorch",
    ),
    "tensor of a class": (
        Call(Name("torch._tensor", "_rebuild_from_type_v2"), (Name("a", "b"), Name("a", "B"), (), {})),
        "has a tensor of a class that is not known",
    ),
    "parameter of nothing": (
        Call(Name("torch._utils", "_rebuild_parameter"), (1, True, None)),
        "has a parameter that is not a tensor",
    ),
}


@pytest.mark.parametrize(("value", "message"), MALFORMED_TENSORS.values(), ids=MALFORMED_TENSORS)
def test_malformed_tensors_are_refused(tmp_path: Path, value: Any, message: str) -> None:
    refused(write_zip(tmp_path / "x.pth", {"model": {"a": value}}, {"0": SIX.tobytes()}), message)


def test_tensors_of_subclasses_and_with_attributes(tmp_path: Path) -> None:
    plain = tensor(storage())
    subclass = Call(
        Name("torch._tensor", "_rebuild_from_type_v2"), (plain.function, Name("a", "B"), plain.arguments, {"x": 1})
    )
    moved = Call(Name("torch._utils", "_rebuild_device_tensor_from_cpu_tensor"), (plain, "f4", "xla:0", False))
    content = {"a": Built(plain, {"x": 1}), "b": subclass, "c": moved}
    path = write_zip(tmp_path / "x.pth", content, {"0": SIX.tobytes()})
    assert_same(read(path), dict.fromkeys("abc", SIX.reshape(2, 3)))


# ------------------------------------------------------------------ the zip format


def test_zip_files_that_are_not_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    np.savez(tmp_path / "x.npz", a=SIX)
    refused(tmp_path / "x.npz", "is a NumPy archive (.npz)")
    refused(good_zip(path, **{"constants.pkl": ""}), "is a TorchScript program")
    refused(good_zip(path, **{"code/__torch__.py": ""}), "is a TorchScript program")
    refused(good_zip(path, byteorder="middle"), "has the byte order b'middle', which is neither little nor big")
    refused(good_zip(path, **{"more/data.pkl": ""}), "is a zip archive without the data.pkl of a PyTorch checkpoint")


def test_size_limits_of_zip_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = good_zip(tmp_path / "x.pth")
    with monkeypatch.context() as patch:
        patch.setattr(torch_files, "_MAX_PICKLE", 100)
        refused(path, "has a data.pkl of more than 100 bytes")
        patch.setattr(torch_files, "_MAX_DIRECTORY", 100)
        refused(path, "has a zip directory of more than 100 bytes")
    content = Raw(pickled({"a": tensor(storage())}) + b"N.")
    refused(write_zip(path, content, {"0": SIX.tobytes()}), "has data behind the end of its data.pkl")


def test_crc_of_the_pickle(tmp_path: Path) -> None:
    path = good_zip(tmp_path / "x.pth")
    path.write_bytes(path.read_bytes().replace(b"FloatStorage", b"LongyStorage"))
    refused(path, "has a damaged data.pkl: its CRC-32 differs")
    content = bytearray(good_zip(path).read_bytes())
    entry = content.index(b"PK\1\2")
    content[entry + 16 : entry + 20] = bytes(4)
    path.write_bytes(content)  # PyTorch can be told to leave the sums out
    assert_same(read(path), {"a": SIX.reshape(2, 3)})


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_overlapping_zip_members(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    with zipfile.ZipFile(good_zip(path), "a") as archive:
        archive.writestr("archive/data/0", SIX.tobytes())
    refused(path, "has two members of the same name in its zip directory")
    entries = {"a": tensor(storage()), "b": tensor(storage("1"))}
    content = bytearray(write_zip(path, entries, {"0": SIX.tobytes(), "1": SIX.tobytes()}).read_bytes())
    first, second = (content.index(b"archive/data/" + key, content.index(b"PK\1\2")) - 46 for key in (b"0", b"1"))
    content[second + 42 : second + 46] = content[first + 42 : first + 46]
    path.write_bytes(content)
    refused(path, "has another member where its zip directory says that archive/data/1 is")
    # One inside of the other: its header stands in the other's numbers.
    inner = b"PK\3\4" + bytes(22) + struct.pack("<HH", 14, 0) + b"archive/data/1" + SIX.tobytes()
    entries = {"a": tensor(storage(count=len(inner) // 4), (len(inner) // 4,), (1,)), "b": tensor(storage("1"))}
    content = bytearray(write_zip(path, entries, {"0": inner, "1": SIX.tobytes()}).read_bytes())
    second = content.index(b"archive/data/1", content.index(b"PK\1\2")) - 46
    content[second + 42 : second + 46] = struct.pack("<I", content.index(inner))
    path.write_bytes(content)
    refused(path, "has overlapping storages: archive/data/1 begins inside another member")


@pytest.mark.parametrize("field", [10, 20, 24, 42])
@pytest.mark.parametrize("value", [0, 1, 23, 25, 2**31, 2**32 - 2, 2**32 - 1])
def test_wrong_zip_directory(tmp_path: Path, field: int, value: int) -> None:
    """Method, compressed size, size and place of a storage."""
    content = bytearray(good_zip(tmp_path / "x.pth").read_bytes())
    entry = content.index(b"archive/data/0", content.index(b"PK\1\2")) - 46
    width = 2 if field == 10 else 4
    value %= 2 ** (8 * width)
    if content[entry + field : entry + field + width] == value.to_bytes(width, "little"):
        return
    content[entry + field : entry + field + width] = value.to_bytes(width, "little")
    (tmp_path / "x.pth").write_bytes(content)
    refused(tmp_path / "x.pth", "has ")


def test_a_zip_bomb_is_not_inflated(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    count = 2**28
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("archive/data.pkl", pickled({"a": tensor(storage(count=count), (count,), (1,))}))
        with archive.open("archive/data/0", "w", force_zip64=True) as member:
            for _ in range(2**10):
                member.write(bytes(2**20))
    with traced() as peak:
        refused(path, "has compressed or encrypted archive/data")
    assert peak() < 2**20


# ------------------------------------------------------------------ the legacy format


MALFORMED_LEGACY: dict[str, tuple[dict[str, Any], str]] = {
    "magic": ({"magic": Raw(code(0x1950A86A20F9469CFC6C) + b"0N")}, "is a PyTorch checkpoint of an unknown version"),
    "version": ({"version": 1002}, "is a PyTorch checkpoint of an unknown version"),
    "version of letters": ({"version": "1001"}, "is a PyTorch checkpoint of an unknown version"),
    "no system": ({"system": 3}, "is a PyTorch checkpoint that does not state its byte order"),
    "no byte order": ({"system": {}}, "is a PyTorch checkpoint that does not state its byte order"),
    "more keys": ({"keys": ["0", "1"]}, "lists other storages than its tensors need"),
    "fewer keys": ({"keys": []}, "lists other storages than its tensors need"),
    "keys twice": ({"keys": ["0", "0"]}, "lists other storages than its tensors need"),
    "many keys": ({"keys": ["0"] * 100_000}, "lists other storages than its tensors need"),
    "too many keys": ({"keys": Raw(b"](" + b"N" * 600_000)}, "has a pickle of more than 524288 opcodes"),
    "keys of numbers": ({"keys": [0]}, "has no list of its storages"),
    "no list": ({"keys": "0"}, "has no list of its storages"),
    "fewer numbers": ({"sizes": {"0": 5}}, "has 5 elements in the storage 0, which should have 6"),
    "more numbers": ({"sizes": {"0": 2**60}}, "has 1152921504606846976 elements in the storage 0"),
    "asks early": ({"system": Name("os", "system")}, "is a PyTorch checkpoint that does not state its byte order"),
    "asks late": ({"keys": [Name("os", "system")]}, "has no list of its storages"),
    "reference to no module": (
        {"content": {"a": Reference(("module", 1, "a.py", "import os", 0, 0)), "b": tensor(storage(parts=(None,)))}},
        "refers to a module, which is not an array: it is refused (a)",
    ),
}


@pytest.mark.parametrize(("changes", "message"), MALFORMED_LEGACY.values(), ids=MALFORMED_LEGACY)
def test_malformed_legacy_files(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    content = {"a": tensor(storage(parts=(None,)))}
    path = write_legacy(tmp_path / "x.pth", content, {"0": SIX.tobytes()})
    assert_same(read(path), {"a": SIX.reshape(2, 3)})
    refused(write_legacy(path, **{"content": content, "storages": {"0": SIX.tobytes()}} | changes), message)


def test_truncated_and_extended_legacy_files(tmp_path: Path) -> None:
    path = write_legacy(tmp_path / "x.pth", {"a": tensor(storage(parts=(None,)))}, {"0": SIX.tobytes()})
    whole = path.read_bytes()
    path.write_bytes(whole + b"\0")
    refused(path, "has data behind the end of its last storage")
    path.write_bytes(whole[:-1])
    refused(path, "ends before its storage 0 does")
