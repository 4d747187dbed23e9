//! `refpage help [COMMAND|options]`.

use crate::failure::{Failure, print};
use clap::CommandFactory;
use refpage_alloc::options::TABLE;
use std::fmt::Write;

/// Print the help of a command, or the table of options
#[derive(clap::Args)]
pub struct Arguments {
    /// A command, or `options` for the options of the allocator
    topic: Option<String>,
}

/// Prints the help that was asked for.
pub fn explain(arguments: &Arguments) -> Result<(), Failure> {
    let mut program = crate::Arguments::command();
    // Gives the commands their full names, `refpage run`, in the usage lines.
    program.build();
    let text = match arguments.topic.as_deref() {
        None => {
            program.render_long_help().to_string()
                + "\n`refpage help options` explains the options of the allocator.\n"
        }
        Some("options") => options_text(),
        Some(topic) => match program.find_subcommand_mut(topic) {
            Some(command) => command.render_help().to_string(),
            None => {
                return Err(Failure::usage(format!(
                    "no help on \"{}\"; topics are run, doctor, help and options",
                    topic.escape_debug()
                )));
            }
        },
    };
    print(&text)
}

fn options_text() -> String {
    let mut text = String::from(
        "Options are read from REFPAGE_OPTIONS, key=value entries separated by ':', and are flags of\n\
         `refpage run`. A later entry overrides an earlier one. Sizes take the suffixes K, M, G and T\n\
         (powers of 1024); numbers are decimal, or hexadecimal after 0x.\n\n",
    );
    for spec in &TABLE {
        let _ = writeln!(
            text,
            "  {}={}\n      {}\n      takes {}; default {}",
            spec.name, spec.value, spec.help, spec.accepts, spec.default
        );
    }
    text += "\nExample: REFPAGE_OPTIONS=service=auto:pattern=0xaa:pool=64M:stats=1\n";
    text
}
