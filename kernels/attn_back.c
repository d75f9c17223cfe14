/* attn_back.c -- gradients of attention. With the lse of all segments together, P = exp(scale q.k - lse) is
 * each key's share already, so every key goes backward by itself: dS = P (dO.v - delta),  delta = dO.o;    dq
 * += scale dS k,  dk += scale dS q,  dv += P dO dq is gathered row by row; dk and dv key by key, over every
 * row that sees the key, so that each result is one sum in double and nothing depends on the order in which
 * rows come. */
#include <math.h>

#include "kernels/attn_plan.h"

enum { HEAD_MAX = 256 };

/* P and dS of one pair. q: where the query (and o, d_o) of the row begins; th: its lse. */
typedef struct Pair {
    double p, ds;
} Pair;

static Pair pair_of(const AttnBackArgs *a, int64_t q, int64_t th, int64_t key) {
    int64_t D = a->q.dim[2];
    double p = exp(a->scale * dot(a->q, q, a->k, key, D) - get(a->lse, th));
    double delta = dot(a->d_o, q, a->o, q, D);
    return (Pair){p, p * (dot(a->d_o, q, a->v, key, D) - delta)};
}

static void query_gradient(const AttnLayout *l, const AttnBackArgs *a, int32_t s, int32_t t, int64_t h) {
    int64_t H = a->q.dim[1], D = a->q.dim[2], g = h / (H / a->k.dim[1]), th = t * H + h;
    double dq[HEAD_MAX] = {0};
    for (int32_t i = l->seg[s]; i < l->seg[s + 1]; i++) {
        int32_t keys = visible_keys(l, s, i, t - l->row[s]);
        for (int32_t j = 0; j < keys; j++) {
            int64_t key = key_index(l, l->segment[i], j, a->k, g);
            double ds = pair_of(a, th * D, th, key).ds;
            for (int64_t d = 0; d < D; d++) dq[d] += a->scale * ds * get(a->k, key + d);
        }
    }
    for (int64_t d = 0; d < D; d++) put(a->dq, th * D + d, dq[d]);
}

static void all_query_gradients(const AttnLayout *l, const AttnBackArgs *a) {
    int64_t H = a->q.dim[1];
    for (int32_t s = 0; s < l->S; s++) {
#pragma omp parallel for
        for (int64_t th = l->row[s] * H; th < l->row[s + 1] * H; th++)
            query_gradient(l, a, s, (int32_t)(th / H), th % H);
    }
}

/* One key: row `offset` of a page, head g. Sums over every (sequence, segment) in which the page stands. */
typedef struct Key {
    int32_t page, offset;
    int64_t g;
    double dk[HEAD_MAX], dv[HEAD_MAX];
} Key;

static void add_row(const AttnBackArgs *a, Key *key, int64_t index, int32_t t) {
    int64_t H = a->q.dim[1], D = a->q.dim[2], group = H / a->k.dim[1];
    for (int64_t h = key->g * group; h < (key->g + 1) * group; h++) {
        int64_t th = t * H + h;
        Pair pair = pair_of(a, th * D, th, index);
        for (int64_t d = 0; d < D; d++) {
            key->dk[d] += a->scale * pair.ds * get(a->q, th * D + d);
            key->dv[d] += pair.p * get(a->d_o, th * D + d);
        }
    }
}

/* Where the key stands in a segment, or -1. A page occurs in a segment at most once. */
static int32_t place_in(const AttnLayout *l, Segment seg, int32_t page, int32_t offset) {
    int32_t entries = (seg.from + seg.length - 1) / KV_PAGE + 1;
    for (int32_t e = seg.from / KV_PAGE; e < entries; e++) {
        int32_t j = e * KV_PAGE + offset - seg.from;
        if (l->page[seg.first + e] == page) return j >= 0 && j < seg.length ? j : -1;
    }
    return -1;
}

static void gather_key(const AttnLayout *l, const AttnBackArgs *a, Key *key) {
    for (int32_t d = 0; d < HEAD_MAX; d++) key->dk[d] = key->dv[d] = 0;
    for (int32_t s = 0; s < l->S; s++)
        for (int32_t i = l->seg[s]; i < l->seg[s + 1]; i++) {
            int32_t j = place_in(l, l->segment[i], key->page, key->offset);
            if (j < 0) continue;
            int64_t index = key_index(l, l->segment[i], j, a->k, key->g);
            for (int32_t t = l->row[s]; t < l->row[s + 1]; t++)
                if (j < visible_keys(l, s, i, t - l->row[s])) add_row(a, key, index, t);
        }
}

static void page_gradient(const AttnLayout *l, const AttnBackArgs *a, Tensor dk, Tensor dv, int32_t page,
                          int32_t grad, bool add) {
    int64_t G = a->k.dim[1], D = a->k.dim[3];
#pragma omp parallel for
    for (int64_t i = 0; i < G * KV_PAGE; i++) {
        Key key = {.page = page, .offset = (int32_t)(i % KV_PAGE), .g = i / KV_PAGE};
        gather_key(l, a, &key);
        int64_t at = (grad * G * KV_PAGE + i) * D;
        for (int64_t d = 0; d < D; d++) {
            put(dk, at + d, key.dk[d] + (add ? get(dk, at + d) : 0));
            put(dv, at + d, key.dv[d] + (add ? get(dv, at + d) : 0));
        }
    }
}

Status attn_back_ref(Stream *s, const AttnBackArgs *a) {
    (void)s;
    const RefPlan *p = ref_plan(a->plan);
    const AttnLayout *l = &p->layout;
    TRY(attn_back_check(a, &p->limits, l->T));
    NEED(a->q.dim[2] <= HEAD_MAX, ST_UNSUPPORTED, "attn_back: head size %lld, at most %d",
         (long long)a->q.dim[2], HEAD_MAX);
    if (a->dq.data) all_query_gradients(l, a);
    for (int32_t page = 0; page < l->pages; page++) {
        if (a->dk_own.data && l->own_grad[page] >= 0)
            page_gradient(l, a, a->dk_own, a->dv_own, page, l->own_grad[page], false);
        if (a->dk_learned.data && l->learned_grad[page] >= 0)
            page_gradient(l, a, a->dk_learned, a->dv_learned, page, l->learned_grad[page], true);
    }
    return ST_OK;
}
