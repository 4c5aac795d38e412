"""The inside of the sandbox: a starter forks processes for one program after another, and each gives up its powers.

Run as a script, `python -I -S -B sandbox_child.py CONTROL_FD JUDGE_PID TALK_FILE isolate|free`; standard library only.
A program and its tests run in two processes, which talk as `sandbox_talk.py` says; a program without tests has one.
The starter is forked from, because a fork takes a tenth of what starting Python takes. What it never has: the
programs, the tests, a verdict.

Two locks of the Linux kernel, which need no privileges and work inside containers too:

- Landlock (kernel 5.13+): files outside the scratch folder cannot be opened, made, changed or removed, except reading
  Python's own libraries; no TCP (6.7+) and no signals to other processes (6.12+).
- seccomp: a list of the system calls that are allowed. Not on it, so refused: new processes, other programs, sockets,
  signals, tracing, changes of modes, owners and limits, shared memory, files mapped to be written, mounting, io_uring.

The starter looks every 20 ms at the bytes that a program has written in all, wherever they are by now. Where the kernel
grants namespaces to users, the scratch folder is a file system in memory as well, whose size no program exceeds: what
is unlinked or mapped counts until it is gone. Elsewhere (many containers) it is on disk.

What stays visible: whether a path outside exists and its size (stat). Filters cannot hide that without mount
namespaces, which containers mostly forbid.
"""

import ast
import builtins
import contextlib
import ctypes
import errno
import fcntl
import functools
import gc
import importlib
import importlib.util
import json
import os
import platform
import re
import resource
import select
import shutil
import signal
import socket
import struct
import sys
import sysconfig
import tempfile
import textwrap
import types

SYSCALLS = """
read 0 63 write 1 64 open 2 - close 3 57 stat 4 - fstat 5 80 lstat 6 - poll 7 - lseek 8 62 mprotect 10 226
munmap 11 215 brk 12 214 rt_sigaction 13 134 rt_sigprocmask 14 135 rt_sigreturn 15 139 pread64 17 67 pwrite64 18 68
readv 19 65 writev 20 66 access 21 - pipe 22 - select 23 - sched_yield 24 124 mremap 25 216 msync 26 227 mincore 27 232
madvise 28 233 dup 32 23 dup2 33 - pause 34 - nanosleep 35 101 getitimer 36 102 alarm 37 - setitimer 38 103
getpid 39 172 sendto 44 206 recvfrom 45 207 exit 60 93 uname 63 160 flock 73 32 fsync 74 82 fdatasync 75 83
ftruncate 77 46 getcwd 79 17 chdir 80 49 fchdir 81 50 rename 82 - rmdir 84 - creat 85 - unlink 87 - readlink 89 -
umask 95 166 gettimeofday 96 169 getrlimit 97 163 getrusage 98 165 sysinfo 99 179 times 100 153 getuid 102 174
getgid 104 176 geteuid 107 175 getegid 108 177 getppid 110 173 getpgrp 111 - getgroups 115 158 getresuid 118 148
getresgid 120 150 getpgid 121 155 getsid 124 156 rt_sigpending 127 136 rt_sigtimedwait 128 137 sigaltstack 131 132
getpriority 140 141 sched_getparam 143 121 sched_getscheduler 145 120 sched_get_priority_max 146 125
sched_get_priority_min 147 126 arch_prctl 158 - gettid 186 178 time 201 - futex 202 98 sched_getaffinity 204 123
epoll_create 213 - getdents64 217 61 set_tid_address 218 96 restart_syscall 219 128 clock_gettime 228 113
clock_getres 229 114 clock_nanosleep 230 115 exit_group 231 94 epoll_wait 232 - epoll_ctl 233 21 openat 257 56
newfstatat 262 79 unlinkat 263 35 renameat 264 38 readlinkat 267 78 faccessat 269 48 pselect6 270 72 ppoll 271 73
set_robust_list 273 99 epoll_pwait 281 22 eventfd2 290 19 epoll_create1 291 20 dup3 292 24 pipe2 293 59
renameat2 316 276 getrandom 318 278 membarrier 324 283 copy_file_range 326 285 statx 332 291 rseq 334 293
close_range 436 436 faccessat2 439 439
"""
"""Name, number on x86_64, number on aarch64 (- where it has none): allowed whatever the arguments."""
ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
CLONE, CLONE3, IOCTL, FCNTL, SOCKETPAIR, PRLIMIT = (56, 220), (435, 435), (16, 29), (72, 25), (53, 199), (302, 261)
MMAP, CAPSET = (9, 222), (126, 91)
CLONE_THREAD, MAP_ANONYMOUS = 0x10000, 0x20

