/* sample.cu -- one token out of each row of logits, without the logits leaving the device.
 *
 *     logits_parts    block per part    sum of e^x and the best token of each part    reads all
 *     sample_rows     block per row     temperature 0: the best token                 reads nothing more
 *                                       no top_k, no top_p: the draw, over all        reads all once more
 *                                       else: best first, LIST at a time, until
 *                                       the filters end; the draw over what stays     twice more for each LIST
 *
 * Nothing sorts a vocabulary: what top_p leaves of a model's row is rarely more than one list. The draw is
 * the argmax of logit + Gumbel noise, which is one from the softmax; the noise of a token follows from (seed,
 * counter, token). Weights, shares and scores are in double as in the reference, so that ids agree with it;
 * f32 only decides which tokens are looked at so closely, with a margin for its rounding, and adds up the
 * whole that top_p is a part of. */
#include "kernels/base/random.h"
#include "kernels/logits.cuh"

enum { ROW_THREADS = 512, ROW_WARPS = ROW_THREADS / 32, ROW_FOURS = 8, LIST = 256 };

struct Sample {
    Logits logits;
    const RowSum *sum;
    const float *temperature, *top_p, *min_p;
    const int32_t *top_k, *counter, *seed;
    int32_t *id;
    float *logprob;
};

/* What one row asks for. */
struct Draw {
    Row row;
    Token best;
    double temperature;
    float top_p, min_p;
    int32_t top_k; /* V: all */
    uint64_t seed, counter;
};

static __device__ __forceinline__ Draw draw_of(const Sample &a, int64_t w, const RowSum &sum) {
    uint64_t low = (uint32_t)a.seed[2 * w], high = (uint32_t)a.seed[2 * w + 1];
    int32_t top_k = a.top_k[w];
    return Draw{row_at(a.logits, w), Token{sum.best, sum.id},
                a.temperature[w],    a.top_p[w],
                a.min_p[w],          top_k > 0 ? min(top_k, a.logits.V) : a.logits.V,
                high << 32 | low,    (uint32_t)a.counter[w]};
}

static __device__ __forceinline__ double weight(const Draw &d, float x) {
    return x / d.temperature;
}

/* e^(weight - best weight): the share of a token before normalisation. */
static __device__ __forceinline__ double share(const Draw &d, float x) {
    return exp(weight(d, x) - weight(d, d.best.x));
}

static __device__ __forceinline__ float random_number(const Draw &d, int32_t id) {
    return random_unit(random_block(d.seed, d.counter, (uint64_t)id).v[0]);
}

/* ---- the token that leads ---- */

struct Leader {
    double score;
    int32_t id;
};

static __device__ __forceinline__ void challenge(Leader &leader, const Leader &other) {
    if (other.score > leader.score || (other.score == leader.score && other.id < leader.id)) leader = other;
}

static __device__ __noinline__ double score(const Draw &d, Token t) {
    return weight(d, t.x) - log(-log((double)random_number(d, t.id)));
}

/* Of the block, in every thread; shared: [ROW_WARPS]. */
static __device__ __forceinline__ Leader block_leader(Leader l, Leader *shared) {
    for (int bits = 16; bits > 0; bits /= 2)
        challenge(
            l, Leader{__shfl_xor_sync(EVERY_LANE, l.score, bits), __shfl_xor_sync(EVERY_LANE, l.id, bits)});
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = l;
    __syncthreads();
    for (int i = 0; i < ROW_WARPS; i++) challenge(l, shared[i]);
    return l;
}

/* ---- a draw over all tokens ---- */

/* Whether a token that needs this much noise to lead may have it: noise beats x when its number is above
 * exp(-exp(-x)), whatever the rounding of f32, hence the margin. None is above NOISE_MAX, as random_unit has
 * 23 bits; most tokens are too far below the best for any. */
static const float NOISE_MAX = 16.64f, MARGIN = 4e-6f;

static __device__ __forceinline__ bool may_lead(const Draw &d, int32_t id, float needed) {
    return random_number(d, id) >= expf(-expf(-needed)) - MARGIN;
}

