/* refpage.h, from a program that would also run without the library. */
#define REFPAGE_WEAK
#include "refpage.h"

#include "check.h"

int main(void) {
    if (!refpage_version) {
        puts("not served by refpage");
        return 0;
    }
    printf("%s %s %d\n", refpage_version(), refpage_service(), refpage_pattern());
    fflush(stdout);
    refpage_stats_print(1);
    malloc_stats();
    return 0;
}