IOCTLS = (0x5401, 0x802C542A, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
"""TCGETS, TCGETS2, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX."""

FCNTLS = (0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030, 1032)
"""Descriptors, flags and locks; not F_SETOWN and F_SETSIG, which send signals to others."""
LOAD, EQUAL, ANY_BIT, AND, RETURN = 0x20, 0x15, 0x45, 0x54, 0x06
ALLOW, KILL, REFUSE = 0x7FFF0000, 0x80000000, 0x00050000

MESSAGE_BYTES = 8192
"""Every message on the control socket has this length."""
POLL_MILLISECONDS = 20
PRELOADED = (
    *("string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random", "statistics"),
    *("itertools", "functools", "operator", "io", "typing", "dataclasses", "decimal", "fractions", "hashlib"),
)
"""Imported before the forks, so that programs need not wait for them."""

READ, WRITE, LIST, REMOVE_FILE, MAKE_FILE, REFER, TRUNCATE, IOCTL_DEVICE = (1 << i for i in (2, 1, 3, 5, 8, 13, 14, 15))


class Unconfined(Exception):
    """The kernel does not offer what the sandbox is made of."""


def limit_resources(limits: dict) -> None:
    """CPU seconds, bytes of memory and of each file, open files; no core dumps."""
    for name, value in (
        ("CPU", int(limits["cpu_seconds"]) or 1),
        ("AS", limits["memory_bytes"]),
        ("FSIZE", limits["file_bytes"]),
        ("NOFILE", 64),
        ("CORE", 0),
    ):
        kind = getattr(resource, f"RLIMIT_{name}")
        _, hard = resource.getrlimit(kind)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        last = value + 1 if name == "CPU" and (hard == resource.RLIM_INFINITY or value < hard) else value
        resource.setrlimit(kind, (value, last))  # CPU: first SIGXCPU, which says why, then SIGKILL


def confine_files(libc: ctypes.CDLL, scratch: str) -> None:
    """Landlock: the scratch folder to read and write, libraries to read, nothing else."""
    abi = libc.syscall(444, None, 0, 1)
    if abi < 1:
        raise Unconfined(f"this kernel has no Landlock ({os.strerror(ctypes.get_errno())}); it needs Linux 5.13+")
    files = (1 << 13) - 1
    for since, bit in ((2, REFER), (3, TRUNCATE), (5, IOCTL_DEVICE)):
        files |= bit if abi >= since else 0
    attributes = struct.pack("=QQQ", files, 3 if abi >= 4 else 0, 3 if abi >= 6 else 0)
    attributes = attributes[: 24 if abi >= 6 else 16 if abi >= 4 else 8]
    ruleset = _checked(libc.syscall(444, attributes, len(attributes), 0), "landlock_create_ruleset")
    libraries = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), os.path.join(sys.base_prefix, "lib")}
    libraries |= {"/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo"}
    rules = [(path, READ | LIST) for path in libraries]
    rules += [(path, READ) for path in ("/etc/ld.so.cache", "/etc/localtime", "/dev/urandom", "/dev/zero")]
    rules += [("/dev/null", READ | WRITE), (scratch, READ | LIST | WRITE | REMOVE_FILE | MAKE_FILE | TRUNCATE)]
    for path, access in rules:
        if not os.path.exists(path):
            continue
        if not os.path.isdir(path):
            access &= ~LIST
        beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rule = struct.pack("=Qi", access & files, beneath)
        _checked(libc.syscall(445, ruleset, 1, rule, 0), f"landlock_add_rule {path}")
        os.close(beneath)
    _checked(libc.syscall(446, ruleset, 0), "landlock_restrict_self")
    os.close(ruleset)


