//! What a handler leaves to be seen, and stacks that overflow.

mod common;

use common::check_content;

for_each_service! {
    libc_sees_one_thread => |service| check_content("traces", &["one-thread"], service);
    nothing_stays_after_an_end => |service| check_content("traces", &["nothing-stays"], service);
    the_handler_outlives_who_started_it =>
        |service| check_content("traces", &["outlives-starter"], service);
    the_process_ends_with_its_last_thread => |service| check_content("traces", &["threads-end"], service);
    a_stack_overflows_onto_fresh_memory => |service| check_content("traces", &["stack-overflows"], service);
}
