/* Memory tags: what malloc's pointers and memory carry, and what happens to a pointer that does not fit. Without
 * tags in this process each behaviour says so and is skipped. */
#include "check.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define GRANULE 16ul
#ifndef SEGV_MTESERR
#define SEGV_MTESERR 9
#endif
#ifndef SEGV_MTEAERR
#define SEGV_MTEAERR 8
#endif
#ifndef PR_GET_TAGGED_ADDR_CTRL
#define PR_GET_TAGGED_ADDR_CTRL 56
#endif
#define TCF (3 << 1)

static unsigned tag_of(const void *pointer) {
    return (uintptr_t)pointer >> 56 & 15;
}

static char *with_tag(const void *pointer, unsigned tag) {
    return (char *)(((uintptr_t)pointer & ~(15ul << 56)) | (uintptr_t)tag << 56);
}

/* The tag of the granule at an address, whatever tag the address has. */
static unsigned memory_tag(const void *pointer) {
#ifdef __aarch64__
    const void *tagged = pointer;
    __asm__ volatile(".arch armv8.5-a+memtag\n ldg %0, [%0]" : "+r"(tagged) : : "memory");
    return tag_of(tagged);
#else
    return tag_of(pointer);
#endif
}

static int are_tags_on(void) {
#ifdef __aarch64__
    free(need(malloc(1)));
    return (getauxval(AT_HWCAP2) >> 18 & 1) && (prctl(PR_GET_TAGGED_ADDR_CTRL, 0, 0, 0, 0) & TCF);
#else
    return 0;
#endif
}

static size_t page(void) {
    return (size_t)sysconf(_SC_PAGESIZE);
}

static size_t granules(size_t size) {
    return (size + GRANULE - 1) / GRANULE;
}

/* Each granule of a block has its pointer's tag, and the one behind it another. */
static void expect_tagged(const char *block, size_t size, const char *what) {
    unsigned tag = tag_of(block);
    if (tag == 0)
        FAIL("%s of %zu bytes at %p has no tag", what, size, (void *)block);
    for (size_t i = 0; i < granules(size); i++)
        if (memory_tag(block + i * GRANULE) != tag)
            FAIL("%s of %zu bytes at %p: granule %zu has tag %u", what, size, (void *)block, i,
                 memory_tag(block + i * GRANULE));
    if (memory_tag(block + granules(size) * GRANULE) == tag)
        FAIL("%s of %zu bytes at %p: what follows has its tag", what, size, (void *)block);
}

/* The first and the last granule of each page, which is quicker. */
static void expect_pages_tagged(const char *block, size_t size, const char *what) {
    unsigned tag = tag_of(block);
    for (size_t at = 0; at < size; at += page()) {
        size_t last = (at + page() < size ? at + page() : size) - 1;
        if (tag == 0 || memory_tag(block + at) != tag || memory_tag(block + last) != tag)
            FAIL("%s of %zu bytes at %p: page at %zu has tags %u to %u", what, size, (void *)block, at,
                 memory_tag(block + at), memory_tag(block + last));
    }
    if (memory_tag(block + granules(size) * GRANULE) == tag)
        FAIL("%s of %zu bytes at %p: what follows has its tag", what, size, (void *)block);
}

/* Every page of a large block, by reading and by writing first, in both orders. */
static void large(void) {
    size_t sizes[] = {64 * KIB, 100000, MIB, 3 * MIB + 5, 64 * KIB + 1, 8 * MIB};
    for (int round = 0; round < 3; round++)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            size_t size = sizes[i];
            char *block = need(malloc(size));
            if (round == 1)
                for (size_t at = 0; at < size; at += 7 * page())
                    EXPECT_PATTERN(block + (size - 1 - at), 1, "a page from behind");
            EXPECT_PATTERN(block, size, "a large block");
            if (i < 3)
                expect_tagged(block, size, "a large block");
            expect_pages_tagged(block, size, "a large block");
            memset(block, 1, size);
            EXPECT_BYTES(block, size, 1, "a written block");
            free(block);
        }
}

