/* logits.cu -- rows of logits: the distillation loss with its gradient, and the best candidates.
 *
 *     distill    logits_parts      block per part    sum of e^x but for candidates; the best    reads all
 *                distill_rows      warp per row      loss, kl, what scales the gradient
 *                distill_gradient  block per part    gradient in place                   reads, writes all
 *
 *     topk       topk_parts        block per part    sum of e^x; the part's 32 best             reads all
 *                topk_rows         block per row     the best of those
 *
 * The kl compares 1 - M with 1 - Q, which of a sure student are tiny. So the columns that are no candidates
 * are summed apart: 1 - Q is then a quotient of sums, where a difference would leave nothing but what
 * rounding left. The candidates are few enough for double.
 *
 * More than 32 best take another reading of the logits for each further 32, of what comes behind these. */
#include "kernels/logits.cuh"

/* ---- rows, parts, scratch ---- */

/* Places the arrays behind one another from `base`; the bytes they take together. */
static size_t place(LogitsScratch *out, uintptr_t base, int64_t rows, int64_t parts);

static int64_t parts_of(int64_t V, bool may_lead) {
    return blocks_for(V + (may_lead ? 3 : 0), PART);
}

size_t logits_scratch(const StreamLimits *l) {
    LogitsScratch none;
    return place(&none, 0, l->rows, parts_of(l->vocab, true));
}

Status logits_open(Logits *out, LogitsScratch *scratch, const char *op, CudaStream *s, Tensor logits) {
    int64_t W = logits.dim[0], V = logits.dim[1];
    NEED(W <= s->limits.rows && V <= s->limits.vocab, ST_ARG,
         "%s: %lld rows of %lld logits, the stream was opened for %d of %d", op, (long long)W, (long long)V,
         s->limits.rows, s->limits.vocab);
    bool may_lead = (uintptr_t)logits.data % 16 != 0 || V % 4 != 0;
    *out = Logits{(float *)logits.data, (int32_t)W, (int32_t)V, (int32_t)parts_of(V, may_lead)};
    place(scratch, (uintptr_t)s->scratch, W, out->parts);
    return ST_OK;
}

/* ---- the teacher's candidates ---- */

struct Kept {
    const int32_t *first, *id; /* first NULL: no row has any */
    const float *logprob;
};

static __device__ __forceinline__ int32_t kept_of(const Kept &kept, int64_t w) {
    return kept.first ? kept.first[w + 1] - kept.first[w] : 0;
}

/* Byte k of mark[i] is set when column k of the part's i-th group is a candidate. All threads call together.
 */
static __device__ __forceinline__ void mark_kept(uint32_t *mark, const Kept &kept, int64_t w, const Row &r,
                                                 int32_t part) {
    for (int32_t i = threadIdx.x; i < PART / 4; i += PART_THREADS) mark[i] = 0;
    __syncthreads();
    for (int32_t j = kept.first[w] + (int32_t)threadIdx.x; j < kept.first[w + 1]; j += PART_THREADS) {
        int32_t place = kept.id[j] + r.lead - part * PART;
        if ((uint32_t)place < PART) ((uint8_t *)mark)[place] = 1;
    }
    __syncthreads(); /* all marks are there */
}

/* ---- sums ---- */

static __global__ void __launch_bounds__(PART_THREADS) logits_parts(Logits l, Kept kept, RowSum *sum) {
    SHARED_ARRAY(uint32_t, mark, PART / 4);
    SHARED_ARRAY(RowSum, partial, PART_WARPS);
    int64_t w = blockIdx.x / (uint32_t)l.parts;
    int32_t part = (int32_t)(blockIdx.x % (uint32_t)l.parts), first = (int32_t)threadIdx.x;
    Row r = row_at(l, w);
    Four f[PART_FOURS];
    load_fours<PART_FOURS, PART_THREADS>(f, r, part * (PART / 4) + first);
    RowSum mine = no_columns();
    find_best<PART_FOURS, PART_THREADS>(mine, f, part * PART + 4 * first - r.lead);
    if (kept_of(kept, w) > 0) {
        mark_kept(mark, kept, w, r, part);
#pragma unroll
        for (int i = 0; i < PART_FOURS; i++)
#pragma unroll
            for (int k = 0; k < 4; k++)
                if (mark[first + i * PART_THREADS] >> 8 * k & 1) f[i].x[k] = -INFINITY;
    }
    sum_exponentials(mine, f);
    mine = block_both(mine, partial);
    if (threadIdx.x == 0) sum[blockIdx.x] = mine;
}

