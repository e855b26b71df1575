"""Files of `torch.save`, made here as PyTorch makes them: tensors are read, all else is refused."""

from __future__ import annotations

import os
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from gpt2rt.errors import BadCheckpoint
from gpt2rt_export.sources.torch_file import TorchFile
from torch_files import KINDS, Build, PickledCall, PickledGlobal, dumped, tensor, write


@pytest.mark.parametrize("kind", list(KINDS))
def test_values_of_every_type_and_layout(tmp_path: Path, kind: str) -> None:
    dtype = ml_dtypes.bfloat16 if kind == "bfloat16" else np.dtype(kind)
    values = np.random.default_rng(1).normal(size=(3, 4)).astype(dtype)
    body = OrderedDict(
        whole=tensor("0", values),
        turned=tensor("0", values, shape=(4, 3), strides=(1, 4)),
        part=tensor("0", values, offset=5, shape=(2,), strides=(3,)),
        empty=tensor("0", values, shape=(0, 4), strides=(4, 1)),
        parameter=PickledCall(
            PickledGlobal("torch._utils", "_rebuild_parameter"), tensor("0", values), True, {}
        ),
    )
    file = TorchFile(write(tmp_path / "x.bin", body, {"0": values.tobytes()}))
    flat = values.ravel()
    for name, wanted in {
        "whole": values,
        "turned": values.T,
        "part": flat[[5, 8]],
        "empty": values[:0],
        "parameter": values,
    }.items():
        assert file.tensors[name].shape == wanted.shape
        np.testing.assert_array_equal(file.read(name), wanted)


VALUES = np.arange(12, dtype=np.float32).reshape(3, 4)
HOSTILE = [
    PickledCall(PickledGlobal("os", "system"), "touch {marker}"),
    PickledCall(PickledGlobal("builtins", "eval"), "open('{marker}', 'w')"),
    PickledCall(
        PickledGlobal("builtins", "getattr"),
        PickledGlobal("collections", "OrderedDict"),
        "__init__",
    ),
    PickledCall(PickledGlobal("torch.storage", "_load_from_bytes"), b""),
    PickledCall(PickledGlobal("numpy.core.multiarray", "_reconstruct"), 1),
    PickledCall(PickledGlobal("posix", "system"), "touch {marker}"),
    PickledGlobal("subprocess", "Popen"),
]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_pickle_that_asks_for_more_is_refused_and_nothing_is_run(
    tmp_path: Path, hostile: PickledCall | PickledGlobal
) -> None:
    marker = tmp_path / "was-run"
    if isinstance(hostile, PickledCall):
        args = [a.format(marker=marker) if isinstance(a, str) else a for a in hostile.args]
        hostile = PickledCall(hostile.call, *args)
    path = write(tmp_path / "x.bin", OrderedDict(a=tensor("0", VALUES), b=hostile), {})
    with pytest.raises(BadCheckpoint, match=r"x\.bin: asks for .*, which is no tensor; .*save"):
        TorchFile(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"offset": 1},
        {"offset": -1},
        {"shape": (3, 5)},
        {"shape": (-3, 4)},
        {"strides": (400, 1)},
        {"strides": (4,)},
        {"shape": (1 << 62, 4)},
        {"count": -1},
        {"shape": ("3", 4)},
    ],
)
def test_a_tensor_beyond_its_storage_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    body = {"a": tensor("0", VALUES, **changes)}
    path = write(tmp_path / "x.bin", body, {"0": VALUES.tobytes()})
    with pytest.raises(
        BadCheckpoint, match=r"no shape|no known size|beyond its|but strides|should be"
    ):
        TorchFile(path)


def test_files_that_are_cut_or_no_such_file(tmp_path: Path) -> None:
    path = write(tmp_path / "x.bin", {"a": tensor("0", VALUES)}, {"0": VALUES.tobytes()[:-4]})
    with pytest.raises(BadCheckpoint, match="tensor a is cut short"):
        TorchFile(path).read("a")
    path = write(tmp_path / "y.bin", {"a": tensor("1", VALUES)}, {})
    with pytest.raises(BadCheckpoint, match="tensor a cannot be read"):
        TorchFile(path).read("a")
    whole = write(tmp_path / "z.bin", {"a": tensor("0", VALUES)}, {"0": VALUES.tobytes()})
    data = whole.read_bytes()
    for cut in range(0, len(data), 37):
        (tmp_path / "cut.bin").write_bytes(data[:cut])
        with pytest.raises(BadCheckpoint):
            TorchFile(tmp_path / "cut.bin")
    for body, fact in (([1], "holds list"), ({"a": 1}, "'a' is no tensor")):
        with pytest.raises(BadCheckpoint, match=fact):
            TorchFile(write(tmp_path / "b.bin", body, {}))


