"""What the operating system forbids the process that runs a submission. Standard library only.

Runs inside the child, before the first line of the submission. Three layers, none of which needs
privileges and none of which can be taken off again:

    limits    setrlimit: memory, processor time, no bytes into any file, few open files
    seccomp   no new process or thread, no socket, no signal to others, no change to any file
    Landlock  no reading but of Python's own libraries

Where the kernel has no seccomp or no Landlock (not Linux, or an old one), an audit hook refuses
the same inside Python. That stops accidents, not a determined attacker; `apply` says which it was.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import resource
import struct
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

CALLS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())
"""System calls that are "forbidden", "unknown" or "judged": their numbers on each machine."""
SIGNALLING = {"F_SETOWN": 8, "F_SETSIG": 10, "F_SETOWN_EX": 15}
"""fcntl's commands by which a pipe of one's own sends a signal to any process of the same user."""
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""Column of the tables above, and the kernel's name of the architecture (AUDIT_ARCH_*)."""

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
ALLOW, REFUSE, NO_SUCH, KILL = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS, 0
LANDLOCK = {"create": 444, "add_rule": 445, "restrict": 446}
READ_FILE, READ_DIR = 1 << 2, 1 << 3
EVERYTHING = (1 << 13) - 1
"""Landlock's access rights of its first version; later ones only name further kinds of writing."""


def limit(memory_mb: int, seconds: int) -> None:
    """Limits the memory, in MiB on top of what is mapped now, and the processor seconds in all."""
    limits = {resource.RLIMIT_CPU: seconds, resource.RLIMIT_NOFILE: 64}
    limits |= {resource.RLIMIT_FSIZE: 0, resource.RLIMIT_CORE: 0}
    with contextlib.suppress(OSError):  # no /proc: not Linux, whose address space has no limit
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limits[resource.RLIMIT_AS] = pages * resource.getpagesize() + memory_mb * 2**20
    for what, value in limits.items():
        hard = resource.getrlimit(what)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(what, (value, value))


def apply(readable: Iterable[Path], listable: Iterable[Path], kernel: bool = True) -> str:
    """Takes away all that a submission does not need. There is no way back.

    Args:
        readable: files and folders that may still be read.
        listable: folders whose names may be listed, which importing needs.
        kernel: False leaves out seccomp and Landlock; one line says which layers hold.
    """
    rights = {path.resolve(): READ_DIR for path in listable if path.is_dir()}
    for path in (path.resolve() for path in readable if path.exists()):
        rights[path] = READ_FILE | READ_DIR if path.is_dir() else READ_FILE
    layers = ["limits"]
    if kernel and sys.platform == "linux" and platform.machine() in MACHINES:
        libc = ctypes.CDLL(None, use_errno=True)
        # PR_SET_NO_NEW_PRIVS: asked for by both; also makes set-uid programs harmless.
        if libc.prctl(38, 1, 0, 0, 0) == 0:
            # capset: whoever grades as root does not hand root's powers down.
            libc.capset(struct.pack("=Ii", 0x20080522, 0), bytes(24))
            layers += ["Landlock"] if _landlock(libc, rights) else []
            layers += ["seccomp"] if _seccomp(libc) else []
    if len(layers) < 3:
        _audit([str(path) for path, right in rights.items() if right & READ_FILE])
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
        layers.append("refusals inside Python only")
    return ", ".join(layers)


def _landlock(libc: ctypes.CDLL, rights: dict[Path, int]) -> bool:
    """Allows what `rights` says for each path and below it, and nothing else on any file system."""
    handled = ctypes.c_uint64(EVERYTHING)
    ruleset = libc.syscall(LANDLOCK["create"], ctypes.byref(handled), ctypes.c_size_t(8), 0)
    if ruleset < 0:
        return False
    for path, allowed in rights.items():
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rule = ctypes.create_string_buffer(struct.pack("=Qi", allowed, place), 12)
        added = libc.syscall(LANDLOCK["add_rule"], ruleset, 1, rule, 0)
        os.close(place)
        if added < 0:
            return False
    done = libc.syscall(LANDLOCK["restrict"], ruleset, 0) == 0
    os.close(ruleset)
    return done


