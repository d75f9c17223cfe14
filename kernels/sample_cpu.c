/* sample_cpu.c -- one token out of each row of logits.
 *
 * The draw is the argmax of logit + Gumbel noise, which is one from the softmax; the noise of a token follows
 * from (seed, counter, token). Ten rounds of Philox and two logarithms for every token of a vocabulary would
 * cost more than all else that is done with a row, and nearly all in vain:
 *
 *     logits        what lies too far below for any noise, or was filtered out, is passed over. The others
 *                   are put side by side, a CHUNK of the row at a time.
 *     random bits   are computed for those, a vector at a time. They rule out nearly all that are left.
 *     scores        weight and noise in double, as in the reference, so that ids agree with it: for the few
 *                   that may lead. The tests before it are in f32, with a margin for its rounding.
 *
 * top_p works on the same chunks: bins instead of an order (see below). */
#include "kernels/base/random.h"
#include "kernels/cpu_logits.h"

/* What one row asks for; its best token; the worst that top_k and top_p leave. */
typedef struct Draw {
    const float *logits;
    int64_t V;
    double temperature, top_p, min_p;
    int64_t top_k;
    uint64_t seed, counter;
    float per_degree; /* 1 / temperature, finite */
    Ranked best, worst;
} Draw;

static double weight(const Draw *d, int32_t id) {
    return d->logits[id] / d->temperature;
}

/* e^(weight - best weight): the share of a token before normalisation. */
static double share(const Draw *d, int32_t id) {
    return exp(weight(d, id) - weight(d, d->best.id));
}

/* The logit of a token whose weight is that much above the best one's, less what the rounding of f32 might
 * take from it. */
static float floor_at(const Draw *d, double lead) {
    double x = d->best.value + lead * d->temperature;
    return (float)(x - 1e-6 * (fabs(x) + fabs(d->best.value)));
}

/* ---- tokens side by side ---- */

enum { CHUNK = 1024 };

/* Tokens of a chunk of a row; behind them a vector of -INFINITY. */
typedef struct Side {
    float logit[CHUNK + VEC];
    int32_t id[CHUNK + VEC];
    int32_t n;
} Side;

/* Puts those of VEC tokens whose logits are at least `floor` behind n others; how many that makes. */
VECTOR_FN int32_t put_beside(Side *s, int32_t n, Vec x, int32_t first, float floor) {
#ifdef __AVX512F__
    const VecI place = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    __mmask16 high = _mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(floor), _CMP_GE_OQ);
    _mm512_storeu_ps(s->logit + n, _mm512_maskz_compress_ps(high, (__m512)x));
    _mm512_storeu_si512(s->id + n, _mm512_maskz_compress_epi32(high, (__m512i)(place + first)));
    return n + __builtin_popcount(high);
#else
    VecI high = x >= vec_all(floor);
    for (int32_t j = 0; j < VEC; j++) {
        s->logit[n] = x[j], s->id[n] = first + j;
        n -= high[j];
    }
    return n;
#endif
}

VECTOR_FN bool any_as_high(const float *x, int n, float floor) {
    VecI high = {0};
    for (int i = 0; i < n; i++) high |= vec_load(x + i * VEC) >= vec_all(floor);
    return vec_any(high);
}

