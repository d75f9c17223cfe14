/* file.c -- mapping and safe writing. A Writer puts everything into "path.tmp.<pid>" in the target's own
 * folder (a rename across file systems would copy) and renames it when all of it is on the disk. */
#include "kernels/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static int64_t fail_after = -1; /* test hook: bytes until the disk is "full" */

void file_fail_after(int64_t bytes) {
    fail_after = bytes;
}

/* ---- reading ---- */

static Status open_regular(int *fd, size_t *size, const char *path) {
    *fd = open(path, O_RDONLY | O_CLOEXEC);
    NEED(*fd >= 0, ST_NOTFOUND, "%s: cannot be opened: %s", path, strerror(errno));
    struct stat s;
    if (fstat(*fd, &s) == 0 && S_ISREG(s.st_mode)) {
        *size = (size_t)s.st_size;
        return ST_OK;
    }
    close(*fd);
    FAIL(ST_NOTFOUND, "%s: is not a regular file", path);
}

Status file_map(FileMap *out, const char *path) {
    *out = (FileMap){0};
    int fd;
    size_t size;
    TRY(open_regular(&fd, &size, path));
    void *p = size ? mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0) : NULL;
    int why = errno;
    close(fd);
    NEED(p != MAP_FAILED, ST_IO, "%s: cannot be mapped: %s", path, strerror(why));
    *out = (FileMap){p, size};
    return ST_OK;
}

void file_unmap(FileMap *m) {
    if (m->data) munmap((void *)(uintptr_t)m->data, m->size);
    *m = (FileMap){0};
}

static Status read_all(int fd, char *to, size_t size, const char *path) {
    for (size_t done = 0; done < size;) {
        ssize_t n = read(fd, to + done, size - done);
        if (n < 0 && errno == EINTR) continue;
        NEED(n > 0, ST_IO, "%s: reading stopped at byte %zu of %zu: %s", path, done, size,
             n ? strerror(errno) : "the file became shorter");
        done += (size_t)n;
    }
    return ST_OK;
}

Status file_read(char **out, size_t *size, const char *path) {
    *out = NULL;
    Status st = ST_OK;
    int fd;
    TRY(open_regular(&fd, size, path));
    char *text = malloc(*size + 1);
    NEED_TO(done, text, ST_NOMEM, "%s: no memory for its %zu bytes", path, *size);
    TRY_TO(done, read_all(fd, text, *size, path));
    text[*size] = '\0';
    *out = text;
    text = NULL;
done:
    free(text);
    close(fd);
    return st;
}

bool file_exists(const char *path) {
    return access(path, F_OK) == 0;
}

bool file_is_folder(const char *path) {
    struct stat s;
    return stat(path, &s) == 0 && S_ISDIR(s.st_mode);
}

Status file_join(char *out, size_t cap, const char *folder, const char *name) {
    size_t n = strlen(folder);
    const char *slash = n && folder[n - 1] != '/' ? "/" : "";
    int used = snprintf(out, cap, "%s%s%s", folder, slash, name);
    NEED(used >= 0 && (size_t)used < cap, ST_ARG, "the path %s/%s is longer than %zu bytes", folder, name,
         cap);
    return ST_OK;
}

/* ---- writing ---- */

struct Writer {
    int fd;
    char path[PATH_MAX], temporary[PATH_MAX];
    size_t used;
    char buffer[1 << 16];
};

static Status write_failed(const Writer *w, const char *doing, int why) {
    Status st = why == ENOSPC || why == EDQUOT || why == EFBIG ? ST_NOSPACE : ST_IO;
    FAIL(st, "%s: %s failed: %s%s", w->path, doing, strerror(why),
         st == ST_NOSPACE ? "; free some space and run again, nothing was left half-written" : "");
}

Status writer_open(Writer **out, const char *path) {
    *out = NULL;
    Writer *w = malloc(sizeof *w);
    NEED(w, ST_NOMEM, "%s: no memory to write it", path);
    w->used = 0;
    int n = snprintf(w->path, sizeof w->path, "%s", path);
    int t = snprintf(w->temporary, sizeof w->temporary, "%s.tmp.%ld", path, (long)getpid());
    w->fd = n > 0 && t > 0 && (size_t)t < sizeof w->temporary
                ? open(w->temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666)
                : (errno = ENAMETOOLONG, -1);
    if (w->fd < 0) {
        Status st = write_failed(w, "creating", errno);
        free(w);
        return st;
    }
    *out = w;
    return ST_OK;
}

/* What the test hook leaves of a write; it counts bytes over all files. */
static bool hook_fails(size_t bytes) {
    if (fail_after < 0) return false;
    if ((int64_t)bytes > fail_after) return true;
    fail_after -= (int64_t)bytes;
    return false;
}

static Status write_out(Writer *w, const char *p, size_t bytes) {
    if (hook_fails(bytes)) return write_failed(w, "writing", ENOSPC);
    for (size_t done = 0; done < bytes;) {
        ssize_t n = write(w->fd, p + done, bytes - done);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return write_failed(w, "writing", errno);
        done += (size_t)n;
    }
    return ST_OK;
}

static Status flush(Writer *w) {
    size_t bytes = w->used;
    w->used = 0;
    return bytes ? write_out(w, w->buffer, bytes) : ST_OK;
}

Status writer_put(Writer *w, const void *data, size_t bytes) {
    if (bytes > sizeof w->buffer - w->used) TRY(flush(w));
    if (bytes > sizeof w->buffer) return write_out(w, data, bytes);
    if (bytes) memcpy(w->buffer + w->used, data, bytes);
    w->used += bytes;
    return ST_OK;
}

/* A rename is durable only once its folder is. Some file systems refuse to sync folders: then nothing is
 * lost. */
static void sync_folder_of(const char *path) {
    char folder[PATH_MAX];
    snprintf(folder, sizeof folder, "%s", path);
    char *slash = strrchr(folder, '/');
    if (slash == folder)
        slash[1] = '\0';
    else if (slash)
        *slash = '\0';
    int fd = open(slash ? folder : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return;
    fsync(fd);
    close(fd);
}

Status writer_finish(Writer **pw) {
    Writer *w = *pw;
    Status st = ST_OK;
    TRY_TO(done, flush(w));
    if (fsync(w->fd) != 0) TRY_TO(done, write_failed(w, "syncing", errno));
    int closed = close(w->fd);
    w->fd = -1;
    if (closed != 0) TRY_TO(done, write_failed(w, "closing", errno));
    if (rename(w->temporary, w->path) != 0) TRY_TO(done, write_failed(w, "renaming", errno));
    sync_folder_of(w->path);
    free(w);
    *pw = NULL;
    return ST_OK;
done:
    writer_abandon(pw);
    return st;
}

void writer_abandon(Writer **pw) {
    Writer *w = *pw;
    if (!w) return;
    if (w->fd >= 0) close(w->fd);
    unlink(w->temporary);
    free(w);
    *pw = NULL;
}
