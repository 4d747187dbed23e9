/* refpage.h, from a program that would also run without the library. */
#define REFPAGE_WEAK
#include "refpage.h"

#include "check.h"

#include <inttypes.h>

static void statistics(void) {
    struct {
        struct refpage_stats known;
        uint64_t later[2];
    } stats;
    CHECK(refpage_stats(&stats.known, sizeof stats.known) == sizeof stats.known);
    uint64_t allocated = stats.known.large_allocated, live = stats.known.live_bytes;
    char *block = need(malloc(3 * MIB));
    memset(block, 1, 3 * MIB);
    memset(&stats, 0xff, sizeof stats);
    CHECK(refpage_stats(&stats.known, sizeof stats) == sizeof stats.known);
    CHECK(stats.later[0] == 0 && stats.later[1] == 0);
    CHECK(stats.known.large_allocated == allocated + 1);
    CHECK(stats.known.live_bytes >= live + 3 * MIB);
    CHECK(stats.known.region_present_bytes >= 3 * MIB);
    CHECK(stats.known.region_used_bytes >= stats.known.region_present_bytes);
    CHECK(stats.known.page_bytes == (uint64_t)sysconf(_SC_PAGESIZE));
    /* Under a service without a handler, nothing is answered. */
    uint64_t answered = 0;
    for (size_t i = 0; i < REFPAGE_WINDOWS; i++)
        answered += stats.known.window_pages[i];
    CHECK(answered <= stats.known.faults);
    CHECK((strcmp(refpage_service(), "lazy") == 0) == (answered > 0));
    free(block);
    /* A program that knows less gets no more. */
    memset(&stats, 0xff, sizeof stats);
    CHECK(refpage_stats(&stats.known, sizeof stats.known.window_pages) == sizeof stats.known);
    CHECK(stats.known.window_pages[0] != UINT64_MAX && stats.known.fall_backs[0] == UINT64_MAX);
    CHECK(refpage_stats(NULL, 0) == sizeof stats.known);

    size_t causes = 0;
    while (refpage_cause_name(causes))
        CHECK(strlen(refpage_cause_name(causes++)) > 3);
    CHECK(causes > 10 && causes <= REFPAGE_CAUSES);
    CHECK(strcmp(refpage_cause_name(0), "move_exists") == 0);
    CHECK(!refpage_cause_name(REFPAGE_CAUSES));

    char reason[256], start[4] = "???";
    size_t length = refpage_reason(reason, sizeof reason);
    CHECK(length > 3 && length == strlen(reason));
    CHECK(refpage_reason(start, sizeof start) == length && strncmp(start, reason, 3) == 0 && start[3] == 0);
    CHECK(refpage_reason(NULL, 0) == length);
}

/* Descriptions are of addresses, and pointers may have tags. */
static uintptr_t untagged(const void *pointer) {
    return (uintptr_t)pointer << 8 >> 8;
}

static void descriptions(void) {
    struct {
        struct refpage_description known;
        uint64_t later;
    } told;
    char *block = need(malloc(3 * MIB)), *small = need(malloc(100));
    memset(&told, 0xff, sizeof told);
    CHECK(refpage_describe(block + 5, &told.known, sizeof told) == 1);
    CHECK(told.known.state == REFPAGE_LIVE && told.known.sort == REFPAGE_LARGE);
    CHECK(told.known.start == untagged(block) && told.known.size == 3 * MIB && told.known.offset == 5);
    CHECK(told.known.age_ms < 60000 && told.later == 0);
    CHECK(refpage_describe(small + 5, &told.known, sizeof told.known) == 1);
    CHECK(told.known.state == REFPAGE_LIVE && told.known.sort == REFPAGE_SMALL);
    CHECK(told.known.start == untagged(small) && told.known.size >= 100 && told.known.offset == 5);
    CHECK(told.known.age_ms == UINT64_MAX);
    /* A program that knows less gets no more. */
    memset(&told, 0xff, sizeof told);
    CHECK(refpage_describe(block, &told.known, sizeof told.known.state) == 1);
    CHECK(told.known.state == REFPAGE_LIVE && told.known.sort == UINT32_MAX);
    CHECK(refpage_describe(&told, &told.known, sizeof told.known) == 0);
    CHECK(refpage_describe(NULL, &told.known, sizeof told.known) == 0);
    CHECK(told.known.sort == UINT32_MAX);
    free(block);
    free(small);
}

int main(void) {
    if (!refpage_version) {
        puts("not served by refpage");
        return 0;
    }
    uint64_t word = 1;
    int known = refpage_pattern_word(&word);
    printf("%s %s %d %d %#" PRIx64 "\n", refpage_version(), refpage_service(), refpage_pattern(), known, word);
    fflush(stdout);
    statistics();
    descriptions();
    refpage_stats_print(1);
    malloc_stats();
    return 0;
}
