"""How tests and program talk, each in a process of its own: data crosses as JSON, everything else as a number.

The process with the tests (`examine`) holds the expected values and decides; it never runs a line of the program. The
process with the program (`serve`) is asked for its names, calls, attributes and items, and answers with values. So a
program can only say what its functions return, and what is compared with the expected value is data of Python's own
types, whatever the program's classes claim about themselves:

- None, booleans, numbers, texts, bytes and the containers of the standard library arrive as copies. Lists and the like
  that the program changes in place are changed on the side of the tests, too.
- Any other object stays where it is, and the tests hold a `Remote` that stands for it. It is never equal to data, and
  an operator never joins it with data: its answer would be the program's word.

Standard library only; this file runs inside the sandbox.
"""

import builtins
import collections
import collections.abc
import contextlib
import copy
import datetime
import decimal
import fractions
import functools
import importlib
import io
import itertools
import json
import operator
import os
import signal
import struct
import sys
import types

MESSAGE_BYTES = 64 << 20
MANY = 1 << 63
ITERATOR_ITEMS = 100_000
_read, _write = os.read, os.write
_to_json = json.JSONEncoder(separators=(",", ":")).encode


class Gone(BaseException):
    """The other process has ended, or says what no honest end says. No `Exception`: tests must not swallow it."""


class Late(Gone):
    """The other process takes longer for one answer than the socket waits."""


class Channel:
    """Messages, each its length and then JSON, over one socket."""

    def __init__(self, descriptor):
        self.descriptor, self.received = descriptor, bytearray()

    def send(self, message):
        """Give one message to the other end."""
        data = _to_json(message).encode()
        data = memoryview(struct.pack(">I", len(data)) + data)
        try:
            while data:
                data = data[_write(self.descriptor, data) :]
        except OSError:
            raise Gone from None

    def receive(self):
        """Wait for one message of the other end."""
        (size,) = struct.unpack(">I", self._exactly(4))
        if size > MESSAGE_BYTES:
            raise Gone
        try:
            message = json.loads(self._exactly(size))
        except (ValueError, RecursionError):
            raise Gone from None
        if not isinstance(message, dict):
            raise Gone
        return message

    def _exactly(self, size):
        while len(self.received) < size:
            try:
                part = _read(self.descriptor, 1 << 20)
            except BlockingIOError:
                raise Late from None
            except OSError:
                part = b""
            if not part:
                raise Gone
            self.received += part
        data = bytes(self.received[:size])
        del self.received[:size]
        return data


def _pairs(value):
    return [list(pair) for pair in value.items()]


def _naive(names):
    """The parts of a date or time; one with a zone stays with the program."""
    return lambda v: None if getattr(v, "tzinfo", None) else [getattr(v, name) for name in names.split()]


DAY, TIME = "year month day", "hour minute second microsecond"
DATA = {
    tuple: (list, tuple),
    set: (list, set),
    frozenset: (list, frozenset),
    dict: (_pairs, dict),
    collections.OrderedDict: (_pairs, collections.OrderedDict),
    collections.defaultdict: (_pairs, lambda parts: collections.defaultdict(None, parts)),
    collections.Counter: (_pairs, lambda parts: collections.Counter(dict(parts))),
    collections.deque: (lambda v: [list(v), v.maxlen], lambda parts: collections.deque(*parts)),
    bytes: (lambda v: [v.hex()], lambda parts: bytes.fromhex(*parts)),
    bytearray: (lambda v: [v.hex()], lambda parts: bytearray.fromhex(*parts)),
    complex: (lambda v: [v.real, v.imag], lambda parts: complex(*parts)),
    range: (lambda v: [v.start, v.stop, v.step], lambda parts: range(*parts)),
    slice: (lambda v: [v.start, v.stop, v.step], lambda parts: slice(*parts)),
    type(...): (lambda v: [], lambda parts: ...),
    decimal.Decimal: (lambda v: [str(v)], lambda parts: decimal.Decimal(*parts)),
    fractions.Fraction: (lambda v: [v.numerator, v.denominator], lambda parts: fractions.Fraction(*parts)),
    datetime.date: (_naive(DAY), lambda parts: datetime.date(*parts)),
    datetime.time: (_naive(TIME), lambda parts: datetime.time(*parts)),
    datetime.datetime: (_naive(f"{DAY} {TIME}"), lambda parts: datetime.datetime(*parts)),
    datetime.timedelta: (_naive("days seconds microseconds"), lambda parts: datetime.timedelta(*parts)),
}
"""Type -> (its parts as a list, the value from these parts)."""
SIMPLE = frozenset([int, float, str, bool, type(None)])
BY_NAME = {kind.__name__: make for kind, (_, make) in DATA.items()}
CHANGEABLE = (list, dict, set, bytearray, collections.deque, tuple)
BASES = {
    int: int.__int__,
    float: float.__float__,
    str: str.__str__,
    tuple: lambda v: tuple.__getitem__(v, slice(None)),
    list: list.copy,
    dict: dict.copy,
    set: lambda v: set(v),
    frozenset: lambda v: frozenset(v),
    bytes: lambda v: bytes(v),
}
"""Type -> how the plain value is taken out of an instance of a subclass (a named tuple, an integer enumeration)."""


