/* cmd_doctor.c -- what is here, what is missing, and what to do about it: one line per finding, and a remedy
 * below those that are not well. Leaves with 1 when something cannot work. Meant to be pasted into a report
 * of a fault, too. */
#include <openssl/crypto.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#ifdef CARTRIDGE_MPI
#include <mpi.h>
#endif

#include "build_info.h"
#include "kernels/base/file.h"
#include "kernels/base/json.h"
#include "kernels/cpu.h"
#include "kernels/cuda_device.h"
#include "tools/config.h"
#include "tools/host_facts.h"
#include "tools/job.h"
#include "tools/threads.h"

typedef enum Verdict { WELL, WARNING, PROBLEM } Verdict;
static const char *const verdict_word[] = {"ok", "warning", "problem"};

typedef struct Doctor {
    bool json;
    int count[3];
    HostFacts host;
} Doctor;

static void say_json(Verdict v, const char *what, const char *finding, const char *remedy) {
    cJSON *o = cJSON_CreateObject();
    cJSON_AddStringToObject(o, "verdict", verdict_word[v]);
    cJSON_AddStringToObject(o, "what", what);
    cJSON_AddStringToObject(o, "finding", finding);
    if (v != WELL) cJSON_AddStringToObject(o, "remedy", remedy);
    char *text = cJSON_PrintUnformatted(o);
    if (text) puts(text);
    free(text);
    cJSON_Delete(o);
}

/* The remedy is not told when all is well. */
__attribute__((format(printf, 5, 6))) static void say(Doctor *d, Verdict v, const char *what,
                                                      const char *remedy, const char *format, ...) {
    char finding[1024];
    va_list list;
    va_start(list, format);
    vsnprintf(finding, sizeof finding, format, list);
    va_end(list);
    d->count[v]++;
    if (d->json) {
        say_json(v, what, finding, remedy);
        return;
    }
    printf("%-8s %-11s %s\n", verdict_word[v], what, finding);
    if (v != WELL) printf("%-8s %-11s -> %s\n", "", "", remedy);
}

/* ---- what computes ---- */

static void check_program(Doctor *d) {
    bool slow = strstr(BUILD_TYPE, "sanitizers") || !strncmp(BUILD_TYPE, "Debug", 5);
    say(d, slow ? WARNING : WELL, "program",
        "a build for development; cmake --preset release makes the fast one",
        "cartridge %s, commit %s, %s, %s", BUILD_VERSION, BUILD_COMMIT, BUILD_TYPE, BUILD_COMPILER);
}

static void check_cpu(Doctor *d) {
    const HostFacts *h = &d->host;
    const char *kernels = cpu_instructions();
    bool fast = strcmp(kernels, "portable") != 0;
    say(d, fast ? WELL : WARNING, "cpu",
        "this processor has no AVX2 with FMA, or the build is for another kind; it works, "
        "but slowly",
        "%s%s%d core%s, %s kernels", h->cpu, h->cpu[0] ? ", " : "", h->cores, h->cores == 1 ? "" : "s",
        kernels);
    int threads = threads_now();
    double room = h->quota > 0 && h->quota < h->allowed ? h->quota : h->allowed;
    say(d, threads > room + 0.5 ? WARNING : WELL, "threads",
        "more threads than cores wait for each other: --threads N, or OMP_NUM_THREADS",
        "%d; cores for this process: %g", threads, room);
}

/* y = x w^T on a backend against the reference: the cheapest way to see that libraries and driver do their
 * work. */
