/* Stands before the C library's calls that change files, by LD_PRELOAD: counts those below a
 * folder, and at the N-th ends the process, or fails with an error.
 *
 * A write at which the process ends is made by half: what a crash can leave of it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static char folder[4096];
static long calls, at;
static int error, lasting;

/* how: 0 counts alone, -1 kills, else an errno; lasting: from the N-th on, not at it alone. */
void faults_set(const char *below, long number, int how, int stays) {
    snprintf(folder, sizeof folder, "%s", below);
    calls = 0, at = number, error = how, lasting = stays;
}

long faults_count(void) { return calls; }

static int below(const char *path) {
    return folder[0] && path && !strncmp(path, folder, strlen(folder));
}

static int file_below(int file) {
    char link[64], path[4096];
    if (!folder[0]) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0) return 0;
    path[size] = 0;
    return below(path);
}

static int met(void) {
    calls++;
    return error && (calls == at || (lasting && calls > at));
}

static void end(void) { kill(getpid(), SIGKILL), pause(); }

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)
#define FAULT(returned)                                                                            \
    if (met()) {                                                                                   \
        if (error < 0) end();                                                                      \
        errno = error;                                                                             \
        return returned;                                                                           \
    }

#define WRITER(name, parameters, whole, half)                                                      \
    ssize_t name parameters {                                                                      \
        REAL(name);                                                                                \
        if (file_below(file) && met()) {                                                           \
            if (error < 0) {                                                                       \
                ssize_t made = half;                                                               \
                (void)made;                                                                        \
                end();                                                                             \
            }                                                                                      \
            errno = error;                                                                         \
            return -1;                                                                             \
        }                                                                                          \
        return whole;                                                                              \
    }
WRITER(write, (int file, const void *bytes, size_t size), real(file, bytes, size),
       real(file, bytes, size / 2))
WRITER(pwrite, (int file, const void *bytes, size_t size, off_t place),
       real(file, bytes, size, place), real(file, bytes, size / 2, place))
WRITER(pwrite64, (int file, const void *bytes, size_t size, off64_t place),
       real(file, bytes, size, place), real(file, bytes, size / 2, place))

#define ON_FILE(name, parameters, arguments)                                                       \
    int name parameters {                                                                          \
        REAL(name);                                                                                \
        if (file_below(file)) FAULT(-1)                                                            \
        return real arguments;                                                                     \
    }

/* Not made below the folder: a process that ends takes nothing out of the system's memory. */
#define SYNC(name)                                                                                 \
    int name(int file) {                                                                           \
        REAL(name);                                                                                \
        if (!file_below(file)) return real(file);                                                  \
        FAULT(-1)                                                                                  \
        return 0;                                                                                  \
    }
SYNC(fsync)
SYNC(fdatasync)
ON_FILE(ftruncate, (int file, off_t size), (file, size))
ON_FILE(ftruncate64, (int file, off64_t size), (file, size))

#define ON_PATH(name, parameters, arguments)                                                       \
    int name parameters {                                                                          \
        REAL(name);                                                                                \
        if (below(path)) FAULT(-1)                                                                 \
        return real arguments;                                                                     \
    }
ON_PATH(unlink, (const char *path), (path))
ON_PATH(mkdir, (const char *path, mode_t mode), (path, mode))
ON_PATH(chmod, (const char *path, mode_t mode), (path, mode))
ON_PATH(rename, (const char *path, const char *to), (path, to))

#define OPENER(name)                                                                               \
    int name(const char *path, int flags, ...) {                                                   \
        REAL(name);                                                                                \
        va_list rest;                                                                              \
        va_start(rest, flags);                                                                     \
        mode_t mode = va_arg(rest, mode_t);                                                        \
        va_end(rest);                                                                              \
        if ((flags & (O_CREAT | O_WRONLY | O_RDWR)) && below(path)) FAULT(-1)                      \
        return real(path, flags, mode);                                                            \
    }
OPENER(open)
OPENER(open64)
