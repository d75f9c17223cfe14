/* logits_cpu.c -- what is done with rows of logits: the distillation loss, the best candidates, a drawn token.
 *
 * A row (49152 logits: 192 KiB) stays in the second-level cache, so that the passes over it cost one reading of
 * memory. Nothing sorts a vocabulary: the best are kept in a heap whose root is the worst of them, and of a row nearly
 * all is passed over eight at a time. */
#include "kernels/base/random.h"
#include "kernels/cpu.h"
#include "kernels/cpu_vector.h"

enum { BLOCK = 512 }; /* elements summed in f32 before they go on in double */

static float row_largest(const float *x, int64_t n) {
    F8 most = f8_all(-INFINITY);
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) most = f8_max(most, f8_load(x + i));
    float m = f8_largest(most);
    for (; i < n; i++) m = x[i] > m ? x[i] : m;
    return m;
}

static int32_t row_best(const float *x, int64_t n) {
    float most = row_largest(x, n);
    int64_t i = 0;
    while (i + 8 <= n && !i8_any(f8_load(x + i) == f8_all(most))) i += 8;
    while (i < n && x[i] != most) i++;
    return i < n ? (int32_t)i : 0;
}

/* sum of e^(factor (x - base)); the exponentials themselves go to `out` unless it is NULL. */
VECTOR_FN double sum_exp(float *out, const float *x, int64_t n, float base, float factor) {
    double sum = 0;
    int64_t i = 0;
    while (i + 8 <= n) {
        F8 part = f8_all(0);
        int64_t end = i + BLOCK < n ? i + BLOCK : n;
        for (; i + 8 <= end; i += 8) {
            F8 e = f8_exp((f8_load(x + i) - f8_all(base)) * f8_all(factor));
            part += e;
            if (out) f8_store(out + i, e);
        }
        sum += f8_sum_double(part);
    }
    for (; i < n; i++) {
        float e = f8_exp(f8_all((x[i] - base) * factor))[0];
        sum += e;
        if (out) out[i] = e;
    }
    return sum;
}

static double row_lse(const float *x, int64_t n) {
    float most = row_largest(x, n);
    return most + log(sum_exp(NULL, x, n, most, 1));
}

static Status ranking_space(Stream *stream, const char *op, int64_t V, CpuStream **out) {
    CpuStream *s = cpu_stream(stream);
    NEED(V <= s->limits.vocab, ST_ARG, "%s: a row of %lld logits, the stream was opened for %d", op, (long long)V,
         s->limits.vocab);
    *out = s;
    return ST_OK;
}

static Ranked *my_ranking(const CpuStream *s) {
    return s->ranked + (int64_t)cpu_thread() * s->limits.vocab;
}

/* ---- distill ---- */

typedef struct RowLoss { double loss, kl, mass; } RowLoss;

/* The kept candidates' logits are in `kept`. */
static RowLoss row_loss(const Ranked *kept, const float *logprob, int32_t n, double lse) {
    RowLoss r = {0};
    double student = 0;
    for (int32_t j = 0; j < n; j++) {
        double p = exp(logprob[j]), logq = kept[j].value - lse;
        r.loss -= p * logq;
        r.kl += p * (logprob[j] - logq);
        r.mass += p;
        student += exp(logq);
    }
    /* The tail as one bucket. Rounded log-probabilities may sum to a little more than one: then there is no tail. */
    double tail = 1 - r.mass, student_tail = fmax(1 - student, 1e-300);
    if (tail > 0) r.kl += tail * log(tail / student_tail);
    if (r.kl < 0) r.kl = 0; /* not by fmax, which would make a zero of a NaN */
    return r;
}

static void multiply(float *x, int64_t n, float factor) {
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) f8_store(x + i, f8_load(x + i) * f8_all(factor));
    for (; i < n; i++) x[i] *= factor;
}

/* A gradient replaces the logits: by their exponentials in the pass that sums them, which are then only scaled. */
static RowLoss distill_row(const DistillArgs *a, int64_t w, float *logits, int64_t V, Ranked *kept) {
    int32_t first = ((const int32_t *)a->first.data)[w], n = ((const int32_t *)a->first.data)[w + 1] - first;
    const int32_t *id = (const int32_t *)a->id.data + first;
    const float *logprob = (const float *)a->logprob.data + first;
    for (int32_t j = 0; j < n; j++) kept[j] = (Ranked){logits[id[j]], id[j]};
    float most = row_largest(logits, V);
    double sum = sum_exp(a->gradient ? logits : NULL, logits, V, most, 1);
    RowLoss r = n ? row_loss(kept, logprob, n, most + log(sum)) : (RowLoss){0};
    if (!a->gradient) return r;
    if (n) multiply(logits, V, (float)(a->scale * r.mass / sum));
    else memset(logits, 0, sizeof *logits * (size_t)V);
    for (int32_t j = 0; j < n; j++) logits[id[j]] -= (float)(a->scale * exp(logprob[j]));
    return r;
}

