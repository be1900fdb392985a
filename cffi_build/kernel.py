"""Builds ``als._kernel``: the system calls that Python's standard library does not offer.

How this folder works: every file here is one cffi builder (API mode, so a C compiler checks each signature against the
system's headers, and every call releases the GIL). It exposes an ``ffibuilder`` and is named in ``setup.py``; the typed
Python face of its extension lives in ``als/`` (of this one: :mod:`als.native`). A further library gets a builder file of its
own (``fsverity.py``), so that a machine without it still builds the rest.

ctypes was rejected: it guesses ABI details (struct sizes, ``long`` in variadic calls) at run time, and keeps no errno
reliably between threads. The C below is kept to wrappers that return -1 and set errno; decisions are made in Python.
"""

from cffi import FFI

CDEF = """
#define MS_RDONLY ...
#define MS_NOSUID ...
#define MS_NODEV ...
#define MS_NOEXEC ...
#define MS_REMOUNT ...
#define MS_BIND ...
#define MS_REC ...
#define MS_PRIVATE ...
#define MS_SLAVE ...
#define MS_SHARED ...
#define MS_NOATIME ...
#define MNT_FORCE ...
#define MNT_DETACH ...
#define UMOUNT_NOFOLLOW ...
#define CLONE_NEWNS ...
#define CLONE_NEWNET ...
#define CLONE_NEWIPC ...
#define CLONE_NEWUTS ...
#define CLONE_NEWUSER ...
#define CLONE_NEWPID ...
#define CLONE_NEWCGROUP ...

int mount(const char *source, const char *target, const char *fstype, unsigned long flags, const void *data);
int umount2(const char *target, int flags);
int unshare(int flags);
int syncfs(int fd);

int als_open_tree_clone(const char *path);
int als_no_new_privs(void);
int als_set_dumpable(int dumpable);
int als_set_pdeathsig(int signal);

int als_loop_get_free(int control_fd);
int als_loop_configure(int loop_fd, int backing_fd, int direct_io);
int als_loop_backing(int loop_fd, uint64_t *device, uint64_t *inode);

int als_reflink(int destination_fd, int source_fd);
#define ALS_SEALED ...
#define ALS_SEALED_NOW ...
#define ALS_BEING_SEALED ...
int als_verity_probe(int fd);
int als_verity_measure(int fd, unsigned char *digest);
int als_seal_files(size_t count, const char *names, unsigned char *digests, unsigned char *fresh, size_t *done);
int als_spread_directories(int fd);
int als_cached_pages(int fd, uint64_t length, uint64_t *pages);
int als_mincore_pages(int fd, uint64_t length, uint64_t *pages);
int als_write_new_files(size_t count, const char *names, const void **data, const uint64_t *sizes, unsigned mode,
                        unsigned char *found, size_t *done);
int als_link_files(size_t count, const char *names, unsigned char *found, size_t *done);
"""

SOURCE = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <linux/fs.h>
#include <linux/fsverity.h>
#include <linux/loop.h>

/* Since Linux 6.5; one number on every architecture but alpha. Older headers lack it. */
#ifndef SYS_cachestat
#define SYS_cachestat 451
#endif
struct als_cachestat_range { uint64_t off, len; };
struct als_cachestat { uint64_t cached, dirty, writeback, evicted, recently_evicted; };

/* glibc has open_tree(2) since 2.36 only; one number on every architecture but alpha. */
#ifndef SYS_open_tree
#define SYS_open_tree 428
#endif
static int als_open_tree_clone(const char *path)
{
    /* OPEN_TREE_CLONE; without AT_RECURSIVE the mounts below are left out. O_CLOEXEC is OPEN_TREE_CLOEXEC. */
    return (int)syscall(SYS_open_tree, AT_FDCWD, path, 1U | O_CLOEXEC);
}

static int als_no_new_privs(void) { return prctl(PR_SET_NO_NEW_PRIVS, 1UL, 0UL, 0UL, 0UL); }
static int als_set_dumpable(int dumpable) { return prctl(PR_SET_DUMPABLE, (unsigned long)dumpable, 0UL, 0UL, 0UL); }
static int als_set_pdeathsig(int signal) { return prctl(PR_SET_PDEATHSIG, (unsigned long)signal, 0UL, 0UL, 0UL); }

static int als_loop_get_free(int control_fd) { return ioctl(control_fd, LOOP_CTL_GET_FREE); }

static int als_loop_configure(int loop_fd, int backing_fd, int direct_io)
{
    struct loop_config config;
    memset(&config, 0, sizeof config);
    config.fd = (uint32_t)backing_fd;
    config.info.lo_flags = LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR | (direct_io ? LO_FLAGS_DIRECT_IO : 0);
    return ioctl(loop_fd, LOOP_CONFIGURE, &config);
}

static int als_loop_backing(int loop_fd, uint64_t *device, uint64_t *inode)
{
    struct loop_info64 info;
    memset(&info, 0, sizeof info);
    if (ioctl(loop_fd, LOOP_GET_STATUS64, &info) < 0)
        return -1;
    *device = info.lo_device;
    *inode = info.lo_inode;
    return 0;
}

static int als_reflink(int destination_fd, int source_fd) { return ioctl(destination_fd, FICLONE, source_fd); }

static int als_spread_directories(int fd)
{
    int flags;
    if (ioctl(fd, FS_IOC_GETFLAGS, &flags) < 0)
        return -1;
    flags |= FS_TOPDIR_FL;
    return ioctl(fd, FS_IOC_SETFLAGS, &flags);
}

