/* Prints the service that this process got, once its heap is at work. */
#include "check.h"
#include "refpage.h"

#pragma weak refpage_service

int main(void) {
    free(need(malloc(MIB)));
    puts(refpage_service ? refpage_service() : "none");
    return 0;
}