class Remote:
    """On the side of the tests: an object of the program's that is no data."""

    def __init__(self, wire, number, base=None):
        object.__setattr__(self, "_wire", wire)
        object.__setattr__(self, "_number", number)
        object.__setattr__(self, "_base", base)

    @property
    def __class__(self):
        """What `isinstance` says: the container of Python's own that it is a kind of."""
        return self._base or Remote

    def __getattr__(self, name):
        return self._wire.ask("getattr", self, name)

    def __setattr__(self, name, value):
        self._wire.ask("setattr", self, name, value)

    def __delattr__(self, name):
        self._wire.ask("delattr", self, name)

    def __call__(self, /, *arguments, **named):
        """Call it where it is."""
        return self._wire.ask("call", self, *arguments, **named)

    def __eq__(self, other):
        if isinstance(other, Remote):
            return self._wire.ask("eq", self, other) is True
        return self._base is not None and self._wire.ask("plain", self) == other

    def __bool__(self):
        return True

    def __contains__(self, item):
        return any(item is found or item == found for found in self)

    def __instancecheck__(self, instance):
        return isinstance(instance, Remote) and self._wire.ask("isinstance", instance, self) is True

    def __iter__(self):
        found = self._wire.ask("iter", self)
        return found if isinstance(found, Remote) else iter(found)

    def __next__(self):
        return self._wire.ask("next", self)

    def __deepcopy__(self, memo):
        return self._wire.ask("deepcopy", self)


