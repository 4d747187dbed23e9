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

#include <stddef.h>
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

/* How untouched memory gets its content in this process: "lazy", "cow", "eager", "memset", "off" (it gets none),
 * or "none" (there was no address space for a heap, and every malloc fails). Each of these strings is constant.
 * Which of them it is can change in a child of fork, which may have to take a lesser service. */
REFPAGE_API const char *refpage_service(void);

/* How accesses by a pointer are reported whose tag is not the memory's: "sync", "async" or "asymm", or "off" where
 * memory has no tags. Each of these strings is constant. */
REFPAGE_API const char *refpage_tags(void);

/* The byte that untouched memory reads as: 0xaa unless REFPAGE_OPTIONS says otherwise; -1 when the service
 * is "off" or "none", or when the pattern is a word whose bytes differ. */
REFPAGE_API int refpage_pattern(void);

/* Stores what an aligned 64-bit load of untouched memory gives, for a byte as for a word, and returns 1.
 * Returns 0, and stores nothing, when the service is "off" or "none". */
REFPAGE_API int refpage_pattern_word(uint64_t *word);

/* Why the service is not a better one, as text. As snprintf does it: writes at most size bytes to text, the last
 * of them a NUL, and returns the text's length without it. */
REFPAGE_API size_t refpage_reason(char *text, size_t size);

#define REFPAGE_WINDOWS 10
#define REFPAGE_CAUSES 32

/* What the heap has done and holds. Pages are OS pages. Later versions add fields at the end. */
struct refpage_stats {
    /* Answered faults by how many pages were put in place: at n, at least 2^n and less than twice that; at the
     * last, 512 and more. */
    uint64_t window_pages[REFPAGE_WINDOWS];
    /* How often something went a worse way than it should; refpage_cause_name tells why. */
    uint64_t fall_backs[REFPAGE_CAUSES];
    /* Bytes in an OS page. */
    uint64_t page_bytes;
    /* Bytes of address space reserved for the Region. */
    uint64_t region_bytes;
    /* Bytes of the Region's address space in use. */
    uint64_t region_used_bytes;
    /* Bytes of the Region's pages that are known to be present. (Those that the kernel itself puts
     * in place, for calloc and with "cow", are learnt of when they are freed.) */
    uint64_t region_present_bytes;
    /* VMAs that the Region is made of, counted in /proc/self/maps; 0 if that cannot be read. */
    uint64_t region_vmas;
    /* Bytes in live allocations, magazines included. */
    uint64_t live_bytes;
    /* Bytes in live large allocations. */
    uint64_t large_live_bytes;
    /* Bytes in small blocks handed out, magazines included. */
    uint64_t small_live_bytes;
    /* Large allocations made. */
    uint64_t large_allocated;
    /* Large allocations that reused a run in place. */
    uint64_t large_recycled;
    /* Large allocations freed. */
    uint64_t large_freed;
    /* Missing faults served by the handler. */
    uint64_t faults;
    /* Pages moved in from the pool. */
    uint64_t pages_moved;
    /* Huge pages among them, moved whole: how many times 2 MiB. */
    uint64_t huge_moved;
    /* Pages copied in, because the pool had none or they could not be moved. */
    uint64_t pages_copied;
    /* Pages of zeros put in place for calloc. */
    uint64_t pages_zeroed;
    /* Pages filled by hand at allocation (every service but "lazy" and "off"). */
    uint64_t pages_filled;
    /* Mappings of files that untouched memory shows (service "cow"). */
    uint64_t pieces;
    /* Pages that came into use without a file under them, because there are as many mappings of it as there may
     * be, or because one was refused (service "cow"). */
    uint64_t pages_unbacked;
    /* Present pages of freed runs whose content was restored. */
    uint64_t pages_refilled;
    /* Pages that realloc moved instead of copying. */
    uint64_t pages_relocated;
    /* Pages that freed runs gave to the pool. */
    uint64_t pages_pooled;
    /* Pages given back to the kernel. */
    uint64_t pages_purged;
    /* Pages that wait in the pool now. */
    uint64_t pool_pages;
    /* Pages that freed runs keep for reuse now. */
    uint64_t cached_pages;
    /* CPU time of the fault handler when it last went to sleep, in nanoseconds. */
    uint64_t handler_cpu_ns;
    /* Freed large allocations whose addresses are in quarantine now. */
    uint64_t quarantined;
    /* Bytes of address space that those are. */
    uint64_t quarantined_bytes;
    /* Freed large allocations that there was no time to put there (option quarantine_share). */
    uint64_t quarantine_skipped;
    /* Pages that compaction gave up (refpage_compact, malloc_trim). */
    uint64_t pages_compacted;
};

/* Fills in the first size bytes of *out: give it sizeof(struct refpage_stats). What this version of the library
 * does not know is 0. Returns the size of what it knows; the counts are not of one moment. */
REFPAGE_API size_t refpage_stats(struct refpage_stats *out, size_t size);

/* What is counted in fall_backs[index]: a constant string; NULL for places that nothing is counted in. */
REFPAGE_API const char *refpage_cause_name(size_t index);

