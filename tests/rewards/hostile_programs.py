# ruff: noqa: E501
"""Hostile programs: what each tries must fail inside the sandbox, and the program be over within its limits.

CANARY stands for a file outside, PARENT for the process id of the test, PORT and SOCKET for a listening server's. A
program that reaches its goal raises `SystemExit("BROKE OUT")`; what it raises otherwise does not matter. `FAKES` want another
verdict than they deserve.
"""

WIN = 'raise SystemExit("BROKE OUT")'


def _try(body: str, imports: str = "os") -> str:
    """The body, then victory; an exception of the body is defeat."""
    return f"import {imports}\n{body}\n{WIN}\n"


def _raw(number: str, *arguments: str) -> str:
    """A system call behind Python's back."""
    call = ", ".join((number, *arguments))
    body = f"libc = ctypes.CDLL(None, use_errno=True)\nresult = libc.syscall({call})\n"
    return _try(body + "assert result >= 0, ctypes.get_errno()", "ctypes, os")


PROGRAMS: dict[str, str] = {
    # more processes
    "fork bomb": _try("while True:\n    os.fork()"),
    "one fork": _try("os.fork()"),
    "vfork by subprocess": _try("subprocess.Popen(['/bin/sh', '-c', 'true'])", "subprocess"),
    "shell": _try("assert os.system('true') == 0"),
    "exec": _try("os.execv('/bin/sh', ['sh'])"),
    "posix_spawn": _try("os.posix_spawn('/bin/true', ['true'], {})"),
    "multiprocessing": _try("multiprocessing.Process(target=print).start()", "multiprocessing"),
    "forkpty": _try("os.forkpty()"),
    "clone by number": _raw("56", "17", "0", "0", "0", "0"),
    "clone3 by number": _raw("435", "ctypes.create_string_buffer(88)", "88"),
    "thread bomb": _try("while True:\n    threading.Thread(target=time.sleep, args=(99,)).start()", "threading, time"),
    # time
    "busy loop": "while True:\n    pass",
    "sleep": "import time\ntime.sleep(1000)",
    "ignores its signals": "import signal\nfor n in (24, 15, 2, 14):\n    signal.signal(n, signal.SIG_IGN)\nwhile True: pass",
    "stuck in C": "10 ** 10 ** 10",
    "hopeless regular expression": "import re\nre.match('(a+)+$', 'a' * 60 + 'b')",
    "waits for input": "import sys, time\nsys.stdin.read()\ntime.sleep(1000)",
    "deadlock": "import threading\nlock = threading.Lock()\nlock.acquire()\nlock.acquire()",
    "never lets an exception through": "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
    "busy at exit": "import atexit, time\natexit.register(time.sleep, 1000)\nassert False",
    # memory
    "memory at once": _try("x = bytearray(1 << 40)"),
    "memory bit by bit": _try("x = []\nwhile True:\n    x.append(bytearray(1 << 20))"),
    "memory by mmap": _try("x = mmap.mmap(-1, 1 << 36)", "mmap"),
    "memory by memfd": _try("os.write(os.memfd_create('x'), b'x')"),
    "System V shared memory": _raw("29", "0", "1 << 30", "0o1600"),
    "endless recursion": _try("def f(): f()\nf()"),
    "recursion without limit": _try("sys.setrecursionlimit(10**9)\ndef f(): return f() + 1\nf()", "sys"),
    "higher limits": _try("resource.setrlimit(resource.RLIMIT_AS, (-1, -1))", "resource"),
    "higher limits by prlimit": _try("resource.prlimit(PARENT, resource.RLIMIT_CPU, (1, 1))", "resource"),
    # disk
    "one huge file": _try("f = open('f', 'wb')\nwhile True:\n    f.write(bytes(1 << 20))"),
    "many large files": "i = 0\nwhile True:\n    i += 1\n    open(str(i), 'wb').write(bytes(1 << 20))",
    "many empty files": "i = 0\nwhile True:\n    i += 1\n    open(str(i), 'wb').close()",
    "folder in folder": _try("while True:\n    os.mkdir('d')\n    os.chdir('d')"),
    "device file": _try("os.mknod('sda', 0o60666, os.makedev(8, 0))"),
    "large files without a name": _try("keep = []\nwhile True:\n    keep.append(open('f', 'w+b'))\n    keep[-1].write(bytes(1 << 20))\n    keep[-1].flush()\n    os.remove('f')"),
    "large files without a name, mapped": _try("keep = []\nwhile True:\n    with open('f', 'w+b') as f:\n        f.write(bytes(1 << 20))\n        f.flush()\n"
    "        keep.append(mmap.mmap(f.fileno(), 4096, mmap.MAP_PRIVATE))\n    os.remove('f')", "mmap, os"),
    "a file written by a mapping": _try("f = open('f', 'w+b')\nf.truncate(1 << 20)\nmmap.mmap(f.fileno(), 1 << 20)[:4] = b'abcd'", "mmap"),
    "one file again and again": "import os\nwhile True:\n    with open('f', 'wb') as f: f.write(bytes(1 << 20))\n    os.remove('f')",
    "a temporary file again and again": "import tempfile\nwhile True:\n    with tempfile.TemporaryFile() as f: f.write(bytes(1 << 20))",
    # output
    "endless output": "while True:\n    print('x' * 1000)",
    "endless errors": "import sys\nwhile True:\n    sys.stderr.write('x' * 1000)",
    "floods the verdict": "import os, sys\nwhile True:\n    for n in range(3, 20):\n        try: os.write(n, b'x' * 999)\n"
    "        except OSError: pass",
    # files outside
    "reads a file outside": _try("open('CANARY').read()"),
    "reads the passwords": _try("open('/etc/passwd').read()"),
    "reads the parent's environment": _try("open('/proc/PARENT/environ', 'rb').read()"),
    "reads the parent's memory": _try("open('/proc/PARENT/mem', 'rb').read(1)"),
    "reads through a link": _try("os.symlink('CANARY', 'link')\nopen('link').read()"),
    "reads through a hard link": _try("os.link('CANARY', 'link')\nopen('link').read()"),
    "lists the root": _try("os.listdir('/')"),
    "reads above the scratch folder": _try("os.listdir('..')"),
    "writes a file outside": _try("open('CANARY', 'w').write('x')"),
    "truncates a file outside": _try("os.truncate('CANARY', 0)"),
    "removes a file outside": _try("os.remove('CANARY')"),
    "moves a file outside": _try("os.rename('CANARY', 'CANARY.moved')"),
    "moves a file in": _try("os.rename('CANARY', 'here')"),
    "makes a file outside": _try("open('CANARY.new', 'w')"),
    "modes of a file outside": _try("os.chmod('CANARY', 0o777)"),
    "owner of a file outside": _try("os.chown('CANARY', 1, 1)"),
    "times of a file outside": _try("os.utime('CANARY', (0, 0))"),
    "attributes of a file outside": _try("os.setxattr('CANARY', 'user.x', b'y')"),
    "another root": _try("os.chroot('.')"),
    "mount": _try("libc = ctypes.CDLL(None)\nassert libc.mount(b'none', b'.', b'tmpfs', 0, None) == 0", "ctypes"),
    # network and other processes
    "TCP": _try("socket.create_connection(('127.0.0.1', PORT))", "socket"),
    "UDP": _try("socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', PORT))", "socket"),
    "listens": _try("socket.create_server(('127.0.0.1', 0))", "socket"),
    "local socket": _try("socket.socket(socket.AF_UNIX).connect('SOCKET')", "socket"),
    "datagram from a pair": _try("a, b = socket.socketpair(type=socket.SOCK_DGRAM)\na.sendto(b'x', 'SOCKET')", "socket"),
    "raw socket": _try("socket.socket(socket.AF_PACKET, socket.SOCK_RAW)", "socket"),
    "web": _try("urllib.request.urlopen('http://127.0.0.1:PORT/')", "urllib.request"),
    "kills the parent": _try("os.kill(PARENT, 9)"),
    "stops everything": _try("os.kill(-1, 19)"),
    "kills its group": _try("os.killpg(os.getpgid(PARENT), 9)"),
    "signals by pidfd": _try("signal.pidfd_send_signal(os.pidfd_open(PARENT), 9)", "os, signal"),
    "signals by a descriptor's owner": _try("fcntl.fcntl(0, fcntl.F_SETOWN, PARENT)", "fcntl"),
    "traces the parent": _raw("101", "16", "PARENT", "0", "0"),
    "writes the parent's memory": _raw("311", "PARENT", "0", "0", "0", "0", "0"),
    "new namespaces": _raw("272", "0x10000000"),
    "io_uring": _raw("425", "8", "ctypes.create_string_buffer(120)"),
    "eBPF": _raw("321", "0", "ctypes.create_string_buffer(128)", "128"),
    "keyrings": _raw("250", "0", "-3", "0"),
    "reboot": _raw("169", "0xFEE1DEAD", "672274793", "0"),
    "types into the terminal": _try("fcntl.ioctl(os.open('/dev/tty', 2), 0x5412, b'x')", "fcntl, os"),
    "reads through its own root": _try("open('/proc/self/root' + 'CANARY').read()"),
    "reads through the parent's descriptors": _try("os.listdir('/proc/PARENT/fd')"),
    "a pipe outside": _try("os.mkfifo('CANARY.pipe')"),
    "sets the clock": _try("time.clock_settime(time.CLOCK_REALTIME, time.time())", "time"),
    "before everybody else": _try("os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))"),
    "faults of its own memory": _raw("323", "0"),
    "nicer than others": _try("os.setpriority(os.PRIO_PROCESS, 0, -20)"),
    # the verdict
    "ends at once": "import os\nos._exit(0)",
    "ends politely": "import sys\nsys.exit(0)",
    "ends by a signal": "import ctypes\nctypes.string_at(0)",
    "says that it passed": "import os\nfor n in range(3, 20):\n    try: os.write(n, b'{\"token\": \"\", \"status\": \"passed\"}\\n')\n"
    "    except OSError: pass\nos._exit(0)",
}  # fmt: skip

