/* Programs that live where something is scarce. Any allocation may be refused, with ENOMEM, and none may be wrong. */
#include "check.h"
#include "refpage.h"

#include <sys/mman.h>
#include <sys/wait.h>

#pragma weak refpage_service

void constrain(const char *what);
#pragma weak constrain

static size_t given, refused;

/* A block or ENOMEM. */
static unsigned char *ask(size_t size) {
    errno = 0;
    unsigned char *block = malloc(size);
    if (block) {
        given++;
        EXPECT_PATTERN(block, size, "fresh in need");
        memset(block, 'x', size);
    } else {
        refused++;
        CHECK(errno == ENOMEM);
    }
    return block;
}

static void say_what_was_given(void) {
    printf("%zu given, %zu refused, service %s\n", given, refused, refpage_service ? refpage_service() : "none");
}

/* Some blocks of each size, fresh, recycled, grown and zeroed. */
static void get_along(void) {
    for (int round = 0; round < 3; round++)
        for (size_t size = 1; size <= 4 * MIB; size = size * 7 / 2 + 1) {
            unsigned char *blocks[6];
            for (int i = 0; i < 6; i++)
                blocks[i] = ask(size);
            for (int i = 0; i < 6; i += 2) {
                free(blocks[i]);
                errno = 0;
                blocks[i] = calloc(1, size);
                CHECK(blocks[i] || errno == ENOMEM);
                if (blocks[i])
                    EXPECT_BYTES(blocks[i], size, 0, "zeroed in need");
            }
            for (int i = 1; i < 6; i += 2) {
                errno = 0;
                unsigned char *longer = blocks[i] ? realloc(blocks[i], 2 * size) : NULL;
                if (longer) {
                    EXPECT_BYTES(longer, size, 'x', "kept by realloc in need");
                    EXPECT_PATTERN(longer + size, size, "grown in need");
                    blocks[i] = longer;
                } else if (blocks[i]) {
                    CHECK(errno == ENOMEM);
                    EXPECT_BYTES(blocks[i], size, 'x', "kept by a realloc that failed");
                }
            }
            for (int i = 0; i < 6; i++)
                free(blocks[i]);
        }
}

static void lives(void) {
    get_along();
    say_what_was_given();
}

/* A child of fork lives there too, if there can be one. */
static void forks(void) {
    unsigned char *block = need(malloc(MIB));
    block[0] = 'x';
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        EXPECT_PATTERN(block + 1, MIB - 1, "in a child in need");
        get_along();
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    EXPECT_PATTERN(block + 1, MIB - 1, "in a parent in need");
    free(block);
    get_along();
    say_what_was_given();
}

/* Takes all there is (or TEST_BYTES, or 256 MiB) in blocks of `size`, gives it back, and takes it again. */
static void exhaust_by(size_t size) {
    const char *bytes = getenv("TEST_BYTES");
    size_t taken[2], most = bytes ? strtoull(bytes, NULL, 10) : 256 * MIB;
    for (int round = 0; round < 2; round++) {
        void *list = NULL;
        taken[round] = 0;
        while (taken[round] < most) {
            unsigned char *block = ask(size);
            if (!block)
                break;
            *(void **)(void *)block = list;
            list = block;
            taken[round] += size;
        }
        get_along();
        while (list) {
            void *next = *(void **)list;
            free(list);
            list = next;
        }
    }
    CHECK(taken[1] >= taken[0] / 2);
    printf("%zu MiB in blocks of %zu, then %zu\n", taken[0] / MIB, size, taken[1] / MIB);
}

static void exhausts(void) {
    /* Where the output goes to a file in memory, this gets it its page while there is one to be had. */
    puts("takes all there is");
    fflush(stdout);
    exhaust_by(MIB);
    exhaust_by(100 * KIB);
    exhaust_by(1000);
    say_what_was_given();
}

/* TEST_BYTES in large blocks, of which one page in 64 is touched: all of it is there, little of it is used. */
static void sparse(void) {
    size_t total = strtoull(getenv("TEST_BYTES"), NULL, 10), block_size = 8 * MIB;
    for (size_t at = 0; at < total; at += block_size) {
        unsigned char *block = need(malloc(block_size));
        for (size_t page = 0; page < block_size; page += 64 * 4096) {
            EXPECT_PATTERN(block + page, 4096, "a page among untouched ones");
            block[page] = 'x';
        }
    }
    puts("survived");
}

/* The same, all of it touched. */
static void dense(void) {
    size_t total = strtoull(getenv("TEST_BYTES"), NULL, 10);
    for (size_t at = 0; at < total; at += 8 * MIB)
        memset(need(malloc(8 * MIB)), 'x', 8 * MIB);
    puts("survived");
}

/* As much as there is, of one block, front to back: nothing else of the program needs memory meanwhile. */
static void one_block(void) {
    size_t size = strtoull(getenv("TEST_BYTES"), NULL, 10), page = (size_t)sysconf(_SC_PAGESIZE);
    unsigned char *block = need(malloc(size));
    block[0] = block[size - 1] = 'x';
    for (size_t at = page; at < size - page; at += page) {
        EXPECT_PATTERN(block + at, page, "while there is memory");
        block[at] = 'x';
    }
    puts("survived");
}

/* The program locks all it has and will have. */
static void locks_all(void) {
    unsigned char *before = need(malloc(MIB));
    errno = 0;
    int locked = mlockall(MCL_CURRENT | MCL_FUTURE);
    CHECK(locked == 0 || errno == ENOMEM || errno == EPERM || errno == EAGAIN);
    printf("mlockall: %s\n", locked == 0 ? "done" : strerror(errno));
    EXPECT_PATTERN(before, MIB, "before mlockall");
    free(before);
    get_along();
    say_what_was_given();
}

/* TEST_CONSTRAINT_LATER comes when the heap has been at work. */
static void later(void) {
    get_along();
    unsigned char *kept = need(malloc(3 * MIB));
    kept[MIB] = 'x';
    constrain(getenv("TEST_CONSTRAINT_LATER"));
    given = refused = 0;
    EXPECT_PATTERN(kept, MIB, "from before the need");
    EXPECT_PATTERN(kept + MIB + 1, 2 * MIB - 1, "from before the need");
    get_along();
    say_what_was_given();
}

/* What counts against a limit on commitment, and what against one on data. */
static void commits(void) {
    get_along();
    FILE *maps = fopen("/proc/self/smaps", "r"), *status = fopen("/proc/self/status", "r");
    CHECK(maps && status);
    size_t accounted = 0, size = 0, data = 0;
    char line[4096];
    while (fgets(line, sizeof line, maps)) {
        sscanf(line, "Size: %zu kB", &size);
        if (strncmp(line, "VmFlags:", 8) == 0 && strstr(line, " ac"))
            accounted += size;
    }
    while (fgets(line, sizeof line, status))
        sscanf(line, "VmData: %zu kB", &data);
    CHECK(data > 0);
    printf("%zu MiB of commitment, %zu MiB of data\n", accounted / KIB, data / KIB);
}

int main(int argc, char **argv) {
    static const struct behaviour behaviours[] = {
        {"lives", lives},   {"forks", forks}, {"exhausts", exhausts},   {"sparse", sparse},
        {"dense", dense},   {"one-block", one_block}, {"later", later}, {"locks-all", locks_all},
        {"commits", commits},
    };
    return RUN_BEHAVIOUR(behaviours);
}