def system_call_filter() -> bytes:
    """The seccomp program, as `struct sock_filter` (code, jump if true, jump if false, operand)."""
    if sys.platform != "linux":
        raise Unconfined(f"{sys.platform} has neither Landlock nor seccomp; it needs Linux")
    if platform.machine() not in ARCHITECTURES or sys.byteorder != "little":
        raise Unconfined(f"system calls of {platform.machine()} are not known here; it needs x86_64 or aarch64")
    architecture, column = ARCHITECTURES[platform.machine()]
    words = SYSCALLS.split()
    program = [(LOAD, 0, 0, 4), (EQUAL, 1, 0, architecture), (RETURN, 0, 0, KILL), (LOAD, 0, 0, 0)]

    def when(number: int, *body: tuple) -> None:
        program.extend([(EQUAL, 0, len(body), number), *body])

    def refuse(code: int) -> tuple:
        return (RETURN, 0, 0, REFUSE | code)

    def argument(index: int, *, high: bool = False) -> tuple:
        return (LOAD, 0, 0, 16 + 8 * index + 4 * high)

    allow = (RETURN, 0, 0, ALLOW)
    for number in words[1 + column :: 3]:
        if number != "-":
            when(int(number), allow)
    when(CLONE[column], argument(0), (ANY_BIT, 0, 1, CLONE_THREAD), allow, refuse(errno.EPERM))
    when(CLONE3[column], refuse(errno.ENOSYS))  # its flags are in memory; the C library falls back to clone
    for call, index, values, code in ((IOCTL, 1, IOCTLS, errno.ENOTTY), (FCNTL, 1, FCNTLS, errno.EPERM)):
        checks = [check for value in values for check in ((EQUAL, 0, 1, value), allow)]
        when(call[column], argument(index), *checks, refuse(code))
    stream_pair = [argument(0), (EQUAL, 0, 4, 1), argument(1), (AND, 0, 0, 0xF), (EQUAL, 0, 1, 1)]
    when(SOCKETPAIR[column], *stream_pair, allow, refuse(errno.EPERM))  # asyncio needs one; it leads nowhere else
    # A file mapped to be shared is written without a system call that counts; memory of one's own may be shared.
    shared_file = [argument(3), (ANY_BIT, 2, 0, MAP_ANONYMOUS), (AND, 0, 0, 0xF), (EQUAL, 0, 1, 2)]
    when(MMAP[column], *shared_file, allow, refuse(errno.EPERM))
    nothing_new = [argument(2), (EQUAL, 0, 5, 0), argument(2, high=True), (EQUAL, 0, 3, 0), argument(0)]
    when(PRLIMIT[column], *nothing_new, (EQUAL, 0, 1, 0), allow, refuse(errno.EPERM))  # read one's own limits
    program.append(refuse(errno.EPERM))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def confine_system_calls(libc: ctypes.CDLL, code: bytes) -> None:
    """seccomp: only what `SYSCALLS` names."""
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
    _checked(libc.prctl(22, 2, program, 0, 0), "seccomp")


def confine(scratch: str, code: bytes) -> None:
    """Lock this process in permanently."""
    libc = ctypes.CDLL(None, use_errno=True)
    _checked(libc.prctl(38, 1, 0, 0, 0), "no_new_privs")
    _, column = ARCHITECTURES[platform.machine()]
    # Version 3 of the header, and no capability: the starter has them all in a namespace of its own.
    _checked(libc.syscall(CAPSET[column], struct.pack("=Ii", 0x20080522, 0), bytes(24)), "capset")
    confine_files(libc, scratch)
    confine_system_calls(libc, code)


