/* logits_cpu.c -- what is done with rows of logits: the distillation loss, the best candidates, a drawn
 * token.
 *
 * A row (49152 logits: 192 KiB) stays in the second-level cache, so that the passes over it cost one reading
 * of memory. Nothing sorts a vocabulary: the best are kept in a heap whose root is the worst of them, and of
 * a row nearly all is passed over a vector at a time. */
#include "kernels/base/random.h"
#include "kernels/cpu.h"
#include "kernels/cpu_vector.h"

enum { BLOCK = 512 }; /* elements summed in f32 before they go on in double */

static float row_largest(const float *x, int64_t n) {
    Vec most = vec_all(-INFINITY);
    int64_t i = 0;
    for (; i + VEC <= n; i += VEC) most = vec_max(most, vec_load(x + i));
    float m = vec_largest(most);
    for (; i < n; i++) m = x[i] > m ? x[i] : m;
    return m;
}

/* Where the largest stands, the first of several; 0 when it is NaN. */
static int32_t row_best(const float *x, int64_t n, float most) {
    int64_t i = 0;
    while (i + VEC <= n && !vec_any(vec_load(x + i) == vec_all(most))) i += VEC;
    while (i < n && x[i] != most) i++;
    return i < n ? (int32_t)i : 0;
}

/* sum of e^(factor (x - base)); the exponentials themselves go to `out` unless it is NULL. */
VECTOR_FN double sum_exp(float *out, const float *x, int64_t n, float base, float factor) {
    double sum = 0;
    int64_t i = 0;
    while (i + VEC <= n) {
        Vec part = vec_all(0);
        int64_t end = i + BLOCK < n ? i + BLOCK : n;
        for (; i + VEC <= end; i += VEC) {
            Vec e = vec_exp((vec_load(x + i) - vec_all(base)) * vec_all(factor));
            part += e;
            if (out) vec_store(out + i, e);
        }
        sum += vec_sum_double(part);
    }
    for (; i < n; i++) {
        float e = vec_exp(vec_all((x[i] - base) * factor))[0];
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
    NEED(V <= s->limits.vocab, ST_ARG, "%s: a row of %lld logits, the stream was opened for %d", op,
         (long long)V, s->limits.vocab);
    *out = s;
    return ST_OK;
}

static Ranked *my_ranking(const CpuStream *s) {
    return s->ranked + (int64_t)cpu_thread() * s->limits.vocab;
}

/* ---- distill ---- */

typedef struct RowLoss { double loss, kl, mass, sum; } RowLoss;

/* The kept candidates' logits are in `kept`; `others` is the sum of e^(x - most) over all other tokens, so
 * that 1 - Q is a quotient of sums: of a sure student, a difference would be nothing but rounding. */
static RowLoss row_loss(const Ranked *kept, const float *logprob, int32_t n, double most, double others) {
    RowLoss r = {.sum = others};
    for (int32_t j = 0; j < n; j++) r.sum += exp(kept[j].value - most);
    double lse = most + log(r.sum);
    for (int32_t j = 0; j < n; j++) {
        double p = exp(logprob[j]), logq = kept[j].value - lse;
        r.loss -= p * logq;
        r.kl += p * (logprob[j] - logq);
        r.mass += p;
    }
    /* No tail where rounded log-probabilities sum to a little over one, or where no token is left for it. */
    double tail = others > 0 ? 1 - r.mass : 0, student_tail = fmax(others / r.sum, 1e-300);
    if (tail > 0) r.kl += tail * log(tail / student_tail);
    if (r.kl < 0) r.kl = 0; /* not by fmax, which would make a zero of a NaN */
    return r;
}

static void multiply(float *x, int64_t n, float factor) {
    int64_t i = 0;
    for (; i + VEC <= n; i += VEC) vec_store(x + i, vec_load(x + i) * vec_all(factor));
    for (; i < n; i++) x[i] *= factor;
}

/* A gradient replaces the logits: by their exponentials in the pass that sums them, which are then only
 * scaled. While that pass runs, the candidates are not there, and the largest of the others is its base. */
static RowLoss distill_row(const DistillArgs *a, int64_t w, Ranked *kept) {
    int64_t V = a->logits.dim[1];
    float *logits = (float *)a->logits.data + w * V;
    int32_t first = ((const int32_t *)a->first.data)[w], n = ((const int32_t *)a->first.data)[w + 1] - first;
    const int32_t *id = (const int32_t *)a->id.data + first;
    const float *logprob = (const float *)a->logprob.data + first;
    float most = row_largest(logits, V);
    if (a->best.data) ((int32_t *)a->best.data)[w] = row_best(logits, V, most);
    if (n == 0) {
        if (a->gradient) memset(logits, 0, sizeof *logits * (size_t)V);
        return (RowLoss){0};
    }
    for (int32_t j = 0; j < n; j++) {
        kept[j] = (Ranked){logits[id[j]], id[j]};
        logits[id[j]] = -INFINITY;
    }
    float base = n < V ? row_largest(logits, V) : most;
    double share = exp((double)base - most);
    double others = sum_exp(a->gradient ? logits : NULL, logits, V, base, 1) * share;
    RowLoss r = row_loss(kept, logprob, n, most, n < V ? others : 0);
    if (a->gradient) multiply(logits, V, (float)(a->scale * r.mass / r.sum * share));
    for (int32_t j = 0; j < n; j++) {
        double q = exp(kept[j].value - most) / r.sum;
        logits[id[j]] = a->gradient ? (float)(a->scale * (r.mass * q - exp(logprob[j]))) : kept[j].value;
    }
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
#pragma omp parallel for num_threads(cpu_threads(s->threads)) if (W * V >= PARALLEL_MIN)
    for (int64_t w = 0; w < W; w++) {
        RowLoss r = distill_row(a, w, my_ranking(s));
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

static void make_heap(Ranked *heap, int64_t n) {
    for (int64_t i = n / 2; i-- > 0;) sink(heap, n, i, heap[i]);
}

/* From a heap to a list, best first, ties by lower id. */
static void sort_heap(Ranked *heap, int64_t n) {
    for (int64_t left = n - 1; left > 0; left--) {
        Ranked worst = heap[0];
        sink(heap, left, 0, heap[left]);
        heap[left] = worst;
    }
}

/* The K best of n. */
static void best_of_row(Ranked *best, int64_t K, const float *x, int64_t n) {
    for (int64_t i = 0; i < K; i++) best[i] = (Ranked){x[i], (int32_t)i};
    make_heap(best, K);
    for (int64_t i = K; i < n;) {
        if (i + VEC <= n && !vec_any(vec_load(x + i) > vec_all(best[0].value))) {
            i += VEC;
            continue;
        }
        /* Ids rise, so a tie with the worst one kept never replaces it. */
        int64_t end = i + VEC < n ? i + VEC : n;
        for (; i < end; i++)
            if (x[i] > best[0].value) sink(best, K, 0, (Ranked){x[i], (int32_t)i});
    }
    sort_heap(best, K);
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
#pragma omp parallel for num_threads(cpu_threads(s->threads)) if (W * V >= PARALLEL_MIN)
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

/* What one row asks for; its best token; the worst that top_k and top_p leave. */
typedef struct Draw {
    const float *logits;
    int64_t V;
    double temperature, top_p, min_p;
    int64_t top_k;
    uint64_t seed, counter;
    Ranked best, worst;
} Draw;

static double weight(const Draw *d, int32_t id) {
    return d->logits[id] / d->temperature;
}

/* e^(weight - best weight): the share of a token before normalisation. */
static double share(const Draw *d, int32_t id) {
    return exp(weight(d, id) - weight(d, d->best.id));
}

/* ---- what stays ---- */

/* The first token of a ranked list at which the shares, `sum` before them, reach `enough`; else the last. */
static Ranked reach(const Draw *d, const Ranked *ranked, int64_t n, double sum, double enough) {
    int64_t i = 0;
    while (i + 1 < n && (sum += share(d, ranked[i].id)) < enough) i++;
    return ranked[i];
}

static Ranked worst_of_top_k(const Draw *d, Ranked *ranked) {
    best_of_row(ranked, d->top_k, d->logits, d->V);
    double total = 0;
    for (int64_t i = 0; i < d->top_k; i++) total += share(d, ranked[i].id);
    return d->top_p < 1 ? reach(d, ranked, d->top_k, 0, d->top_p * total) : ranked[d->top_k - 1];
}

/* Without top_k, how many tokens top_p leaves is not known beforehand, and may be most of the vocabulary. So
 * tokens are not ranked but put into bins by their distance from the best one; only the bin in which top_p is
 * reached is ranked. Bins are 1/128 wide; what lies further off than 32 shares the last one. */
enum { BINS = 4096 };

VECTOR_FN VecI bins_of(const Draw *d, Vec x, Vec *shares) {
    Vec distance = (vec_all(d->best.value) - x) * vec_all((float)(1 / d->temperature));
    *shares = vec_exp(-distance);
    return __builtin_convertvector(vec_min(distance * vec_all(128), vec_all(BINS - 1)), VecI);
}

static Vec some_logits(const Draw *d, int64_t i) {
    Vec x = vec_all(-INFINITY);
    if (i + VEC <= d->V) return vec_load(d->logits + i);
    memcpy(&x, d->logits + i, sizeof(float) * (size_t)(d->V - i));
    return x;
}

static int32_t in_range(int32_t bin) {
    return (uint32_t)bin < BINS ? bin : BINS - 1; /* NaN */
}

static int64_t tokens_in_bin(const Draw *d, int32_t bin, Ranked *out) {
    int64_t n = 0;
    Vec shares;
    for (int64_t i = 0; i < d->V; i += VEC) {
        Vec x = some_logits(d, i);
        VecI bins = bins_of(d, x, &shares);
        for (int64_t j = 0; j < VEC && i + j < d->V; j++)
            if (in_range(bins[j]) == bin) out[n++] = (Ranked){x[j], (int32_t)(i + j)};
    }
    return n;
}

static Ranked worst_of_top_p(const Draw *d, Ranked *ranked) {
    double mass[BINS] = {0}, total = 0, sum = 0;
    for (int64_t i = 0; i < d->V; i += VEC) {
        Vec shares;
        VecI bins = bins_of(d, some_logits(d, i), &shares);
        for (int j = 0; j < VEC; j++) mass[in_range(bins[j])] += shares[j];
    }
    for (int b = 0; b < BINS; b++) total += mass[b];
    int32_t bin = 0;
    while (bin < BINS - 1 && sum + mass[bin] < d->top_p * total) sum += mass[bin++];
    int64_t n = tokens_in_bin(d, bin, ranked);
    if (n == 0) return (Ranked){-INFINITY, INT32_MAX}; /* rounding ran past the last token: all stay */
    make_heap(ranked, n);
    sort_heap(ranked, n);
    return reach(d, ranked, n, sum, d->top_p * total);
}

static Ranked worst_kept(const Draw *d, Ranked *ranked) {
    if (d->top_k > 0 && d->top_k < d->V) return worst_of_top_k(d, ranked);
    if (d->top_p < 1) return worst_of_top_p(d, ranked);
    return (Ranked){-INFINITY, INT32_MAX};
}

static bool stays(const Draw *d, int32_t id) {
    if (better(d->worst, (Ranked){d->logits[id], id})) return false;
    return id == d->best.id || d->min_p <= 0 || share(d, id) >= d->min_p;
}

/* ---- the draw: argmax of logit + Gumbel noise is one from the softmax ---- */

static double score(const Draw *d, int32_t id) {
    Random4 r = random_block(d->seed, d->counter, (uint64_t)id);
    return weight(d, id) - log(-log((double)random_unit(r.v[0])));
}

VECTOR_FN void wide_product(VecU *high, VecU *low, VecU x, uint32_t factor) {
#if defined __AVX512F__
    __m512i f = _mm512_set1_epi64(factor), even = _mm512_mul_epu32((__m512i)x, f);
    __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64((__m512i)x, 32), f);
    *low = (VecU)_mm512_mask_blend_epi32(0xAAAA, even, _mm512_slli_epi64(odd, 32));
    *high = (VecU)_mm512_mask_blend_epi32(0xAAAA, _mm512_srli_epi64(even, 32), odd);
#elif defined __AVX2__
    __m256i f = _mm256_set1_epi64x(factor), even = _mm256_mul_epu32((__m256i)x, f);
    __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64((__m256i)x, 32), f);
    *low = (VecU)_mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA);
    *high = (VecU)_mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA);
#else
    for (int i = 0; i < VEC; i++) {
        uint64_t product = (uint64_t)x[i] * factor;
        (*low)[i] = (uint32_t)product, (*high)[i] = (uint32_t)(product >> 32);
    }
#endif
}

