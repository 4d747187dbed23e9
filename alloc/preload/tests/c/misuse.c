/* Misuse of free. Each behaviour prints the pointer that it misuses, and must not come back from that. */
#include "check.h"

#include <pthread.h>

static char static_bytes[256] __attribute__((aligned(64)));

/* Where the compiler cannot see what it is, and so cannot warn. */
static void *volatile hidden;

/* dprintf, unlike printf, has no buffer to allocate, which could be the freed block again. */
static void misuse(void *pointer) {
    dprintf(1, "%p\n", pointer);
    hidden = pointer;
    free(hidden);
    FAIL("free(%p) came back", pointer);
}

static void freed_twice(size_t size) {
    void *block = need(malloc(size)), *neighbour = need(malloc(size));
    hidden = block;
    free(hidden);
    misuse(block);
    free(neighbour);
}

static void double_free_small(void) {
    freed_twice(100);
}

static void double_free_medium(void) {
    freed_twice(20000);
}

static void double_free_large(void) {
    freed_twice(3 * MIB);
}

/* Other blocks came and went since; a neighbour keeps the span. */
static void double_free_later(void) {
    void *blocks[100], *block = need(malloc(64)), *neighbour = need(malloc(64));
    hidden = block;
    free(hidden);
    for (int i = 0; i < 100; i++)
        blocks[i] = need(malloc(2000));
    for (int i = 0; i < 100; i++)
        free(blocks[i]);
    misuse(block);
    free(neighbour);
}

/* As many blocks of the same class are freed in between: some are in a magazine with it, some push it out of there. */
static void double_free_after(int others) {
    void *blocks[400];
    for (int i = 0; i < 400; i++)
        blocks[i] = need(malloc(64));
    hidden = blocks[200];
    free(hidden);
    for (int i = 0; i < others; i++)
        free(blocks[i < 200 ? i : i + 1]);
    misuse(blocks[200]);
}

static void double_free_after_one(void) {
    double_free_after(1);
}

static void double_free_after_some(void) {
    double_free_after(40);
}

static void double_free_after_hundreds(void) {
    double_free_after(390);
}

static void double_free_of_all(void) {
    void *blocks[400];
    for (int i = 0; i < 400; i++)
        blocks[i] = need(malloc(3000));
    for (int i = 0; i < 400; i++)
        free(blocks[i]);
    misuse(blocks[17]);
}

static void double_free_after_trim(void) {
    void *blocks[400];
    for (int i = 0; i < 400; i++)
        blocks[i] = need(malloc(3000));
    for (int i = 0; i < 400; i++)
        free(blocks[i]);
    malloc_trim(0);
    misuse(blocks[17]);
}

static void *free_it(void *block) {
    free(block);
    return NULL;
}

static void *misuse_it(void *block) {
    misuse(block);
    return NULL;
}

static void *make_one(void *size) {
    return need(malloc((uintptr_t)size));
}

static void *in_a_thread(void *(*body)(void *), void *argument) {
    pthread_t thread;
    void *result;
    CHECK(pthread_create(&thread, NULL, body, argument) == 0 && pthread_join(thread, &result) == 0);
    return result;
}

/* The thread has ended since, and what it kept is others'. */
static void double_free_after_a_thread(void) {
    void *block = need(malloc(200)), *neighbour = need(malloc(200));
    in_a_thread(free_it, block);
    misuse(block);
    free(neighbour);
}

static void double_free_by_a_thread(void) {
    void *block = need(malloc(200)), *neighbour = need(malloc(200));
    hidden = block;
    free(hidden);
    in_a_thread(misuse_it, block);
    free(neighbour);
}

static void double_free_of_a_threads(void) {
    void *block = in_a_thread(make_one, (void *)200);
    hidden = block;
    free(hidden);
    misuse(block);
}

static void free_of_stack(void) {
    char on_stack[64] __attribute__((aligned(16)));
    misuse(on_stack);
}

static void free_of_static(void) {
    misuse(static_bytes);
}

static void free_of_null_page(void) {
    misuse((void *)64);
}

static void free_inside_small(void) {
    misuse((char *)need(malloc(500)) + 16);
}

static void free_inside_least(void) {
    misuse((char *)need(malloc(32)) + 16);
}