ALONE = (
    *("len", "str", "repr", "hash", "int", "float", "complex", "index", "neg", "pos", "abs", "invert", "reversed"),
    *("dir", "enter", "exit", "round", "getitem", "setitem", "delitem", "copy"),
)
JOINED = (
    *("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "lshift", "rshift", "and", "or", "xor"),
    *("lt", "le", "gt", "ge"),
)


def _forward(name, *, joins):
    def forward(self, *others):
        if joins and not all(isinstance(other, Remote) for other in others):
            return NotImplemented
        return self._wire.ask(name, self, *others)

    return forward


for _name in (*ALONE, *JOINED):
    setattr(Remote, f"__{_name}__", _forward(_name, joins=_name in JOINED))


def _plain(value):
    return next((take(value) for base, take in BASES.items() if isinstance(value, base)), None)


ACTIONS = {
    **{name: getattr(operator, f"__{name}__") for name in ("eq", "index", "neg", "pos", "abs", "invert", *JOINED)},
    **{name: getattr(operator, name) for name in ("getitem", "setitem", "delitem")},
    **{
        function.__name__: function
        for function in (getattr, setattr, delattr, isinstance, iter, next, len, str, repr, hash, int, float, complex)
    },
    **{"call": operator.call, "plain": _plain, "reversed": reversed, "dir": dir, "round": round},
    **{"copy": copy.copy, "deepcopy": copy.deepcopy},
    "enter": lambda manager: type(manager).__enter__(manager),
    "exit": lambda manager, *error: type(manager).__exit__(manager, *error),
}
"""What the tests may ask of the program."""


class Grown:
    """Data with the attributes of the program's object that it was taken from: the fields of a named tuple."""

    def __getattr__(self, name):
        if name == "_remote":
            raise AttributeError(name)
        return getattr(self._remote, name)


@functools.cache
def _grown(base):
    return type(base.__name__, (Grown, base), {})


class Wire:
    """One end of the conversation: what it sends, what it understands, what it answers."""

    def __init__(self, channel, *, actions, has_tests):
        self.channel, self.actions, self.has_tests = channel, actions, has_tests
        self.kept, self.numbers, self.classes = [], {}, {}
        self.call_seconds = 0.0

    def ask(self, what, /, *arguments, **named):
        """Have something done at the other end; its value, or its exception."""
        message = {"do": what, "arguments": [self.encode(a) for a in arguments]}
        if named:
            message["named"] = {name: self.encode(value) for name, value in named.items()}
        if self.has_tests and sys.stdout is not sys.__stdout__:
            message["prints"] = True  # the tests look at what is printed
        if self.has_tests and what == "call" and sys.stdin is not sys.__stdin__:
            message["input"] = sys.stdin.read()
        self.channel.send(message)
        while "do" in (reply := self.channel.receive()):
            self.answer(reply)
        if self.has_tests and isinstance(printed := reply.get("printed"), str):
            sys.stdout.write(printed)
        try:
            for number, new in reply.get("changed", ()):
                refresh(arguments[number], self.decode(new))
            error = self._decode_error(reply["error"]) if "error" in reply else None
            value = self.decode(reply["value"]) if error is None else None
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, ImportError):
            raise Gone from None  # no honest end sends this
        if error is not None:
            # As in generators: else `all(map(...))` in a test would end early where a program raises it.
            if what == "call" and isinstance(error, StopIteration):
                raise RuntimeError("the program raised StopIteration")
            raise error
        return value

    def answer(self, message):
        """Do what the other end asks for."""
        reply: dict = {}
        printed = io.StringIO() if message.get("prints") else None
        try:
            action = self.actions[message["do"]]
            arguments = [self.decode(a) for a in message["arguments"]]
            named = {name: self.decode(value) for name, value in message.get("named", {}).items()}
            if self.call_seconds:  # by default this signal ends the process, even one that is stuck in C
                signal.setitimer(signal.ITIMER_PROF, self.call_seconds)
            if printed is None and "input" not in message:
                value = action(*arguments, **named)
            else:
                with _redirected(printed, message.get("input")):
                    value = action(*arguments, **named)
            reply["value"] = self.encode(value)
            reply["changed"] = self._changes(message["arguments"], arguments)
        except Gone:
            raise
        except BaseException as error:
            reply = {"error": self._encode_error(error)}
        if printed is not None:
            reply["printed"] = printed.getvalue()
        flush()
        self.channel.send(reply)

    def _changes(self, sent, arguments):
        changes = []
        for number, (before, argument) in enumerate(zip(sent, arguments, strict=True)):
            if isinstance(argument, CHANGEABLE) and not (isinstance(before, dict) and "yours" in before):
                after = self.encode(argument)
                if after != before:
                    changes.append((number, after))
        return changes

    def encode(self, value):
        """A value as JSON."""
        kind = type(value)
        if value is None or kind is bool or kind is str or kind is float:
            return value
        if kind is int:
            return value if -MANY < value < MANY else {"big": hex(value)}
        if kind is list:
            kinds = set(map(type, value))
            if kinds <= SIMPLE and (
                int not in kinds or all(-MANY < item < MANY for item in value if type(item) is int)
            ):
                return value
            return [self.encode(item) for item in value]
        if isinstance(value, Remote | Grown):
            return {"yours": (value if kind is Remote else value._remote)._number}
        if kind in DATA and (parts := DATA[kind][0](value)) is not None:
            return {kind.__name__: [self.encode(part) for part in parts]}
        if isinstance(value, type):
            return self._encode_class(value)
        if isinstance(value, types.ModuleType):
            return {"module": value.__name__}
        plain = _plain(value)
        if not self.has_tests:
            return {"mine": self._keep(value), **({} if plain is None else {"data": self.encode(plain)})}
        if plain is not None:
            return self.encode(plain)
        return self._encode_tests_own(value)

    def _encode_tests_own(self, value):
        """What tests give to a program: functions it may call, iterators by their items; no other object of theirs."""
        module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
        if module in sys.modules and module.partition(".")[0] in sys.stdlib_module_names:
            with contextlib.suppress(AttributeError):
                if operator.attrgetter(name)(sys.modules[module]) is value:
                    return {"import": [module, name]}
        if isinstance(value, types.FunctionType | types.MethodType | functools.partial):
            return {"function": self._keep(value)}
        if isinstance(value, collections.abc.Iterator):
            items = list(itertools.islice(value, ITERATOR_ITEMS))
            return {"iterator": [self.encode(item) for item in items]}
        if isinstance(value, collections.abc.KeysView | collections.abc.ValuesView | collections.abc.ItemsView):
            return [self.encode(item) for item in value]
        raise TypeError(f"tests cannot give an object of type {type(value).__name__} to the program, only data")

    def _encode_class(self, value):
        if getattr(builtins, value.__name__, None) is value:
            return {"builtin": value.__name__}
        if self.has_tests:
            return self._encode_tests_own(value)
        if issubclass(value, BaseException):
            parent = self._encode_class(value.__base__)
            module = getattr(value, "__module__", "")
            return {"exception": self._keep(value), "name": value.__name__, "parent": parent, "module": module}
        return {"mine": self._keep(value)}

    def _keep(self, value):
        if id(value) not in self.numbers:
            self.numbers[id(value)] = len(self.kept)
            self.kept.append(value)  # kept alive, so that its number stays its own
        return self.numbers[id(value)]

    def decode(self, sent):
        """A value from JSON: only data of known types, and numbers that stand for objects."""
        if not isinstance(sent, list | dict):
            return sent
        if isinstance(sent, list):
            return list(sent) if SIMPLE.issuperset(map(type, sent)) else [self.decode(item) for item in sent]
        tag = next(iter(sent))
        content = sent[tag]
        if tag in BY_NAME:
            return BY_NAME[tag]([self.decode(part) for part in content])
        if tag == "big":
            return int(content, 16)
        if tag == "yours":
            return self.kept[content]
        if tag == "builtin":
            found = getattr(builtins, content)
            if not isinstance(found, type):
                raise TypeError(content)
            return found
        if tag == "module" and content in sys.stdlib_module_names:
            return importlib.import_module(content)
        return self._decode_from_program(tag, sent) if self.has_tests else self._decode_from_tests(tag, content)

    def _decode_from_program(self, tag, sent):
        if tag == "exception":
            if sent["exception"] not in self.classes:
                parent = self.decode(sent["parent"])
                if not isinstance(parent, type) or not issubclass(parent, BaseException):
                    raise TypeError("parent")
                known = _library_error(sent["module"], sent["name"])
                self.classes[sent["exception"]] = known or type(str(sent["name"]), (parent,), {})
            return self.classes[sent["exception"]]
        if tag == "module":
            raise TypeError("module")
        remote = Remote(self, int(sent["mine"]))
        if "data" not in sent:
            return remote
        plain = self.decode(sent["data"])
        if isinstance(plain, list | dict | set):  # it may change, so its content is asked for where it is compared
            return Remote(self, remote._number, type(plain))
        value = _grown(type(plain))(plain)
        value._remote = remote
        return value

    def _decode_from_tests(self, tag, content):
        if tag == "import":
            return operator.attrgetter(content[1])(importlib.import_module(content[0]))
        if tag == "iterator":
            return iter([self.decode(item) for item in content])

        def function(*arguments, **named):
            return self.ask("call", Remote(self, content), *arguments, **named)

        return function

    def _encode_error(self, error):
        encoded = {"class": self._encode_class(type(error)), "line": line_of(error, "program.py")}
        encoded["arguments"] = [text_of(error)[:500]]
        with contextlib.suppress(Exception):
            encoded["arguments"] = [self.encode(argument) for argument in error.args]
        return encoded

    def _decode_error(self, sent):
        kind = self.decode(sent["class"]) if self.has_tests or "builtin" in sent["class"] else RuntimeError
        if not isinstance(kind, type) or not issubclass(kind, BaseException):
            raise TypeError("class")
        arguments = [self.decode(argument) for argument in sent["arguments"]]
        try:
            error = kind(*arguments)
        except Exception:  # some are made from more than they keep
            error = kind.__new__(kind)
            error.args = tuple(arguments)
        if isinstance(sent["line"], int):
            error.__dict__["program_line"] = sent["line"]
        return error