static int als_verity_probe(int fd)
{
    struct { struct fsverity_digest head; uint8_t digest[64]; } measured;
    memset(&measured, 0, sizeof measured);
    measured.head.digest_size = sizeof measured.digest;
    return ioctl(fd, FS_IOC_MEASURE_VERITY, &measured);
}

static int als_verity_measure(int fd, unsigned char *digest)
{
    struct { struct fsverity_digest head; uint8_t digest[64]; } measured;
    memset(&measured, 0, sizeof measured);
    measured.head.digest_size = sizeof measured.digest;
    if (ioctl(fd, FS_IOC_MEASURE_VERITY, &measured) < 0)
        return -1;
    if (measured.head.digest_algorithm != FS_VERITY_HASH_ALG_SHA256 || measured.head.digest_size != 32) {
        errno = EBADMSG;
        return -1;
    }
    memcpy(digest, measured.digest, 32);
    return 0;
}

/* fs-verity as overlay and composefs expect it: SHA-256, blocks of 4,096 bytes, no salt. */
static int als_verity_enable(int fd)
{
    struct fsverity_enable_arg argument;
    int result;
    memset(&argument, 0, sizeof argument);
    argument.version = 1;
    argument.hash_algorithm = FS_VERITY_HASH_ALG_SHA256;
    argument.block_size = 4096;
    do
        result = ioctl(fd, FS_IOC_ENABLE_VERITY, &argument);
    while (result < 0 && errno == EINTR);
    return result;
}

#define ALS_SEALED 0
#define ALS_SEALED_NOW 1
/* By another process, at this moment. */
#define ALS_BEING_SEALED 2

static int als_seal_file(const char *path, unsigned char *digest, unsigned char *fresh)
{
    int failed, result, fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -1;
    *fresh = ALS_SEALED;
    result = als_verity_measure(fd, digest);
    if (result < 0 && errno == ENODATA) {
        result = als_verity_enable(fd);
        *fresh = result == 0 ? ALS_SEALED_NOW : ALS_SEALED;
        if (result < 0 && errno == EBUSY) {
            *fresh = ALS_BEING_SEALED;
            result = 0;
        } else if (result == 0 || errno == EEXIST) {
            /* EEXIST: another process was quicker. */
            result = als_verity_measure(fd, digest);
        }
    }
    failed = errno;
    close(fd);
    errno = failed;
    return result;
}

/* `names`: the paths of the files, each ended by a zero byte; `digests`: 32 bytes for each. */
static int als_seal_files(size_t count, const char *names, unsigned char *digests, unsigned char *fresh, size_t *done)
{
    for (*done = 0; *done < count; (*done)++) {
        if (als_seal_file(names, digests + 32 * *done, fresh + *done) < 0)
            return -1;
        names += strlen(names) + 1;
    }
    return 0;
}

static int als_cached_pages(int fd, uint64_t length, uint64_t *pages)
{
    struct als_cachestat_range range = { 0, length };
    struct als_cachestat result;
    memset(&result, 0, sizeof result);
    if (syscall(SYS_cachestat, (unsigned)fd, &range, &result, 0U) < 0)
        return -1;
    *pages = result.cached;
    return 0;
}

/* A window at a time, so that neither address space nor stack grows with the file. */
static int als_mincore_pages(int fd, uint64_t length, uint64_t *pages)
{
    enum { WINDOW_PAGES = 16384 };
    static const unsigned char resident = 1;
    unsigned char vector[WINDOW_PAGES];
    const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), window = page * WINDOW_PAGES;
    uint64_t offset, count = 0;
    for (offset = 0; offset < length; offset += window) {
        uint64_t size = length - offset < window ? length - offset : window, i;
        void *map = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, (off_t)offset);
        int failed;
        if (map == MAP_FAILED)
            return -1;
        failed = mincore(map, size, vector) < 0 ? errno : 0;
        munmap(map, size);
        if (failed) {
            errno = failed;
            return -1;
        }
        for (i = 0; i < (size + page - 1) / page; i++)
            count += vector[i] & resident;
    }
    *pages = count;
    return 0;
}

static int als_write_new_file(const char *path, const char *data, uint64_t size, unsigned mode)
{
    int failed = 0, fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, (mode_t)mode);
    if (fd < 0)
        return -1;
    while (size && !failed) {
        ssize_t written = write(fd, data, size);
        if (written >= 0) {
            data += written;
            size -= (uint64_t)written;
        } else if (errno != EINTR) {
            failed = errno;
        }
    }
    if (close(fd) < 0 && !failed)
        failed = errno;
    errno = failed;
    return failed ? -1 : 0;
}

/* `names`: for each file the path of what would make it superfluous, and its own path, each ended by a zero byte. */
static int als_write_new_files(size_t count, const char *names, const void **data, const uint64_t *sizes, unsigned mode,
                               unsigned char *found, size_t *done)
{
    for (*done = 0; *done < count; (*done)++) {
        const char *path = names + strlen(names) + 1;
        struct stat known;
        found[*done] = stat(names, &known) == 0;
        if (!found[*done] && (errno != ENOENT || als_write_new_file(path, data[*done], sizes[*done], mode) < 0))
            return -1;
        names = path + strlen(path) + 1;
    }
    return 0;
}

/* `names`: for each file the path that it has, and the one that it gets, each ended by a zero byte. */
static int als_link_files(size_t count, const char *names, unsigned char *found, size_t *done)
{
    for (*done = 0; *done < count; (*done)++) {
        const char *path = names + strlen(names) + 1;
        found[*done] = link(names, path) < 0;
        if (found[*done] && errno != EEXIST)
            return -1;
        names = path + strlen(path) + 1;
    }
    return 0;
}
"""

ffibuilder = FFI()
ffibuilder.cdef(CDEF)
ffibuilder.set_source("als._kernel", SOURCE)

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