def _checked(result: int, what: str) -> int:
    if result < 0:
        raise Unconfined(f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


class Starter:
    """Forks the processes of one program after another: it never reads what they are given, and runs none of it.

    A message on the control socket brings descriptors: a lifeline, and what the processes need. Over the lifeline goes
    how they ended; where its other end is closed, they are killed. Where the judge ends, however it does, this process
    sees it and ends too, and the kernel kills the others with it.
    """

    def __init__(self, control: socket.socket, judge: int, *, isolate: bool) -> None:
        self.control, self.isolate, self.jobs = control, isolate, []
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.on_disk = not (isolate and self._make_namespaces())
        self.filter = b""
        with contextlib.suppress(Unconfined):  # said again where it is needed
            self.filter = system_call_filter()
        self.poll = select.poll()
        self.poll.register(control, select.POLLIN)
        self.judge = -1
        if hasattr(os, "pidfd_open"):  # elsewhere the end of the control socket has to do
            with contextlib.suppress(OSError):
                self.judge = os.pidfd_open(judge)
                self.poll.register(self.judge, select.POLLIN)
        self.awake, self.waker = socket.socketpair()
        for end in (self.awake, self.waker):
            end.setblocking(False)
        self.poll.register(self.awake, select.POLLIN)
        signal.set_wakeup_fd(self.waker.fileno())
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        gc.freeze()  # a collection would write to pages that the forked processes share

    def _make_namespaces(self) -> bool:
        """Mounts of its own, where the kernel allows them: tried in another process, for there is no way back."""

        def enter() -> None:
            user, group = os.getuid(), os.getgid()
            if self.libc.unshare(0x10000000 | 0x00020000) < 0:  # users, mounts
                raise OSError(ctypes.get_errno(), "unshare")
            maps = (("setgroups", "deny"), ("gid_map", f"{group} {group} 1"), ("uid_map", f"{user} {user} 1"))
            for name, text in maps:
                with open(f"/proc/self/{name}", "w") as file:
                    file.write(text)

        if sys.platform != "linux":
            return False
        probe = os.fork()
        if probe == 0:
            works = False
            with contextlib.suppress(OSError):
                enter()
                os.listdir(sysconfig.get_path("stdlib"))  # a root without its powers may lose sight of it
                works = self._mount(tempfile.gettempdir(), {"scratch_bytes": 1 << 16, "num_files": 2})
            os._exit(0 if works else 1)
        if os.waitpid(probe, 0)[1] != 0:
            return False
        enter()
        return True

    def _mount(self, folder: str, limits: dict) -> bool:
        """A file system in memory: no set-user-id, no devices, no programs."""
        options = f"size={limits['scratch_bytes']},nr_inodes={limits['num_files'] + 1},mode=700"
        return self.libc.mount(b"ibpo", folder.encode(), b"tmpfs", 2 | 4 | 8, options.encode()) == 0

    def run(self):
        """Start and reap until the judge ends. In a forked process: returns what it has to do."""
        while True:
            events = dict(self.poll.poll(POLL_MILLISECONDS if self.jobs else None))
            if self.judge in events:
                break
            if self.control.fileno() in events:
                message, descriptors, _, _ = socket.recv_fds(self.control, MESSAGE_BYTES, 8)
                if not message:
                    break
                work = self._start(json.loads(message), descriptors)
                if work is not None:
                    return work
            with contextlib.suppress(BlockingIOError):
                self.awake.recv(MESSAGE_BYTES)
            for job in self.jobs:
                if job["lifeline"] in events or self._writes_too_much(job):
                    self._kill(job)
            self._reap()
        for job in self.jobs:
            self._kill(job)
            self._clean(job)
            shutil.rmtree(job["scratch"], ignore_errors=True)
        os._exit(0)

    def _start(self, asked: dict, descriptors: list):
        """Fork the program's process, and the tests' where there are some; in these processes: their work."""
        lifeline, status, out, err, *given = descriptors
        job = {"lifeline": lifeline, "pids": {}, "codes": {}, "ended": "", **asked}
        if not self.on_disk and not self._mount(job["scratch"], job["limits"]):
            job["ended"] = f"mount: {os.strerror(ctypes.get_errno())}"
            given = []
        ends = [end.detach() for end in socket.socketpair()] if len(given) == 2 else [os.open(os.devnull, os.O_RDWR)]
        starter = os.getpid()
        for role, task, end in zip(("program", "tests"), given, ends):  # noqa: B905
            outputs = (out, err) if role == "program" else (os.open(os.devnull, os.O_WRONLY),) * 2
            pid = os.fork()
            if pid == 0:
                return functools.partial(self._work, role, job, starter, [task, *outputs, end, status])
            job["pids"][role] = pid
            if role == "tests":
                os.close(outputs[0])
        for descriptor in (status, out, err, *descriptors[4:], *ends):
            os.close(descriptor)
        self.poll.register(lifeline, select.POLLIN)
        self.jobs.append(job)
        return None

    def _writes_too_much(self, job: dict) -> bool:
        """Whether a program wrote too much in all, wherever it is by now, or made too many files."""
        limits = job["limits"]
        try:
            with open(f"/proc/{job['pids']['program']}/io") as file:
                written = int(file.read().partition("wchar: ")[2].split()[0])
            over = written > limits["scratch_bytes"] or len(os.listdir(job["scratch"])) > limits["num_files"]
        except (OSError, IndexError, KeyError):  # it has ended
            return False
        job["ended"] = job["ended"] or ("files" if over else "")
        return over

    def _kill(self, job: dict) -> None:
        for role, pid in job["pids"].items():
            if role not in job["codes"]:
                _kill_group(pid)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)  # it may not have its group yet

    def _reap(self) -> None:
        for job in self.jobs.copy():
            for role, pid in job["pids"].items():
                if role not in job["codes"] and (ended := os.waitpid(pid, os.WNOHANG))[0]:
                    job["codes"][role] = os.waitstatus_to_exitcode(ended[1])
                    if not self.isolate:
                        _kill_group(pid)  # what the program has started
                    if role == "tests":
                        self._kill(job)  # all is said
            if len(job["codes"]) == len(job["pids"]):
                self.jobs.remove(job)
                self.poll.unregister(job["lifeline"])
                self._clean(job)
                with contextlib.suppress(OSError):
                    os.write(job["lifeline"], json.dumps({"codes": job["codes"], "ended": job["ended"]}).encode())
                os.close(job["lifeline"])

    def _clean(self, job: dict) -> None:
        if not self.on_disk:
            self.libc.umount2(job["scratch"].encode(), 2)  # it is gone with the last process that uses it

    def _work(self, role: str, job: dict, starter: int, descriptors: list) -> None:
        """In a forked process: keep only its own descriptors, give up all powers, run."""
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if sys.platform == "linux":
            self.libc.prctl(1, int(signal.SIGKILL), 0, 0, 0)  # dies with the starter
        if os.getppid() != starter:
            os._exit(1)
        for place, descriptor in enumerate([fcntl.fcntl(d, fcntl.F_DUPFD, 100) for d in descriptors]):
            os.dup2(descriptor, place)
        os.closerange(STATUS + 1, 1 << 16)
        with open(0, "rb", closefd=False) as file:
            task = json.load(file)
        scratch = job["scratch"]
        os.environ.update(HOME=scratch, TMPDIR=scratch)
        os.chdir(scratch)
        os.dup2(_input(task.get("input")), 0)
        os.closerange(STATUS + 1, 1 << 8)
        sys.argv = ["program"]
        if role == "tests":
            with socket.socket(fileno=os.dup(TALK)) as talk:  # how long an answer may take
                wait = struct.pack("@ll", task["answer_seconds"], 0)
                talk.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, wait)
        try:
            limit_resources(job["limits"])
            if self.isolate:
                confine(scratch, self.filter or system_call_filter())
        except (Unconfined, OSError, ValueError) as error:
            os.write(STATUS, json.dumps({"unconfined": str(error)}).encode() + b"\n")
            os._exit(1)
        if role == "program":
            os.close(STATUS)
            _run_program(task)
        else:
            _run_tests(task)