def _seccomp(libc: ctypes.CDLL) -> bool:
    """Installs the filter of `program` in all threads of this process."""
    column, architecture = MACHINES[platform.machine()]
    code = program(column, architecture, os.getpid())
    buffer = ctypes.create_string_buffer(code, len(code))
    # struct sock_fprog { unsigned short len; struct sock_filter *filter; }
    header = struct.pack("HxxxxxxQ", len(code) // 8, ctypes.addressof(buffer))
    # SECCOMP_SET_MODE_FILTER with SECCOMP_FILTER_FLAG_TSYNC
    return libc.syscall(CALLS["judged"]["seccomp"][column], 1, 1, header) == 0


def program(column: int, architecture: int, pid: int) -> bytes:
    """The seccomp filter as classic BPF: a list of (code, jump if true, jump if false, value)."""
    load, equal, any_bit, at_least, answer = 0x20, 0x15, 0x45, 0x35, 0x06
    low = [(load, 0, 0, 16 + 8 * i) for i in range(6)]  # an argument's lower half
    refuse, allow = (answer, 0, 0, REFUSE), (answer, 0, 0, ALLOW)
    code = [
        (load, 0, 0, 4),
        (equal, 1, 0, architecture),
        (answer, 0, 0, KILL),
        (load, 0, 0, 0),
        (at_least, 0, 1, 0x40000000),  # x32, a second set of numbers on x86-64
        refuse,
    ]

    def case(kind: str, name: str, *body: tuple) -> None:
        number = CALLS[kind][name][column]
        if number >= 0:
            code.extend([(equal, 0, len(body), number), *body])

    for name in CALLS["forbidden"]:
        case("forbidden", name, refuse)
    for name in CALLS["unknown"]:
        case("unknown", name, (answer, 0, 0, NO_SUCH))
    case("judged", "open", low[1], (any_bit, 0, 1, WRITING), refuse, allow)
    case("judged", "openat", low[2], (any_bit, 0, 1, WRITING), refuse, allow)
    case("judged", "tgkill", low[0], (equal, 1, 0, pid), refuse, allow)  # abort() uses it
    signals = [((equal, 0, 1, command), refuse) for command in SIGNALLING.values()]
    case("judged", "fcntl", low[1], *(part for pair in signals for part in pair), allow)
    # prlimit64 may read limits but not set them: its third argument must be NULL, both halves.
    high = (load, 0, 0, low[2][3] + 4)
    case("judged", "prlimit64", low[2], (equal, 0, 2, 0), high, (equal, 1, 0, 0), refuse, allow)
    code.append(allow)
    return b"".join(struct.pack("HBBI", *instruction) for instruction in code)


def _audit(readable: list[str]) -> None:
    """Refuses inside Python what the kernel is not there to refuse."""
    inside = tuple(path + os.sep if os.path.isdir(path) else path for path in readable)
    refused = ("socket.", "subprocess.", "os.", "shutil.", "pty.", "ctypes.", "_thread.", "fcntl.")
    harmless = ("os.listdir", "os.scandir", "os.walk", "os.putenv", "os.unsetenv")

    def hook(event: str, args: tuple) -> None:
        if event == "open":
            path, mode, flags = args
            known = isinstance(path, int) or os.path.realpath(os.fsdecode(path)).startswith(inside)
            if flags & WRITING or not known:
                raise PermissionError(errno.EPERM, "a submission may not open this file", str(path))
        elif event.startswith(refused) and event not in harmless:
            raise PermissionError(errno.EPERM, f"a submission may not use {event}")

    sys.addaudithook(hook)
