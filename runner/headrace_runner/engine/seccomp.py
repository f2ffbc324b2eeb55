"""The engine's own cage: a seccomp filter that needs no privilege and no profile on the node.

A model file is hostile input and llama.cpp has had overflows in reading it; whoever takes over the engine finds no
network, no way into other processes and no mounts. The filter is inherited by every child and cannot be taken off.
A deny-list and not an allow-list, because CUDA drivers and libc versions differ in what they call.
"""

import errno
from typing import Final

_AF_UNIX: Final = 1

# Each answers EPERM, so that libraries which only probe go on without.
DENIED: Final = (
    # other processes' memory and descriptors
    *("ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "pidfd_getfd", "kcmp", "perf_event_open"),
    # kernel surfaces with a history of escapes
    *("bpf", "keyctl", "add_key", "request_key", "userfaultfd", "io_uring_setup", "io_uring_enter"),
    *("io_uring_register", "init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "syslog"),
    # namespaces and mounts
    *("mount", "umount2", "pivot_root", "move_mount", "open_tree", "fsopen", "fsconfig", "fsmount", "fspick"),
    *("mount_setattr", "unshare", "setns", "chroot", "open_by_handle_at", "name_to_handle_at"),
    # the machine
    *("reboot", "swapon", "swapoff", "acct", "quotactl", "settimeofday", "clock_settime", "clock_adjtime"),
    *("adjtimex", "sethostname", "setdomainname", "vhangup", "personality", "fanotify_init", "lookup_dcookie"),
    *("modify_ldt",),
    # System V and POSIX queues and memory: the pod's containers share their namespace, the runner's among them
    *("shmget", "shmat", "shmctl", "msgget", "msgsnd", "msgrcv", "semget", "semop", "mq_open"),
)
# Younger than Debian's libseccomp, so by number; from 424 on all architectures have the same.
_DENIED_BY_NUMBER: Final = (443, 457, 458, 467)  # quotactl_fd, statmount, listmount, open_tree_attr
_CLONE_NEW_FLAGS: Final = (*(0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000),)


class SandboxUnavailable(Exception):
    """The filter could not be installed: no libseccomp, or a kernel that refuses."""


def install_filter() -> None:
    """Set no_new_privs and load the filter for this thread and all that it starts.

    Call it before the first thread. Raises SandboxUnavailable.
    """
    try:
        import pyseccomp
    except (ImportError, RuntimeError, OSError) as error:
        # pyseccomp raises RuntimeError where the shared library is missing.
        raise SandboxUnavailable(f"libseccomp is not usable: {error}") from error
    try:
        rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
        eperm = pyseccomp.ERRNO(errno.EPERM)
        for name in ("socket", "socketpair"):
            # The comparison is on 64 bits while the kernel takes 32: padded values differ from 1 and are denied too.
            rules.add_rule(eperm, name, pyseccomp.Arg(0, pyseccomp.NE, _AF_UNIX))
        for call in (*DENIED, *_DENIED_BY_NUMBER):
            rules.add_rule(eperm, call)
        for flag in _CLONE_NEW_FLAGS:
            rules.add_rule(eperm, "clone", pyseccomp.Arg(0, pyseccomp.MASKED_EQ, flag, flag))
        # clone3's flags lie behind a pointer that a filter cannot read; libc falls back to clone on ENOSYS.
        rules.add_rule(pyseccomp.ERRNO(errno.ENOSYS), "clone3")
        rules.load()
    except (OSError, ValueError) as error:
        raise SandboxUnavailable(f"the seccomp filter was refused: {error}") from error