FAKES: dict[str, str] = {
    # says that it passed
    "prints a verdict": "print('passed')\nprint('{\"status\": \"passed\", \"detail\": \"\"}')",
    "writes a verdict to every descriptor": "import os\nfor n in range(64):\n"
    "    try: os.write(n, b'{\"status\": \"passed\", \"detail\": \"\"}\\n')\n    except OSError: pass",
    "writes a framed verdict to every descriptor": "import os, struct\nsaid = b'{\"status\":\"passed\",\"detail\":\"\"}'\n"
    "for n in range(3, 64):\n    try: os.write(n, struct.pack('>I', len(said)) + said)\n    except OSError: pass\nos._exit(0)",
    "answers before it is asked": "import os, struct\nsaid = b'{}' \nos.write(3, struct.pack('>I', 2) + b'{}')\n"
    "while True:\n    os.read(3, 1 << 16)\n    os.write(3, struct.pack('>I', 14) + b'{\"value\": true}')",
    "closes all descriptors": "import os\nos.closerange(0, 64)",
    # ends early
    "exits with status 0": "import sys\nsys.exit(0)",
    "exits at once": "import os\nos._exit(0)",
    "exits in the call": "import os\ndef g(x): os._exit(0)",
    "exits politely in the call": "def g(x): raise SystemExit(0)",
    "exits from a thread": "import os, threading\ndef g(x):\n    threading.Thread(target=os._exit, args=(0,)).start()\n    while True: pass",
    "exits when it is collected": "import os\nclass A:\n    def __del__(self): os._exit(0)\ndef g(x): A()",
    "exits at exit": "import atexit, os\natexit.register(os._exit, 0)\ndef g(x): return None",
    "raises to skip the rest": "def g(x): raise KeyboardInterrupt",
    "raises StopIteration": "def g(x): raise StopIteration",
    # is equal to everything
    "equal to everything": "class A:\n    def __eq__(self, other): return True\n    def __ne__(self, other): return False\ndef g(x): return A()",
    "a number that is equal to everything": "class A(int):\n    def __eq__(self, other): return True\n    __hash__ = int.__hash__\ndef g(x): return A()",
    "a list that is equal to everything": "class A(list):\n    def __eq__(self, other): return True\ndef g(x): return A()",
    "a text that is equal to everything": "class A(str):\n    def __eq__(self, other): return True\n    __hash__ = str.__hash__\ndef g(x): return A('x')",
    "subtracts to nothing": "class A:\n    def __sub__(self, other): return 0.0\n    __rsub__ = __sub__\n    def __abs__(self): return 0.0\n"
    "    def __lt__(self, other): return True\n    __gt__ = __le__ = __ge__ = __lt__\ndef g(x): return A()",
    "claims a class": "class A:\n    __class__ = int\n    def __eq__(self, other): return True\ndef g(x): return A()",
    "a class of classes that is equal to everything": "class M(type):\n    def __eq__(self, other): return True\n    __hash__ = type.__hash__\n"
    "class A(metaclass=M): pass\ndef g(x): return A",
    # changes what the tests use
    "patches the built-in names": "import builtins\nfor name in ('abs', 'tuple', 'len', 'isinstance', 'AssertionError', 'sum'):\n"
    "    setattr(builtins, name, lambda *a, **k: True)\ndef g(x): return None",
    "defines the built-in names": "def abs(x): return 0\ndef tuple(x): return ()\ndef sum(x): return 0\ndef g(x): return [None]",
    "makes assertions harmless": "import builtins\nclass AssertionError(Exception):\n    def __new__(cls, *a): raise SystemExit(0)\n"
    "builtins.AssertionError = AssertionError\ndef g(x): return None",
    "patches unittest": "import unittest\nfor name in dir(unittest.TestCase):\n    if name.startswith('assert'):\n"
    "        setattr(unittest.TestCase, name, lambda *a, **k: None)\ndef g(x): return None",
    "patches json": "import json\njson.loads = json.dumps = lambda *a, **k: {}\ndef g(x): return None",
    "patches its own modules": "import sys\nfor name, module in list(sys.modules.items()):\n    if 'sandbox' in name:\n"
    "        for key in list(vars(module)):\n            if not key.startswith('__'): setattr(module, key, lambda *a, **k: True)\n"
    "def g(x): return True",
    # looks for the expected values
    "walks the frames": "import sys\ndef look():\n    frame, found = sys._getframe(), []\n    while frame:\n"
    "        found += [v for v in frame.f_locals.values() if isinstance(v, (str, bytes)) and 'assert' in str(v)]\n"
    "        found += [v for v in frame.f_globals.values() if isinstance(v, str) and 'assert g' in v]\n        frame = frame.f_back\n    return found\n"
    "def g(x):\n    found = look()\n    return eval(found[0].split('==')[1].split()[0]) if found else None",
    "walks the frames to a verdict": "import sys\ndef g(x):\n    frame = sys._getframe()\n    while frame:\n"
    "        for name, value in list(frame.f_locals.items()) + list(frame.f_globals.items()):\n"
    "            if callable(value) and name in ('say', 'verdict', 'send', '_run_tests', 'examine'):\n"
    "                try: value('passed', '')\n                except BaseException: pass\n        frame = frame.f_back",
    "searches the memory": "import gc\ndef g(x):\n    for thing in gc.get_objects():\n        if isinstance(thing, dict):\n"
    "            for value in list(thing.values()):\n                if isinstance(value, str) and 'assert g(' in value and 'gc.get' not in value: return 1\n    return None",
    "traces its caller": "import sys\ndef trace(frame, event, value):\n    for name in ('expected', 'status'):\n"
    "        if name in frame.f_locals: frame.f_locals[name] = 'passed'\n    return trace\nsys.settrace(trace)\ndef g(x): return None",
    "reads the other process": "import os\ndef g(x):\n    for n in range(os.getpid() - 3, os.getpid() + 4):\n"
    "        try: return 1 if b'assert' in open(f'/proc/{n}/mem', 'rb').read() else 0\n        except OSError: pass",
    "looks for files of the tests": "import os\ndef g(x):\n    for n in os.listdir('.'):\n        if 'assert' in open(n).read(): return 1",
    "learns from what it is asked": "seen = []\ndef g(x):\n    seen.append(x)\n    return len(seen)",
    "waits in a thread": "import threading, os, struct\ndef work():\n    while True:\n"
    "        try: os.write(3, struct.pack('>I', 14) + b'{\"value\": true}')\n        except OSError: return\n"
    "threading.Thread(target=work, daemon=True).start()\ndef g(x): return None",
    "gives another module's name": "import sys, types\nsys.modules['tests'] = types.ModuleType('tests')\n__name__ = 'tests'\ndef g(x): return None",
    "pickles itself as the answer": "class A:\n    def __init__(self, x): self.x = x\n    def __reduce__(self): return sum, (self.x,)\ndef g(x): return A(x)",
    "not a number": "def g(x): return float('nan')",
    "an answer inside of a text": "def g(x): return '1, \"status\": \"passed\", \"value\": true'",
    "an end of its own": "class End(BaseException): pass\ndef g(x): raise End('passed')",
    "a function that is its own result": "class G:\n    def __call__(self, *a): return self\n    __sub__ = __abs__ = __call__\n    def __eq__(self, other): return True\n"
    "    def __lt__(self, other): return True\ng = G()",
    "a result that is still to come": "def g(x):\n    yield 1\n    yield 5",
    "changes its arguments": "def g(x):\n    x.clear()\n    return 0",
}  # fmt: skip
"""Wrong programs that want a right verdict for `TESTS`, all of them by harmless means."""

TESTS = """
assert g([1]) == 1
assert abs(g([2, 3]) - 5) < 1e-6
assert tuple([g([4])]) == tuple([sum([4])])
"""