/* At an OS page's border, where no block begins. */
static void free_inside_at_a_page(void) {
    uintptr_t block = (uintptr_t)need(malloc(50000));
    misuse((void *)((block + 20000) & ~(uintptr_t)4095));
}

static void free_inside_anothers(void) {
    misuse((char *)in_a_thread(make_one, (void *)700) + 48);
}

static void free_before(void) {
    misuse((char *)need(malloc(700)) - 16);
}

/* Where another block may be, but was never handed out, or was not yet. */
static void free_behind(void) {
    char *block = need(malloc(700));
    misuse(block + malloc_usable_size(block));
}

static void free_ahead(void) {
    char *block = need(malloc(700));
    misuse(block - malloc_usable_size(block));
}

static void free_far_behind(void) {
    char *block = need(malloc(700));
    size_t size = malloc_usable_size(block);
    /* In the same 64 KiB. */
    size_t room = 64 * KIB - (uintptr_t)block % (64 * KIB);
    misuse(room > 9 * size ? block + 8 * size : block - 8 * size);
}

static void free_a_gib_behind(void) {
    misuse((char *)need(malloc(700)) + GIB);
}

static void free_misaligned(void) {
    misuse((char *)need(malloc(500)) + 8);
}

static void free_inside_large(void) {
    misuse((char *)need(malloc(3 * MIB)) + 64 * KIB);
}

static void free_large_misaligned(void) {
    misuse((char *)need(malloc(3 * MIB)) + 8);
}

static void realloc_of_freed(void) {
    void *block = need(malloc(3 * MIB));
    hidden = block;
    free(hidden);
    dprintf(1, "%p\n", block);
    FAIL("realloc came back with %p", realloc(hidden, 4 * MIB));
}

static void realloc_of_freed_small(void) {
    void *block = need(malloc(300));
    hidden = block;
    free(hidden);
    dprintf(1, "%p\n", block);
    FAIL("realloc came back with %p", realloc(hidden, 310));
}

static void realloc_inside_small(void) {
    hidden = (char *)need(malloc(300)) + 32;
    dprintf(1, "%p\n", hidden);
    FAIL("realloc came back with %p", realloc(hidden, 4000));
}

static void size_of_freed_small(void) {
    void *block = need(malloc(300));
    hidden = block;
    free(hidden);
    dprintf(1, "%p\n", block);
    FAIL("malloc_usable_size came back with %zu", malloc_usable_size(hidden));
}

int main(int argc, char **argv) {
    static const struct behaviour behaviours[] = {
        {"double-free-small", double_free_small},
        {"double-free-medium", double_free_medium},
        {"double-free-large", double_free_large},
        {"double-free-later", double_free_later},
        {"double-free-after-one", double_free_after_one},
        {"double-free-after-some", double_free_after_some},
        {"double-free-after-hundreds", double_free_after_hundreds},
        {"double-free-of-all", double_free_of_all},
        {"double-free-after-trim", double_free_after_trim},
        {"double-free-after-a-thread", double_free_after_a_thread},
        {"double-free-by-a-thread", double_free_by_a_thread},
        {"double-free-of-a-threads", double_free_of_a_threads},
        {"free-of-stack", free_of_stack},
        {"free-of-static", free_of_static},
        {"free-of-null-page", free_of_null_page},
        {"free-inside-small", free_inside_small},
        {"free-inside-least", free_inside_least},
        {"free-inside-at-a-page", free_inside_at_a_page},
        {"free-inside-anothers", free_inside_anothers},
        {"free-before", free_before},
        {"free-behind", free_behind},
        {"free-ahead", free_ahead},
        {"free-far-behind", free_far_behind},
        {"free-a-gib-behind", free_a_gib_behind},
        {"free-misaligned", free_misaligned},
        {"free-inside-large", free_inside_large},
        {"free-large-misaligned", free_large_misaligned},
        {"realloc-of-freed", realloc_of_freed},
        {"realloc-of-freed-small", realloc_of_freed_small},
        {"realloc-inside-small", realloc_inside_small},
        {"size-of-freed-small", size_of_freed_small},
    };
    return RUN_BEHAVIOUR(behaviours);
}
