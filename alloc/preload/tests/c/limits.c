/* Return values and errno at the borders: what C and POSIX promise, and glibc keeps. */
#include "check.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>

/* Where the compiler cannot see that it is too much. */
static volatile size_t too_much = (size_t)PTRDIFF_MAX + 1;
static volatile size_t huge = SIZE_MAX;
static volatile size_t half = SIZE_MAX / 2 + 2;

#define EXPECT_ENOMEM(call) \
    do { \
        errno = 0; \
        CHECK((call) == NULL); \
        CHECK(errno == ENOMEM); \
    } while (0)

static void no_memory(void) {
    EXPECT_ENOMEM(malloc(too_much));
    EXPECT_ENOMEM(malloc(huge));
    EXPECT_ENOMEM(malloc(huge - 4096));
    EXPECT_ENOMEM(calloc(half, 2));
    EXPECT_ENOMEM(calloc(2, half));
    EXPECT_ENOMEM(calloc(1, too_much));
    EXPECT_ENOMEM(memalign(4096, too_much));
    EXPECT_ENOMEM(memalign(4096, huge));
    EXPECT_ENOMEM(aligned_alloc(64, huge - 63));
    EXPECT_ENOMEM(valloc(huge));
    EXPECT_ENOMEM(pvalloc(huge));
    EXPECT_ENOMEM(pvalloc(too_much));
    EXPECT_ENOMEM(reallocarray(NULL, half, 2));
    EXPECT_ENOMEM(realloc(NULL, too_much));
    /* The largest size there may be: no machine has it. */
    EXPECT_ENOMEM(malloc(too_much - 1));
    EXPECT_ENOMEM(memalign(MIB, too_much - 1));
    free(need(malloc(100)));
}

static void failed_realloc_keeps_the_block(void) {
    size_t some[] = {1, 100, 5000, 100000, 3 * MIB};
    uint64_t state = 8;
    for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
        unsigned char *block = need(malloc(some[i]));
        scribble(block, some[i], &state);
        unsigned char byte = block[0];
        EXPECT_ENOMEM(realloc(block, too_much));
        EXPECT_ENOMEM(realloc(block, too_much - 1));
        EXPECT_ENOMEM(reallocarray(block, half, 2));
        EXPECT_BYTES(block, some[i], byte, "a block whose realloc failed");
        free(block);
    }
}

static void null_and_zero(void) {
    enum { COUNT = 100 };
    void *blocks[COUNT];
    for (int i = 0; i < COUNT; i++) {
        blocks[i] = i % 3 == 0 ? malloc(0) : i % 3 == 1 ? calloc(0, 8) : realloc(NULL, 0);
        need(blocks[i]);
        for (int other = 0; other < i; other++)
            CHECK(blocks[i] != blocks[other]);
    }
    for (int i = 0; i < COUNT; i++)
        free(blocks[i]);
    free(NULL);
    CHECK(malloc_usable_size(NULL) == 0);
    errno = 0;
    CHECK(realloc(need(malloc(100)), 0) == NULL);
    CHECK(realloc(need(malloc(MIB)), 0) == NULL);
    CHECK(reallocarray(need(malloc(100)), 0, 8) == NULL);
    CHECK(errno == 0);
    free(need(realloc(NULL, 1000)));
    free(need(reallocarray(NULL, 10, 100)));
}

static void alignments(void) {
    void *untouched = (void *)0x1234, *block = untouched;
    size_t bad[] = {0, 1, 2, 4, 3, 12, 24, 4097, SIZE_MAX};
    errno = 77;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK(posix_memalign(&block, bad[i], 100) == EINVAL);
    CHECK(posix_memalign(&block, 64, too_much) == ENOMEM);
    CHECK(posix_memalign(&block, 64, too_much - 1) == ENOMEM);
    CHECK(posix_memalign(&block, too_much, 100) == ENOMEM);
    CHECK(block == untouched);
    CHECK(errno == 77);
    CHECK(posix_memalign(&block, 64, 0) == 0);
    CHECK(block != untouched && (uintptr_t)block % 64 == 0);
    free(block);
    CHECK(errno == 77);
    /* memalign rounds up, aligned_alloc (from glibc 2.38 on) does not. */
    block = need(memalign(48, 100));
    CHECK((uintptr_t)block % 64 == 0);
    free(block);
    free(need(memalign(0, 100)));
    errno = 0;
    CHECK(memalign(too_much + 1, 100) == NULL && errno == EINVAL);
    errno = 0;
    CHECK(aligned_alloc(48, 96) == NULL && errno == EINVAL);
    errno = 0;
    CHECK(aligned_alloc(0, 96) == NULL && errno == EINVAL);
    free(need(aligned_alloc(1, 7)));
    free(need(aligned_alloc(256, 100)));
}

/* C23: the program may be older or newer than the libc it runs on. */
#pragma weak free_sized
#pragma weak free_aligned_sized
void free_sized(void *block, size_t size);
void free_aligned_sized(void *block, size_t align, size_t size);

