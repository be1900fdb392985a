"""The system calls of workers: parsers have a list of what they may, workers with a network one of what they may not.

What parses hostile bytes needs few calls, on descriptors that it has: anything else fails. Who speaks to a network runs the
resolver and whatever the machine's /etc/nsswitch.conf puts into it, in threads, so there only what has served to break out of
processes is refused, and sockets other than those of a network client.
"""

from __future__ import annotations

import socket

from als.native.seccomp import ALLOW, REFUSE, make_filter

COMPUTING = frozenset(
    (
        *("read", "readv", "pread64", "preadv", "preadv2", "write", "writev", "pwrite64", "pwritev", "pwritev2", "close"),
        *("lseek", "close_range", "fstat", "newfstatat", "statx", "fcntl", "ioctl", "dup", "dup2", "dup3", "fadvise64"),
        *("poll", "ppoll", "select", "pselect6", "epoll_create1", "epoll_ctl", "epoll_wait", "epoll_pwait", "epoll_pwait2"),
        *("pipe", "pipe2", "eventfd2", "sendto", "sendmsg", "recvfrom", "recvmsg", "shutdown", "getsockopt", "setsockopt"),
        *("getsockname", "getpeername", "mmap", "munmap", "mremap", "mprotect", "madvise", "brk", "membarrier", "futex"),
        *("futex_wait", "futex_wake", "futex_requeue", "futex_waitv", "set_robust_list", "get_robust_list", "rseq"),
        *("sched_yield", "sched_getaffinity", "getcpu", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack"),
        *("restart_syscall", "nanosleep", "clock_nanosleep", "clock_gettime", "clock_getres", "gettimeofday", "time", "times"),
        *("getrandom", "exit", "exit_group", "tgkill", "getpid", "gettid", "getppid", "getuid", "geteuid", "getgid", "getegid"),
        *("getgroups", "getresuid", "getresgid", "getrlimit", "prlimit64", "getrusage", "uname", "sysinfo", "arch_prctl"),
        # Looking for files: their root folder is empty, and traceback.py is to hear that.
        *("open", "openat", "access", "faccessat", "faccessat2", "stat", "lstat", "readlink", "readlinkat", "getdents64"),
        "getcwd",
    )
)
"""What a worker without network may."""

BREAKING_OUT = frozenset(
    (
        *("execve", "execveat", "fork", "vfork", "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "kcmp"),
        *("pidfd_getfd", "pidfd_open", "pidfd_send_signal", "kill", "tkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo"),
        *("unshare", "setns", "chroot", "pivot_root", "mount", "umount2", "mount_setattr", "move_mount", "open_tree"),
        *("fsopen", "fsconfig", "fsmount", "fspick", "name_to_handle_at", "open_by_handle_at", "quotactl", "quotactl_fd"),
        *("swapon", "swapoff", "bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter"),
        *("io_uring_register", "io_setup", "io_submit", "keyctl", "add_key", "request_key", "seccomp", "personality"),
        *("modify_ldt", "iopl", "ioperm", "init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load"),
        *("reboot", "syslog", "acct", "vhangup", "settimeofday", "clock_settime", "clock_adjtime", "adjtimex"),
        *("sethostname", "setdomainname", "lookup_dcookie", "setuid", "setgid", "setreuid", "setregid", "setresuid"),
        *("setresgid", "setgroups", "setfsuid", "setfsgid", "capset", "memfd_secret", "mknod", "mknodat", "shmget", "shmat"),
        *("shmctl", "semget", "semop", "msgget", "msgsnd", "msgrcv", "mq_open", "fanotify_init", "fanotify_mark", "accept"),
        *("accept4", "listen", "mbind", "move_pages", "migrate_pages", "set_mempolicy", "remap_file_pages"),
        *("process_mrelease", "vserver", "nfsservctl", "uselib", "ustat", "sysfs", "_sysctl"),
    )
)
"""What a worker with a network may not."""

_FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK)
"""Of the network, of local resolvers (nscd, systemd-resolved), and of the resolver's question which addresses we have."""


def parser_filter() -> bytes:
    """For workers without a network: no new socket, process, thread, file or right."""
    return make_filter(allowed=COMPUTING, otherwise=REFUSE)


def client_filter() -> bytes:
    """For workers with a network."""
    return make_filter(refused=BREAKING_OUT, otherwise=ALLOW, families=_FAMILIES)
