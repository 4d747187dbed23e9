/* A library that takes something away from the process: preloaded behind librefpage.so, its constructor runs before
 * the heap starts. TEST_CONSTRAINT says what, and a program may call `constrain` itself later on. */
#include "check.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>

#define TAKEN (PROT_NONE)
#define RESERVE (MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE)

/* No descriptor of `count` or above can be opened. */
static void leave_files(unsigned long count) {
    struct rlimit limit = {count, count};
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
}

/* All address space but 2^bits bytes in one piece, and less in small ones, is used up. */
static void leave_address_space(unsigned long bits) {
    size_t kept = (size_t)1 << bits;
    void *hole = mmap(NULL, kept, TAKEN, RESERVE, -1, 0);
    CHECK(hole != MAP_FAILED);
    for (size_t piece = (size_t)1 << 52; piece >= GIB; piece /= 2)
        while (mmap(NULL, piece, TAKEN, RESERVE, -1, 0) != MAP_FAILED)
            continue;
    CHECK(munmap(hole, kept) == 0);
}

/* All mappings that vm.max_map_count allows but `count` are used up. */
static void leave_maps(unsigned long count) {
    /* Neighbours differ in protection, so that they stay two mappings. */
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    static void *last[1000];
    size_t made = 0;
    for (;; made++) {
        void *one = mmap(NULL, page, made % 2 ? PROT_READ : PROT_NONE, RESERVE, -1, 0);
        if (one == MAP_FAILED)
            break;
        last[made % 1000] = one;
    }
    CHECK(errno == ENOMEM && made > 1000 && count < 1000);
    for (unsigned long i = 0; i < count; i++)
        CHECK(munmap(last[(made - 1 - i) % 1000], page) == 0);
}

void constrain(const char *what);
void constrain(const char *what) {
    static const struct {
        const char *name;
        void (*leave)(unsigned long);
    } kinds[] = {{"files:", leave_files}, {"address-bits:", leave_address_space}, {"maps:", leave_maps}};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        size_t length = strlen(kinds[i].name);
        if (strncmp(what, kinds[i].name, length) == 0) {
            kinds[i].leave(strtoul(what + length, NULL, 10));
            return;
        }
    }
    FAIL("no constraint named %s", what);
}

__attribute__((constructor)) static void at_the_start(void) {
    const char *what = getenv("TEST_CONSTRAINT");
    if (what)
        constrain(what);
}