def _library_error(module, name):
    """An exception of the standard library, which tests may wait for; not those by which tests skip themselves."""
    if module.partition(".")[0] not in sys.stdlib_module_names or module.startswith("unittest"):
        return None
    found = getattr(importlib.import_module(module), name, None)
    return found if isinstance(found, type) and issubclass(found, Exception) else None


@contextlib.contextmanager
def _redirected(printed, text):
    with contextlib.ExitStack() as stack:
        if printed is not None:
            stack.enter_context(contextlib.redirect_stdout(printed))
        if text is not None:
            before, sys.stdin = sys.stdin, io.StringIO(text)
            stack.callback(setattr, sys, "stdin", before)
        yield


def refresh(old, new):
    """Give `old` the content of `new`, in place where both are of one kind, so that other names see it too."""
    if type(old) is not type(new):
        return new
    if isinstance(old, list):
        old[:] = [refresh(*pair) for pair in zip(old, new)] + new[len(old) :]  # noqa: B905
    elif isinstance(old, dict):
        items = [(key, refresh(old[key], value) if key in old else value) for key, value in new.items()]
        old.clear()
        old.update(items)
    elif isinstance(old, set | collections.deque):
        old.clear()
        (old.update if isinstance(old, set) else old.extend)(new)
    elif isinstance(old, bytearray):
        old[:] = new
    elif isinstance(old, tuple) and len(old) == len(new):
        for pair in zip(old, new, strict=True):
            refresh(*pair)
    else:
        return new
    return old