Status CPU(distill)(Stream *stream, const DistillArgs *a) {
    TRY(distill_check(a));
    CPU_F32("distill", a->logits);
    CPU_F32("distill", a->loss);
    CPU_F32("distill", a->kl);
    int64_t W = a->logits.dim[0], V = a->logits.dim[1];
    float *loss = a->loss.data, *kl = a->kl.data;
    CpuStream *s;
    TRY(ranking_space(stream, "distill", V, &s));
#pragma omp parallel for num_threads(cpu_threads(s->threads))
    for (int64_t w = 0; w < W; w++) {
        float *row = (float *)a->logits.data + w * V;
        if (a->best.data) ((int32_t *)a->best.data)[w] = row_best(row, V);
        RowLoss r = distill_row(a, w, row, V, my_ranking(s));
        if (loss) loss[w] = (float)r.loss;
        if (kl) kl[w] = (float)r.kl;
    }
    return ST_OK;
}

/* ---- the best of a row ---- */

static bool better(Ranked a, Ranked b) {
    return a.value > b.value || (a.value == b.value && a.id < b.id);
}

/* Puts `in` at place i of a heap of n and lets it sink: every parent is worse than its children. */
static void sink(Ranked *heap, int64_t n, int64_t i, Ranked in) {
    for (int64_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && better(heap[child], heap[child + 1])) child++;
        if (!better(in, heap[child])) break;
        heap[i] = heap[child];
    }
    heap[i] = in;
}

/* The K best of n, best first, ties by lower id. */
static void best_of_row(Ranked *best, int64_t K, const float *x, int64_t n) {
    for (int64_t i = 0; i < K; i++) best[i] = (Ranked){x[i], (int32_t)i};
    for (int64_t i = K / 2; i-- > 0;) sink(best, K, i, best[i]);
    for (int64_t i = K; i < n;) {
        if (i + 8 <= n && !i8_any(f8_load(x + i) > f8_all(best[0].value))) {
            i += 8;
            continue;
        }
        /* Ids rise, so a tie with the worst one kept never replaces it. */
        int64_t end = i + 8 < n ? i + 8 : n;
        for (; i < end; i++)
            if (x[i] > best[0].value) sink(best, K, 0, (Ranked){x[i], (int32_t)i});
    }
    for (int64_t left = K - 1; left > 0; left--) {
        Ranked worst = best[0];
        sink(best, left, 0, best[left]);
        best[left] = worst;
    }
}

Status CPU(topk)(Stream *stream, const TopkArgs *a) {
    TRY(topk_check(a));
    CPU_F32("topk", a->logits);
    CPU_F32("topk", a->logprob);
    int64_t W = a->logits.dim[0], V = a->logits.dim[1], K = a->id.dim[1];
    int32_t *id = a->id.data;
    float *logprob = a->logprob.data;
    CpuStream *s;
    TRY(ranking_space(stream, "topk", V, &s));
#pragma omp parallel for num_threads(cpu_threads(s->threads))
    for (int64_t w = 0; w < W; w++) {
        const float *row = (const float *)a->logits.data + w * V;
        Ranked *best = my_ranking(s);
        best_of_row(best, K, row, V);
        double lse = row_lse(row, V);
        for (int64_t k = 0; k < K; k++) {
            id[w * K + k] = best[k].id;
            logprob[w * K + k] = (float)(best[k].value - lse);
        }
    }
    return ST_OK;
}

/* ---- sample ---- */

/* What one row asks for, and its best token. */
typedef struct Draw {
    const float *logits;
    int64_t V;
    double temperature, top_p, min_p;
    int64_t top_k;
    uint64_t seed, counter;
    int32_t best;
} Draw;

static double weight(const Draw *d, int32_t id) {
    return d->logits[id] / d->temperature;
}

/* e^(weight - best weight): the share of a token before normalisation. */
static double share(const Draw *d, int32_t id) {
    return exp(weight(d, id) - weight(d, d->best));
}

/* argmax of logit + Gumbel noise is a draw from the softmax; the noise of a token depends on (seed, counter, token). */
static double score(const Draw *d, int32_t id) {
    Random4 r = random_block(d->seed, d->counter, (uint64_t)id);
    return weight(d, id) - log(-log((double)random_unit(r.v[0])));
}

