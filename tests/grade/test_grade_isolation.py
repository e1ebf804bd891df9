"""What a submission cannot do: each attempt is refused or contained, and costs only itself."""

import os
import re
import struct

import numpy as np
import pytest
from assignments import proof

from varmini.grade import lockdown, runner
from varmini.grade.runner import Call, Limits, Session

QUICK = Limits(call_seconds=2.0)
HOSTILE = """
import _thread, ctypes, fcntl, os, resource, signal, socket, subprocess, sys, time
import torch

HERE = {here!r}


def honest(x):
    return x * 2


def endless(x):
    while True:
        pass


def stubborn(x):
    signal.signal(signal.SIGPROF, signal.SIG_IGN)
    while True:
        time.sleep(1)


def leaves(x):
    os._exit(0)


def raises_exit(x):
    sys.exit(0)


def huge_tensor(x):
    return torch.ones(10**13)


def huge_list(x):
    return [0] * 10**13


def recursion(x):
    return recursion(x)


def bottomless(x):
    sys.setrecursionlimit(10**9)
    return recursion(x)


def network(x):
    socket.create_connection(("127.0.0.1", 9))


def raw_network(x):
    return ctypes.CDLL(None).socket(2, 1, 0)


def forks(x):
    for _ in range(100):  # were it let through, a hundred are enough to notice
        if os.fork() == 0:
            time.sleep(5)
            os._exit(0)


def starts_threads(x):
    _thread.stack_size(32768)
    for _ in range(100):
        _thread.start_new_thread(time.sleep, (5,))


def runs(x):
    subprocess.run(["true"])


def fills_disk(x):
    with open("big", "wb") as file:
        file.write(bytes(10**9))


def writes_outside(x):
    open({victim!r}, "w").close()


def reads_reference(x):
    return len(open(HERE + "/varmini/grade/a1_reference.py").read())


def reads_solution(x):
    return len(open(HERE + "/notebooks/assignments/source/a1_quantizer.ipynb").read())


def imports_reference(x):
    from varmini.grade.a1_reference import reference

    return reference


def patches_grader(x):
    open(HERE + "/varmini/grade/checks.py", "a").close()


def removes(x):
    os.remove({victim!r})


def kills_grader(x):
    os.kill(os.getppid(), 0)  # signal 0 only asks whether one could


def signals_grader(x):  # a pipe of one's own that sends SIGIO to whom it is said to belong
    fcntl.fcntl(os.pipe()[0], fcntl.F_SETOWN, os.getppid())


def raw_signals_grader(x):
    return ctypes.CDLL(None).fcntl(os.pipe()[0], fcntl.F_SETOWN, os.getppid())


def looks_at_grader(x):
    return len(open(f"/proc/{{os.getppid()}}/environ", "rb").read())


def lifts_limits(x):
    resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))


def floods(x):
    return torch.zeros(1).expand(10**12)


def returns_code(x):
    class Evil:
        def __reduce__(self):
            return os.system, ("true",)

    return Evil()


def crashes(x):
    ctypes.string_at(0)
"""
CONTAINED = {  # what becomes of each, with the kernel's fences up
    "honest": "ok", "endless": "slow", "stubborn": "slow", "leaves": "died", "crashes": "died",
    "huge_tensor": "memory", "huge_list": "memory", "raises_exit": "SystemExit",
    "recursion": "RecursionError", "network": "PermissionError", "forks": "PermissionError",
    "starts_threads": "RuntimeError", "runs": "PermissionError", "fills_disk": "PermissionError",
    "reads_reference": "PermissionError", "reads_solution": "PermissionError",
    "imports_reference": "ImportError", "patches_grader": "PermissionError",
    "removes": "PermissionError", "kills_grader": "PermissionError",
    "writes_outside": "PermissionError", "signals_grader": "PermissionError",
    "looks_at_grader": "PermissionError", "lifts_limits": "ValueError", "floods": "ValueError",
    "returns_code": "TypeError",
}  # fmt: skip


def call_all(names, victim, kernel=True):
    victim.write_text("still here")
    root = str(proof.NOTEBOOKS.parent.parent)
    calls = [Call(name, (np.arange(6, dtype=np.float32),)) for name in names]
    blocks = [("cell 1", HOSTILE.format(here=root, victim=str(victim)))]
    with Session(blocks, QUICK, kernel) as session:
        answers = session.call(calls)
    assert victim.read_text() == "still here" and "big" not in os.listdir()
    found = {}
    for name, answer in zip(names, answers):
        raised = answer["status"] == "raised"
        found[name] = answer["type"] if raised else answer["status"]
    return found, answers, session.isolation


def test_hostile_functions_are_contained_and_cost_the_others_nothing(tmp_path):
    raw = ("raw_network", "raw_signals_grader")
    names = [*CONTAINED, "bottomless", *raw, "honest"]  # honest: first and last
    found, answers, isolation = call_all(names, tmp_path / "victim")
    expected = CONTAINED | dict.fromkeys(raw, "ok")
    if "Python only" in isolation:  # where ctypes is refused, too
        expected |= dict.fromkeys((*raw, "crashes", "starts_threads"), "PermissionError")
    else:
        assert [answer["value"] for answer in answers[-3:-1]] == [-1, -1]
    assert found.pop("bottomless") in ("slow", "memory", "died")
    assert found == expected
    assert answers[-1]["value"].tolist() == [0, 2, 4, 6, 8, 10]