def flush():
    """Nothing that was printed may wait in a buffer: this process ends by being killed."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            continue


def line_of(error, file):
    """The last line of this file that an exception came through; 0 where it came through none."""
    line, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == file:
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def text_of(error):
    """What an exception says; an exception of the program's may fail to say it."""
    try:
        return str(error)
    except Exception:
        return ""


def describe(error, place):
    """An exception in one line."""
    text = text_of(error)
    if isinstance(error, SyntaxError) and error.filename == "program.py":
        text = error.msg  # with its line, which is behind
        place = f"line {error.lineno}"
    return f"{type(error).__name__}{': ' + text if text else ''}{f' ({place})' if place else ''}"


def serve(channel, namespace, call_seconds):
    """Answer what the tests ask of the program's names, until they are done.

    Args:
        channel: to the process with the tests.
        namespace: the program's.
        call_seconds: of CPU time for one answer; 0 for no limit of its own.
    """

    def look_up(name):
        if name in namespace:
            return namespace[name]
        raise NameError(f"name {name!r} is not defined")

    wire = Wire(channel, actions={**ACTIONS, "name": look_up}, has_tests=False)
    wire.call_seconds = call_seconds
    while True:
        wire.answer(channel.receive())


class Names(dict):
    """The tests' built-in names, and behind them the program's."""

    def __init__(self, wire):
        super().__init__(vars(builtins))
        self.wire = wire

    def __missing__(self, name):
        if name.startswith("__"):
            raise KeyError(name)
        return self.wire.ask("name", name)


def examine(channel, job):
    """Run the tests against the program at the other end of the channel: (status, detail).

    Names mean in this order: what the tests and their setup define, built-in names, what the program defines. Names in
    `job["entry_points"]` are the program's, whatever else is called so; so are the setup's classes, because their
    instances go back and forth.
    """

    def call_back(function, *arguments, **named):
        if not any(function is kept for kept in wire.kept):
            raise Gone
        return function(*arguments, **named)

    wire = Wire(channel, actions={"call": call_back}, has_tests=True)
    names = Names(wire)
    space = {"__name__": "tests", "__builtins__": names}
    try:
        loaded = channel.receive()
        if "error" in loaded:
            status = "memory" if loaded.get("memory") else "failed"
            return status, str(loaded["error"])
        exec(job["imports"], space)
        with contextlib.suppress(Exception):  # a prompt may be half a program, and it is the program's to complete it
            exec(compile(job["setup"], "setup.py", "exec", dont_inherit=True), space)
        theirs = [name for name, value in space.items() if getattr(value, "__module__", "") == "tests"]
        for name in {*job["entry_points"], *(name for name in theirs if isinstance(space[name], type))}:
            space.pop(name, None)
            if name in names:
                space[name] = wire.ask("name", name)
        exec(compile(job["tests"], "tests.py", "exec", dont_inherit=True), space)
    except Late:
        return "late", ""
    except Gone:
        return "gone", ""
    except MemoryError:
        return "memory", ""
    except BaseException as error:
        line, at = getattr(error, "program_line", 0), line_of(error, "tests.py")
        return "failed", describe(error, f"line {line}" if line else f"line {at} of the tests" if at else "")
    return "passed", ""
