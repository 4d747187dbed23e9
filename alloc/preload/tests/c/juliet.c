/* The faults of heap memory that the Juliet test suite is made of (CWE-122 to 127, 415, 416, 590, 761), each in a bad
 * and a good variant: argv says which fault, which variant, and of how many bytes the allocation is, a multiple of 16. */
#include "check.h"

#include <alloca.h>
#include <ctype.h>
#include <sys/mman.h>
#include <wchar.h>

static size_t size, page;

/* Whether the fault is made. */
static int bad;

/* What the compiler is not to see: where a pointer comes from, and that a result is not used. */
static void *volatile hidden;
static volatile size_t sink;

static char *opaque(void *pointer) {
    hidden = pointer;
    return hidden;
}

static void release(void *pointer) {
    free(opaque(pointer));
}

static void *make(size_t length) {
    return opaque(need(malloc(length)));
}

static char *make_text(size_t length) {
    char *text = make(length);
    memset(text, 'a', length - 1);
    text[length - 1] = 0;
    return text;
}

/* What is copied to and from is the program's own, and longer than any allocation. */
static char *elsewhere(void) {
    char *bytes = mmap(NULL, 8 * size + MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(bytes != MAP_FAILED);
    memset(bytes, 'a', 8 * size + MIB);
    return bytes;
}

/* A text of `length` bytes, the last of them zero. */
static char *long_text(size_t length) {
    char *text = elsewhere();
    text[length - 1] = 0;
    return text;
}

/* How far it is from an allocation to the page before it. */
static size_t below(const void *block) {
    return (uintptr_t)block % page;
}

/* CWE-122: more is written than there is room for. */

static void memcpy_of_one_more(void) {
    char *block = make(size);
    memcpy(block, elsewhere(), size + bad);
    release(block);
}

static void memmove_of_one_more(void) {
    char *block = make(size);
    memmove(block, elsewhere(), size + bad);
    release(block);
}

static void memset_of_one_more(void) {
    char *block = make(size);
    memset(block, 'x', size + bad);
    release(block);
}

static void strcpy_without_room_for_the_end(void) {
    const char *text = long_text(size + bad);
    char *block = make(strlen(text) + !bad);
    strcpy(block, text);
    release(block);
}

static void strncpy_by_the_sources_size(void) {
    char *block = make(size);
    strncpy(block, long_text(size / 2), bad ? size + 16 : size);
    release(block);
}

static void strcat_of_one_more(void) {
    char *block = make_text(size / 2);
    block = opaque(need(realloc(block, size)));
    strcat(block, long_text(size / 2 + 1 + bad));
    release(block);
}

static void sprintf_of_one_more(void) {
    char *block = make(size);
    sprintf(block, "%s", long_text(size + bad));
    release(block);
}

static void snprintf_with_the_wrong_bound(void) {
    char *block = make(size);
    snprintf(block, bad ? 2 * size : size, "%s", long_text(size + 1));
    release(block);
}

static void wcscpy_counted_in_bytes(void) {
    size_t length = size / sizeof(wchar_t);
    wchar_t *text = (wchar_t *)elsewhere();
    for (size_t i = 0; i < length; i++)
        text[i] = L'a';
    text[length - !bad] = 0;
    wchar_t *block = make(size);
    wcscpy(block, text);
    release(block);
}

static void loop_to_the_end_inclusive(void) {
    char *block = make(size);
    for (size_t i = 0; bad ? i <= size : i < size; i++)
        block[i] = (char)i;
    release(block);
}

static void one_element_too_many(void) {
    uint64_t *block = make(size);
    for (size_t i = 0; i < size / 8 + bad; i++)
        block[i] = i;
    release(block);
}

static void elements_allocated_as_bytes(void) {
    size_t count = bad ? size : size / 4;
    int *block = make(bad ? count : count * 4);
    for (size_t i = 0; i < count; i++)
        block[i] = (int)i;
    release(block);
}

static void index_that_is_the_count(void) {
    struct pair {
        uint64_t key, value;
    } *block = (struct pair *)opaque(need(calloc(size / sizeof *block, sizeof *block)));
    block[size / sizeof *block - !bad].key = 1;
    release(block);
}

static void use_of_what_realloc_has_cut_off(void) {
    char *block = opaque(need(realloc(make(2 * size), size)));
    memset(block, 'x', bad ? size + 64 : size);
    release(block);
}

static void character_appended_to_a_strdup(void) {
    char *block = opaque(need(strdup(long_text(size))));
    size_t length = strlen(block);
    block[length - !bad] = 'x';
    block[length - !bad + 1] = 0;
    release(block);
}

static void product_that_overflows(void) {
    uint32_t count = 0x10000000u + (uint32_t)size / 16, bytes = count * 16;
    char *block = make(bad ? bytes : size);
    /* Not all four GiB of it, should nobody mind. */
    for (size_t i = 0; i < (bad ? count % 0x10000 + 0x1000 : size / 16); i++)
        memset(block + i * 16, 'x', 16);
    release(block);
}

/* CWE-126: more is read than there is. */

static void memcpy_from_one_more(void) {
    char *block = make_text(size);
    memcpy(elsewhere(), block, size + bad);
    release(block);
}

static void memcmp_of_one_more(void) {
    char *block = make(size);
    memset(block, 'a', size);
    sink = (size_t)memcmp(elsewhere(), block, size + bad);
    release(block);
}

static void memchr_in_one_more(void) {
    char *block = make_text(size);
    sink = (size_t)memchr(block, 'z', size + bad);
    release(block);
}

static void strlen_without_an_end(void) {
    char *block = make_text(size);
    if (bad)
        block[size - 1] = 'a';
    sink = strlen(block);
    release(block);
}

static void strchr_without_an_end(void) {
    char *block = make_text(size);
    if (bad)
        block[size - 1] = 'a';
    sink = (size_t)strchr(block, 'z');
    release(block);
}

static void sum_to_the_end_inclusive(void) {
    char *block = make_text(size);
    size_t sum = 0;
    for (size_t i = 0; bad ? i <= size : i < size; i++)
        sum += (unsigned char)block[i];
    sink = sum;
    release(block);
}

/* As in Heartbleed. */
static void length_that_the_sender_claims(void) {
    struct message {
        size_t length;
        char bytes[];
    } *message = make(size);
    message->length = bad ? size + 64 : size - sizeof *message;
    memset(message->bytes, 'a', size - sizeof *message);
    memcpy(elsewhere(), message->bytes, message->length);
    release(message);
}

/* CWE-124: something is written before the beginning. */

static void memset_from_before(void) {
    char *block = make(size);
    size_t before = bad ? below(block) + 8 : 0;
    memset(block - before, 'x', size);
    release(block);
}

static void memcpy_to_before(void) {
    char *block = make(size);
    size_t before = bad ? below(block) + 8 : 0;
    memcpy(block - before, elsewhere(), size);
    release(block);
}

static void loop_downwards_that_writes(void) {
    char *block = make(size);
    for (ptrdiff_t i = (ptrdiff_t)size - 1; i >= (bad ? -(ptrdiff_t)below(block) - 1 : 0); i--)
        block[i] = 'x';
    release(block);
}

/* Minus one page, where the search gives minus one. */
static void index_of_what_was_not_found(void) {
    char *block = make_text(size);
    ptrdiff_t found = (ptrdiff_t)size - 1;
    while (found >= 0 && block[found] != (bad ? 'z' : 'a'))
        found--;
    block[found < 0 ? found * (ptrdiff_t)page : found] = 'y';
    release(block);
}

/* CWE-127: something is read before the beginning. */

static void memcpy_from_before(void) {
    char *block = make_text(size);
    size_t before = bad ? below(block) + 8 : 0;
    memcpy(elsewhere(), block - before, size);
    release(block);
}

static void spaces_trimmed_beyond_the_first(void) {
    char *block = make(size);
    memset(block, ' ', size);
    /* What lies before it in its page may be anything, and end the loop. */
    ptrdiff_t last = bad ? -(ptrdiff_t)below(block) - 1 : (ptrdiff_t)size - 1;
    while ((bad || last >= 0) && isspace((unsigned char)block[last]))
        last--;
    sink = (size_t)last;
    release(block);
}

static void sum_downwards(void) {
    char *block = make_text(size);
    size_t sum = 0;
    for (ptrdiff_t i = (ptrdiff_t)size - 1; i >= (bad ? -(ptrdiff_t)below(block) - 1 : 0); i--)
        sum += (unsigned char)block[i];
    sink = sum;
    release(block);
}

/* CWE-415: it is freed twice. */

static void freed_twice(void) {
    char *block = make(size);
    release(block);
    if (bad)
        release(block);
}

/* Who reports a failure has cleaned up, or not. */
static int fail_with(char *block) {
    if (bad)
        release(block);
    return -1;
}

static void freed_by_callee_and_caller(void) {
    char *block = make_text(size);
    if (fail_with(block) < 0)
        release(block);
}

static void freed_by_both_of_two_copies(void) {
    struct text {
        char *bytes;
        size_t length;
    } text = {make_text(size), size}, copy = text;
    if (!bad)
        copy.bytes = opaque(need(strdup(text.bytes)));
    release(text.bytes);
    release(copy.bytes);
}

static void freed_after_realloc_moved_it(void) {
    char *block = make(size), *neighbour = make(size);
    char *moved = opaque(need(realloc(opaque(block), 32 * size)));
    CHECK(moved != block);
    if (bad)
        release(block);
    release(moved);
    release(neighbour);
}

static void freed_in_a_loop_that_comes_again(void) {
    char *blocks[4];
    for (int i = 0; i < 4; i++)
        blocks[i] = make(size);
    for (int i = 0; i < 4 + bad; i++)
        release(blocks[i % 4]);
}

/* CWE-416: it is used after it was freed. */

static void written_after_free(void) {
    char *block = make_text(size);
    if (bad)
        release(block);
    block[size / 2] = 'x';
    if (!bad)
        release(block);
}

static void read_after_free(void) {
    char *block = make_text(size);
    if (bad)
        release(block);
    sink = (size_t)block[size / 2];
    if (!bad)
        release(block);
}

static void memset_after_free(void) {
    char *block = make_text(size);
    if (bad)
        release(block);
    memset(block, 0, size);
    if (!bad)
        release(block);
}

static void strlen_after_free(void) {
    char *block = make_text(size);
    if (bad)
        release(block);
    sink = strlen(block);
    if (!bad)
        release(block);
}

static void list_walked_by_freed_nodes(void) {
    struct node {
        struct node *next;
    } *list = NULL;
    for (int i = 0; i < 4; i++) {
        struct node *node = make(size);
        node->next = list;
        list = node;
    }
    while (list) {
        struct node *next = bad ? NULL : list->next;
        release(list);
        list = bad ? *(struct node *volatile *)&list->next : next;
    }
}

static void read_after_realloc_moved_it(void) {
    char *block = make_text(size), *neighbour = make(size);
    char *moved = opaque(need(realloc(opaque(block), 32 * size)));
    CHECK(moved != block);
    sink = (size_t)(bad ? block : moved)[0];
    release(moved);
    release(neighbour);
}

static void nothing(void) {
}

static void function_called_out_of_freed_memory(void) {
    struct object {
        void (*method)(void);
    } *object = make(size);
    object->method = nothing;
    if (bad)
        release(object);
    void (*method)(void) = *(void (*volatile *)(void))&object->method;
    method();
    if (!bad)
        release(object);
}

/* CWE-590: it is not on the heap. */

static void free_of_an_array_on_the_stack(void) {
    char on_stack[64] __attribute__((aligned(16)));
    memset(on_stack, 'a', sizeof on_stack);
    char *block = bad ? opaque(on_stack) : make(size);
    release(block);
}

static void free_of_a_static_array(void) {
    static char statically[64] __attribute__((aligned(16)));
    release(bad ? opaque(statically) : make(size));
}

static void free_of_a_string_in_the_program(void) {
    release(bad ? opaque((char *)(uintptr_t)"a string") : make(size));
}

static void free_of_alloca(void) {
    char *block = bad ? opaque(alloca(size)) : make(size);
    block[0] = 'a';
    release(block);
}

static void free_of_a_mapping(void) {
    release(bad ? elsewhere() : make(size));
}

/* CWE-761: it does not begin there. */

static void free_of_where_a_search_ended(void) {
    char *block = make_text(size), *at = block;
    block[size / 2] = 'z';
    while (*at != 'z')
        at++;
    release(bad ? at : block);
}

static void free_of_what_a_parser_has_left(void) {
    char *block = make_text(size), *at = block;
    at += 16;
    release(bad ? at : block);
}

static void free_of_the_next_byte(void) {
    char *block = make_text(size);
    release(block + bad);
}

static void free_of_a_member(void) {
    struct record {
        uint64_t id;
        char name[8];
    } *block = make(size);
    release(bad ? (void *)block->name : block);
}

int main(int argc, char **argv) {
    /* By the names that the tests have. */
#define FAULT(name) {#name, name}
    static const struct behaviour faults[] = {
        FAULT(memcpy_of_one_more),
        FAULT(memmove_of_one_more),
        FAULT(memset_of_one_more),
        FAULT(strcpy_without_room_for_the_end),
        FAULT(strncpy_by_the_sources_size),
        FAULT(strcat_of_one_more),
        FAULT(sprintf_of_one_more),
        FAULT(snprintf_with_the_wrong_bound),
        FAULT(wcscpy_counted_in_bytes),
        FAULT(loop_to_the_end_inclusive),
        FAULT(one_element_too_many),
        FAULT(elements_allocated_as_bytes),
        FAULT(index_that_is_the_count),
        FAULT(use_of_what_realloc_has_cut_off),
        FAULT(character_appended_to_a_strdup),
        FAULT(product_that_overflows),
        FAULT(memcpy_from_one_more),
        FAULT(memcmp_of_one_more),
        FAULT(memchr_in_one_more),
        FAULT(strlen_without_an_end),
        FAULT(strchr_without_an_end),
        FAULT(sum_to_the_end_inclusive),
        FAULT(length_that_the_sender_claims),
        FAULT(memset_from_before),
        FAULT(memcpy_to_before),
        FAULT(loop_downwards_that_writes),
        FAULT(index_of_what_was_not_found),
        FAULT(memcpy_from_before),
        FAULT(spaces_trimmed_beyond_the_first),
        FAULT(sum_downwards),
        FAULT(freed_twice),
        FAULT(freed_by_callee_and_caller),
        FAULT(freed_by_both_of_two_copies),
        FAULT(freed_after_realloc_moved_it),
        FAULT(freed_in_a_loop_that_comes_again),
        FAULT(written_after_free),
        FAULT(read_after_free),
        FAULT(memset_after_free),
        FAULT(strlen_after_free),
        FAULT(list_walked_by_freed_nodes),
        FAULT(read_after_realloc_moved_it),
        FAULT(function_called_out_of_freed_memory),
        FAULT(free_of_an_array_on_the_stack),
        FAULT(free_of_a_static_array),
        FAULT(free_of_a_string_in_the_program),
        FAULT(free_of_alloca),
        FAULT(free_of_a_mapping),
        FAULT(free_of_where_a_search_ended),
        FAULT(free_of_what_a_parser_has_left),
        FAULT(free_of_the_next_byte),
        FAULT(free_of_a_member),
    };
    CHECK(argc == 4);
    bad = strcmp(argv[2], "bad") == 0;
    CHECK(bad || strcmp(argv[2], "good") == 0);
    size = strtoul(argv[3], NULL, 10);
    page = (size_t)sysconf(_SC_PAGESIZE);
    int code = RUN_BEHAVIOUR(faults);
    if (bad)
        FAIL("%s came back", argv[1]);
    return code;
}
