/* What a program that is linked with the library finds: whether it runs with more rights than its caller, and the
 * pattern of a block that it has checked. */
#include "check.h"
#include "refpage.h"

#include <sys/auxv.h>

int main(void) {
    unsigned char *block = need(malloc(MIB));
    for (size_t i = 0; i < MIB; i++)
        CHECK(block[i] == refpage_pattern());
    free(block);
    printf("%lu 0x%02x\n", getauxval(AT_SECURE), refpage_pattern());
    return 0;
}