/* random_unit(random_block(seed, counter, id).v[0]) of VEC ids in a row: the rounds of random.h, side by side. */
VECTOR_FN Vec some_units(const Draw *d, int64_t id) {
    VecU lanes;
    for (uint32_t i = 0; i < VEC; i++) lanes[i] = i;
    VecU c0 = vecu_all((uint32_t)id) + lanes, c1 = vecu_all(0), c2 = vecu_all((uint32_t)d->counter);
    VecU c3 = vecu_all((uint32_t)(d->counter >> 32)), high_a, low_a, high_b, low_b;
    uint32_t k0 = (uint32_t)d->seed, k1 = (uint32_t)(d->seed >> 32);
    for (int round = 0; round < 10; round++) {
        wide_product(&high_a, &low_a, c0, 0xD2511F53u);
        wide_product(&high_b, &low_b, c2, 0xCD9E8D57u);
        c0 = high_b ^ c1 ^ vecu_all(k0), c2 = high_a ^ c3 ^ vecu_all(k1);
        c1 = low_b, c3 = low_a;
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    return (__builtin_convertvector((VecI)(c0 >> 9), Vec) + vec_all(0.5f)) * vec_all(1.0f / 8388608.0f);
}

/* Which of VEC tokens might beat a score that lies `lead` above the best token's weight: noise beats x when
 * its unit is above exp(-exp(-x)), whatever the rounding of f32 (hence the margin). Noise is never
 * above 16.64, as random_unit has 23 bits; most tokens are too far below for any. */
VECTOR_FN VecI contenders(const Draw *d, int64_t i, double lead) {
    const float noise_max = 16.64f, margin = 4e-6f;
    Vec below = (some_logits(d, i) - vec_all(d->best.value)) * vec_all((float)(1 / d->temperature));
    Vec needed = vec_all((float)lead) - below;
    VecI near = needed <= vec_all(noise_max);
    if (!vec_any(near)) return near;
    return near & (some_units(d, i) >= vec_exp(-vec_exp(-needed)) - vec_all(margin));
}

static int32_t draw(const Draw *d) {
    int32_t drawn = d->best.id;
    double most = score(d, drawn);
    for (int64_t i = 0; i < d->V; i += VEC) {
        VecI may = contenders(d, i, most - weight(d, d->best.id));
        if (!vec_any(may)) continue;
        for (int j = 0; j < VEC; j++) {
            int32_t id = (int32_t)i + j;
            if (!may[j] || id >= d->V || !stays(d, id)) continue;
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
    int32_t best = row_best(d.logits, V, row_largest(d.logits, V));
    d.temperature = ((const float *)a->temperature.data)[w];
    if (d.temperature <= 0) return best;
    d.best = (Ranked){d.logits[best], best};
    d.top_p = ((const float *)a->top_p.data)[w];
    d.min_p = ((const float *)a->min_p.data)[w];
    d.top_k = ((const int32_t *)a->top_k.data)[w];
    d.seed = (uint64_t)seed[1] << 32 | seed[0];
    d.counter = ((const uint32_t *)a->counter.data)[w];
    d.worst = worst_kept(&d, ranked);
    return draw(&d);
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
#pragma omp parallel for num_threads(cpu_threads(s->threads)) if (W * V >= PARALLEL_MIN)
    for (int64_t w = 0; w < W; w++) {
        const float *row = (const float *)a->logits.data + w * V;
        id[w] = sample_row(a, w, my_ranking(s));
        if (logprob) logprob[w] = (float)(row[id[w]] - row_lse(row, V));
    }
    return ST_OK;
}
