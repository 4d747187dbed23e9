/* Freed large allocations one after another, as many as argv says, under the service that it names: what the process
 * has does not grow with them. */
#include "stamps.h"

#include <sys/utsname.h>

#define SIZE (64 * KIB)

/* The first few settle what is mapped, and what the tables of the heap need. */
#define FIRST_FEW 1000

/* About what is kept of each that is in quarantine. */
#define KEPT 400

/* Far less than the page table of each, whose entries are 128 bytes and as many for what is between them. */
#define KEPT_IN_TABLES 56

static long count;
static const char *service;
static char *first;

/* Where the compiler cannot see what it is. */
static void *volatile hidden;

static int lines_of_maps(void) {
    static char text[1 << 16];
    int file = open("/proc/self/maps", O_RDONLY | O_CLOEXEC), lines = 0;
    CHECK(file >= 0);
    for (ssize_t got; (got = read(file, text, sizeof text)) > 0;)
        for (ssize_t i = 0; i < got; i++)
            lines += text[i] == '\n';
    close(file);
    return lines;
}

static size_t status(const char *name) {
    return proc_bytes("/proc/self/status", name);
}

/* Whether the kernel gives back page tables that have become empty. */
static int gives_tables_back(void) {
    struct utsname name;
    int major = 0, minor = 0;
    CHECK(uname(&name) == 0 && sscanf(name.release, "%d.%d", &major, &minor) == 2);
    return strcmp(name.machine, "x86_64") == 0 && (major > 6 || (major == 6 && minor >= 14));
}

/* One that comes and goes. Where it was is returned. */
static char *one(void) {
    char *block = need(malloc(SIZE));
    block[0] = 1;
    block[SIZE - 1] = 2;
    hidden = block;
    free(hidden);
    return block;
}

/* How many of them are where the first one was. */
static long many(long times) {
    long again = 0;
    for (long i = 0; i < times; i++)
        again += one() == first;
    return again;
}

static void expect_little(size_t rss_before, size_t rss_most, int lines_before) {
    size_t rss_after = status("\nVmRSS:"), grown = rss_after > rss_before ? rss_after - rss_before : 0;
    size_t tables = status("\nVmPTE:");
    int lines = lines_of_maps();
    figure("memory grown by", grown);
    figure("page tables", tables);
    printf("figure: mappings: %d before, %d after\n", lines_before, lines);
    fflush(stdout);
    if (lines != lines_before)
        FAIL("%d mappings have become %d", lines_before, lines);
    EXPECT_AT_MOST(grown, rss_most);
    double mib = (double)tables / MIB;
    if (strcmp(service, "lazy") != 0)
        printf("skipped: under %s guards are in page tables, which are kept: %.1f MiB of them\n", service, mib);
    else if (!gives_tables_back())
        printf("skipped: this kernel keeps empty page tables: %.1f MiB of them\n", mib);
    else
        EXPECT_AT_MOST(tables, 8 * MIB + (size_t)count * KEPT_IN_TABLES);
    fflush(stdout);
}

/* None comes again: a touch of the first one of all is told apart. */
static void all_kept(void) {
    first = one();
    CHECK(many(FIRST_FEW) == 0);
    int lines = lines_of_maps();
    size_t before = status("\nVmRSS:");
    long again = many(count);
    if (again)
        FAIL("%p came %ld times again", (void *)first, again);
    expect_little(before, 8 * MIB + (size_t)count * KEPT, lines);
    dprintf(1, "first: %p\n", (void *)first);
    (void)*(volatile char *)first;
    FAIL("a read of the first one came back");
}

/* There is room for some at a time: the oldest make place. */
static void some_kept(void) {
    first = one();
    /* At first there are others. */
    CHECK(many(100) == 0);
    long again = many(FIRST_FEW + count / 10);
    int lines = lines_of_maps();
    size_t before = status("\nVmRSS:");
    again += many(count);
    expect_little(before, 8 * MIB, lines);
    if (!again)
        FAIL("%p never came again", (void *)first);
}

/* Without a quarantine there is one place for all. */
static void none_kept(void) {
    first = one();
    CHECK(many(100) == 100);
}

int main(int argc, char **argv) {
    static const struct behaviour behaviours[] = {
        {"all-kept", all_kept},
        {"some-kept", some_kept},
        {"none-kept", none_kept},
    };
    CHECK(argc == 4);
    service = argv[3];
    count = strtol(argv[2], NULL, 10);
    return RUN_BEHAVIOUR(behaviours);
}