/* The beginning of a larger block that was freed, and what was left of it. */
static void divided(void) {
    for (size_t size = 5 * MIB; size < 8 * MIB; size += 3 * MIB / 2) {
        char *whole = need(malloc(8 * MIB));
        memset(whole, 1, 8 * MIB);
        free(whole);
        char *first = need(malloc(size)), *rest = need(malloc(8 * MIB - size));
        size_t left = 8 * MIB - size;
        for (int i = 0; i < 2; i++) {
            EXPECT_PATTERN(i ? rest : first, i ? left : size, "a part of a larger block");
            expect_pages_tagged(i ? rest : first, i ? left : size, "a part of a larger block");
            memset(i ? rest : first, 2 + i, i ? left : size);
        }
        free(first);
        EXPECT_BYTES(rest, left, 3, "the rest of a larger block");
        expect_pages_tagged(rest, left, "the rest of a larger block");
        free(rest);
    }
}

static void zeroed(void) {
    size_t sizes[] = {1, 100, 5000, 64 * KIB, 200000, MIB, 5 * MIB + 17};
    for (int round = 0; round < 3; round++)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            char *block = need(calloc(1, sizes[i]));
            EXPECT_BYTES(block, sizes[i], 0, "a zeroed block");
            expect_pages_tagged(block, malloc_usable_size(block), "a zeroed block");
            memset(block, 3, sizes[i]);
            free(block);
            block = need(malloc(sizes[i]));
            EXPECT_PATTERN(block, sizes[i], "a block after a zeroed one");
            expect_pages_tagged(block, malloc_usable_size(block), "a block after a zeroed one");
            memset(block, 4, sizes[i]);
            free(block);
        }
}

static void resized(void) {
    size_t sizes[] = {10, 1000, 70000, 64 * KIB, 300000, 2 * MIB, 2 * MIB + 100, 90000, 9 * MIB, MIB, 65 * KIB, 40};
    for (int kind = 0; kind < 4; kind++) {
        size_t before = 10;
        char *block = need(kind & 1 ? calloc(1, before) : malloc(before));
        memset(block, 5, before);
        for (size_t i = 1; i < sizeof sizes / sizeof *sizes; i++) {
            /* Of all that is there, or of a part of it only. */
            size_t kept = before < sizes[i] ? before : sizes[i];
            block = need(realloc(block, sizes[i]));
            EXPECT_BYTES(block, kind & 2 ? 10 : kept, 5, "the old part");
            expect_pages_tagged(block, malloc_usable_size(block), "a resized block");
            if (!(kind & 2)) {
                EXPECT_PATTERN(block + kept, sizes[i] - kept, "the new part");
                memset(block, 5, sizes[i]);
            }
            before = sizes[i];
        }
        free(block);
    }
}

/* Blocks of all sizes that come and go, in two threads: each has its pointer's tag and nobody else's. */
#define BLOCKS 60
static void *come_and_go(void *seed) {
    uint64_t state = (uint64_t)(uintptr_t)seed * 77 + 5;
    char *blocks[BLOCKS] = {0};
    size_t sizes[BLOCKS] = {0};
    int again = 0, alike = 0;
    for (int round = 0; round < 1500; round++) {
        size_t i = random_next(&state) % BLOCKS;
        size_t shift = random_next(&state) % 19;
        size_t size = (16ul << shift >> 4) + random_next(&state) % ((1ul << shift) + 1);
        if (blocks[i]) {
            unsigned char byte = (unsigned char)(i + 1);
            EXPECT_BYTES(blocks[i], sizes[i], byte, "a block");
            expect_pages_tagged(blocks[i], malloc_usable_size(blocks[i]), "a block");
            if (round % 5 == 0) {
                size_t kept = sizes[i] < size ? sizes[i] : size;
                blocks[i] = need(realloc(blocks[i], size));
                EXPECT_BYTES(blocks[i], kept, byte, "a resized block");
            } else {
                char *old = blocks[i];
                free(old);
                blocks[i] = need(round % 3 ? malloc(size) : calloc(1, size));
                if (round % 3)
                    EXPECT_PATTERN(blocks[i], size, "a block");
                else
                    EXPECT_BYTES(blocks[i], size, 0, "a zeroed block");
                again += (uintptr_t)blocks[i] << 8 == (uintptr_t)old << 8;
                /* The other thread may have had it meanwhile; then its tag comes again by chance. */
                if (blocks[i] == old && ++alike > 3 + again / 10)
                    FAIL("of %d blocks handed out again, %d had the same tag", again, alike);
            }
        } else {
            blocks[i] = need(malloc(size));
        }
        sizes[i] = size;
        expect_pages_tagged(blocks[i], malloc_usable_size(blocks[i]), "a block");
        memset(blocks[i], (int)(i + 1), size);
    }
    for (size_t i = 0; i < BLOCKS; i++)
        free(blocks[i]);
    return NULL;
}

