/* hash.c -- SHA-256 by libcrypto: the identity of models, corpora, cartridges and files. */
#include <openssl/evp.h>
#include <string.h>

#include "kernels/base/file.h"

/* An EVP_MD_CTX under our own name, so that no other file needs the library's header. */
static EVP_MD_CTX *context(Sha256 *h) {
    return (EVP_MD_CTX *)h;
}

Status sha256_open(Sha256 **out) {
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    *out = (Sha256 *)c;
    NEED(c && EVP_DigestInit_ex(c, EVP_sha256(), NULL) == 1, ST_NOMEM, "SHA-256: libcrypto gave no context");
    return ST_OK;
}

void sha256_add(Sha256 *h, const void *data, size_t bytes) {
    if (bytes) EVP_DigestUpdate(context(h), data, bytes);
}

Digest sha256_finish(Sha256 **h) {
    Digest d;
    unsigned n = sizeof d.byte;
    EVP_DigestFinal_ex(context(*h), d.byte, &n);
    EVP_MD_CTX_free(context(*h));
    *h = NULL;
    return d;
}

Digest sha256_of(const void *data, size_t bytes) {
    Digest d;
    unsigned n = sizeof d.byte;
    EVP_Digest(data, bytes, d.byte, &n, EVP_sha256(), NULL);
    return d;
}

void digest_hex(Digest d, char out[65]) {
    static const char hex[] = "0123456789abcdef";
    for (size_t i = 0; i < sizeof d.byte; i++) {
        out[2 * i] = hex[d.byte[i] >> 4];
        out[2 * i + 1] = hex[d.byte[i] & 15];
    }
    out[64] = '\0';
}

bool digest_equal(Digest a, Digest b) {
    return memcmp(a.byte, b.byte, sizeof a.byte) == 0;
}