def test_without_the_kernel_python_refuses_and_says_so(tmp_path):
    """The second best fence, for systems that have neither seccomp nor Landlock."""
    names = [n for n, end in CONTAINED.items() if end in ("PermissionError", "ok", "ImportError")]
    found, _, isolation = call_all(names, tmp_path / "victim", kernel=False)
    assert "inside Python only" in isolation
    assert found == {name: CONTAINED[name] for name in names}


def test_statements_that_end_the_process_are_left_out():
    blocks = [
        ("cell 1", "def early(x):\n    return x"),
        ("cell 2", "import os\nos._exit(1)"),
        ("cell 3", "raise KeyboardInterrupt"),
        ("cell 4", "for fd in range(3, 20):\n    try:\n        os.write(fd, bytes(99))\n"
                   "    except OSError:\n        pass"),
        ("cell 5", "def late(x):\n    return x + 1"),
    ]  # fmt: skip
    calls = [Call("early", (np.float32(1).reshape(1),)), Call("late", (np.zeros(1, np.float32),))]
    with Session(blocks, QUICK) as session:
        assert [answer["status"] for answer in session.call(calls)] == ["ok", "ok"]
    notes = " ".join(session.notes)
    assert re.search("cell 2, line 2: .* ended the whole process", notes)
    assert re.search("cell 3.*KeyboardInterrupt", notes)
    assert "cell 4" in notes  # garbage in the grader's pipe


def test_a_child_that_does_not_listen_or_answer(tmp_path, monkeypatch):
    """Nothing that the process does, or leaves undone, keeps the grader waiting for long."""
    worker = tmp_path / "worker.py"
    monkeypatch.setattr(runner, "WORKER", worker)
    here = str(runner.Path(runner.__file__).parent)
    ready = (
        f"import sys, time\nsys.path += [*sys.argv[1:], {here!r}]\nimport trees\n"
        "def send(m):\n    d = trees.pack(m)\n"
        "    sys.stdout.buffer.write(len(d).to_bytes(4, 'big') + d)\n    sys.stdout.flush()\n"
        "send({'isolation': 'none'})\n"
    )
    for code, notes, status in (
        (ready, ["reading the code ended the process: nothing of it was run"], "late"),
        (ready + "send({'loaded': 1})\ntime.sleep(60)", [], "slow"),
        (ready + "send({'loaded': 1})\nsend(3)\ntime.sleep(60)", [], "unread"),
        (ready + "send({'loaded': 1})\nsys.stdout.buffer.write(b'\\xff' * 9)", [], "unread"),
    ):
        worker.write_text(code)
        with Session([("cell 1", "x = 1")], Limits(call_seconds=0.3)) as session:
            (answer,) = session.call([Call("f", (np.zeros(10**5 if status == "slow" else 1),))])
        assert (session.notes, answer["status"]) == (notes, status)
    worker.write_text("raise SystemExit('no torch')")
    with pytest.raises(OSError, match="did not start .died.: no torch"):
        Session([]).call([Call("f", ())])


@pytest.mark.parametrize("column, architecture", lockdown.MACHINES.values())
def test_the_filter_decides_as_it_should(column, architecture):
    """Runs the BPF program, for both machines: (call, arguments) -> verdict."""
    code = lockdown.program(column, architecture, pid=77)
    program = [struct.unpack_from("HBBI", code, 8 * i) for i in range(len(code) // 8)]

    def verdict(number, *arguments, machine=architecture):
        data = struct.pack("=iIQ6Q", number, machine, 0, *(arguments + (0,) * 6)[:6])
        at = accumulator = 0
        while True:
            operation, if_true, if_false, value = program[at]
            if operation == 0x20:
                accumulator = struct.unpack_from("=I", data, value)[0]
                at += 1
            elif operation == 0x06:
                return value
            else:
                holds = {0x15: accumulator == value, 0x45: bool(accumulator & value),
                         0x35: accumulator >= value}[operation]  # fmt: skip
                at += 1 + (if_true if holds else if_false)

    calls = lockdown.FORBIDDEN | lockdown.JUDGED | lockdown.UNKNOWN
    number = {name: both[column] for name, both in calls.items()}
    refuse, allow, pointer = lockdown.REFUSE, lockdown.ALLOW, 1 << 32
    for name in lockdown.FORBIDDEN:
        assert number[name] is None or verdict(number[name]) == refuse, name
    assert verdict(number["clone3"]) == verdict(number["openat2"]) == lockdown.NO_SUCH
    assert verdict(number["openat"], 0, 0, os.O_RDONLY | os.O_CLOEXEC) == allow
    for flag in (os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_TRUNC):
        assert verdict(number["openat"], 0, 0, flag) == refuse
    assert verdict(number["tgkill"], 77) == allow and verdict(number["tgkill"], 78) == refuse
    for command in (8, 10, 15):  # F_SETOWN, F_SETSIG, F_SETOWN_EX
        assert verdict(number["fcntl"], 3, command, 77) == refuse
    for command in (0, 1, 2, 3, 4, 1030):  # duplicate, flags
        assert verdict(number["fcntl"], 3, command, 0) == allow
    assert verdict(number["prlimit64"], 0, 7, 0) == allow
    assert verdict(number["prlimit64"], 0, 7, pointer) == refuse
    assert verdict(number["prlimit64"], 0, 7, 4096) == refuse
    read, write = ((0, 1), (63, 64))[column]
    assert verdict(read) == verdict(write) == allow
    assert verdict(read, machine=0x40000003) == lockdown.KILL
    assert verdict(0x40000000 | 5) == refuse