static dim3 part_grid(const Logits &l, int64_t rows) {
    return dim3((unsigned)(rows * l.parts));
}

Status logits_sums(CudaStream *s, const char *op, const Logits &l, RowSum *sum) {
    TRY_LAUNCH(op, logits_parts, part_grid(l, l.rows), dim3(PART_THREADS), 0, s, l, Kept{}, sum);
    return ST_OK;
}

/* ---- distill ---- */

/* The gradient of a row is factor e^(x - most), less scale p where a candidate is. */
struct DistillRow {
    float most, factor;
};

struct Distill {
    Logits logits;
    Kept kept;
    float *loss, *kl;
    int32_t *best;
    float scale;
    LogitsScratch scratch;
};

static __device__ __forceinline__ double warp_sum(double x) {
    for (int bits = 16; bits > 0; bits /= 2) x += __shfl_xor_sync(EVERY_LANE, x, bits);
    return x;
}

/* Sums over the candidates of one row: p, p log p, p (x - most), e^(x - most). */
struct KeptSums {
    double mass, entropy, logits, student;
};

static __device__ __forceinline__ KeptSums sum_kept(const Kept &kept, int64_t w, const Row &r, float most) {
    KeptSums s = {0, 0, 0, 0};
    for (int32_t j = kept.first[w] + (int32_t)threadIdx.x % 32; j < kept.first[w + 1]; j += 32) {
        double logp = kept.logprob[j], p = exp(logp), x = (double)r.x[kept.id[j]] - most;
        s.mass += p;
        s.entropy += p > 0 ? p * logp : 0;
        s.logits += p * x;
        s.student += exp(x);
    }
    return KeptSums{warp_sum(s.mass), warp_sum(s.entropy), warp_sum(s.logits), warp_sum(s.student)};
}

enum { ROWS_OF_BLOCK = 4 };

static __global__ void __launch_bounds__(32 * ROWS_OF_BLOCK, 4) distill_rows(Distill a) {
    int64_t w = (int64_t)blockIdx.x * ROWS_OF_BLOCK + threadIdx.x / 32;
    if (w >= a.logits.rows) return;
    RowSum rest = whole_row(a.scratch.sum + w * a.logits.parts, a.logits.parts);
    KeptSums k = sum_kept(a.kept, w, row_at(a.logits, w), rest.best);
    double others = rest.sum * exp((double)rest.most - rest.best);
    double sum = others + k.student, tail = 1 - k.mass;
    int32_t lane = (int32_t)threadIdx.x % 32;
    double of = lane == 0 ? sum : lane == 1 ? others : tail;
    double logs = log(fmax(of, 1e-300)); /* three at once: a logarithm in double is long */
    double log_sum = __shfl_sync(EVERY_LANE, logs, 0), log_others = __shfl_sync(EVERY_LANE, logs, 1);
    double log_tail = __shfl_sync(EVERY_LANE, logs, 2);
    double loss = k.mass * log_sum - k.logits, kl = k.entropy + loss;
    /* No tail where rounded log-probabilities sum to a little over one, or where no token is left for it. */
    if (tail > 0 && kept_of(a.kept, w) < a.logits.V) kl += tail * (log_tail - (log_others - log_sum));
    if (kl < 0 || kept_of(a.kept, w) == 0) kl = 0; /* not by fmax, which would make a zero of a NaN */
    if (lane != 0) return;
    if (a.loss) a.loss[w] = (float)loss;
    if (a.kl) a.kl[w] = (float)kl;
    if (a.best) a.best[w] = rest.id;
    a.scratch.row[w] = DistillRow{rest.best, (float)(a.scale * k.mass * exp(-log_sum))};
}

/* What a candidate takes from the gradient. A row has few, and few columns are one, so a search is short. */
static __device__ __forceinline__ float taken_by(const Kept &kept, int64_t w, int32_t column) {
    int32_t j = kept.first[w];
    while (kept.id[j] != column) j++;
    return expf(kept.logprob[j]);
}

