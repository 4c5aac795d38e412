# ruff: noqa: E501
"""Hostile programs: what each tries must fail inside the sandbox, and the program be over within its limits.

CANARY stands for a file outside, PARENT for the process id of the test, PORT and SOCKET for a listening server's. A
program that reaches its goal raises `SystemExit("BROKE OUT")`; what it raises otherwise does not matter.
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
    "nicer than others": _try("os.setpriority(os.PRIO_PROCESS, 0, -20)"),
    # the verdict
    "ends at once": "import os\nos._exit(0)",
    "ends politely": "import sys\nsys.exit(0)",
    "ends by a signal": "import ctypes\nctypes.string_at(0)",
    "says that it passed": "import os\nfor n in range(3, 20):\n    try: os.write(n, b'{\"token\": \"\", \"status\": \"passed\"}\\n')\n"
    "    except OSError: pass\nos._exit(0)",
}  # fmt: skip