static void recycled(void) {
    pthread_t threads[2];
    for (size_t i = 0; i < 2; i++)
        CHECK(pthread_create(&threads[i], NULL, come_and_go, (void *)(i + 1)) == 0);
    for (size_t i = 0; i < 2; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
}

/* Neighbours of one class are odd and even by turns. */
static void neighbours(void) {
    enum { COUNT = 300 };
    static char *blocks[COUNT];
    for (size_t size = 16; size <= 1024; size *= 4) {
        for (int i = 0; i < COUNT; i++)
            blocks[i] = need(malloc(size));
        for (int i = 0; i < COUNT; i++)
            for (int j = 0; j < COUNT; j++)
                if (with_tag(blocks[i], 0) + size == with_tag(blocks[j], 0))
                    CHECK((tag_of(blocks[i]) + tag_of(blocks[j])) % 2 == 1);
        for (int i = 0; i < COUNT; i++)
            free(blocks[i]);
    }
}

/* In a child, so that each is a first fault. */
static volatile char *expected;

static void on_fault(int signal, siginfo_t *info, void *context) {
    (void)context;
    if (signal == SIGSEGV && info->si_code == SEGV_MTESERR && with_tag(info->si_addr, 0) == with_tag((char *)expected, 0))
        _exit(42);
    if (signal == SIGSEGV && info->si_code == SEGV_MTEAERR)
        _exit(43);
    FAIL("signal %d, code %d, at %p", signal, info->si_code, info->si_addr);
}

static int wrong_access(char *pointer, int writes) {
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
        CHECK(sigaction(SIGSEGV, &action, NULL) == 0);
        expected = pointer;
        if (writes)
            *expected = 1;
        else
            (void)*expected;
        getppid();
        _exit(0);
    }
    int status;
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void expect_trap(char *pointer, const char *what) {
    for (int writes = 0; writes < 2; writes++)
        if (wrong_access(pointer, writes) != 42)
            FAIL("%s: %s %p went through", what, writes ? "writing" : "reading", (void *)pointer);
}

static void traps(void) {
    size_t sizes[] = {64 * KIB, MIB, 1000000, 3 * MIB + 16};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        size_t size = sizes[i];
        char *block = need(malloc(size)), *next = need(malloc(size));
        CHECK(wrong_access(block + size - 1, 1) == 0);
        expect_trap(block + granules(size) * GRANULE, "one past the end");
        expect_trap(block - 1, "one before the start");
        block[0] = block[size - 1] = 7;
        expect_trap(block + granules(size) * GRANULE, "one past the end");
        expect_trap(with_tag(block + size / 2, tag_of(block) ^ 1), "a forged tag");
        expect_trap(with_tag(block + size / 2, 0), "no tag");
        char *moved = need(realloc(block, 8 * size));
        if (moved != block) {
            expect_trap(block, "after realloc has moved it");
            expect_trap(block + size - 1, "after realloc has moved it, at its end");
        }
        free(moved);
        expect_trap(moved, "after free");
        expect_trap(moved + 4 * size, "after free, in the middle");
        free(next);
        expect_trap(next, "after free");
        char *again = need(malloc(size));
        expect_trap(next, "after free, and malloc of the same size");
        free(again);
    }
    for (size_t size = 16; size <= 32 * KIB; size *= 8) {
        char *block = need(malloc(size)), *other = need(malloc(size));
        size_t usable = malloc_usable_size(block);
        block[usable - 1] = 1;
        expect_trap(block + usable, "one past a small block");
        expect_trap(block - 1, "one before a small block");
        free(block);
        expect_trap(block, "a small block after free");
        free(other);
    }
}

