/* refpage.h, from a program that would also run without the library. */
#define REFPAGE_WEAK
#include "refpage.h"

#include "check.h"

#include <inttypes.h>

int main(void) {
    if (!refpage_version) {
        puts("not served by refpage");
        return 0;
    }
    uint64_t word = 1;
    int known = refpage_pattern_word(&word);
    printf("%s %s %d %d %#" PRIx64 "\n", refpage_version(), refpage_service(), refpage_pattern(), known, word);
    fflush(stdout);
    refpage_stats_print(1);
    malloc_stats();
    return 0;
}
