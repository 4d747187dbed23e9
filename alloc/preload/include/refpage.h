/* refpage.h: what a program served by librefpage.so may ask it.
 *
 * None of these functions allocates memory, and all may be called from any thread at any time.
 *
 * A program that should also run without the library defines REFPAGE_WEAK before the include, does not
 * link to it, and asks `if (refpage_version)` first:
 *
 *     #define REFPAGE_WEAK
 *     #include "refpage.h"
 *     ...
 *     if (refpage_version)
 *         printf("refpage %s, service %s\n", refpage_version(), refpage_service());
 */
#ifndef REFPAGE_H
#define REFPAGE_H

#include <stdint.h>

#ifdef REFPAGE_WEAK
#define REFPAGE_API __attribute__((weak))
#else
#define REFPAGE_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* The library's version, "major.minor.patch". The string is constant. */
REFPAGE_API const char *refpage_version(void);

/* How untouched memory gets its content in this process: "lazy", "memset", "off" (it gets none), or "none"
 * (there was no address space for a heap, and every malloc fails). The string is constant. */
REFPAGE_API const char *refpage_service(void);

/* The byte that untouched memory reads as: 0xaa unless REFPAGE_OPTIONS says otherwise; -1 when the service
 * is "off" or "none", or when the pattern is a word whose bytes differ. */
REFPAGE_API int refpage_pattern(void);

/* Stores what an aligned 64-bit load of untouched memory gives, for a byte as for a word, and returns 1.
 * Returns 0, and stores nothing, when the service is "off" or "none". */
REFPAGE_API int refpage_pattern_word(uint64_t *word);

/* Writes the block of statistics that stats=1 prints at exit to the file descriptor fd. */
REFPAGE_API void refpage_stats_print(int fd);

#ifdef __cplusplus
}
#endif

#endif