TALK, STATUS = 3, 4
"""Descriptors of a forked process, behind stdin, stdout and stderr."""


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _input(text: "str | None") -> int:
    """A descriptor from which a text can be read, and nothing written."""
    if text is None:
        return os.open(os.devnull, os.O_RDONLY)
    with open("input", "w", encoding="utf-8", errors="surrogatepass", newline="") as file:
        file.write(text)
    descriptor = os.open("input", os.O_RDONLY)
    os.unlink("input")
    return descriptor


def _run_tests(task: dict) -> None:
    talk = sys.modules["sandbox_talk"]
    status, detail = talk.examine(talk.Channel(TALK), task)
    os.write(STATUS, json.dumps({"status": status, "detail": detail[:500]}).encode() + b"\n")
    os._exit(0)


def _run_program(task: dict) -> None:
    """Run a program to its end; then, where there are tests, answer them."""
    talk = sys.modules["sandbox_talk"]
    alone = "input" in task
    module = types.ModuleType("__main__" if alone else "program")
    module.__dict__["__builtins__"] = builtins
    sys.modules[module.__name__] = module
    said = {}
    try:
        load(task, module.__dict__)
    except SystemExit as error:
        if not alone:
            said = {"error": talk.describe(error, f"line {talk.line_of(error, 'program.py')}")}
    except EOFError:
        # An example of use that asks for input; whether the function is right is for the tests to say.
        if alone:
            said = {"error": "EOFError: it reads more than there is"}
    except BaseException as error:
        line = talk.line_of(error, "program.py")
        said = {"error": talk.describe(error, f"line {line}" if line else "")}
        said["memory"] = isinstance(error, MemoryError)
    if alone:  # the interpreter's usual end: it waits for threads and empties its buffers
        if said:
            sys.stderr.write(f"\n{said['error']}")
        sys.exit(1 if said else 0)
    try:
        channel = talk.Channel(TALK)
        talk.flush()
        channel.send(said)
        talk.serve(channel, module.__dict__, task["call_seconds"])
    except talk.Gone:
        pass
    os._exit(0)  # threads left behind do not count


