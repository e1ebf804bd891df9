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
HEAD = """
import _thread, ctypes, fcntl, os, resource, signal, socket, subprocess, sys, time
import torch


class Evil:
    def __reduce__(self):
        return os.system, ("true",)
"""
REFUSED = "PermissionError"
HOSTILE = {  # the body of a function of x, and what becomes of it with the kernel's fences up
    "honest": ("return x * 2", "ok"),
    "endless": ("while True: pass", "slow"),
    "stubborn": ("signal.signal(signal.SIGPROF, signal.SIG_IGN)\n    while True: time.sleep(1)",
                 "slow"),
    "leaves": ("os._exit(0)", "died"),
    "crashes": ("ctypes.string_at(0)", "died"),
    "raises_exit": ("sys.exit(0)", "SystemExit"),
    "huge_tensor": ("return torch.ones(10**13)", "memory"),
    "huge_list": ("return [0] * 10**13", "memory"),
    "recursion": ("return recursion(x)", "RecursionError"),
    "bottomless": ("sys.setrecursionlimit(10**9)\n    return bottomless(x)", "slow memory died"),
    "floods": ("return torch.zeros(1).expand(10**12)", "ValueError"),
    "returns_code": ("return Evil()", "TypeError"),
    "network": ("socket.create_connection(('127.0.0.1', 9))", REFUSED),
    # were they let through, a hundred are enough to notice
    "forks": ("for _ in range(100): os.fork() or (time.sleep(5), os._exit(0))", REFUSED),
    "starts_threads": ("_thread.stack_size(32768)\n"
                       "    for _ in range(100): _thread.start_new_thread(time.sleep, (5,))",
                       "RuntimeError"),
    "runs": ("subprocess.run(['true'])", REFUSED),
    "fills_disk": ("open('big', 'wb').write(bytes(10**9))", REFUSED),
    "writes_outside": ("open(VICTIM, 'w').close()", REFUSED),
    "removes": ("os.remove(VICTIM)", REFUSED),
    "reads_reference": ("return len(open(HERE + '/varmini/grade/a1.py').read())", REFUSED),
    "reads_solution": ("return open(HERE + '/notebooks/assignments/source/a1_quantizer.ipynb')",
                       REFUSED),
    "imports_reference": ("from varmini.grade.a1 import Reference as r; return r", "ImportError"),
    "patches_grader": ("open(HERE + '/varmini/grade/checks.py', 'a').close()", REFUSED),
    "kills_grader": ("os.kill(os.getppid(), 0)", REFUSED),  # 0 only asks whether one could
    # a pipe of one's own that sends SIGIO to whom it is said to belong
    "signals_grader": ("fcntl.fcntl(os.pipe()[0], fcntl.F_SETOWN, os.getppid())", REFUSED),
    "looks_at_grader": ("return len(open(f'/proc/{os.getppid()}/environ', 'rb').read())", REFUSED),
    "lifts_limits": ("resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))", "ValueError"),
    "raw_network": ("return ctypes.CDLL(None).socket(2, 1, 0)", "ok"),  # with the answer -1
    "raw_signals": ("return ctypes.CDLL(None).fcntl(os.pipe()[0], 8, os.getppid())", "ok"),
}  # fmt: skip


def call_all(names, victim, kernel=True):
    """What becomes of each of these functions, their answers, and which fences were up."""
    victim.write_text("still here")
    lines = [f"HERE, VICTIM = {str(proof.NOTEBOOKS.parent.parent)!r}, {str(victim)!r}", HEAD]
    lines += [f"def {name}(x):\n    {body}" for name, (body, _) in HOSTILE.items()]
    calls = [Call(name, (np.arange(6, dtype=np.float32),)) for name in names]
    with Session([("cell 1", "\n".join(lines))], QUICK, kernel) as session:
        answers = session.call(calls)
    assert victim.read_text() == "still here" and "big" not in os.listdir()
    ends = [a["type"] if a["status"] == "raised" else a["status"] for a in answers]
    return dict(zip(names, ends)), answers, session.isolation


def test_hostile_functions_are_contained_and_cost_the_others_nothing(tmp_path):
    names = [*HOSTILE, "honest"]  # first and last
    found, answers, isolation = call_all(names, tmp_path / "victim")
    expected = {name: end for name, (_, end) in HOSTILE.items()}
    if "Python only" in isolation:  # where ctypes is refused, too
        raw = ("raw_network", "raw_signals", "crashes", "starts_threads")
        expected |= dict.fromkeys(raw, REFUSED)
    else:
        assert [answer["value"] for answer in answers[-3:-1]] == [-1, -1]
    assert found.pop("bottomless") in expected.pop("bottomless").split()
    assert found == expected
    assert answers[-1]["value"].tolist() == [0, 2, 4, 6, 8, 10]


def test_without_the_kernel_python_refuses_and_says_so(tmp_path):
    """The second best fence, for systems that have neither seccomp nor Landlock."""
    names = [name for name, (_, end) in HOSTILE.items() if end in (REFUSED, "ImportError")]
    found, _, isolation = call_all(["honest", *names], tmp_path / "victim", kernel=False)
    assert "inside Python only" in isolation
    assert found == {"honest": "ok"} | {name: HOSTILE[name][1] for name in names}


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

    kinds = lockdown.CALLS.values()
    number = {name: both[column] for calls in kinds for name, both in calls.items()}
    refuse, allow, pointer = lockdown.REFUSE, lockdown.ALLOW, 1 << 32
    for name in lockdown.CALLS["forbidden"]:
        assert number[name] < 0 or verdict(number[name]) == refuse, name
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