/* What an address belongs to. */
enum refpage_state {
    /* Heap memory that belongs to no allocation that is known. */
    REFPAGE_UNKNOWN = 0,
    /* An allocation. */
    REFPAGE_LIVE = 1,
    /* One that was freed. */
    REFPAGE_FREED = 2,
    /* One that was freed, whose addresses are kept out of use. */
    REFPAGE_QUARANTINED = 3,
    /* Nothing, beside an allocation. */
    REFPAGE_GAP = 4
};

/* How the allocation was made. */
enum refpage_sort {
    /* There is none. */
    REFPAGE_NONE = 0,
    /* A block of a size class: its size is that of the class. */
    REFPAGE_SMALL = 1,
    /* Pages of its own. */
    REFPAGE_LARGE = 2,
    /* Pages of its own, though it is small: it was sampled, or needs an alignment that no class has. */
    REFPAGE_SAMPLED = 3
};

/* What an address is to the heap. Later versions add fields at the end. */
struct refpage_description {
    /* An enum refpage_state, and an enum refpage_sort. */
    uint32_t state;
    uint32_t sort;
    /* The first byte of the allocation, or of the one that the address is beside; the address itself if nothing is
     * known. */
    uint64_t start;
    /* Its bytes; 0 if nothing is known. */
    uint64_t size;
    /* Bytes from its first one to the address: negative before it. */
    int64_t offset;
    /* Milliseconds since it was allocated, or freed if it was; UINT64_MAX if that is not known, as of small blocks. */
    uint64_t age_ms;
};

/* Fills in the first size bytes of *out, as refpage_stats does, with what any address is to the heap, and returns 1.
 * Returns 0, and stores nothing, if it is not an address of the heap. Nothing is locked: what is told is of one moment,
 * which is over if other threads allocate or free there. */
REFPAGE_API int refpage_describe(const void *pointer, struct refpage_description *out, size_t size);

/* Flag: what is told counts as not written to from then on. To look and to reset is one step: a write comes before
 * both, or after, and none is lost. */
#define REFPAGE_WRITE_WATCH_RESET 1u

/* Stores the addresses of those OS pages of a large allocation that were written to since it was allocated, by anyone,
 * system calls included; the lowest first, at most size of them. Returns how many there are. pointer is to any byte
 * of it. With the flag REFPAGE_WRITE_WATCH_RESET, those that were stored are told again only if they are written to
 * after that. Who allocates it, or moves it by realloc, begins anew; what realloc adds to it in place counts as not
 * written to.
 *
 * Before the first reset, a page was written to if it holds something else than it was handed out with (with the
 * service "off": if it is there). That costs nobody anything before it is asked. After it, the kernel tells; then a
 * write counts that changes nothing, too. In a child of fork, all pages that are there count as written to until they
 * are reset. Under memory tags, those do that were touched for the first time after a reset.
 *
 * Returns (size_t)-1 and sets errno if it cannot be told: EINVAL, there is no live large allocation (small blocks share
 * their pages), or another flag is set; ENOTSUP, this kernel (before Linux 6.7) or service cannot: "memset" and "off"
 * have no resets. The allocation is to live until the function returns. */
REFPAGE_API size_t refpage_written(const void *pointer, unsigned flags, void **addresses, size_t size);

/* The next three have the shape of GetWriteWatch and what belongs to it. They are about the OS pages that hold any of
 * size bytes from base on: of one large allocation of the heap, or of any private anonymous memory that no other
 * userfaultfd watches.
 *
 * Starts to watch them: none of them counts as written to. Returns 0; -1 and errno otherwise: EINVAL, no such memory, or
 * a small block; EBUSY, another userfaultfd watches it; ENOMEM; ENOTSUP, this kernel or service cannot. The watch of an
 * allocation ends when it is freed, or moved by realloc; of other memory, when it is unmapped. A child of fork starts
 * anew with other memory; of its allocations, all pages that are there count as written to until they are reset. */
REFPAGE_API int refpage_write_watch(void *base, size_t size);

/* Stores the addresses of those that were written to since that, or since they were reset, the lowest first: as many as
 * there is room for, which *count tells; it becomes how many were stored. With the flag REFPAGE_WRITE_WATCH_RESET these,
 * and no others, are reset. *granularity, unless it is NULL, becomes the bytes in a page. Returns 0; nonzero and errno
 * otherwise: EINVAL, they are not watched, or an argument is none; then *count is as it was. */
REFPAGE_API unsigned refpage_get_write_watch(unsigned flags, void *base, size_t size, void **addresses, uintptr_t *count,
                                             unsigned *granularity);

/* Has all of them count as not written to. Returns 0; nonzero and errno otherwise, as above. */
REFPAGE_API unsigned refpage_reset_write_watch(void *base, size_t size);

/* Moves what is used of huge pages onto small ones where that is half or less, and gives the huge pages back to the kernel
 * whole; so with what the kernel keeps of those that are no longer whole. No pointer changes; who uses the memory
 * meanwhile waits a moment. malloc_trim does it, too. Returns how many bytes the heap holds less: 0 where the service
 * is not "lazy", and where memory has tags. */
REFPAGE_API size_t refpage_compact(void);

/* Writes the block of statistics that stats=1 prints at exit to the file descriptor fd. */
REFPAGE_API void refpage_stats_print(int fd);

#ifdef __cplusplus
}
#endif

#endif
