"""Pickles are data: nothing that they name runs, and what they claim costs neither memory nor time."""

from __future__ import annotations

import builtins
import os
import pickle
import re
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
from checkpoint_files import (
    F4,
    NDARRAY,
    ORDERED,
    SHELL,
    SIX,
    Built,
    Call,
    Name,
    Raw,
    Reference,
    code,
    complaint,
    pickled,
    read,
    refused,
    storage,
    tensor,
    traced,
    write_legacy,
    write_zip,
)

from lucid_maskrcnn.weights.formats import bounded_reader, pickles

# ------------------------------------------------------------------ files that would do something


def shell(*state: Any) -> Built:
    return Built(SHELL, state)


GOOD = shell(1, (2,), F4, False, b"12345678")


class Evil:
    """Pickled, it is a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


UNSAFE_GLOBALS = [
    ("os", "system", ("touch MARKER",)),
    ("posix", "system", ("touch MARKER",)),
    ("nt", "system", ("touch MARKER",)),
    ("subprocess", "Popen", (["touch", "MARKER"],)),
    ("subprocess", "check_output", (["touch", "MARKER"],)),
    ("builtins", "eval", ("open('MARKER', 'w')",)),
    ("__builtin__", "eval", ("open('MARKER', 'w')",)),
    ("builtins", "exec", ("open('MARKER', 'w')",)),
    ("builtins", "open", ("MARKER", "w")),
    ("io", "open", ("MARKER", "w")),
    ("builtins", "__import__", ("this",)),
    ("builtins", "getattr", (Name("os", "path"), "system")),
    ("builtins", "bytearray", (2**40,)),
    ("builtins", "object", ()),
    ("importlib", "import_module", ("this",)),
    ("runpy", "_run_code", ("open('MARKER', 'w')", {})),
    ("operator", "attrgetter", ("system",)),
    ("functools", "partial", (Name("os", "system"), "touch MARKER")),
    ("copyreg", "_reconstructor", (Name("builtins", "object"), Name("builtins", "object"), None)),
    ("copy_reg", "_reconstructor", ()),
    ("copyreg", "__newobj__", ()),
    ("types", "FunctionType", ()),
    ("pickle", "loads", (b"cos\nsystem\n(S'touch MARKER'\ntR.",)),
    ("_pickle", "loads", ()),
    ("numpy", "load", ("MARKER",)),
    ("numpy", "memmap", ("MARKER", "f4", "w+", 0, (9,))),
    ("numpy", "core.multiarray.scalar", ()),  # a path of attributes, not the name that it spells
    ("numpy.core.multiarray", "fromfile", ()),
    ("numpy.testing._private.utils", "runstring", ("open('MARKER', 'w')", {})),
    ("torch", "load", ("MARKER",)),
    ("torch.storage", "_load_from_bytes", (b"",)),
    ("torch._utils", "_rebuild_tensor_v2.__globals__", ()),
    ("torch._utils", "_rebuild_sparse_tensor", ()),
    ("torch._tensor", "_rebuild_from_type_v2", (Name("os", "system"), Name("builtins", "object"), (), {})),
    ("torch.jit", "load", ("MARKER",)),
    ("torch.hub", "load", ("MARKER", "x")),
    ("_codecs", "decode", (b"", "zip")),
    ("codecs", "encode", ("", "latin1")),
    ("collections", "Counter", ()),
    ("collections", "defaultdict", (Name("builtins", "eval"),)),
    ("this", "s", ()),
    ("lucid_maskrcnn.weights.formats.pickles", "_encode", ()),
    ("__main__", "Model", ()),
    ("torchvision.models.detection.mask_rcnn", "MaskRCNN", ()),
    ("", "", ()),
]


@pytest.mark.parametrize(
    ("module", "name", "arguments"), UNSAFE_GLOBALS, ids=[f"{m}.{n}" for m, n, _ in UNSAFE_GLOBALS]
)
def test_unknown_globals_become_stand_ins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, name: str, arguments: tuple[Any, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    imported = set(sys.modules)
    monkeypatch.setattr(builtins, "eval", None)
    call = Call(Name(module, name), Raw(code(arguments)))
    from_stack = Call(Raw(code(module) + code(name) + b"\x93"), Raw(code(arguments)))
    new = Raw(code(Name(module, name)) + code(arguments) + b"\x81")
    instance = Raw(b"(" + code(arguments) + b"i" + code(Name(module, name))[1:])
    for evil in (call, from_stack, new, instance, Name(module, name)):
        among = {"model": {"a": evil, "b": tensor(storage())}}
        beside = {"model": {"b": tensor(storage())}, "a": evil, "c": [evil]}
        for file in (
            write_zip(tmp_path / "x.pth", among, {"0": SIX.tobytes()}),
            write_legacy(tmp_path / "y.pth", {"a": evil}, {}),
        ):
            assert re.search("has a among its weights|holds no arrays: a is|has a tensor of a class", complaint(file))
        assert list(read(write_zip(tmp_path / "x.pth", beside, {"0": SIX.tobytes()}))) == ["b"]
        (tmp_path / "x.pkl").write_bytes(pickled({"model": {"b": GOOD}, "a": evil, "c": [evil]}, 4))
        assert list(read(tmp_path / "x.pkl")) == ["b"]
    assert sorted(os.listdir(tmp_path)) == ["x.pkl", "x.pth", "y.pth"]
    assert set(sys.modules) - imported <= {"encodings.cp437", "zipfile", "zipfile._path", "zipfile._path.glob"}


def test_malicious_pickle_does_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    content = pickle.dumps({"a": Evil(os.system, f"touch {marker}"), "b": SIX})
    (tmp_path / "x.pkl").write_bytes(content)
    refused(tmp_path / "x.pkl", f"has a among its weights, which is not an array but {os.name}.system")
    assert not marker.exists()
    pickle.loads(content)
    assert marker.exists()  # the file was no toy


LATIN = Name("_codecs", "encode")


MALFORMED: dict[str, tuple[Any, str]] = {
    "calls the class of arrays": (Call(NDARRAY, ((2,), F4)), "calls numpy.ndarray, which may be named but not called"),
    "array of another class": (Call(SHELL.function, (Name("numpy", "dtype"), (0,), b"b")), "has an array of a class"),
    "array of no class": (Call(SHELL.function, ()), "has an array of a class that is not numpy.ndarray"),
    "object array": (Call(Name("numpy", "dtype"), ("O8", 0, 1)), "has an array of the dtype O8"),
    "objects in a list": (shell(1, (2,), F4, False, [1, 2]), "has an array whose content is not bytes"),
    "type that is a structure": (Built(F4, (3, "<", None, ("a",), {}, 8, 1, 0)), "has an array of a structured dtype"),
    "type of no name": (Call(Name("numpy", "dtype"), (7,)), "has an array of a dtype without a name"),
    "unknown byte order": (Built(F4, (3, "?", None, None, None, -1, -1, 0)), "has an array of an unknown byte order"),
    "no type": (shell(1, (2,), "f4", False, b"12345678"), "has an array whose dtype is not a numpy.dtype"),
    "state too short": (shell(1, (2,)), "has an array whose state is not (version, shape, dtype, order, bytes)"),
    "odd order": (shell(1, (2,), F4, None, b"12345678"), "has an array whose memory order is neither row-major nor"),
    "too few bytes": (
        shell(1, (3,), F4, False, b"12345678"),
        "has an array of 8 bytes, but the shape (3,) of float32 needs 12",
    ),
    "too many bytes": (
        shell(1, (1,), F4, False, b"12345678"),
        "has an array of 8 bytes, but the shape (1,) of float32 needs 4",
    ),
    "text too short": (shell(1, (9,), F4, False, "é" * 17), "has an array of 34 bytes, but the shape (9,)"),
    "text of other length": (shell(1, (2,), F4, False, "ééaaaa"), "has an array with fewer bytes than its shape needs"),
    "text of more": (shell(1, (1,), F4, False, "ééaaa"), "has an array with more bytes than its shape needs"),
    "text beyond bytes": (
        shell(1, (1,), F4, False, "a€b"),
        "has an array that is written as text and cannot be decoded",
    ),
    "shape of floats": (
        shell(1, (2.0,), F4, False, b"12345678"),
        "has an array whose shape is not a sequence of integers",
    ),
    "shape of bools": (
        shell(1, (True, 2), F4, False, b"12345678"),
        "has an array whose shape is not a sequence of integers",
    ),
    "shape a list": (shell(1, [2], F4, False, b"12345678"), "has an array whose shape is not a sequence of integers"),
    "negative size": (shell(1, (-2, -1), F4, False, b"12345678"), "has an array with a negative or too large size"),
    "sizes that overflow": (shell(1, (2**40, 2**40, 0), F4, False, b""), "has an array of the shape (1099511627776,"),
    "a size that overflows": (shell(1, (2**70, 0), F4, False, b""), "has an array with a negative or too large size"),
    "many dimensions": (
        shell(1, (1,) * 65, F4, False, b"1234"),
        "has an array of 65 dimensions; at most 32 are allowed",
    ),
    "array without content": (SHELL, "has an array without content"),
    "attributes of a number": (Built(1, {"x": 1}), "sets attributes of something that has none"),
    "attributes of a type": (Built(F4, {"x": 1}), "has an array of a structured dtype"),
    "other codec": (Call(LATIN, ("x", "zlib")), "calls _codecs.encode with a codec other than latin1: it is refused"),
    "codec of utf-8": (Call(LATIN, ("x", "utf-8")), "calls _codecs.encode with a codec other than latin1"),
    "codec of no text": (Call(LATIN, (1, "latin1")), "calls _codecs.encode with something that is not a string"),
    "codec and errors": (Call(LATIN, ("x", "latin1", "evil")), "calls _codecs.encode with a codec other than latin1"),
    "bytes of a size": (Call(Name("builtins", "bytes"), (2**40,)), "calls bytes with arguments: it is refused"),
    "pairs that are none": (Call(ORDERED, ([(1, 2, 3)],)), "calls collections.OrderedDict with something"),
    "pairs in a dict": (Call(ORDERED, ({},)), "calls collections.OrderedDict with something"),
    "calls text": (Call("os.system", ("true",)), "calls something that is not a function"),
    "calls with a list": (Call(ORDERED, []), "calls something that is not a function"),
    "calls an array": (Call(shell(1, (2,), F4, False, b"12345678"), ()), "calls something that is not a function"),
    "scalar of nothing": (
        Call(Name("numpy.core.multiarray", "scalar"), (F4,)),
        "has a NumPy scalar that is not a dtype and",
    ),
    "order K": (
        Call(Name("numpy.core.numeric", "_frombuffer"), (b"1234", F4, (1,), "K")),
        "has an array that is not bytes, dtype, shape and an order of C or F",
    ),
    "name of no text": (Raw(b"K\1K\2\x93"), "asks for a global whose name is not a string"),
    "long name": (Raw(b"c" + b"x" * 300 + b"\ny\n"), "has a name of 300 characters in its pickle"),
    "persistent id": (Reference("x"), "refers to an object outside of its pickle: it is refused"),
    "no instruction": (Raw(b"\xff"), r"has b'\xff' where its pickle should have an opcode"),
    "memo that is not there": (Raw(b"h\7"), "has a damaged pickle"),
    "negative memo": (Raw(b"g-1\n"), "has a damaged pickle"),
    "number of letters": (Raw(b"Iabc\n"), "has a damaged pickle"),
    "number with underscores": (Raw(b"L1_0L\n"), "has a damaged pickle"),
    "float of letters": (Raw(b"Fabc\n"), "has a damaged pickle"),
    "unquoted text": (Raw(b"Sabc\n"), "has a damaged pickle"),
    "one quote": (Raw(b"S'\n"), "has a damaged pickle"),
    "unknown escape": (Raw(b"S'\\N{BULLET}'\n"), "has a string with an unknown escape in its pickle"),
    "unfinished escape": (Raw(b"V\\u12\n"), "has a string that is not raw-unicode-escape in its pickle"),
    "text that is none": (Raw(b"X\1\0\0\0\xff"), "has a string that is not utf-8 in its pickle"),
    "escape beyond bytes": (
        shell(1, (300,), F4, False, Raw(b"V" + b"\\u0041" * 800 + b"\\u20ac" + b"A" * 399 + b"\n")),
        "has an array that is written as text and cannot be decoded",
    ),
    "escape cut off": (
        shell(1, (300,), F4, False, Raw(b"S'" + b"\\x41" * 1199 + b"\\x4'\n")),
        "has an array that is written as text and cannot be decoded",
    ),
    "character cut off": (
        shell(1, (300,), F4, False, Raw(b"X\xb1\4\0\0" + b"A" * 1200 + b"\xc2")),
        "has an array that is written as text and cannot be decoded",
    ),
    "huge number": (Raw(b"\x8b\xff\xff\xff\x7f"), "has a number of 2147483647 bytes in its pickle"),
    "huge decimal": (Raw(b"I" + b"9" * 5000 + b"\n"), "has a number of 5000 characters in its pickle"),
    "memo of many digits": (Raw(b"Np" + b"9" * 50 + b"\n"), "has a number of 50 characters in its pickle"),
    "set items of a number": (Raw(b"K\1(\x90"), "appends to something that is not a list"),
    "mark that is not there": (Raw(b"t"), "sets entries of something that is not a dict"),
    "pops too much": (Raw(b"00000"), "has a damaged pickle"),
    "appends to a number": (Raw(b"K\1Na"), "appends to something that is not a list"),
    "sets items of a list": (Raw(b"]NNs"), "sets entries of something that is not a dict"),
    "half an item": (Raw(b"}(Nu"), "sets entries of something that is not a dict"),
}


@pytest.mark.parametrize(("value", "message"), MALFORMED.values(), ids=MALFORMED)
def test_malformed_pickles_are_refused(tmp_path: Path, value: Any, message: str) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(pickled({"model": {"a": value, "b": GOOD}}))
    refused(path, message)


INERT: dict[str, tuple[Any, str]] = {
    "a name": (NDARRAY, "numpy.ndarray"),
    "attributes of a name": (Built(NDARRAY, {"x": 1}), "numpy.ndarray"),
    "name not printable": (Name("a\x07", "b" * 150), r"a\x07.bbbbb"),
    "attributes of a list": (Built([], {"x": 1}), "a list"),
    "attributes of a dict": (Built({}, {"__class__": 1, "__setstate__": LATIN}), "a dict"),
    "attributes of an object": (Built(Call(Name("a", "B"), ()), (None, {"x": 1})), "a.B"),
    "slots of a dict": (Built({}, (None, {"_metadata": 1})), "a dict"),
    "INST of what is known": (Raw(b"(icollections\nOrderedDict\n"), "a dict"),
    "INST": (Raw(b"(K\1ia\nB\n"), "a.B"),
    "OBJ of what is known": (Raw(b"(" + code(ORDERED) + b"o"), "a dict"),
    "OBJ": (Raw(b"(" + code(Name("a", "B")) + b"K\1o"), "a.B"),
    "NEWOBJ": (Raw(code(Name("a", "B")) + b")\x81"), "a.B"),
    "NEWOBJ_EX": (Raw(code(Name("a", "B")) + b")}\x92"), "a.B"),
    "object of protocol 0": (Call(Name("copy_reg", "_reconstructor"), (Name("a", "B"), Name("o", "o"), None)), "a.B"),
    "call of an object": (Call(Call(Name("a", "B"), ()), (1,)), "a.B"),
    "items of an object": (Raw(code(Name("a", "B")) + b")\x81(" + code("k") + b"K\1u"), "a.B"),
    "list items of an object": (Raw(code(Name("a", "B")) + b")\x81(K\1eK\1a"), "a.B"),
    "EXT1": (Raw(b"\x82\1"), "copyreg extension 1"),
    "EXT2": (Raw(b"\x83\1\1"), "copyreg extension 257"),
    "EXT4": (Raw(b"\x84\1\0\0\0"), "copyreg extension 1"),
    "set": (Raw(b"\x8f(K\1K\2\x90"), "builtins.set"),
    "frozen set": (Raw(b"(K\1K\2\x91"), "builtins.frozenset"),
    "out-of-band buffer": (Raw(b"\x97\x98"), "a buffer outside of the pickle"),
    "DUP": (Raw(b"]2a"), "a list"),
    "text": ("b", "a string"),
    "bytes": (b"b", "a string"),
    "None": (None, "None"),
    "number": (0.5, "a number"),
}


@pytest.mark.parametrize(("value", "kind"), INERT.values(), ids=INERT)
def test_what_is_not_an_array_matters_only_among_the_weights(tmp_path: Path, value: Any, kind: str) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(pickled({"model": {"b": GOOD}, "a": value, "c": [value, {"d": value}]}, 5))
    assert list(read(path)) == ["b"]
    path.write_bytes(pickled({"model": {"a": value, "b": GOOD}}, 5))
    refused(path, f"has a among its weights, which is not an array but {kind}")


@pytest.mark.parametrize(("value", "message"), MALFORMED.values(), ids=MALFORMED)
def test_malformed_arrays_beside_the_weights_are_refused_or_do_not_matter(
    tmp_path: Path, value: Any, message: str
) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(pickled({"model": {"b": GOOD}, "a": value}))
    found = complaint(path)
    assert not found or found.startswith((f"{str(path)!r} {message}", f"{str(path)!r} has a damaged pickle"))


# ------------------------------------------------------------------ memory and time


HEAD = b"\x80\x04"
LAUGHS = b"]q\0" + b"".join(b"0](" + bytes([ord("h"), i]) * 10 + b"eq" + bytes([i + 1]) for i in range(60))
PAIRS = b")q\0" + b"".join(b"0" + bytes([ord("h"), i]) * 2 + b"\x86q" + bytes([i + 1]) for i in range(60))
OVERSIZED = {  # instructions that say how much they want; it is not there
    "LONG_BINPUT": (HEAD + b"}r\xff\xff\xff\xff.", "holds no arrays"),
    "PUT": (HEAD + b"}p4294967295\n.", "holds no arrays"),
    "PUT beyond": (HEAD + b"}p" + b"9" * 50 + b"\n.", "has a number of 50 characters"),
    "BINBYTES8": (HEAD + b"\x8e" + struct.pack("<Q", 2**60), "ends in the middle"),
    "BYTEARRAY8": (HEAD + b"\x96" + struct.pack("<Q", 2**63 + 5), "ends in the middle"),
    "BINUNICODE8": (HEAD + b"\x8d" + struct.pack("<Q", 2**40), "ends in the middle"),
    "BINUNICODE": (HEAD + b"X\xff\xff\xff\xff", "ends in the middle"),
    "BINSTRING": (HEAD + b"T\xff\xff\xff\xff", "ends in the middle"),
    "LONG4": (HEAD + b"\x8b\xff\xff\xff\xff", "has a number of 4294967295 bytes"),
    "FRAME": (HEAD + b"\x95" + struct.pack("<Q", 2**62) + b"}.", "ends in the middle"),
    "key of lists": (HEAD + b"}" + LAUGHS + b"Ns.", "holds no arrays"),
    "key of tuples": (HEAD + b"}" + PAIRS + b"Ns.", "holds no arrays"),
    "list of itself": (HEAD + b"}\x8c\1a]q\0h\0as.", "holds no arrays: a is a list"),
    "dict of itself": (HEAD + b"}q\0\x8c\5modelh\0s.", "holds no arrays: model is a dict"),
    "laughs": (HEAD + b"}\x8c\1a" + LAUGHS + b"s.", "holds no arrays: a is a list"),
    "laughs among the weights": (
        HEAD + b"}(\x8c\1a" + LAUGHS + b"\x8c\1b" + code(GOOD) + b"u.",
        "has a among its weights, which is not an array but a list",
    ),
    "laughs as arguments": (
        HEAD + b"}(\x8c\1a" + code(Name("a", "B")) + PAIRS + b"R\x8c\1b" + code(GOOD) + b"u.",
        "has a among its weights, which is not an array but a.B",
    ),
    "module of itself": (
        HEAD + code(Name("a", "B")) + b")\x81q\0(" + code("_modules") + b"}(" + code("c") + b"h\0udb.",
        "does not hold a dict of arrays",
    ),
    "laughs as a shape": (
        HEAD + b"}" + code("a") + code(SHELL) + b"(K\1" + LAUGHS + code(F4) + b"\x89" + code(b"1234") + b"tbs.",
        "has an array whose shape is",
    ),
}


@pytest.mark.parametrize(("content", "message"), OVERSIZED.values(), ids=OVERSIZED)
def test_oversized_lengths_allocate_nothing(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.pkl").write_bytes(content)
    refused(tmp_path / "x.pkl", message)
    with traced() as peak:
        refused(tmp_path / "x.pkl", message)
    assert peak() < 2**20


LIMIT = 2**19
TOO_MANY = f"has a pickle of more than {LIMIT} opcodes, more than any model needs"
ENDLESS = {  # opcodes of a byte or a few that allocate something; a few hundred bytes each at most
    "lists": (b"]" * LIMIT, TOO_MANY),
    "memo": (b"}" + b"\x94" * LIMIT, TOO_MANY),
    "texts": (b"\x8c\1a" * LIMIT, TOO_MANY),
    "tuples in tuples": (b")" + b"\x85" * (LIMIT - 4) + b".", "does not hold a dict of arrays"),
    "numbers that collide": (
        b"}(" + b"".join(b"\x8a\x0b" + (i * (2**61 - 1)).to_bytes(11, "little") + b"N" for i in range(80_000)) + b"u.",
        "holds no arrays",
    ),
    "memo indices that collide": (
        b"}" + b"".join(b"p%d\n" % (i * (2**61 - 1)) for i in range(80_000)) + b".",
        "has a number of 19 characters in its pickle",
    ),
    "tuples that collide": (
        b"}("
        + b"".join(b"\x8a\x0b" + (i * (2**61 - 1)).to_bytes(11, "little") + b"\x85N" for i in range(80_000))
        + b"u.",
        "holds no arrays",
    ),
    "set of numbers that collide": (
        b"\x8f(" + b"".join(b"\x8a\x0b" + (i * (2**61 - 1)).to_bytes(11, "little") for i in range(80_000)) + b"\x90.",
        "does not hold a dict of arrays",
    ),
    "pairs over and over": (
        code(ORDERED) + b"q\0](" + b"K\1K\2\x86" * 30_000 + b"eq\1" + b"0h\0h\1\x85R" * 30_000 + b".",
        "has a damaged pickle",
    ),
    "marks": (b"(" * 2**19, "has a pickle with more than 1000 nested tuples, lists or dicts"),
}


@pytest.mark.parametrize(("content", "message"), ENDLESS.values(), ids=ENDLESS)
def test_endless_pickles_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.pkl").write_bytes(HEAD + content)
    refused(tmp_path / "x.pkl", message)


@pytest.mark.parametrize("head", [b"cos", b"V", b"I", b"p"], ids=["name", "text", "number", "memo"])
def test_a_line_without_end_in_a_file_without_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: bytes
) -> None:
    monkeypatch.setattr(bounded_reader.BoundedReader.skip_line, "__defaults__", (2**20,))
    path = tmp_path / "x.pkl"
    path.write_bytes(HEAD + head)
    os.truncate(path, 2**40)  # takes no space on the disk
    refused(path, f"has a line of more than {2**20 if head == b'V' else 2**16} bytes in its pickle")


@pytest.mark.parametrize("kind", ["lists", "memo", "texts"])
def test_memory_per_opcode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(pickles, "_MAX_OPCODES", 2**14)
    (tmp_path / "x.pkl").write_bytes(HEAD + ENDLESS[kind][0])
    with traced() as peak:
        refused(tmp_path / "x.pkl", "has a pickle of more than 16384 opcodes")
    assert peak() < 256 * 2**14