def test_flipped_bytes_give_the_values_or_an_error(tmp_path: Path) -> None:
    whole = write(tmp_path / "z.bin", {"a": tensor("0", VALUES)}, {"0": VALUES.tobytes()})
    data = whole.read_bytes()
    random = np.random.default_rng(3)
    for _ in range(300):
        at, bit = random.integers(len(data)), random.integers(8)
        damaged = bytearray(data)
        damaged[at] ^= 1 << bit
        path = tmp_path / "damaged.bin"
        path.write_bytes(damaged)
        try:
            file = TorchFile(path)
            found = {name: file.read(name) for name in file.tensors}
        except BadCheckpoint:
            continue
        for values in found.values():
            np.testing.assert_array_equal(values.ravel(), VALUES.ravel())
    assert os.path.exists(path)


STORAGE = ("PERSISTENT", "storage", PickledGlobal("torch", "FloatStorage"), "0", "cpu", 12)


@pytest.mark.parametrize(
    "body",
    [
        {"a": Build(tensor("0", VALUES), [STORAGE, 0, (64,), (1,)])},
        {"a": Build(PickledGlobal("torch", "FloatStorage"), ["DoubleStorage"])},
        {"a": Build(PickledGlobal("collections", "OrderedDict"), {"x": 1})},
    ],
)
def test_nothing_checked_can_be_changed_by_a_later_state(tmp_path: Path, body: object) -> None:
    """A tensor whose bounds were changed after they were checked would read others' memory."""
    path = write(tmp_path / "x.bin", body, {"0": VALUES.tobytes()})
    with pytest.raises(BadCheckpoint, match="where dict should be"):
        TorchFile(path)


def raw(path: Path, pickled: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
    return path


@pytest.mark.parametrize("index", [b"\xff\xff\xff\x3f", b"\xff\xff\xff\xff"])
def test_a_huge_place_in_the_memo_takes_no_memory(tmp_path: Path, index: bytes) -> None:
    tracemalloc.start()
    try:
        assert TorchFile(raw(tmp_path / "x.bin", b"\x80\x02}r" + index + b".")).tensors == {}
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def nested(depth: int) -> bytes:
    """A tuple of two of a tuple of two ...: small as a pickle, exponential as a text or a hash."""
    code = b")q\x00"
    for level in range(depth):
        code += b"h" + bytes([level]) + b"h" + bytes([level]) + b"\x86q" + bytes([level + 1])
    return code


@pytest.mark.parametrize("before", [b"", b"ctorch\nFloatStorage\n", b"}"])
@pytest.mark.parametrize("after", [b"Q", b"R", b"K\x01s", b"b", b"."])
def test_nested_tuples_take_no_time(tmp_path: Path, before: bytes, after: bytes) -> None:
    code = b"\x80\x02" + before + nested(120) + after + b"."
    with pytest.raises(BadCheckpoint) as caught:
        TorchFile(raw(tmp_path / "x.bin", code))
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("shape", [(1 << 31, 1 << 31), (13,), (2, 12)])
def test_a_tensor_of_more_numbers_than_its_storage_is_refused(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    body = {"a": tensor("0", VALUES, shape=shape, strides=(0,) * len(shape))}
    with pytest.raises(BadCheckpoint, match="beyond its 12 numbers"):
        TorchFile(write(tmp_path / "x.bin", body, {"0": VALUES.tobytes()}))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_random_pickles_are_read_or_refused(tmp_path: Path) -> None:
    random = np.random.default_rng(11)
    whole = dumped(
        OrderedDict(a=tensor("0", VALUES), b=tensor("0", VALUES, shape=(12,), strides=(1,)))
    )
    for _ in range(1500):
        data = bytearray(whole)
        for _ in range(random.integers(1, 6)):
            data[random.integers(len(data))] = random.integers(256)
        try:
            file = TorchFile(raw(tmp_path / "x.bin", bytes(data)))
        except BadCheckpoint:
            continue
        for view in file.tensors.values():
            ends = ((n - 1) * s for n, s in zip(view.shape, view.strides, strict=True))
            assert 0 in view.shape or view.offset + sum(ends) < view.storage.numbers
