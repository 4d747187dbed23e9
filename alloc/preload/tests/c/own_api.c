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
    refpage_stats_print(1);
    malloc_stats();
    return 0;
}
