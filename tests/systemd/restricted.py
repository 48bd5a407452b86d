"""Runs a command under what a unit forbids, as far as that can be had without systemd: argument 1 is a JSON file

    {"calls": [names of system calls that are allowed], "families": [numbers of address families]}

The rest is the command. What is not allowed fails with EPERM, as SystemCallErrorNumber=EPERM says; memory can never be
written and executed (MemoryDenyWriteExecute=); no privilege is gained (NoNewPrivileges=).
"""

import ctypes
import json
import os
import sys
from pathlib import Path

PR_SET_NO_NEW_PRIVS = 38  # linux/prctl.h
PR_SET_MDWE = 65
ACT_ALLOW = 0x7FFF0000  # seccomp.h
ACT_EPERM = 0x00050001
CMP_EQ = 4


class _Argument(ctypes.Structure):
    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


def main() -> None:
    rules = json.loads(Path(sys.argv[1]).read_text())
    libc, seccomp = ctypes.CDLL(None), ctypes.CDLL("libseccomp.so.2")
    seccomp.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(seccomp.seccomp_init(ctypes.c_uint32(ACT_EPERM)))
    allow = ctypes.c_uint32(ACT_ALLOW)
    for name in rules["calls"]:
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        if number >= 0 and name != "socket":  # others are not of this architecture
            assert seccomp.seccomp_rule_add_array(context, allow, number, 0, None) == 0, name
    socket = seccomp.seccomp_syscall_resolve_name(b"socket")
    for family in rules["families"]:
        argument = _Argument(0, CMP_EQ, family, 0)
        assert seccomp.seccomp_rule_add_array(context, allow, socket, 1, ctypes.byref(argument)) == 0
    assert libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    libc.prctl(PR_SET_MDWE, 1, 0, 0, 0)  # not before Linux 6.3
    assert seccomp.seccomp_load(context) == 0
    os.execv(sys.argv[2], sys.argv[2:])


main()
