/* A library to preload and to dlopen: it allocates as it comes and frees as it goes, and has TLS of its own. */
#include "check.h"

static unsigned char *block;
static __thread unsigned char *own;
static __thread char much[3000];

__attribute__((constructor)) static void coming(void) {
    block = need(malloc(70000));
    EXPECT_PATTERN(block, 70000, "malloc in a library's constructor");
    block[777] = 'x';
}

__attribute__((destructor)) static void going(void) {
    CHECK(block[777] == 'x');
    free(block);
}

/* What a program that dlopens this calls in each thread, and at last with `last`: 1 if the TLS is in order. */
int library_work(int last) {
    if (!own)
        own = need(calloc(1, 64));
    own[0]++;
    much[2999]++;
    int fine = own[0] == much[2999];
    if (last) {
        free(own);
        own = NULL;
        much[2999] = 0;
    }
    return fine;
}
