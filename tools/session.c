/* session.c -- see session.h. */
#include "tools/session.h"

#include "tools/device.h"

enum { TOPK = 32, PREFIXES = 16 };

Status session_pages(const SessionLimits *l, int32_t *pages) {
    int64_t n = (int64_t)l->seqs * pages_for(l->seq_rows) + pages_for(l->held_rows) + PREFIXES;
    NEED(n < INT32_MAX, ST_ARG, "%lld pages are more than a pool can have", (long long)n);
    *pages = (int32_t)n;
    return ST_OK;
}

SchedulerLimits session_scheduler(const SessionLimits *l) {
    return (SchedulerLimits){
        .rows = l->pass_rows, .seqs = l->seqs, .queue = 4 * l->seqs, .topk = TOPK, .prefixes = PREFIXES};
}

Status session_open(Session *s, const char *folder, const SessionLimits *l) {
    *s = (Session){0};
    Status st = ST_OK;
    TRY_TO(failed, model_open(&s->model, folder, device_ops()));
    TRY_TO(failed, tokenizer_open(&s->tokenizer, folder));
    TRY_TO(failed, chat_open(&s->chat, folder, s->tokenizer));
    NEED_TO(failed, tokenizer_vocab(s->tokenizer) <= s->model->cfg.vocab, ST_MISMATCH,
            "%s: tokenizer.json has %d tokens, config.json a vocabulary of %d", folder,
            tokenizer_vocab(s->tokenizer), s->model->cfg.vocab);
    digest_hex(tokenizer_digest(s->tokenizer), s->tokenizer_hex);
    int32_t pages = 0;
    TRY_TO(failed, session_pages(l, &pages));
    TRY_TO(failed, pool_open(&s->pool, &s->model->cfg, s->model->ops, s->model->ops->act, pages));
    SchedulerLimits limits = session_scheduler(l);
    TRY_TO(failed, scheduler_open(&s->scheduler, s->model, s->pool, &limits));
    scheduler_capture_tools(s->scheduler, &s->capture);
    return ST_OK;
failed:
    session_close(s);
    return st;
}

void session_close(Session *s) {
    scheduler_close(s->scheduler);
    pool_close(s->pool);
    chat_close(s->chat);
    tokenizer_close(s->tokenizer);
    model_close(s->model);
    *s = (Session){0};
}

Status session_capture(Session *s, Bytes text, int32_t rows, Prefix **out) {
    *out = NULL;
    TokenVec t = {0};
    Status st = chat_prefix(s->chat, text, rows, &t);
    if (!st) st = capture(out, &s->capture, NULL, 0, t.v, t.n);
    tokens_close(&t);
    return st;
}

Status cartridge_rows(const TextList *paths, int64_t *rows) {
    *rows = 0;
    for (int32_t i = 0; i < paths->n; i++) {
        CartridgeInfo info;
        TRY(cartridge_info_read(&info, paths->v[i]));
        *rows += info.rows + KV_PAGE;
        cartridge_info_close(&info);
    }
    return ST_OK;
}

Status session_cartridges(Session *s, const TextList *paths, Cartridge **out, int32_t *n) {
    for (*n = 0; *n < paths->n; ++*n)
        TRY(cartridge_open(&out[*n], paths->v[*n], s->model, s->tokenizer_hex, chat_family(s->chat), s->pool,
                           s->capture.stream));
    return ST_OK;
}