static __device__ __forceinline__ bool above_min_p(const Draw &d, Token t) {
    return t.id == d.best.id || d.min_p <= 0 || share(d, t.x) >= d.min_p;
}

static __device__ void draw_from_all(Leader &leader, const Draw &d) {
    float per_degree = (float)(1 / d.temperature);
    leader = Leader{score(d, d.best), d.best.id};
    for (int32_t g = threadIdx.x; 4 * g < d.row.V + 3; g += ROW_FOURS * ROW_THREADS) {
        Four f[ROW_FOURS];
        load_fours<ROW_FOURS, ROW_THREADS>(f, d.row, g);
        float lead = (float)(leader.score - weight(d, d.best.x));
        uint32_t near = 0;
#pragma unroll
        for (int e = 0; e < 4 * ROW_FOURS; e++) {
            float needed = lead - (f[e / 4].x[e % 4] - d.best.x) * per_degree;
            if (!(needed > NOISE_MAX)) near |= 1u << e;
        }
        for (; near; near &= near - 1) {
            Token t = token_at<ROW_THREADS>(d.row, 4 * g - d.row.lead, __ffs((int)near) - 1);
            float needed = lead - (t.x - d.best.x) * per_degree;
            if (may_lead(d, t.id, needed) && above_min_p(d, t)) challenge(leader, Leader{score(d, t), t.id});
        }
    }
}

/* ---- best first ---- */

/* What the threads of a block share. */
struct Shared {
    Key key[LIST_MAX];
    double share[LIST];
    int32_t count;
    float reached[ROW_WARPS];
    double part[ROW_WARPS];
    Leader leader[ROW_WARPS];
    double sum;            /* of the shares of those that stayed until now */
    int32_t seen, staying; /* tokens that top_k and top_p let stay until now; of the present list, that also
                              min_p does */
    bool done;
};

static __device__ __forceinline__ double block_sum(double x, double *part) {
    for (int bits = 16; bits > 0; bits /= 2) x += __shfl_xor_sync(EVERY_LANE, x, bits);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = x;
    __syncthreads();
    x = 0;
    for (int i = 0; i < ROW_WARPS; i++) x += part[i];
    return x;
}

/* The thread's largest logit behind `after`, and the sum of its shares. */
struct Look {
    float most;
    double shares;
};

static __device__ Look look(const Draw &d, Token after) {
    Look l = {-INFINITY, 0};
    float per_degree = (float)(1 / d.temperature) * LOG2_E;
    for (int32_t g = threadIdx.x; 4 * g < d.row.V + 3; g += ROW_FOURS * ROW_THREADS) {
        Four f[ROW_FOURS];
        load_fours<ROW_FOURS, ROW_THREADS>(f, d.row, g);
        float sum = 0;
#pragma unroll
        for (int e = 0; e < 4 * ROW_FOURS; e++) {
            Token t = {f[e / 4].x[e % 4], 4 * g - d.row.lead + e / 4 * 4 * ROW_THREADS + e % 4};
            if (better(after, t)) l.most = fmaxf(l.most, t.x);
            sum += ex2((t.x - d.best.x) * per_degree);
        }
        l.shares += sum;
    }
    return l;
}

/* Lists the LIST best behind `after`, with their shares. How many there are. */
static __device__ int32_t list_best(Shared *s, const Draw &d, Token after, float most) {
    List list = {s->key, &s->count};
    if (threadIdx.x == 0) s->count = 0;
    Token floor = {reached_by(most, LIST, s->reached), INT32_MAX};
    for (int32_t i = 0; 4 * i < d.row.V + 3; i += ROW_FOURS * ROW_THREADS) {
        int32_t g = i + (int32_t)threadIdx.x;
        Four f[ROW_FOURS];
        load_fours<ROW_FOURS, ROW_THREADS>(f, d.row, g);
        collect<ROW_FOURS, ROW_THREADS>(list, d.row, f, 4 * g - d.row.lead, floor, after, LIST);
    }
    int32_t n = keep_best(list, LIST);
    if ((int32_t)threadIdx.x < n) s->share[threadIdx.x] = share(d, token_of(s->key[threadIdx.x]).x);
    __syncthreads();
    return n;
}

