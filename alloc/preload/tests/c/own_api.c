/* refpage.h, from a program that would also run without the library. */
#define REFPAGE_WEAK
#include "refpage.h"

#include "check.h"

int main(void) {
    if (!refpage_version) {
        puts("not served by refpage");
        return 0;
    }
    unsigned char bytes[8];
    uint64_t word = refpage_pattern();
    memcpy(bytes, &word, sizeof bytes);
    EXPECT_PATTERN(bytes, sizeof bytes, "refpage_pattern");
    printf("%s %s\n", refpage_version(), refpage_service());
    fflush(stdout);
    refpage_stats_print(1);
    malloc_stats();
    return 0;
}