/* The tokens from `first` on, at most CHUNK, whose logits are at least `floor`. */
static void find_tokens(Side *s, const Draw *d, int64_t first, float floor) {
    enum { STEP = 4 };
    int64_t end = first + CHUNK < d->V ? first + CHUNK : d->V, i = first;
    int32_t n = 0;
    for (; i + STEP * VEC <= end; i += STEP * VEC) {
        const float *x = d->logits + i;
        if (!any_as_high(x, STEP, floor)) continue;
        for (int j = 0; j < STEP; j++)
            n = put_beside(s, n, vec_load(x + j * VEC), (int32_t)i + j * VEC, floor);
    }
    for (; i < end; i++)
        if (d->logits[i] >= floor) s->logit[n] = d->logits[i], s->id[n++] = (int32_t)i;
    vec_store(s->logit + n, vec_all(-INFINITY));
    s->n = n;
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

/* Without top_k, how many tokens top_p leaves is not known beforehand: one, or most of the vocabulary. So
 * tokens are not ranked but put into bins by their distance from the best one; only the bin in which top_p is
 * reached is ranked. Bins are 1/128 wide. A model's rows reach top_p in the first few, so that these are
 * tried alone at first; where they don't suffice, twice as many are. Of MAX_BINS the last has all others. */
enum { FEW_BINS = 1024, MAX_BINS = 4096, BINS_PER_UNIT = 128 };

/* The lowest logit of bin b. */
static float bin_floor(const Draw *d, int32_t b) {
    return b < MAX_BINS - 1 ? floor_at(d, -(b + 1.0) / BINS_PER_UNIT) : -INFINITY;
}

/* Distances of VEC tokens, and their bins; a distance that is not a number is in some bin, too. */
VECTOR_FN VecI bins_of(const Draw *d, const Side *s, int32_t i, int32_t bins, Vec *distance) {
    *distance = (vec_all(d->best.value) - vec_load(s->logit + i)) * vec_all(d->per_degree);
    Vec bin = vec_min(*distance * vec_all(BINS_PER_UNIT), vec_all((float)bins - 1));
    return __builtin_convertvector(bin, VecI) & (MAX_BINS - 1);
}

static void fill_bins(const Draw *d, double *mass, int32_t bins) {
    Side s;
    Vec distance;
    for (int64_t first = 0; first < d->V; first += CHUNK) {
        find_tokens(&s, d, first, bin_floor(d, bins - 1));
        for (int32_t i = 0; i < s.n; i += VEC) {
            VecI bin = bins_of(d, &s, i, bins, &distance);
            Vec shares = vec_exp(-distance);
            for (int32_t j = 0; j < VEC && i + j < s.n; j++) mass[bin[j]] += shares[j];
        }
    }
}

static int64_t tokens_in_bin(const Draw *d, int32_t bin, int32_t bins, Ranked *out) {
    Side s;
    Vec distance;
    int64_t n = 0;
    for (int64_t first = 0; first < d->V; first += CHUNK) {
        find_tokens(&s, d, first, bin_floor(d, bin));
        for (int32_t i = 0; i < s.n; i += VEC) {
            VecI in = bins_of(d, &s, i, bins, &distance);
            for (int32_t j = 0; j < VEC && i + j < s.n; j++)
                if (in[j] == bin) out[n++] = (Ranked){s.logit[i + j], s.id[i + j]};
        }
    }
    return n;
}

static Ranked worst_of_top_p(const Draw *d, Ranked *ranked) {
    double enough = d->top_p * sum_exp(NULL, d->logits, d->V, d->best.value, d->per_degree);
    for (int32_t bins = FEW_BINS; bins <= MAX_BINS; bins *= 2) {
        double mass[MAX_BINS], sum = 0;
        memset(mass, 0, sizeof *mass * (size_t)bins);
        fill_bins(d, mass, bins);
        int32_t bin = 0;
        while (bin < bins && sum + mass[bin] < enough) sum += mass[bin++];
        int64_t n = bin < bins ? tokens_in_bin(d, bin, bins, ranked) : 0;
        if (n == 0) continue;
        make_heap(ranked, n);
        sort_heap(ranked, n);
        return reach(d, ranked, n, sum, enough);
    }
    return (Ranked){-INFINITY, INT32_MAX}; /* rounding ran past the last token: all stay */
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

/* No token with a lower logit stays. */
static float filter_floor(const Draw *d) {
    float floor = d->min_p > 0 ? floor_at(d, log(d->min_p)) : -INFINITY;
    return fmaxf(floor, d->worst.value);
}

/* ---- the draw ---- */

typedef struct Leader { double score; int32_t id; } Leader;

static double score(const Draw *d, int32_t id) {
    Random4 r = random_block(d->seed, d->counter, (uint64_t)id);
    return weight(d, id) - log(-log((double)random_unit(r.v[0])));
}

#ifdef __AVX2__
typedef uint64_t Wide __attribute__((vector_size(sizeof(VecU))));

/* Of the lower halves; the upper ones may hold anything. */
VECTOR_FN Wide wide_product(Wide x, uint32_t factor) {
#ifdef __AVX512F__
    return (Wide)_mm512_mul_epu32((__m512i)x, _mm512_set1_epi64(factor));
#else
    return (Wide)_mm256_mul_epu32((__m256i)x, _mm256_set1_epi64x(factor));
#endif
}

/* random_block(seed, counter, id).v[0] of VEC ids: the rounds of random.h, for even and odd ids side by side.
 * As a product reads lower halves only, its own lower half is taken without cleaning the upper one. */
VECTOR_FN VecU random_bits(const Draw *d, VecU id) {
    Wide c0[2] = {(Wide)id, (Wide)id >> 32}, c1[2] = {0}, c2[2], c3[2];
    for (int h = 0; h < 2; h++) c2[h] = (Wide){0} + d->counter, c3[h] = (Wide){0} + (d->counter >> 32);
    uint32_t k0 = (uint32_t)d->seed, k1 = (uint32_t)(d->seed >> 32);
    for (int round = 0; round < 10; round++) {
        for (int h = 0; h < 2; h++) {
            Wide a = wide_product(c0[h], 0xD2511F53u), b = wide_product(c2[h], 0xCD9E8D57u);
            c0[h] = (b >> 32) ^ c1[h] ^ k0, c2[h] = (a >> 32) ^ c3[h] ^ k1;
            c1[h] = b, c3[h] = a;
        }
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    return (VecU)((c0[0] & 0xFFFFFFFFu) | c0[1] << 32);
}
#else
VECTOR_FN VecU random_bits(const Draw *d, VecU id) {
    VecU bits;
    for (int i = 0; i < VEC; i++) bits[i] = random_block(d->seed, d->counter, id[i]).v[0];
    return bits;
}
#endif

/* At most the logarithm of x to base 2, and less than 0.09 below it: a float's bits are the whole part of
 * that and then, as if it rose in a straight line, the fraction. */
VECTOR_FN Vec log2_floor(Vec x) {
    return vec_fma(__builtin_convertvector((VecI)x, Vec), vec_all(0x1p-23f), vec_all(-127));
}

/* Which of VEC tokens may lead. With noise -ln(-ln u), a token leads when -ln u < e^(weight - score of the
 * leader), and 1 - u is less than -ln u. */
VECTOR_FN VecI may_lead(const Draw *d, const Side *s, int32_t i, float lead) {
    const float log2_e = 1.442695f, margin = 1e-3f;
    VecU id;
    memcpy(&id, s->id + i, sizeof id);
    VecI rest = (VecI)(~random_bits(d, id) >> 9); /* 2^23 (1 - u) - 0.5 */
    Vec need = log2_floor(__builtin_convertvector(rest, Vec) + vec_all(0.5f));
    Vec weight = (vec_load(s->logit + i) - vec_all(d->best.value)) * vec_all(d->per_degree);
    return need < vec_fma(weight - vec_all(lead), vec_all(log2_e), vec_all(23 + margin));
}

static void challenge(const Draw *d, int32_t id, Leader *leader) {
    if (!stays(d, id)) return;
    double got = score(d, id);
    if (got > leader->score || (got == leader->score && id < leader->id)) *leader = (Leader){got, id};
}

static int32_t draw(const Draw *d) {
    const double noise_max = 16.636; /* -ln(-ln u) of the largest u, 1 - 2^-24 */
    const double best = weight(d, d->best.id);
    Leader leader = {score(d, d->best.id), d->best.id};
    float filter = filter_floor(d);
    Side s;
    for (int64_t first = 0; first < d->V; first += CHUNK) {
        find_tokens(&s, d, first, fmaxf(floor_at(d, leader.score - best - noise_max), filter));
        for (int32_t i = 0; i < s.n; i += VEC) {
            VecI may = may_lead(d, &s, i, (float)(leader.score - best));
            if (!vec_any(may)) continue;
            for (int32_t j = 0; j < VEC; j++)
                if (may[j]) challenge(d, s.id[i + j], &leader);
        }
    }
    return leader.id;
}

static int32_t sample_row(const SampleArgs *a, int64_t w, int32_t best, Ranked *ranked) {
    const uint32_t *seed = (const uint32_t *)a->seed.data + 2 * w;
    int64_t V = a->logits.dim[1];
    Draw d = {.logits = (const float *)a->logits.data + w * V, .V = V};
    d.temperature = ((const float *)a->temperature.data)[w];
    if (d.temperature <= 0) return best;
    d.per_degree = (float)fmin(1 / d.temperature, 1e30);
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
        float most = row_largest(row, V);
        id[w] = sample_row(a, w, row_best(row, V, most), my_ranking(s));
        if (logprob) logprob[w] = (float)(row[id[w]] - row_lse(row, V, most));
    }
    return ST_OK;
}
