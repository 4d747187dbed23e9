//! `librefpage.so`: the C symbols of malloc on refpage, for `LD_PRELOAD` or as a linked library.
//!
//! - **Standard symbols**: what glibc and POSIX call malloc and its family. They behave as glibc's do, to the
//!   return value and the errno, except that what a block holds is known: the pattern, or zero from calloc.
//! - **Accounting symbols**: `mallinfo2`, `malloc_info`, `malloc_stats`, `malloc_trim`, `malloc_usable_size`.
//! - **`mlockall`**, so that a program which locks its memory locks what it uses of it.
//! - **`refpage_*` symbols**: what only refpage can answer; declared in `include/refpage.h`.
//!
//! ```text
//!   a program's malloc, free, realloc…          the program asks how it is served
//!                 │                                         │
//!        ┌────────▼────────┐   ┌───────────────┐   ┌────────▼────────┐
//!        │    c_malloc     │   │    c_info     │   │    c_refpage    │   this crate: C's contracts,
//!        │ errno, EINVAL,  │   │ glibc structs │   │ names and text; │   no state, no allocation
//!        │ overflow, NULL  │   │ and XML       │   │    c_written    │
//!        └────────┬────────┘   └───────┬───────┘   └────────┬────────┘
//!                 └────────────────────┼────────────────────┘
//!                             refpage_alloc::heap                         blocks, spans, page runs
//! ```
//!
//! The symbols live in a package of their own, so that linking `refpage_alloc` into a Rust program never
//! takes over its C malloc. Nothing here can panic or unwind into C.

mod c_info;
mod c_malloc;
mod c_mlock;
mod c_refpage;
mod c_written;

/// Run before the constructors of all other libraries (`-z initfirst`, see build.rs): those whose
/// fork handlers allocate are to register after the heap.
#[used]
// SAFETY: the section holds pointers to functions that are called with three arguments at most.
#[unsafe(link_section = ".init_array")]
static AT_FIRST: extern "C" fn() = {
    extern "C" fn at_first() {
        refpage_alloc::hook_fork();
    }
    at_first
};