static void system_calls(void) {
    int fd = open("/proc/self/exe", O_RDONLY);
    CHECK(fd >= 0);
    char *block = need(malloc(MIB));
    CHECK(pread(fd, block, 100, 0) == 100 && block[1] == 'E');
    CHECK(pread(fd, block + 500000, 5000, 0) == 5000 && block[500001] == 'E');
    EXPECT_PATTERN(block + 100, 1000, "what the system call did not write");
    char *other = need(malloc(MIB));
    CHECK(pread(fd, with_tag(other, tag_of(other) ^ 3), 100, 0) == -1 && errno == EFAULT);
    CHECK(pread(fd, with_tag(other + 3 * page(), 0), 100, 0) == -1 && errno == EFAULT);
    EXPECT_PATTERN(other, MIB, "what no system call wrote to");
    free(block);
    CHECK(pread(fd, block, 100, 0) == -1 && errno == EFAULT);
    close(fd);
    free(other);
}

/* Prints the resident KiB after one page in 64 of 64 MiB was touched, or after all were. */
static void sparse(void) {
    size_t size = 64 * MIB;
    char *block = need(malloc(size));
    for (size_t at = 0; at < size; at += 64 * page())
        block[at] = 1;
    FILE *status = fopen("/proc/self/status", "r");
    char line[200];
    while (fgets(line, sizeof line, status))
        if (strncmp(line, "VmHWM:", 6) == 0)
            printf("%lu\n", strtoul(line + 6, NULL, 10));
    fclose(status);
    for (size_t at = 0; at < size; at += 64 * page())
        CHECK(block[at] == 1);
    free(block);
}

static void check_inherited(char **blocks, const size_t *sizes, size_t count, const char *what) {
    for (size_t i = 0; i < count; i++) {
        expect_pages_tagged(blocks[i], sizes[i], what);
        EXPECT_BYTES(blocks[i] + sizes[i] / 2, 100, 9, what);
        EXPECT_PATTERN(blocks[i], sizes[i] / 2 - 5000, what);
        blocks[i][0] = blocks[i][sizes[i] - 1] = 8;
        free(blocks[i]);
        char *other = need(malloc(sizes[i]));
        expect_pages_tagged(other, sizes[i], what);
        EXPECT_PATTERN(other, sizes[i], what);
        memset(other, 2, sizes[i]);
        free(other);
    }
    _exit(0);
}

static void expect_child(pid_t child, const char *what) {
    int status;
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        FAIL("%s: status %#x", what, status);
}

/* Present and missing pages, in a child, its child, and the parent afterwards. */
static void forked(void) {
    enum { COUNT = 4 };
    size_t sizes[COUNT] = {40 * KIB, 128 * KIB, MIB, 16 * MIB};
    for (int round = 0; round < 3; round++) {
        char *blocks[COUNT];
        for (size_t i = 0; i < COUNT; i++) {
            blocks[i] = need(malloc(sizes[i]));
            memset(blocks[i] + sizes[i] / 2, 9, 100);
        }
        fflush(NULL);
        pid_t child = fork();
        if (child == 0) {
            pid_t grandchild = fork();
            if (grandchild == 0)
                check_inherited(blocks, sizes, COUNT, "in a grandchild");
            expect_child(grandchild, "the grandchild");
            check_inherited(blocks, sizes, COUNT, "in a child");
        }
        expect_child(child, "the child");
        for (size_t i = 0; i < COUNT; i++) {
            EXPECT_BYTES(blocks[i] + sizes[i] / 2, 100, 9, "in the parent");
            EXPECT_PATTERN(blocks[i], sizes[i] / 2, "in the parent");
            expect_pages_tagged(blocks[i], sizes[i], "in the parent");
            free(blocks[i]);
        }
    }
}

