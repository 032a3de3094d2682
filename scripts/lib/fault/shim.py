"""What its system tells an agent, changed from outside while it runs: the time of day, a disk that fails.

A small C library, compiled here and loaded before the others (LD_PRELOAD). It answers the calls for the
time of day with an offset that lies in a file mapped into memory, so that a clock can jump at any moment;
the monotonic clock stays true. While another file exists, flushing to disk fails with EIO, as it does on a
dying disk.
"""

from __future__ import annotations

import mmap
import shutil
import struct
import subprocess
from pathlib import Path

SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile long long *offset_s;
static const char *broken;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("FAULT_CLOCK");
    broken = getenv("FAULT_DISK");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd >= 0) {
        void *at = mmap(0, 8, PROT_READ, MAP_SHARED, fd, 0);
        offset_s = at == MAP_FAILED ? 0 : at;
        close(fd);
    }
}

int clock_gettime(clockid_t id, struct timespec *to) {
    int done = (int)syscall(SYS_clock_gettime, id, to);
    if (!done && offset_s && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) to->tv_sec += *offset_s;
    return done;
}

int gettimeofday(struct timeval *to, void *zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    to->tv_sec = now.tv_sec;
    to->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *to) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (to) *to = now.tv_sec;
    return now.tv_sec;
}

static int fails(void) {
    if (!broken || access(broken, F_OK)) return 0;
    errno = EIO;
    return 1;
}

#define FLUSH(name) \
    int name(int fd) { \
        static int (*real)(int); \
        if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, #name); \
        return fails() ? -1 : real(fd); \
    }
FLUSH(fdatasync)
FLUSH(fsync)
"""


def lacking() -> str:
    """Why it cannot be used here; empty if it can."""
    return "" if shutil.which("cc") else "needs a C compiler (Debian: build-essential)"


class Shim:
    """The library for one agent, and the two files that steer it."""

    def __init__(self, folder: Path, name: str) -> None:
        library = folder / "fault.so"
        if not library.exists():
            words = ["cc", "-shared", "-fPIC", "-O2", "-x", "c", "-", "-o", str(library), "-ldl"]
            subprocess.run(words, input=SOURCE, text=True, check=True, capture_output=True)
        clock, self._broken = folder / f"{name}.clock", folder / f"{name}.broken"
        clock.write_bytes(bytes(8))
        with clock.open("r+b") as file:
            self._clock = mmap.mmap(file.fileno(), 8)
        self.environment = {
            "LD_PRELOAD": str(library),
            "FAULT_CLOCK": str(clock),
            "FAULT_DISK": str(self._broken),
        }

    def set_clock(self, offset_s: int) -> None:
        """The time of day is off by so many seconds from now on."""
        self._clock[:] = struct.pack("<q", offset_s)

    def break_disk(self) -> None:
        """Every flush fails."""
        self._broken.touch()

    def mend_disk(self) -> None:
        self._broken.unlink(missing_ok=True)