/* One thread walks down the list until top_k tokens or shares that reach `enough` have been seen. */
static __device__ void walk(Shared *s, const Draw &d, int32_t n, double enough, bool with_min_p) {
    int32_t i = 0, before = s->seen;
    while (i < n && s->seen < d.top_k && (s->seen == 0 || s->sum < enough))
        s->sum += s->share[i++], s->seen++;
    s->done = i == 0 || n < LIST || s->seen == d.top_k || s->sum >= enough;
    while (with_min_p && i > 0 && before + i > 1 && s->share[i - 1] < d.min_p) i--, s->done = true;
    s->staying = i;
}

/* The sum of the shares of the tokens before top_p, in the order of their ranks, takes a walk of its own when
 * top_k cuts them; the first list serves both walks. */
static __device__ void draw_from_best(Leader &leader, Shared *s, const Draw &d) {
    leader = Leader{-INFINITY, d.best.id};
    Look all = look(d, before_all());
    double whole = block_sum(all.shares, s->part);
    int32_t n = list_best(s, d, before_all(), all.most);
    bool first_list = true;
    for (int walks = d.top_p < 1 && d.top_k < d.row.V ? 2 : 1; walks > 0; walks--) {
        bool drawing = walks == 1;
        double enough = drawing && d.top_p < 1 ? d.top_p * whole : INFINITY;
        if (!first_list) n = list_best(s, d, before_all(), all.most);
        if (threadIdx.x == 0) s->sum = 0, s->seen = 0;
        for (first_list = true;; first_list = false) {
            if (threadIdx.x == 0) walk(s, d, n, enough, drawing);
            __syncthreads();
            bool done = s->done;
            Token last = token_of(s->key[LIST - 1]), mine = token_of(s->key[threadIdx.x % LIST]);
            if (drawing && (int32_t)threadIdx.x < s->staying)
                challenge(leader, Leader{score(d, mine), mine.id});
            if (!drawing) whole = s->sum;
            __syncthreads(); /* before the next walk or list */
            if (done) break;
            n = list_best(s, d, last, look(d, last).most);
        }
    }
}

/* ---- a row ---- */

static __global__ void __launch_bounds__(ROW_THREADS) sample_rows(Sample a) {
    SHARED_ARRAY(Shared, shared, 1);
    int64_t w = blockIdx.x;
    RowSum sum = whole_row(a.sum + w * a.logits.parts, a.logits.parts);
    Draw d = draw_of(a, w, sum);
    Leader leader = {0, d.best.id};
    if (d.temperature > 0) {
        if (d.top_k < d.row.V || d.top_p < 1)
            draw_from_best(leader, shared, d);
        else
            draw_from_all(leader, d);
        leader = block_leader(leader, shared->leader);
    }
    if (threadIdx.x != 0) return;
    a.id[w] = leader.id;
    if (a.logprob) a.logprob[w] = (d.row.x[leader.id] - sum.most) - logf(sum.sum);
}

Status sample_cuda(Stream *stream, const SampleArgs *a) {
    CudaStream *s = cuda_stream(stream);
    TRY(sample_check(a));
    TRY(cuda_type("sample", "logits", a->logits, DT_F32));
    TRY(cuda_type("sample", "logprob", a->logprob, DT_F32));
    Sample k = {};
    LogitsScratch scratch;
    TRY(logits_open(&k.logits, &scratch, "sample", s, a->logits));
    k.sum = scratch.sum;
    k.temperature = (const float *)a->temperature.data;
    k.top_p = (const float *)a->top_p.data, k.min_p = (const float *)a->min_p.data;
    k.top_k = (const int32_t *)a->top_k.data, k.counter = (const int32_t *)a->counter.data;
    k.seed = (const int32_t *)a->seed.data;
    k.id = (int32_t *)a->id.data, k.logprob = (float *)a->logprob.data;
    if (k.logits.rows == 0) return ST_OK;
    TRY(cuda_begin(s, "sample"));
    TRY(logits_sums(s, "sample", k.logits, scratch.sum));
    TRY_LAUNCH("sample", sample_rows, dim3((unsigned)k.logits.rows), dim3(ROW_THREADS), 0, s, k);
    return ST_OK;
}