static Status try_product(const Ops *ops, double *worst) {
    enum { N = 16 };
    float host[N * N], got[N * N];
    void *mem = NULL;
    Stream *s = NULL;
    Status st = ST_OK;
    DType act = ops->act;
    size_t bytes = dtype_bytes(act) * N * N, all = 3 * bytes > 4096 ? 3 * bytes : 4096;
    char stage[3 * sizeof host];
    for (int i = 0; i < N * N; i++) host[i] = (float)(i % 7 - 3) / 4; /* exact in bf16, as are all the sums */
    Tensor h = tensor_of(host, DT_F32, N, N), x = tensor_of(stage, act, N, N),
           w = tensor_of(stage + bytes, DT_BF16, N, N);
    tensor_convert(x, 0, h, 0, N * N);
    tensor_convert(w, 0, h, 0, N * N);
    TRY_TO(done, ops->mem_open(&mem, all));
    TRY_TO(done, ops->stream_open(&s, &(StreamLimits){N, N, N}));
    TRY_TO(done, ops->copy(s, mem, stage, 2 * bytes));
    x.data = mem, w.data = (char *)mem + bytes;
    Tensor y = tensor_of((char *)mem + 2 * bytes, act, N, N), back = tensor_of(stage, act, N, N);
    TRY_TO(done, ops->linear(s, &(LinearArgs){.y = y, .x = x, .w = w}));
    TRY_TO(done, ops->copy(s, stage, y.data, bytes));
    TRY_TO(done, ops->sync(s));
    tensor_convert(tensor_of(got, DT_F32, N, N), 0, back, 0, N * N);
    *worst = 0;
    for (int i = 0; i < N * N; i++) {
        double sum = 0;
        for (int k = 0; k < N; k++) sum += (double)host[i / N * N + k] * (double)host[i % N * N + k];
        double error = sum > got[i] ? sum - (double)got[i] : (double)got[i] - sum;
        if (!(error <= *worst)) *worst = error;
    }
done:
    if (s) ops->stream_close(s);
    if (mem) ops->mem_close(mem);
    return st;
}

static void check_product(Doctor *d, const Ops *ops, const char *name) {
    double worst;
    Status st = try_product(ops, &worst);
    if (st)
        say(d, PROBLEM, name, "nothing can be computed here before this is mended",
            "a matrix product fails: %s", status_message());
    else if (!(worst < 0.1))
        say(d, PROBLEM, name,
            "results of this machine cannot be trusted: library, driver or processor is at fault",
            "a matrix product of small numbers is wrong by %g", worst);
    else
        say(d, WELL, name, "", "a matrix product is right");
}

static void check_device(Doctor *d, int32_t i) {
    CudaDevice c;
    char name[16], all[24], left[24];
    const Ops *ops;
    snprintf(name, sizeof name, "gpu %d", i);
    if (cuda_device_read(&c, i)) {
        say(d, PROBLEM, name, "nvidia-smi shows whether the driver sees it", "%s", status_message());
        return;
    }
    job_bytes(all, sizeof all, (double)c.bytes);
    job_bytes(left, sizeof left, (double)c.bytes_free);
    say(d, c.major < 8 ? WARNING : WELL, name,
        "too old for the kernels (8.0 is the least): use --device cpu or another card",
        "%s, compute capability %d.%d, %d processors, %s of %s free, driver for CUDA %d.%d, runtime %d.%d",
        c.name, c.major, c.minor, c.processors, left, all, c.driver / 1000, c.driver % 1000 / 10,
        c.runtime / 1000, c.runtime % 1000 / 10);
    if (i > 0 || c.major < 8) return; /* a process has one device */
    if (cuda_ops(&ops, i))
        say(d, PROBLEM, name, "use --device cpu until this is mended", "%s", status_message());
    else
        check_product(d, ops, name);
}

static void check_gpu(Doctor *d) {
    int32_t n = 0;
    Status st = cuda_device_count(&n);
    if (st || n == 0)
        say(d, st && st != ST_NOTFOUND ? PROBLEM : WARNING, "gpu", "everything works on the CPU, only slower",
            "none: %s", st ? status_message() : "no device");
    for (int32_t i = 0; i < n; i++) check_device(d, i);
}

/* ---- libraries ---- */

static void check_pcre(Doctor *d) {
    char version[64] = "?";
    uint32_t unicode = 0, jit = 0;
    pcre2_config(PCRE2_CONFIG_VERSION, version);
    pcre2_config(PCRE2_CONFIG_UNICODE, &unicode);
    pcre2_config(PCRE2_CONFIG_JIT, &jit);
    say(d,
        !unicode ? PROBLEM
        : !jit   ? WARNING
                 : WELL,
        "pcre2",
        unicode ? "built without JIT: tokenizing is several times slower"
                : "built without Unicode: no tokenizer can be read",
        "%s%s%s", version, unicode ? ", Unicode" : "", jit ? ", JIT" : "");
}

