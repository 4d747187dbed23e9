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
    /// The options as Markdown, which is how docs/OPTIONS.md is made
    #[arg(long)]
    markdown: bool,
}

/// Prints the help that was asked for.
pub fn explain(arguments: &Arguments) -> Result<(), Failure> {
    if arguments.markdown {
        return match arguments.topic.as_deref() {
            Some("options") => print(&options_markdown()),
            _ => Err(Failure::usage("--markdown is for `refpage help options`")),
        };
    }
    let mut program = crate::Arguments::command();
    // Gives the commands their full names, `refpage run`, in the usage lines.
    program.build();
    let text = match arguments.topic.as_deref() {
        None => program.render_long_help().to_string(),
        Some("options") => options_text(),
        Some(topic) => match program.find_subcommand_mut(topic) {
            Some(command) => command.render_help().to_string(),
            None => {
                return Err(Failure::usage(format!(
                    "no help on \"{}\"; topics are run, doctor, symbolize, help and options",
                    topic.escape_debug()
                )));
            }
        },
    };
    print(&text)
}

const INTRODUCTION: &str = "\
Options are read from REFPAGE_OPTIONS, key=value entries separated by ':', and are flags of
`refpage run`. A later entry overrides an earlier one. Sizes take the suffixes K, M, G and T
(powers of 1024); numbers are decimal, or hexadecimal after 0x.

A pattern of more than two hexadecimal digits is a word of 2, 4 or 8 bytes, as many as the digits
are: with 0xdeadbeef, every aligned 32-bit load of untouched memory gives 0xdeadbeef.

An entry that is wrong gets one line on stderr: `refpage` then ends with 2, a program on the
allocator goes on without the entry. A program with more rights than its caller (set-user-ID,
set-group-ID, file capabilities) ignores the environment.
";

fn options_text() -> String {
    let mut text = format!("{INTRODUCTION}\n");
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

/// The whole of docs/OPTIONS.md. A test compares them.
fn options_markdown() -> String {
    let mut text = format!(
        "# Options\n\n\
         <!-- Made by `refpage help options --markdown`: change the table in alloc/src/options/table.rs. -->\n\n\
         {INTRODUCTION}\n\
         In a Rust program each is a method of `refpage_alloc::options::Options`.\n\n\
         | option | takes | default | what it does | method |\n|---|---|---|---|---|\n"
    );
    // A bar would end the cell.
    let cell = |text: &str| text.replace('|', "\\|");
    for spec in &TABLE {
        let _ = writeln!(
            text,
            "| `{}` | {} | `{}` | {} | `{}` |",
            spec.name,
            cell(spec.accepts),
            spec.default,
            cell(spec.help),
            spec.method
        );
    }
    text += "\n`--stats` and `--stats-json FILE` are the flags for the option `stats`, `--profile` and\n\
             `--profile-json FILE` those for `profile`. Where a program starts others, each writes its own report when\n\
             it exits: with `%p` in its name, to a file of its own; without, what was written last is what stays.\n";
    text
}
