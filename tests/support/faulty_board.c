/* A board with faults, by LD_PRELOAD.
 *
 * A card that wears out: calls that write below $WORN_CARD fail, or take long, as the file $WORN_CARD_HOW says: "rofs", "io", "slow"
 * (three seconds for a sync), "hangs" (each call waits until the file says something else).
 * A clock without a battery: times of day differ by the seconds in the file $CLOCK_BEHIND. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#define NEXT(name) static __typeof__(&name) next; if (!next) next = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static int real_open(const char *path) {
    static int (*next)(const char *, int, ...);
    if (!next) next = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open64");
    return next(path, O_RDONLY | O_CLOEXEC);
}

static char how(void) {
    const char *file = getenv("WORN_CARD_HOW");
    char first = 0;
    int saved = errno, opened = file ? real_open(file) : -1;
    if (opened >= 0) { if (read(opened, &first, 1) != 1) first = 0; close(opened); }
    errno = saved;
    return first;
}

static int on_card(const char *path) {
    const char *card = getenv("WORN_CARD");
    char here[4096];
    if (!card) return 0;
    if (path[0] != '/') {
        if (!getcwd(here, sizeof here) || strlen(here) + strlen(path) + 2 > sizeof here) return 0;
        strcat(strcat(here, "/"), path);
        path = here;
    }
    return !strncmp(path, card, strlen(card));
}

static int by_descriptor(int descriptor) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return on_card(path);
}

/* 1: this call fails with errno. */
static int fails(int is_there, int syncs) {
    if (!is_there) return 0;
    char mode = how();
    if (mode == 'r') { errno = EROFS; return 1; }
    if (mode == 'i') { errno = EIO; return 1; }
    if (mode == 's' && syncs) { sleep(3); }
    for (int saved = errno; how() == 'h'; errno = saved) usleep(20000);
    return 0;
}

#define WRITES(flags) ((flags) & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC))
#define MODE(last) mode_t mode = 0; if (flags & (O_CREAT | O_TMPFILE)) { va_list rest; va_start(rest, last); mode = va_arg(rest, mode_t); va_end(rest); }

int open(const char *path, int flags, ...) { NEXT(open); MODE(flags); return fails(WRITES(flags) && on_card(path), 0) ? -1 : next(path, flags, mode); }
int open64(const char *path, int flags, ...) { NEXT(open64); MODE(flags); return fails(WRITES(flags) && on_card(path), 0) ? -1 : next(path, flags, mode); }
int openat(int at, const char *path, int flags, ...) { NEXT(openat); MODE(flags); return fails(WRITES(flags) && on_card(path), 0) ? -1 : next(at, path, flags, mode); }
int mkdir(const char *path, mode_t mode) { NEXT(mkdir); return fails(on_card(path) && access(path, F_OK), 0) ? -1 : next(path, mode); }
int unlink(const char *path) { NEXT(unlink); return fails(on_card(path), 0) ? -1 : next(path); }
int rename(const char *from, const char *to) { NEXT(rename); return fails(on_card(to), 0) ? -1 : next(from, to); }
ssize_t write(int file, const void *data, size_t size) { NEXT(write); return fails(by_descriptor(file), 0) ? -1 : next(file, data, size); }
ssize_t pwrite(int file, const void *data, size_t size, off_t at) { NEXT(pwrite); return fails(by_descriptor(file), 0) ? -1 : next(file, data, size, at); }
ssize_t pwrite64(int file, const void *data, size_t size, off64_t at) { NEXT(pwrite64); return fails(by_descriptor(file), 0) ? -1 : next(file, data, size, at); }
int ftruncate(int file, off_t size) { NEXT(ftruncate); return fails(by_descriptor(file), 0) ? -1 : next(file, size); }
int ftruncate64(int file, off64_t size) { NEXT(ftruncate64); return fails(by_descriptor(file), 0) ? -1 : next(file, size); }
int fsync(int file) { NEXT(fsync); return fails(by_descriptor(file), 1) ? -1 : next(file); }
int fdatasync(int file) { NEXT(fdatasync); return fails(by_descriptor(file), 1) ? -1 : next(file); }

static double behind(void) {
    const char *file = getenv("CLOCK_BEHIND");
    char text[64] = {0};
    if (!file) return 0;
    int saved = errno, opened = real_open(file);
    if (opened >= 0) { if (read(opened, text, sizeof text - 1) < 0) text[0] = 0; close(opened); }
    errno = saved;
    return atof(text);
}

int clock_gettime(clockid_t which, struct timespec *at) {
    NEXT(clock_gettime);
    int result = next(which, at);
    if (!result && which == CLOCK_REALTIME) at->tv_sec -= (time_t)behind();
    return result;
}
