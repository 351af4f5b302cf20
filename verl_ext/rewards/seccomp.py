"""The system calls that a graded program may not make, as a seccomp filter in the kernel's bytes.

Why a filter on top of namespaces: without cgroups nothing else stops a fork bomb everywhere. RLIMIT_NPROC is not
enforced for the host's root, under which containers train, and counts all of a user's processes before Linux 5.14.
So no process but threads may be made. Memory that RLIMIT_AS does not see (memfd, System V segments) is refused too.

Not covered: the number of threads under the host's root is bounded by the address space only (some ten thousand).
"""

from __future__ import annotations

import errno
import functools
import platform
import struct

# Numbers of the calls, from the kernel's tables (asm/unistd_64.h and asm-generic/unistd.h).
_X86_64 = {
    "fork": 57, "vfork": 58, "execve": 59, "ptrace": 101, "shmget": 29, "semget": 64, "msgget": 68, "mount": 165,
    "umount2": 166, "pivot_root": 155, "add_key": 248, "request_key": 249, "keyctl": 250, "unshare": 272,
    "perf_event_open": 298, "setns": 308, "process_vm_readv": 310, "process_vm_writev": 311, "memfd_create": 319,
    "bpf": 321, "execveat": 322, "userfaultfd": 323, "io_uring_setup": 425, "io_uring_enter": 426,
    "io_uring_register": 427, "open_tree": 428, "move_mount": 429, "fsopen": 430, "memfd_secret": 447,
    "mq_open": 240,
}  # fmt: skip
_AARCH64 = {
    "execve": 221, "ptrace": 117, "shmget": 194, "semget": 190, "msgget": 186, "mount": 40, "umount2": 39,
    "pivot_root": 41, "add_key": 217, "request_key": 218, "keyctl": 219, "unshare": 97, "perf_event_open": 241,
    "setns": 268, "process_vm_readv": 270, "process_vm_writev": 271, "memfd_create": 279, "bpf": 280,
    "execveat": 281, "userfaultfd": 282, "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427,
    "open_tree": 428, "move_mount": 429, "fsopen": 430, "memfd_secret": 447, "mq_open": 180,
}  # fmt: skip
# Machine: (AUDIT_ARCH, the calls, the number of clone).
_MACHINES = {"x86_64": (0xC000003E, _X86_64, 56), "aarch64": (0xC00000B7, _AARCH64, 220)}
_CLONE3 = 435
_CLONE_THREAD = 0x10000
# Classes and modes of classic BPF: load a word, compare, return.
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
# Offsets in struct seccomp_data.
_NUMBER, _ARCH, _FIRST_ARGUMENT = 0, 4, 16


def _op(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


@functools.cache
def blocked_calls() -> bytes:
    """The filter of this machine: a refused call fails with EPERM, `clone3` with ENOSYS so that libc uses `clone`.

    Raises:
        OSError: a machine whose call numbers we do not have.
    """
    machine = platform.machine()
    if machine not in _MACHINES:
        raise OSError(f"no seccomp filter for machine {machine!r} (known: {', '.join(_MACHINES)})")
    arch, calls, clone = _MACHINES[machine]
    refuse = _op(_RETURN, _ERRNO | errno.EPERM)
    program = [
        _op(_LOAD, _ARCH),
        _op(_EQUAL, arch, 1, 0),
        _op(_RETURN, _KILL),
        _op(_LOAD, _NUMBER),
        # x32's numbers begin here.
        _op(_AT_LEAST, 0x40000000, 0, 1),
        refuse,
        _op(_EQUAL, _CLONE3, 0, 1),
        _op(_RETURN, _ERRNO | errno.ENOSYS),
    ]
    for number in sorted(calls.values()):
        program += [_op(_EQUAL, number, 0, 1), refuse]
    program += [
        _op(_EQUAL, clone, 0, 3),
        _op(_LOAD, _FIRST_ARGUMENT),
        _op(_ANY_BIT, _CLONE_THREAD, 1, 0),
        refuse,
        _op(_RETURN, _ALLOW),
    ]
    return b"".join(program)
