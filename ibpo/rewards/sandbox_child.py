"""The inside of the sandbox: give up every power that running a program's tests does not need, then run it.

Run as a script, `python -I -S -B sandbox_child.py VERDICT_FD`, with the job as JSON on stdin; standard library only.
Two locks of the Linux kernel, which need no privileges and work inside containers too:

- Landlock (kernel 5.13+): files outside the scratch folder cannot be opened, made, changed or removed, save for reading
  Python's own libraries; no TCP (6.7+) and no signals to other processes (6.12+).
- seccomp: a list of the system calls that are allowed. Not on it, so refused: new processes, other programs, sockets,
  signals, tracing, changes of modes, owners and limits, shared memory, mounting, io_uring.

What stays visible: whether a path outside exists and its size (stat). Filters cannot hide that without mount
namespaces, which containers mostly forbid.
"""

import builtins
import ctypes
import errno
import json
import os
import platform
import resource
import struct
import sys
import sysconfig
import types

SYSCALLS = """
read 0 63 write 1 64 open 2 - close 3 57 stat 4 - fstat 5 80 lstat 6 - poll 7 - lseek 8 62 mmap 9 222 mprotect 10 226
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
CLONE_THREAD = 0x10000

IOCTLS = (0x5401, 0x802C542A, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
"""TCGETS, TCGETS2, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX."""

FCNTLS = (0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030, 1032)
"""Descriptors, flags and locks; not F_SETOWN and F_SETSIG, which send signals to others."""
LOAD, EQUAL, ANY_BIT, AND, RETURN = 0x20, 0x15, 0x45, 0x54, 0x06
ALLOW, KILL, REFUSE = 0x7FFF0000, 0x80000000, 0x00050000

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


def confine_files(libc: ctypes.CDLL, scratch: str, readable: list) -> None:
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
    libraries |= {"/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo", *readable}
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
    when(CLONE3[column], refuse(errno.ENOSYS))  # its flags lie in memory; the C library falls back to clone
    for call, index, values, code in ((IOCTL, 1, IOCTLS, errno.ENOTTY), (FCNTL, 1, FCNTLS, errno.EPERM)):
        checks = [check for value in values for check in ((EQUAL, 0, 1, value), allow)]
        when(call[column], argument(index), *checks, refuse(code))
    stream_pair = [argument(0), (EQUAL, 0, 4, 1), argument(1), (AND, 0, 0, 0xF), (EQUAL, 0, 1, 1)]
    when(SOCKETPAIR[column], *stream_pair, allow, refuse(errno.EPERM))  # asyncio needs one; it leads nowhere else
    nothing_new = [argument(2), (EQUAL, 0, 5, 0), argument(2, high=True), (EQUAL, 0, 3, 0), argument(0)]
    when(PRLIMIT[column], *nothing_new, (EQUAL, 0, 1, 0), allow, refuse(errno.EPERM))  # read one's own limits
    program.append(refuse(errno.EPERM))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def confine_system_calls(libc: ctypes.CDLL) -> None:
    """seccomp: only what `SYSCALLS` names."""
    code = system_call_filter()
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
    _checked(libc.prctl(22, 2, program, 0, 0), "seccomp")


def confine(scratch: str, readable: list) -> None:
    """Lock this process in, for good."""
    if sys.platform != "linux":
        raise Unconfined(f"{sys.platform} has neither Landlock nor seccomp; it needs Linux")
    libc = ctypes.CDLL(None, use_errno=True)
    _checked(libc.prctl(38, 1, 0, 0, 0), "no_new_privs")
    confine_files(libc, scratch, readable)
    confine_system_calls(libc)


def _checked(result: int, what: str) -> int:
    if result < 0:
        raise Unconfined(f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def main() -> None:
    """Read the job, confine, run, and write the verdict."""
    verdict = int(sys.argv[1])
    job = json.load(sys.stdin)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(job["scratch"])
    say = _speaker(verdict, job.pop("token"))
    sys.argv = ["program"]
    try:
        limit_resources(job["limits"])
        if job["isolate"]:
            confine(job["scratch"], job["readable"])
    except (Unconfined, OSError, ValueError) as error:
        return say("unconfined", str(error))
    module = types.ModuleType("program")
    module.__dict__["__builtins__"] = builtins
    sys.modules["program"] = module
    try:
        exec(compile(job["program"], "program.py", "exec"), module.__dict__)
    except MemoryError:
        return say("memory", "")
    except BaseException as error:
        return say("failed", _describe(error))
    return say("passed", "")


def _speaker(descriptor: int, token: str):
    def say(status: str, detail: str) -> None:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except Exception:
                continue
        os.write(descriptor, json.dumps({"token": token, "status": status, "detail": detail[:500]}).encode() + b"\n")
        os._exit(0)  # threads left behind do not count

    return say


def _describe(error: BaseException) -> str:
    line, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "program.py":
            line = trace.tb_lineno
        trace = trace.tb_next
    try:
        text = str(error)
    except Exception:
        text = ""
    name = type(error).__name__
    return f"{name}{': ' + text if text else ''}{f' (line {line})' if line else ''}"


if __name__ == "__main__":
    main()