static void freed_with_size(void) {
    if (!free_sized || !free_aligned_sized)
        FAIL("no free_sized");
    free_sized(need(malloc(100)), 100);
    free_sized(NULL, 0);
    free_aligned_sized(need(aligned_alloc(64, 128)), 64, 128);
    free_aligned_sized(NULL, 64, 0);
}

static void errno_is_kept(void) {
    enum { COUNT = 2000 };
    static void *blocks[COUNT];
    for (int round = 0; round < 3; round++) {
        errno = 123;
        for (int i = 0; i < COUNT; i++)
            blocks[i] = need(malloc((size_t)i * i / 4));
        CHECK(errno == 123);
        for (int i = 0; i < COUNT; i++) {
            free(blocks[i]);
            if (errno != 123)
                FAIL("free of %zu bytes left errno %d", (size_t)i * i / 4, errno);
        }
        free(NULL);
        malloc_trim(0);
        CHECK(errno == 123);
    }
}

/* As much as there is, in blocks of 16 MiB and then of 16 bytes less each time; then all is given back, and
 * can be had again. */
static size_t take_all(void **list) {
    size_t taken = 0;
    for (size_t size = 16 * MIB; size >= 64 * KIB;) {
        errno = 0;
        void **block = malloc(size);
        if (!block) {
            CHECK(errno == ENOMEM);
            size /= 2;
            continue;
        }
        *block = *list;
        *list = block;
        taken += size;
        if (taken > 64 * GIB)
            FAIL("%zu bytes under a limit of 2 GiB", taken);
    }
    return taken;
}

static void give_back(void *list) {
    while (list) {
        void *next = *(void **)list;
        free(list);
        list = next;
    }
}

/* The limit was set before the program started. */
static void under_a_limit(void) {
    struct rlimit limit;
    CHECK(getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY);
    void *list = NULL;
    EXPECT_ENOMEM(malloc(8 * GIB));
    size_t first = take_all(&list);
    CHECK(first >= 64 * MIB);
    CHECK(first <= limit.rlim_cur);
    /* stdio and the small classes still work, or say ENOMEM: nothing dies. */
    for (int i = 0; i < 100; i++) {
        void *small = malloc(100);
        CHECK(small || errno == ENOMEM);
        free(small);
    }
    give_back(list);
    list = NULL;
    size_t second = take_all(&list);
    CHECK(second >= first / 2);
    give_back(list);
    char *again = need(malloc(MIB));
    EXPECT_PATTERN(again, MIB, "after the limit was met");
}

/* The limit comes when the heap is already there. */
static void limit_later(int resource) {
    void *early = need(malloc(MIB));
    struct rlimit limit = {GIB, GIB};
    CHECK(setrlimit(resource, &limit) == 0);
    EXPECT_ENOMEM(malloc(100 * 1024 * GIB));
    EXPECT_ENOMEM(malloc(2 * GIB));
    EXPECT_ENOMEM(calloc(1024, 100 * GIB));
    EXPECT_ENOMEM(realloc(early, 100 * 1024 * GIB));
    free(early);
    free(need(malloc(100)));
    char *large = need(malloc(MIB));
    EXPECT_PATTERN(large, MIB, "after the limit was set");
    free(large);
}

static void limited_later(void) {
    limit_later(RLIMIT_AS);
}

/* A child is given its heap under the limit, too, as good as it can be had. */
static void data_limited_later(void) {
    limit_later(RLIMIT_DATA);
    unsigned char *block = need(malloc(MIB));
    block[0] = 'x';
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        EXPECT_PATTERN(block + 1, MIB - 1, "in a child under a limit on data");
        unsigned char *own = need(malloc(4 * MIB));
        EXPECT_PATTERN(own, 4 * MIB, "a child's own under a limit on data");
        EXPECT_ENOMEM(malloc(2 * GIB));
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    free(block);
}

static void accounting(void) {
    void *block = need(malloc(10 * MIB));
    struct mallinfo2 info = mallinfo2();
    CHECK(info.uordblks >= 10 * MIB);
    CHECK(info.arena >= info.uordblks && info.fordblks == info.arena - info.uordblks);
    char *text = NULL;
    size_t length = 0;
    FILE *stream = open_memstream(&text, &length);
    CHECK(stream);
    CHECK(malloc_info(1, stream) == EINVAL);
    CHECK(malloc_info(0, stream) == 0);
    CHECK(fclose(stream) == 0);
    puts(text);
    free(text);
    free(block);
    /* Less by about that block: what threads keep ready for themselves counts as used. */
    CHECK(mallinfo2().uordblks <= info.uordblks - 9 * MIB);
    int trimmed = malloc_trim(0);
    CHECK(trimmed == 0 || trimmed == 1);
}

int main(int argc, char **argv) {
    static const struct behaviour behaviours[] = {
        {"no-memory", no_memory},
        {"failed-realloc", failed_realloc_keeps_the_block},
        {"null-and-zero", null_and_zero},
        {"alignments", alignments},
        {"freed-with-size", freed_with_size},
        {"errno-is-kept", errno_is_kept},
        {"under-a-limit", under_a_limit},
        {"limited-later", limited_later},
        {"data-limited-later", data_limited_later},
        {"accounting", accounting},
    };
    return RUN_BEHAVIOUR(behaviours);
}