static __global__ void __launch_bounds__(PART_THREADS) distill_gradient(Distill a) {
    SHARED_ARRAY(uint32_t, mark, PART / 4);
    int64_t w = blockIdx.x / (uint32_t)a.logits.parts;
    int32_t part = (int32_t)(blockIdx.x % (uint32_t)a.logits.parts), first = (int32_t)threadIdx.x;
    int32_t group = part * (PART / 4) + first;
    Row r = row_at(a.logits, w);
    if (kept_of(a.kept, w) == 0) {
        for (int i = 0; i < PART_FOURS; i++) store_four(r, group + i * PART_THREADS, Four{});
        return;
    }
    DistillRow row = a.scratch.row[w];
    Four f[PART_FOURS];
    load_fours<PART_FOURS, PART_THREADS>(f, r, group);
    mark_kept(mark, a.kept, w, r, part);
#pragma unroll
    for (int i = 0; i < PART_FOURS; i++) {
        uint32_t marks = mark[first + i * PART_THREADS];
#pragma unroll
        for (int k = 0; k < 4; k++) {
            f[i].x[k] = row.factor * ex2((f[i].x[k] - row.most) * LOG2_E);
            if (marks >> 8 * k & 1)
                f[i].x[k] -= a.scale * taken_by(a.kept, w, 4 * (group + i * PART_THREADS) + k - r.lead);
        }
        store_four(r, group + i * PART_THREADS, f[i]);
    }
}

Status distill_cuda(Stream *stream, const DistillArgs *a) {
    CudaStream *s = cuda_stream(stream);
    TRY(distill_check(a));
    TRY(cuda_type("distill", "logits", a->logits, DT_F32));
    TRY(cuda_type("distill", "loss", a->loss, DT_F32));
    TRY(cuda_type("distill", "kl", a->kl, DT_F32));
    Distill d = {};
    TRY(logits_open(&d.logits, &d.scratch, "distill", s, a->logits));
    d.kept =
        Kept{(const int32_t *)a->first.data, (const int32_t *)a->id.data, (const float *)a->logprob.data};
    d.loss = (float *)a->loss.data, d.kl = (float *)a->kl.data, d.best = (int32_t *)a->best.data;
    d.scale = a->scale;
    int64_t rows = d.logits.rows;
    if (rows == 0) return ST_OK;
    TRY(cuda_begin(s, "distill"));
    dim3 parts = part_grid(d.logits, rows), block = dim3(PART_THREADS);
    TRY_LAUNCH("distill", logits_parts, parts, block, 0, s, d.logits, d.kept, d.scratch.sum);
    TRY_LAUNCH("distill", distill_rows, dim3((unsigned)blocks_for(rows, ROWS_OF_BLOCK)),
               dim3(32 * ROWS_OF_BLOCK), 0, s, d);
    if (a->gradient) TRY_LAUNCH("distill", distill_gradient, parts, block, 0, s, d);
    return ST_OK;
}

/* ---- topk ---- */

/* One reading of some rows: finds `wanted` best behind the `done` ones that are known. */
struct Topk {
    Logits logits;
    int64_t first_row;
    int32_t K, done, wanted;
    int32_t *id;
    float *logprob;
    LogitsScratch scratch;
};

static __global__ void __launch_bounds__(PART_THREADS, 2) topk_parts(Topk a) {
    SHARED_ARRAY(Key, key, LIST_MAX);
    SHARED_ARRAY(int32_t, count, 1);
    SHARED_ARRAY(RowSum, partial, PART_WARPS);
    SHARED_ARRAY(float, reached, PART_WARPS);
    List list = {key, count};
    int64_t w = blockIdx.x / (uint32_t)a.logits.parts;
    int32_t part = (int32_t)(blockIdx.x % (uint32_t)a.logits.parts), first = (int32_t)threadIdx.x;
    Row r = row_at(a.logits, a.first_row + w);
    int32_t column = part * PART + 4 * first - r.lead;
    Token after = a.done ? a.scratch.last[w] : before_all();
    Four f[PART_FOURS];
    load_fours<PART_FOURS, PART_THREADS>(f, r, part * (PART / 4) + first);

    float most = -INFINITY;
#pragma unroll
    for (int e = 0; e < 4 * PART_FOURS; e++) {
        Token t = {f[e / 4].x[e % 4], column + e / 4 * 4 * PART_THREADS + e % 4};
        if (better(after, t)) most = fmaxf(most, t.x);
    }
    if (threadIdx.x == 0) *count = 0;
    Token floor = {reached_by(most, a.wanted, reached), INT32_MAX};
    collect<PART_FOURS, PART_THREADS>(list, r, f, column, floor, after, a.wanted);
    int32_t found = keep_best(list, a.wanted);
    if (first < a.wanted)
        a.scratch.best[(int64_t)blockIdx.x * TOPK_READING + first] = first < found ? key[first] : 0;

    if (a.done) return;
    RowSum mine = no_columns();
    sum_exponentials(mine, f);
    mine = block_both(mine, partial);
    if (threadIdx.x == 0) a.scratch.sum[blockIdx.x] = mine;
}

