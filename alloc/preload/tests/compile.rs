//! The C programs themselves: all compile without a warning, on machines too whose tests would use only some.

mod common;

use std::fs;
use std::path::Path;

use common::{c_dir, c_library, c_program, linked_c_program};

#[test]
fn every_c_program_compiles() {
    for entry in fs::read_dir(c_dir()).expect("the C sources lie there") {
        let path = entry.expect("a directory can be read").path();
        if path.extension().is_none_or(|extension| extension != "c") {
            continue;
        }
        let name = path.file_stem().and_then(|stem| stem.to_str()).expect("a name in ASCII");
        // Without a compiler, they have said so.
        let program = match name {
            "library" | "constrain" | "atfork" => c_library(name),
            "secure" => linked_c_program(name),
            _ => c_program(name),
        };
        assert!(program.as_deref().is_none_or(Path::exists), "{name}");
    }
}