def load(task: dict, namespace: dict) -> None:
    """Run the program's parts one after another in one namespace; each may begin with `from __future__`.

    Args:
        task: `prelude` (imports), `setup` (the problem's own source), `support` (other blocks of the response, of which
            the definitions count), `program`.
        namespace: of the module that it is to be.

    Raises:
        SyntaxError: of the program as written, where no way to read it makes sense.
    """
    exec(compile(task["prelude"], "prelude.py", "exec", dont_inherit=True), namespace)
    setup, program = task["setup"], task["program"]
    code, continues, refused = None, False, None
    for goes_on, text in ways_to_read(setup, program):
        try:
            code, continues = compile(text, "program.py", "exec", dont_inherit=True), goes_on
            break
        except (SyntaxError, ValueError) as error:
            refused = refused or error
    if code is None:
        raise refused or SyntaxError("nothing to run")
    if setup.strip() and not continues:
        with contextlib.suppress(SyntaxError):  # a prompt may end in the middle of a function
            exec(compile(setup, "setup.py", "exec", dont_inherit=True), namespace)
    for block in task["support"]:
        with contextlib.suppress(Exception):
            tree = ast.parse(block)
            kept = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom | ast.Assign
            tree.body = [node for node in tree.body if isinstance(node, kept)]
            exec(compile(tree, "support.py", "exec", dont_inherit=True), namespace)
    exec(code, namespace)


def ways_to_read(setup: str, program: str) -> list:
    """(whether it goes on from the setup, the text to run), the likeliest first.

    A program that begins with an indented line goes on where the setup ends, or is indented as a whole. One that begins
    without may still be the inside of the setup's function, its first line or all of its indentation lost.
    """
    first = next((line for line in program.splitlines() if line.strip()), "")
    if not first[:1].isspace():
        inside = [f"    {program}", textwrap.indent(program, "    ")] if setup.strip() else []
        return [(False, program), *((True, f"{setup.rstrip()}\n{text}\n") for text in inside)]
    whole = (False, textwrap.dedent(program))
    asked = re.findall(r"^def[ \t]+(\w+)", setup, re.MULTILINE)
    again = asked and re.search(rf"^(?:async[ \t]+)?def[ \t]+{asked[-1]}\b", whole[1], re.MULTILINE)
    if not setup.strip() or again:
        return [whole]
    return [(True, f"{setup}{program}\n"), whole]


def main() -> None:
    """Become a process that nobody has to wait for, and start programs as long as the judge lives."""
    control, judge, talk_file, isolate = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4] == "isolate"
    if os.fork():
        os._exit(0)
    os.setsid()
    spec = importlib.util.spec_from_file_location("sandbox_talk", talk_file)
    assert spec is not None and spec.loader is not None
    sys.modules["sandbox_talk"] = talk = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(talk)
    for name in PRELOADED:
        importlib.import_module(name)
    Starter(socket.socket(fileno=control), judge, isolate=isolate).run()()


if __name__ == "__main__":
    main()
