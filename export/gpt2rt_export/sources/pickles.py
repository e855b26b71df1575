"""Reads the pickles in PyTorch's files without running any code.

A pickle is a program for a stack machine, which Python's own reader runs. The reader here makes
only numbers, texts, lists, dictionaries and descriptions of tensors; it refuses everything else by
name. It imports nothing, sets no attribute and makes no other object. Messages never show nested
values: with shared parts their text could be exponentially long.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any, NamedTuple

Shape = tuple[int, ...]

# PyTorch's storages: the type by safetensors' name, and bytes per number.
STORAGES = {
    "DoubleStorage": ("F64", 8),
    "FloatStorage": ("F32", 4),
    "HalfStorage": ("F16", 2),
    "BFloat16Storage": ("BF16", 2),
    "LongStorage": ("I64", 8),
    "IntStorage": ("I32", 4),
    "ShortStorage": ("I16", 2),
    "CharStorage": ("I8", 1),
    "ByteStorage": ("U8", 1),
    "BoolStorage": ("BOOL", 1),
}
TENSOR = ("torch._utils", "_rebuild_tensor_v2")
OLD_TENSOR = ("torch._utils", "_rebuild_tensor")
PARAMETER = ("torch._utils", "_rebuild_parameter")
DICTIONARY = ("collections", "OrderedDict")
SIZE = ("torch", "Size")


class PickleRefused(ValueError):
    """A pickle that is damaged, or that asks for more than a file of tensors needs."""


class Global(NamedTuple):
    """The name of a Python object that the pickle asks for; the object itself is never loaded."""

    module: str
    name: str


class Storage(NamedTuple):
    """A row of numbers that tensors are views of: its key, type, bytes per number and length."""

    key: str
    dtype: str
    size: int
    numbers: int


class View(NamedTuple):
    """A tensor as the pickle describes it: its place in a storage, counted in numbers."""

    storage: Storage
    offset: int
    shape: Shape
    strides: Shape


_MARK = object()
CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "MARK": lambda: _MARK,
}
VALUES = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def load(file: IO[bytes], storages: dict[str, Storage] | None = None) -> Any:
    """The data of one pickle; `file` is left at the byte after it. Raises `PickleRefused`.

    The storages that the pickle refers to are put into `storages`, by their keys.
    """
    machine = _Machine({} if storages is None else storages)
    try:
        for code, argument, _ in pickletools.genops(file):
            if code.name == "STOP":
                return machine.pop()
            machine.step(code.name, argument)
    except PickleRefused:
        raise
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        raise PickleRefused(f"a damaged pickle ({str(error)[:80]!a})") from None
    raise PickleRefused("a pickle without an end")


@dataclass(slots=True)
class _Machine:
    """The stack machine: its stack, its memo and the storages met so far."""

    storages: dict[str, Storage]
    stack: list[Any] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise PickleRefused("a damaged pickle (a mark where a value should be)")
        return value

    def to_mark(self) -> list[Any]:
        found = []
        while (value := self.stack.pop()) is not _MARK:
            found.append(value)
        return found[::-1]

    def step(self, name: str, argument: Any) -> None:
        push = self.stack.append
        if name in CONSTANTS:
            push(CONSTANTS[name]())
        elif name in VALUES:
            push(argument)
        elif name in ("PROTO", "FRAME"):
            pass
        elif name in TUPLES:
            push(tuple([self.pop() for _ in range(TUPLES[name])][::-1]))
        elif name == "TUPLE":
            push(tuple(self.to_mark()))
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            push(self.memo[argument])
        elif name in ("APPEND", "APPENDS"):
            more = self.to_mark() if name == "APPENDS" else [self.pop()]
            _of(list, self.stack[-1]).extend(more)
        elif name in ("SETITEM", "SETITEMS"):
            pairs = self.to_mark() if name == "SETITEMS" else [self.pop(), self.pop()][::-1]
            _set_items(_of(dict, self.stack[-1]), pairs)
        elif name == "GLOBAL":
            push(_known(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            own, module = self.pop(), self.pop()
            push(_known(_of(str, module), _of(str, own)))
        elif name == "BINPERSID":
            found = _storage(self.pop())
            if self.storages.setdefault(found.key, found) != found:
                raise PickleRefused("a storage of two sizes")
            push(found)
        elif name == "REDUCE":
            arguments, asked = self.pop(), self.pop()
            push(_made(asked, _of(tuple, arguments)))
        elif name == "BUILD":  # an OrderedDict's _metadata: module versions
            self.pop()
            _of(dict, self.stack[-1])
        else:
            raise PickleRefused(f"its pickle does what no file of tensors needs ({name})")


def _of(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise PickleRefused(
            f"a damaged pickle ({type(value).__name__} where {kind.__name__} should be)"
        )
    return value


def _set_items(target: dict[Any, Any], pairs: list[Any]) -> None:
    if len(pairs) % 2:
        raise PickleRefused("a damaged pickle (a key without a value)")
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
        if not isinstance(key, str | int | float | bool | None):
            raise PickleRefused(f"a key of type {type(key).__name__}")
        target[key] = value


def _known(module: str, name: str) -> Global:
    asked = Global(module, name)
    if asked in (TENSOR, OLD_TENSOR, PARAMETER, DICTIONARY, SIZE):
        return asked
    if module == "torch" and name in STORAGES:
        return asked
    raise PickleRefused(f"asks for {f'{module}.{name}'!a:.100}, which is no tensor")


def _made(asked: Any, arguments: tuple[Any, ...]) -> Any:
    if asked == DICTIONARY and type(asked) is Global:
        made: dict[Any, Any] = {}
        for pair in arguments[0] if arguments else ():
            _set_items(made, list(pair))
        return made
    if type(asked) is Global and asked in (TENSOR, OLD_TENSOR):
        return _view(*arguments[:4])
    if type(asked) is Global and asked == PARAMETER:
        return _of(View, arguments[0])
    if type(asked) is Global and asked == SIZE:
        return tuple(arguments[0])
    raise PickleRefused("its pickle calls what makes no tensor")


def _storage(reference: Any) -> Storage:
    kind, storage, key, _, numbers, *more = _of(tuple, reference)
    if kind != "storage" or type(storage) is not Global or storage.name not in STORAGES:
        raise PickleRefused("its pickle refers to what is no storage")
    if type(numbers) is not int or numbers < 0 or more not in ([], [None]):
        raise PickleRefused("a storage of no known size")
    return Storage(_of(str, key), *STORAGES[storage.name], numbers)


def _view(storage: Any, offset: Any, shape: Any, strides: Any) -> View:
    """A tensor. Raises `PickleRefused` where it is not within its storage."""
    storage, shape, strides = _of(Storage, storage), _of(tuple, shape), _of(tuple, strides)
    numbers = (offset, *shape, *strides)
    if not all(type(n) is int and 0 <= n < 1 << 62 for n in numbers) or len(shape) > 8:
        raise PickleRefused("a tensor of no shape")
    if len(shape) != len(strides):
        raise PickleRefused(f"a tensor of shape {shape}, but strides {strides}")
    count = 1
    for n in shape:
        count *= n
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if count and (last >= storage.numbers or count > storage.numbers):
        raise PickleRefused(
            f"a tensor of shape {list(shape)} that lies beyond its {storage.numbers} numbers"
        )
    return View(storage, offset, shape, strides)
