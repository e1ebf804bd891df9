"""What the operating system forbids the process that runs a submission. Standard library only.

Runs inside the child, after torch is loaded and before the first line of the submission. Three
layers, none of which needs privileges and none of which can be taken off again:

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
from collections.abc import Iterable
from pathlib import Path

# System calls that fail with EPERM, by their numbers on x86-64 and on ARM (asm-generic).
FORBIDDEN = {
    # new programs, processes and threads
    "clone": (56, 220), "fork": (57, None), "vfork": (58, None), "execve": (59, 221),
    "execveat": (322, 281),
    # other processes
    "kill": (62, 129), "tkill": (200, 130), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "setpriority": (141, 140), "sched_setaffinity": (203, 122), "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118), "sched_setattr": (314, 274),
    "setpgid": (109, 154), "ioprio_set": (251, 30), "migrate_pages": (256, 238),
    # network, and what could stand in for it
    "socket": (41, 198), "socketpair": (53, 199), "io_uring_setup": (425, 425),
    "shmget": (29, 194), "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180),
    "shmat": (30, 196), "msgsnd": (69, 189), "semop": (65, 193), "mq_unlink": (241, 181),
    "shmctl": (31, 195), "msgrcv": (70, 188), "semctl": (66, 191), "semtimedop": (220, 192),
    "msgctl": (71, 187),
    # files and their attributes
    "creat": (85, None), "truncate": (76, 45), "rename": (82, None), "renameat": (264, 38),
    "renameat2": (316, 276), "mkdir": (83, None), "mkdirat": (258, 34), "rmdir": (84, None),
    "unlink": (87, None), "unlinkat": (263, 35), "link": (86, None), "linkat": (265, 37),
    "symlink": (88, None), "symlinkat": (266, 36), "mknod": (133, None), "mknodat": (259, 33),
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452),
    "chown": (92, None), "lchown": (94, None), "fchown": (93, 55), "fchownat": (260, 54),
    "utime": (132, None), "utimes": (235, None), "futimesat": (261, None), "utimensat": (280, 88),
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7),
    "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "open_by_handle_at": (304, 265), "flock": (73, 32),
    # the system itself
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
    "unshare": (272, 97), "setns": (308, 268), "bpf": (321, 280), "perf_event_open": (298, 241),
    "userfaultfd": (323, 282), "keyctl": (250, 219), "add_key": (248, 217),
    "request_key": (249, 218), "setrlimit": (160, 164), "reboot": (169, 142), "swapon": (167, 224),
    "init_module": (175, 105), "finit_module": (313, 273), "kexec_load": (246, 104),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "sethostname": (170, 161),
}  # fmt: skip
# Answered with ENOSYS, so that the C library falls back to the older call, which is judged here.
UNKNOWN = {"clone3": (435, 435), "openat2": (437, 437)}
JUDGED = {
    "open": (2, None), "openat": (257, 56), "tgkill": (234, 131),
    "prlimit64": (302, 261), "seccomp": (317, 277), "fcntl": (72, 25),
}  # fmt: skip
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
    """Sets this process's limits; a process cannot raise its own again.

    Args:
        memory_mb: address space in MiB on top of what is mapped now.
        seconds: processor time from the start of the process.
    """
    limits = {
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: 64,
    }
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
        kernel: False leaves out seccomp and Landlock, as on a system that has none.

    Returns:
        One line that says which layers hold.
    """
    rights = {path.resolve(): READ_DIR for path in listable if path.is_dir()}
    for path in (path.resolve() for path in readable if path.exists()):
        rights[path] = READ_FILE | READ_DIR if path.is_dir() else READ_FILE
    layers = []
    if kernel and sys.platform == "linux" and platform.machine() in MACHINES:
        libc = ctypes.CDLL(None, use_errno=True)
        # PR_SET_NO_NEW_PRIVS: asked for by both; also makes set-uid programs harmless.
        if libc.prctl(38, 1, 0, 0, 0) == 0:
            # capset: whoever grades as root does not hand root's powers down.
            libc.capset(struct.pack("=Ii", 0x20080522, 0), bytes(24))
            layers += ["Landlock"] if _landlock(libc, rights) else []
            layers += ["seccomp"] if _seccomp(libc) else []
    if len(layers) < 2:
        _audit([str(path) for path, right in rights.items() if right & READ_FILE])
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
        return ", ".join(["limits", *layers, "refusals inside Python only"])
    return ", ".join(["limits", *layers])


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
    return libc.syscall(JUDGED["seccomp"][column], 1, 1, header) == 0


def program(column: int, architecture: int, pid: int) -> bytes:
    """The seccomp filter as classic BPF: a list of (code, jump if true, jump if false, value)."""
    load, equal, any_bit, at_least, answer = 0x20, 0x15, 0x45, 0x35, 0x06
    low = [16 + 8 * i for i in range(6)]  # offsets of the arguments' lower halves
    number = {name: both[column] for name, both in (FORBIDDEN | UNKNOWN | JUDGED).items()}
    code = [
        (load, 0, 0, 4),
        (equal, 1, 0, architecture),
        (answer, 0, 0, KILL),
        (load, 0, 0, 0),
        (at_least, 0, 1, 0x40000000),  # x32, a second set of numbers on x86-64
        (answer, 0, 0, REFUSE),
    ]
    for name in FORBIDDEN | UNKNOWN:
        if number[name] is not None:
            verdict = NO_SUCH if name in UNKNOWN else REFUSE
            code += [(equal, 0, 1, number[name]), (answer, 0, 0, verdict)]

    def judge(name: str, argument: int, test: int, value: int, if_true: int, if_false: int) -> None:
        if number[name] is not None:
            code.append((equal, 0, 4, number[name]))
            code.append((load, 0, 0, low[argument]))
            code.append((test, 0, 1, value))
            code.extend([(answer, 0, 0, if_true), (answer, 0, 0, if_false)])

    judge("open", 1, any_bit, WRITING, REFUSE, ALLOW)
    judge("openat", 2, any_bit, WRITING, REFUSE, ALLOW)
    judge("tgkill", 0, equal, pid, ALLOW, REFUSE)  # abort() sends one to its own process
    code += [(equal, 0, 2 + 2 * len(SIGNALLING), number["fcntl"]), (load, 0, 0, low[1])]
    for command in SIGNALLING.values():
        code += [(equal, 0, 1, command), (answer, 0, 0, REFUSE)]
    code.append((answer, 0, 0, ALLOW))
    # prlimit64 may read limits but not set them: its third argument must be NULL, both halves.
    code += [
        (equal, 0, 5, number["prlimit64"]),
        (load, 0, 0, low[2]),
        (equal, 0, 2, 0),
        (load, 0, 0, low[2] + 4),
        (equal, 1, 0, 0),
        (answer, 0, 0, REFUSE),
    ]
    code.append((answer, 0, 0, ALLOW))
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