static __global__ void __launch_bounds__(PART_THREADS) topk_rows(Topk a) {
    SHARED_ARRAY(Key, key, LIST_MAX);
    SHARED_ARRAY(int32_t, count, 1);
    int64_t w = blockIdx.x;
    const Key *best = a.scratch.best + w * a.logits.parts * TOPK_READING;
    int32_t n = a.logits.parts * a.wanted, i = (int32_t)threadIdx.x;
    for (int32_t j = i; j < n; j += PART_THREADS) key[j] = best[j / a.wanted * TOPK_READING + j % a.wanted];
    if (threadIdx.x == 0) *count = n;
    RowSum row = whole_row(a.scratch.sum + w * a.logits.parts, a.logits.parts);
    __syncthreads();
    keep_best(List{key, count}, a.wanted);
    if (i < a.wanted) {
        int64_t at = (a.first_row + w) * a.K + a.done + i;
        Token t = token_of(key[i]);
        a.id[at] = max(t.id, 0); /* 0 also where NaN left too few */
        a.logprob[at] = (t.x - row.most) - logf(row.sum);
        if (i == a.wanted - 1) a.scratch.last[w] = t;
    }
}

Status topk_cuda(Stream *stream, const TopkArgs *a) {
    CudaStream *s = cuda_stream(stream);
    TRY(topk_check(a));
    TRY(cuda_type("topk", "logits", a->logits, DT_F32));
    TRY(cuda_type("topk", "logprob", a->logprob, DT_F32));
    Topk k = {};
    TRY(logits_open(&k.logits, &k.scratch, "topk", s, a->logits));
    NEED(k.logits.parts * TOPK_READING <= LIST_MAX, ST_UNSUPPORTED,
         "topk: a row of %d logits, the kernel takes %d", k.logits.V, LIST_MAX / TOPK_READING * PART);
    k.K = (int32_t)a->id.dim[1], k.id = (int32_t *)a->id.data, k.logprob = (float *)a->logprob.data;
    TRY(cuda_begin(s, "topk"));
    for (k.first_row = 0; k.first_row < k.logits.rows; k.first_row += TOPK_ROWS) {
        int64_t rows = min(k.logits.rows - k.first_row, (int64_t)TOPK_ROWS);
        for (k.done = 0; k.done < k.K; k.done += k.wanted) {
            k.wanted = min(k.K - k.done, (int32_t)TOPK_READING);
            TRY_LAUNCH("topk", topk_parts, part_grid(k.logits, rows), dim3(PART_THREADS), 0, s, k);
            TRY_LAUNCH("topk", topk_rows, dim3((unsigned)rows), dim3(PART_THREADS), 0, s, k);
        }
    }
    return ST_OK;
}

/* ---- scratch ---- */

static size_t aligned(size_t bytes) {
    return (bytes + 15) / 16 * 16;
}

static size_t place(LogitsScratch *out, uintptr_t base, int64_t rows, int64_t parts) {
    size_t listed = (size_t)min(rows, (int64_t)TOPK_ROWS), used = 0;
    out->sum = (RowSum *)(base + used);
    used += aligned(sizeof *out->sum * (size_t)(rows * parts));
    out->row = (DistillRow *)(base + used);
    used += aligned(sizeof *out->row * (size_t)rows);
    out->best = (Key *)(base + used);
    used += aligned(sizeof *out->best * listed * (size_t)parts * TOPK_READING);
    out->last = (Token *)(base + used);
    used += aligned(sizeof *out->last * listed);
    return used;
}
