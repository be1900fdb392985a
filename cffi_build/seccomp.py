"""Builds ``als._seccomp``: seccomp(2) filters, and what system calls are called on this architecture.

The kernel's headers are enough for it. libseccomp would add a library to every installation for a filter of a hundred
instructions; its Python bindings are either not packaged for pip (``seccomp``) or guess by ctypes (``pyseccomp``). What a
filter allows is decided in Python (:mod:`als.worker.syscalls`).
"""

from cffi import FFI

NAMES = (
    # What a program does that computes, and speaks over descriptors that it was given.
    *("read", "readv", "pread64", "preadv", "preadv2", "write", "writev", "pwrite64", "pwritev", "pwritev2", "close", "lseek"),
    *(
        "close_range",
        "fstat",
        "newfstatat",
        "statx",
        "fcntl",
        "ioctl",
        "dup",
        "dup2",
        "dup3",
        "fdatasync",
        "fsync",
        "fadvise64",
    ),
    *("poll", "ppoll", "select", "pselect6", "epoll_create1", "epoll_ctl", "epoll_wait", "epoll_pwait", "epoll_pwait2"),
    *(
        "pipe",
        "pipe2",
        "eventfd2",
        "sendto",
        "sendmsg",
        "sendmmsg",
        "recvfrom",
        "recvmsg",
        "recvmmsg",
        "shutdown",
        "getsockopt",
    ),
    *("getsockname", "getpeername", "setsockopt", "splice", "tee", "vmsplice"),
    *("mmap", "munmap", "mremap", "mprotect", "madvise", "mlock", "munlock", "mincore", "brk", "membarrier"),
    *("futex", "futex_wait", "futex_wake", "futex_requeue", "futex_waitv", "set_robust_list", "get_robust_list", "rseq"),
    *("sched_yield", "sched_getaffinity", "getcpu"),
    *("rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "rt_sigpending", "rt_sigtimedwait", "sigaltstack", "restart_syscall"),
    *("nanosleep", "clock_nanosleep", "clock_gettime", "clock_getres", "gettimeofday", "time", "times", "getrandom"),
    *("exit", "exit_group", "tgkill", "getpid", "gettid", "getppid", "getuid", "geteuid", "getgid", "getegid", "getgroups"),
    *("getresuid", "getresgid", "getpgrp", "getpgid", "getsid", "getrlimit", "prlimit64", "getrusage", "uname", "sysinfo"),
    *("arch_prctl", "set_tid_address", "getcwd"),
    # What looks for a file, and is to hear that there is none.
    *(
        "open",
        "openat",
        "openat2",
        "access",
        "faccessat",
        "faccessat2",
        "stat",
        "lstat",
        "readlink",
        "readlinkat",
        "getdents64",
    ),
    # Of a program that speaks to a network.
    *("socket", "socketpair", "connect", "bind", "clone", "clone3"),
    # What nobody needs who was made to be harmless; it has served to break out of such processes.
    *("execve", "execveat", "fork", "vfork", "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "kcmp"),
    *("pidfd_getfd", "pidfd_open", "pidfd_send_signal", "kill", "tkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo"),
    *("unshare", "setns", "chroot", "pivot_root", "mount", "umount2", "mount_setattr", "move_mount", "open_tree", "fsopen"),
    *(
        "fsconfig",
        "fsmount",
        "fspick",
        "name_to_handle_at",
        "open_by_handle_at",
        "quotactl",
        "quotactl_fd",
        "swapon",
        "swapoff",
    ),
    *(
        "bpf",
        "perf_event_open",
        "userfaultfd",
        "io_uring_setup",
        "io_uring_enter",
        "io_uring_register",
        "io_setup",
        "io_submit",
    ),
    *("keyctl", "add_key", "request_key", "seccomp", "landlock_create_ruleset", "personality", "modify_ldt", "iopl", "ioperm"),
    *("init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "reboot", "syslog", "acct", "vhangup"),
    *("settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "sethostname", "setdomainname", "lookup_dcookie"),
    *("setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid", "setgroups", "setfsuid", "setfsgid", "capset"),
    *("memfd_create", "memfd_secret", "mknod", "mknodat", "shmget", "shmat", "shmctl", "semget", "semop", "msgget", "msgsnd"),
    *("msgrcv", "mq_open", "inotify_init", "inotify_init1", "fanotify_init", "fanotify_mark", "signalfd4", "timerfd_create"),
    *("accept", "accept4", "listen", "mbind", "move_pages", "migrate_pages", "set_mempolicy", "remap_file_pages", "mseal"),
    *("process_mrelease", "cachestat", "vserver", "nfsservctl", "uselib", "ustat", "sysfs", "_sysctl"),
)
"""Every system call that a filter may name. Which of them an architecture (or the headers at build time) has differs."""

CDEF = """
#define ALS_AUDIT_ARCH ...
#define ALS_CLONE_FLAGS ...
#define ALS_CLONE_NAMESPACES ...
#define ALS_CLONE_THREAD ...
#define ALS_LAST_KNOWN ...
int als_syscall(const char *name);
int als_seccomp_filter(const void *program, size_t length);
"""

_HEAD = r"""
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#if defined(__x86_64__) && !defined(__ILP32__)
# define ALS_AUDIT_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
# define ALS_AUDIT_ARCH AUDIT_ARCH_AARCH64
#elif defined(__riscv) && __riscv_xlen == 64
# define ALS_AUDIT_ARCH AUDIT_ARCH_RISCV64
#elif defined(__powerpc64__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
# define ALS_AUDIT_ARCH AUDIT_ARCH_PPC64LE
#elif defined(__s390x__)
# define ALS_AUDIT_ARCH AUDIT_ARCH_S390X
#else
# error "als does not know this architecture's system calls: add it to cffi_build/seccomp.py"
#endif

/* Which argument of clone(2) has the flags. */
#if defined(__s390x__)
# define ALS_CLONE_FLAGS 1
#else
# define ALS_CLONE_FLAGS 0
#endif
/* Without CLONE_NEWTIME, which clone(2) does not take: the bit is one of the signal there. */
#define ALS_CLONE_NAMESPACES \
    (CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET)
#define ALS_CLONE_THREAD CLONE_THREAD
/* mseal, of Linux 6.10. From 424 on all of these architectures number alike; what came later nobody has judged yet. */
#define ALS_LAST_KNOWN 462

static const struct { const char *name; int number; } als_syscalls[] = {
"""

_TAIL = r"""
    { NULL, 0 }
};

static int als_syscall(const char *name)
{
    size_t i;
    for (i = 0; als_syscalls[i].name; i++)
        if (strcmp(als_syscalls[i].name, name) == 0)
            return als_syscalls[i].number;
    errno = ENOSYS;
    return -1;
}

/* The length of `program` is that of whole instructions. PR_SET_NO_NEW_PRIVS has to be set. */
static int als_seccomp_filter(const void *program, size_t length)
{
    struct sock_fprog whole;
    whole.len = (unsigned short)(length / sizeof(struct sock_filter));
    whole.filter = (struct sock_filter *)program;
    return prctl(PR_SET_SECCOMP, (unsigned long)SECCOMP_MODE_FILTER, &whole, 0UL, 0UL);
}
"""

SOURCE = _HEAD + "".join(f'#ifdef SYS_{name}\n    {{ "{name}", SYS_{name} }},\n#endif\n' for name in NAMES) + _TAIL

ffibuilder = FFI()
ffibuilder.cdef(CDEF)
ffibuilder.set_source("als._seccomp", SOURCE)

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