/* A child of the bare system call: what is present is right, and so is what it allocates. */
static void cloned(void) {
    char *small = need(malloc(100)), *block = need(malloc(MIB)), *untouched = need(malloc(MIB));
    memset(small, 1, 100);
    untouched[5000] = 5;
    memset(block, 2, MIB);
    fflush(NULL);
    pid_t child = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    if (child == 0) {
        EXPECT_BYTES(small, 100, 1, "a small block in a cloned child");
        EXPECT_BYTES(block, MIB, 2, "a large block in a cloned child");
        expect_pages_tagged(block, MIB, "in a cloned child");
        /* Nobody serves it yet. */
        EXPECT_PATTERN(untouched + 8 * page(), MIB / 2, "in a cloned child");
        untouched[MIB - 1] = 5;
        free(block);
        char *other = need(malloc(3 * MIB));
        EXPECT_PATTERN(other, 3 * MIB, "in a cloned child");
        expect_pages_tagged(other, 3 * MIB, "in a cloned child");
        CHECK(untouched[5000] == 5 && untouched[MIB - 1] == 5);
        EXPECT_PATTERN(untouched + 8 * page(), MIB - 9 * page(), "in a cloned child");
        expect_pages_tagged(untouched, MIB, "in a cloned child");
        free(untouched);
        _exit(0);
    }
    expect_child(child, "a cloned child");
    EXPECT_BYTES(block, MIB, 2, "in the parent of a cloned child");
    EXPECT_PATTERN(untouched + 8 * page(), MIB - 8 * page(), "in the parent of a cloned child");
    free(block);
    free(untouched);
    free(small);
}

/* By pointers that have another tag: the library's line says so. Does not come back. */
static void *volatile hidden;

static void free_forged_large(void) {
    char *block = need(malloc(MIB));
    hidden = with_tag(block, tag_of(block) ^ 1);
    free(hidden);
    FAIL("free came back");
}

static void free_forged_small(void) {
    char *block = need(malloc(100));
    hidden = with_tag(block, tag_of(block) ^ 1);
    free(hidden);
    FAIL("free came back");
}

static void free_stale(void) {
    char *block = need(malloc(100)), *other;
    hidden = block;
    free(hidden);
    do
        other = need(malloc(100));
    while (with_tag(other, 0) != with_tag(block, 0));
    free(hidden);
    FAIL("free came back");
}

static void realloc_forged(void) {
    char *block = need(malloc(MIB));
    hidden = with_tag(block, 0);
    hidden = realloc(hidden, 2 * MIB);
    FAIL("realloc came back");
}

/* One wrong access, for the report or for the mode: prints what was wrong first. */
static void report(char *pointer) {
    dprintf(1, "%p\n", (void *)pointer);
    *(volatile char *)pointer = 1;
    getppid();
    FAIL("the access to %p went through", (void *)pointer);
}

static void use_after_free(void) {
    char *block = need(malloc(100000));
    hidden = block;
    free(hidden);
    report((char *)hidden + 4112);
}

static void use_after_free_small(void) {
    char *block = need(malloc(100));
    hidden = block;
    free(hidden);
    report((char *)hidden + 48);
}

static void overflow(void) {
    report((char *)need(malloc(100000)) + 100000);
}

static void overflow_small(void) {
    char *block = need(malloc(64));
    report(block + 64);
}

static void underflow(void) {
    report((char *)need(malloc(100000)) - 1);
}

int main(int argc, char **argv) {
    static const struct behaviour behaviours[] = {
        {"large", large},
        {"divided", divided},
        {"zeroed", zeroed},
        {"resized", resized},
        {"recycled", recycled},
        {"neighbours", neighbours},
        {"traps", traps},
        {"system-calls", system_calls},
        {"sparse", sparse},
        {"forked", forked},
        {"cloned", cloned},
        {"free-forged-large", free_forged_large},
        {"free-forged-small", free_forged_small},
        {"free-stale", free_stale},
        {"realloc-forged", realloc_forged},
        {"use-after-free", use_after_free},
        {"use-after-free-small", use_after_free_small},
        {"overflow", overflow},
        {"overflow-small", overflow_small},
        {"underflow", underflow},
    };
    if (argc > 1 && strcmp(argv[1], "tags") == 0) {
        puts(are_tags_on() ? "on" : "off");
        return 0;
    }
    return RUN_BEHAVIOUR(behaviours);
}