/* How many of the n ranked tokens reach top_p of `total`; 0: not even all n do. */
static int64_t count_top_p(const Draw *d, const Ranked *ranked, int64_t n, double total) {
    double sum = 0;
    for (int64_t kept = 0; kept < n;) {
        sum += share(d, ranked[kept++].id);
        if (sum >= d->top_p * total) return kept;
    }
    return 0;
}

/* The tokens that top_k and top_p leave, ranked. With top_p alone their number is not known: four times as many are
 * ranked until they suffice. */
static int64_t rank_kept(const Draw *d, Ranked *ranked) {
    enum { FIRST_TRY = 256 };
    bool all = d->top_k <= 0 || d->top_k >= d->V;
    int64_t limit = all ? d->V : d->top_k;
    if (d->top_p >= 1) {
        best_of_row(ranked, limit, d->logits, d->V);
        return limit;
    }
    double total = 0;
    if (all) total = sum_exp(NULL, d->logits, d->V, d->logits[d->best], (float)(1 / d->temperature));
    for (int64_t n = all && limit > FIRST_TRY ? FIRST_TRY : limit;; n = 4 * n < limit ? 4 * n : limit) {
        best_of_row(ranked, n, d->logits, d->V);
        for (int64_t i = 0; !all && i < n; i++) total += share(d, ranked[i].id);
        int64_t kept = count_top_p(d, ranked, n, total);
        if (kept) return kept;
        if (n == limit) return limit;
    }
}

static int32_t draw_ranked(const Draw *d, Ranked *ranked) {
    int64_t n = rank_kept(d, ranked);
    while (n > 1 && share(d, ranked[n - 1].id) < d->min_p) n--;
    int32_t drawn = ranked[0].id;
    double most = -INFINITY;
    for (int64_t i = 0; i < n; i++) {
        double got = score(d, ranked[i].id);
        if (got > most || (got == most && ranked[i].id < drawn)) most = got, drawn = ranked[i].id;
    }
    return drawn;
}

/* Without ranks: noise is never above 16.64 (random_unit has 23 bits), so a token that lies further than that below the
 * best score so far cannot win and gets no noise at all. */
static int32_t draw_any(const Draw *d) {
    const double noise_max = 16.64;
    double most = score(d, d->best);
    int32_t drawn = d->best;
    for (int64_t i = 0; i < d->V;) {
        float floor = (float)((most - noise_max) * d->temperature);
        if (i + 8 <= d->V && !i8_any(f8_load(d->logits + i) >= f8_all(floor))) {
            i += 8;
            continue;
        }
        int64_t end = i + 8 < d->V ? i + 8 : d->V;
        for (; i < end; i++) {
            int32_t id = (int32_t)i;
            if (!(d->logits[i] >= floor) || (d->min_p > 0 && share(d, id) < d->min_p)) continue;
            double got = score(d, id);
            if (got > most || (got == most && id < drawn)) most = got, drawn = id;
        }
    }
    return drawn;
}

static int32_t sample_row(const SampleArgs *a, int64_t w, Ranked *ranked) {
    const uint32_t *seed = (const uint32_t *)a->seed.data + 2 * w;
    int64_t V = a->logits.dim[1];
    Draw d = {.logits = (const float *)a->logits.data + w * V, .V = V};
    d.best = row_best(d.logits, V);
    d.temperature = ((const float *)a->temperature.data)[w];
    d.top_p = ((const float *)a->top_p.data)[w];
    d.min_p = ((const float *)a->min_p.data)[w];
    d.top_k = ((const int32_t *)a->top_k.data)[w];
    d.seed = (uint64_t)seed[1] << 32 | seed[0];
    d.counter = ((const uint32_t *)a->counter.data)[w];
    if (d.temperature <= 0) return d.best;
    bool ranks = (d.top_k > 0 && d.top_k < V) || d.top_p < 1;
    return ranks ? draw_ranked(&d, ranked) : draw_any(&d);
}

Status CPU(sample)(Stream *stream, const SampleArgs *a) {
    TRY(sample_check(a));
    CPU_F32("sample", a->logits);
    CPU_F32("sample", a->logprob);
    int64_t W = a->logits.dim[0], V = a->logits.dim[1];
    int32_t *id = a->id.data;
    float *logprob = a->logprob.data;
    CpuStream *s;
    TRY(ranking_space(stream, "sample", V, &s));
#pragma omp parallel for num_threads(cpu_threads(s->threads))
    for (int64_t w = 0; w < W; w++) {
        const float *row = (const float *)a->logits.data + w * V;
        id[w] = sample_row(a, w, my_ranking(s));
        if (logprob) logprob[w] = (float)(row[id[w]] - row_lse(row, V));
    }
    return ST_OK;
}