static void check_hash(Doctor *d) {
    char hex[65];
    digest_hex(sha256_of("abc", 3), hex);
    bool right = !strcmp(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    say(d, right ? WELL : PROBLEM, "libcrypto",
        "SHA-256 is not available or wrong: no model and no cartridge can be identified", "%s",
        OpenSSL_version(OPENSSL_VERSION));
}

static void check_mpi(Doctor *d) {
#ifdef CARTRIDGE_MPI
    char version[MPI_MAX_LIBRARY_VERSION_STRING];
    int n = 0;
    MPI_Get_library_version(version, &n);
    version[strcspn(version, "\n,")] = '\0';
    say(d, WELL, "mpi", "", "%s", version);
#else
    say(d, WARNING, "mpi", "one process trains alone; for several: libopenmpi-dev, then build again",
        "not built in");
#endif
}

static void check_libraries(Doctor *d) {
    bool threads = sqlite3_threadsafe() != 0;
    say(d, threads ? WELL : WARNING, "sqlite", "built without threads: one process at a time", "%s",
        sqlite3_libversion());
    check_pcre(d);
    say(d, WELL, "utf8proc", "", "%s, Unicode %s", utf8proc_version(), utf8proc_unicode_version());
    say(d, WELL, "cjson", "", "%s", cJSON_Version());
    check_hash(d);
    check_mpi(d);
}

/* ---- limits ---- */

static void check_memory(Doctor *d) {
    const HostFacts *h = &d->host;
    char all[24], usable[24];
    int64_t room = host_memory_usable(h);
    job_bytes(all, sizeof all, (double)h->memory);
    job_bytes(usable, sizeof usable, (double)room);
    bool limited = h->memory_limit >= 0 && h->memory_limit == room;
    say(d,
        room < 0 || room > 1e9 ? WELL
        : room > 2e8           ? WARNING
                               : PROBLEM,
        "memory",
        "little is left; end other programs, or raise the limit (ulimit -v, the container's memory)",
        "%s, of which %s can be used%s", all, room < 0 ? "an unknown part" : usable,
        limited ? " (a limit is set)" : "");
}

static void check_files(Doctor *d) {
    int64_t n = d->host.files;
    if (n < 0)
        say(d, WELL, "open files", "", "no limit");
    else
        say(d,
            n >= 256  ? WELL
            : n >= 32 ? WARNING
                      : PROBLEM,
            "open files", "ulimit -n 1024", "%lld at most", (long long)n);
}

static void check_disk(Doctor *d) {
    const HostFacts *h = &d->host;
    char left[24];
    job_bytes(left, sizeof left, (double)h->disk_free);
    say(d, h->writable ? WELL : WARNING, "folder", "go to another one, or write elsewhere: -o, --run-dir",
        h->writable ? "the current one can be written" : "the current one cannot be written");
    if (h->disk_free >= 0)
        say(d, h->disk_free > 1000000000 ? WELL : WARNING, "disk",
            "conversations, checkpoints and cartridges need room: make some", "%s free in the current folder",
            left);
}

/* ---- the environment ---- */

typedef struct Launcher {
    const char *name, *rank, *size;
    bool mpi; /* its processes find each other by MPI */
} Launcher;
static const Launcher launchers[] = {
    {"Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", true},
    {"MPICH", "PMI_RANK", "PMI_SIZE", true},
    {"Slurm", "SLURM_PROCID", "SLURM_NTASKS", false},
    {"torchrun", "RANK", "WORLD_SIZE", false},
};
enum { LAUNCHERS = sizeof launchers / sizeof *launchers };

static void check_launcher(Doctor *d, const Launcher *l, long size) {
#ifdef CARTRIDGE_MPI
    bool mpi = true;
#else
    bool mpi = false;
#endif
    const char *rank = getenv(l->rank);
    say(d,
        !mpi     ? PROBLEM
        : l->mpi ? WELL
                 : WARNING,
        "ranks",
        mpi ? "train --ranks finds the others by MPI: start it with mpirun (or srun --mpi=pmix)"
            : "this build has no MPI, so each process would train alone: libopenmpi-dev, then build again",
        "rank %s of %ld, says %s (%s, %s)", rank ? rank : "?", size, l->name, l->rank, l->size);
}

static void check_launchers(Doctor *d) {
    const Launcher *first = NULL;
    long size = 0;
    for (int i = 0; i < LAUNCHERS; i++) {
        const char *text = getenv(launchers[i].size);
        long n = text ? strtol(text, NULL, 10) : 0;
        if (n <= 0) continue;
        if (first && n != size)
            say(d, PROBLEM, "ranks",
                "two launchers at once: unset one family of variables, or start only one of them",
                "%s=%ld, but %s=%ld", first->size, size, launchers[i].size, n);
        if (first) continue;
        first = &launchers[i];
        size = n;
    }
    if (first && size > 1)
        check_launcher(d, first, size);
    else if (!first)
        say(d, WELL, "ranks", "", "one process: no launcher's variables are set");
}

static void list_variables(Doctor *d) {
    static const char *const name[] = {"OMP_NUM_THREADS",      "OMP_WAIT_POLICY",   "OMP_PROC_BIND",
                                       "OMP_PLACES",           "GOMP_SPINCOUNT",    "GOMP_CPU_AFFINITY",
                                       "CUDA_VISIBLE_DEVICES", "NCCL_DEBUG",        "MALLOC_ARENA_MAX"};
    char text[512] = "";
    for (size_t i = 0; i < sizeof name / sizeof *name; i++) {
        const char *value = getenv(name[i]);
        size_t used = strlen(text);
        if (value) snprintf(text + used, sizeof text - used, "%s%s=%.60s", used ? " " : "", name[i], value);
    }
    say(d, WELL, "variables", "", "%s", text[0] ? text : "none that threads or CUDA would read");
}

/* Whether some command has that variable; near: the nearest that one has, "" if none is near. */
static bool known_variable(const char *variable, char *near, size_t cap) {
    bool known = !strcmp(variable, "CARTRIDGE_CONFIG");
    for (int k = 0; commands[k] && !known; k++) {
        CommandOptions o;
        if (command_options_open(&o, commands[k])) continue;
        for (int32_t i = 0; i < o.set.n && !known; i++) {
            char own[96];
            const char *const words[] = {near, own};
            if (o.set.slot[i].scope == OPTION_LINE) continue;
            config_variable(own, sizeof own, commands[k], &o.set.slot[i]);
            known = !strcmp(own, variable);
            if (nearest_word(variable, words, 2) == own) snprintf(near, cap, "%s", own);
        }
        command_options_close(&o);
    }
    return known;
}

extern char **environ;

static void check_own_variables(Doctor *d) {
    for (char **e = environ; e && *e; e++) {
        char name[96], near[96] = "", remedy[160];
        if (strncmp(*e, "CARTRIDGE_", 10) || !strchr(*e, '=')) continue;
        snprintf(name, sizeof name, "%.*s", (int)(strcspn(*e, "=") < 95 ? strcspn(*e, "=") : 95), *e);
        bool known = known_variable(name, near, sizeof near);
        snprintf(remedy, sizeof remedy, "no command reads it%s%s", near[0] ? "; perhaps meant: " : "", near);
        say(d, known ? WELL : WARNING, "variables", remedy, "%.200s", *e);
    }
}

/* ---- all of it ---- */

static Status run(const void *options, const Common *common, const TextList *rest, const Watch *watch,
                  int *code) {
    (void)options, (void)rest, (void)watch;
    Doctor d = {.json = common->json};
    host_facts(&d.host);
    check_program(&d);
    check_cpu(&d);
    check_product(&d, &ops_cpu, "arithmetic");
    check_gpu(&d);
    check_libraries(&d);
    check_memory(&d);
    check_files(&d);
    check_disk(&d);
    check_launchers(&d);
    list_variables(&d);
    check_own_variables(&d);
    if (!d.json)
        printf("\n%d problem%s, %d warning%s\n", d.count[PROBLEM], d.count[PROBLEM] == 1 ? "" : "s",
               d.count[WARNING], d.count[WARNING] == 1 ? "" : "s");
    if (d.count[PROBLEM]) *code = EXIT_FAILED;
    return ST_OK;
}

const Command cmd_doctor = {.name = "doctor",
                            .usage = "doctor [--json]",
                            .summary = "what this machine has, what is missing, and what to do about it",
                            .no_device = true,
                            .about = "Looks at processor, GPUs, libraries, limits, the current folder and "
                                     "the variables that launchers, threads and "
                                     "libraries read. Each line is ok, a warning or a problem, the latter "
                                     "two with a remedy. Leaves with 1 when there "
                                     "is a problem: something that cannot work.",
                            .examples = "cartridge doctor\nmpirun -n 2 cartridge doctor --json\n",
                            .run = run};
