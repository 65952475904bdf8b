"""A program's own process: it gives up files, memory, time and children, then runs the program.

`eval.sandbox` starts this file by its path, in namespaces of its own, and writes to its standard
input one JSON object: the program, its limits and a token. The token comes back on standard output
if the program ends without an error; whatever the program writes goes nowhere.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import sys
import sysconfig

READ = 1 << 2 | 1 << 3  # of Landlock's rights: to read a file, to list a folder
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # system calls, the same on all machines
NO_NEW_PRIVILEGES = 38  # of prctl


class Rule(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32))


def readable_folders() -> list[str]:
    """What a program imports from: the standard library, and the system's shared libraries."""
    own = [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), f"{sys.base_prefix}/lib"]
    return [path for path in (*own, "/lib", "/lib64", "/usr/lib") if os.path.isdir(path)]


def give_up_files() -> None:
    """From here on no file is written, run or removed, and none read but the readable ones.

    By Landlock, which no process can undo; raises OSError where the kernel has none.
    """
    libc = ctypes.CDLL(None, use_errno=True)

    def call(function: str, *args: object) -> int:
        found = int(getattr(libc, function)(*args))
        if found < 0:
            raise OSError(ctypes.get_errno(), "the kernel has no Landlock")
        return found

    version = call("syscall", CREATE_RULESET, None, ctypes.c_size_t(0), 1)
    # Later versions know more rights: to link across folders, to truncate, to control devices.
    count = 13 + (version >= 2) + (version >= 3) + (version >= 5)
    handled = ctypes.c_uint64((1 << count) - 1)
    ruleset = call("syscall", CREATE_RULESET, ctypes.byref(handled), ctypes.c_size_t(8), 0)
    for folder in readable_folders():
        rule = Rule(READ, os.open(folder, os.O_PATH))
        call("syscall", ADD_RULE, ruleset, 1, ctypes.byref(rule), 0)
    call("prctl", NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    call("syscall", RESTRICT_SELF, ruleset, 0)


def limit(limits: dict[str, int]) -> None:
    wanted = {
        resource.RLIMIT_CPU: limits["cpu_seconds"],
        resource.RLIMIT_AS: limits["memory_bytes"],
        resource.RLIMIT_NPROC: limits["processes"],
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
    }
    for name, value in wanted.items():
        resource.setrlimit(name, (value, value))


def main() -> None:
    given = json.load(sys.stdin)
    verdict, nowhere = os.dup(1), os.open(os.devnull, os.O_RDWR)
    give_up_files()
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    limit(given["limits"])
    exec(compile(given["program"], "<program>", "exec"), {"__name__": "__main__"})
    os.write(verdict, given["token"].encode())


if __name__ == "__main__":
    main()
