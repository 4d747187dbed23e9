/* What the heap looks like to the kernel: one VMA for it all, and no page that nobody needs. */
#include "check.h"

#include <sys/resource.h>

/* How many lines of /proc/self/maps meet [from, to). */
static int vmas_between(uintptr_t from, uintptr_t to) {
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[512];
    int count = 0;
    CHECK(maps);
    while (fgets(line, sizeof line, maps)) {
        uintptr_t start, end;
        CHECK(sscanf(line, "%lx-%lx", &start, &end) == 2);
        count += start < to && from < end;
    }
    fclose(maps);
    return count;
}

#define GROWTH 100000

/* argv[2] blocks of up to argv[3] bytes live at once, some freed, some grown, some touched. */
static void many_blocks(size_t count, size_t most) {
    unsigned char **blocks = need(calloc(count, sizeof *blocks));
    size_t *sizes = need(calloc(count, sizeof *sizes));
    uint64_t state = 21;
    uintptr_t low = UINTPTR_MAX, high = 0;
    for (size_t round = 0; round < 2; round++)
        for (size_t i = 0; i < count; i++) {
            if (round == 1 && i % 3 != 0)
                continue;
            free(blocks[i]);
            sizes[i] = 64 * KIB + random_next(&state) % (most - 64 * KIB);
            blocks[i] = need(malloc(sizes[i]));
            blocks[i][sizes[i] / 2] = 'x';
        }
    for (size_t i = 0; i < count; i += 7)
        blocks[i] = need(realloc(blocks[i], sizes[i] += GROWTH));
    for (size_t i = 0; i < count; i++) {
        uintptr_t start = (uintptr_t)blocks[i];
        low = start < low ? start : low;
        high = start + sizes[i] > high ? start + sizes[i] : high;
    }
    int vmas = vmas_between(low, high);
    if (vmas != 1)
        FAIL("%zu live blocks between %#lx and %#lx lie in %d VMAs", count, low, high, vmas);
    for (size_t i = 0; i < count; i += 97) {
        size_t written = (sizes[i] - (i % 7 == 0 ? GROWTH : 0)) / 2;
        EXPECT_PATTERN(blocks[i], written, "one of many blocks");
        EXPECT_BYTES(blocks[i] + written, 1, 'x', "one of many blocks");
        EXPECT_PATTERN(blocks[i] + written + 1, sizes[i] - written - 1, "one of many blocks");
    }
    for (size_t i = 0; i < count; i++)
        free(blocks[i]);
    free(blocks);
    free(sizes);
}

/* A thousand pages of a GiB. Prints the peak RSS in KiB. */
static void scattered(int check) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), pages = GIB / page, touched = 1000;
    unsigned char *block = need(malloc(GIB));
    for (size_t i = 0; i < touched; i++)
        block[i * 7919 % pages * page + i] = 'x';
    if (check)
        for (size_t i = 0; i < touched; i++) {
            unsigned char *start = block + i * 7919 % pages * page;
            EXPECT_PATTERN(start, i, "before the byte that was written");
            EXPECT_BYTES(start + i, 1, 'x', "the byte that was written");
            EXPECT_PATTERN(start + i + 1, page - i - 1, "past the byte that was written");
        }
    for (size_t i = 0; i < 100; i++)
        if (check)
            EXPECT_PATTERN(block + (touched + i) * 7919 % pages * page, page, "a page that was never written");
        else
            CHECK(block[(touched + i) * 7919 % pages * page] == 0);
    struct rusage usage;
    CHECK(getrusage(RUSAGE_SELF, &usage) == 0);
    dprintf(1, "%ld\n", usage.ru_maxrss);
    free(block);
}

int main(int argc, char **argv) {
    CHECK(argc > 1);
    if (strcmp(argv[1], "many-blocks") == 0 && argc == 4)
        many_blocks(strtoul(argv[2], NULL, 0), strtoul(argv[3], NULL, 0));
    else if (strcmp(argv[1], "scattered") == 0)
        scattered(1);
    else if (strcmp(argv[1], "scattered-unchecked") == 0)
        scattered(0);
    else
        FAIL("no behaviour named %s", argv[1]);
    return 0;
}
