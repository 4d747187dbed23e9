//! What came of it: a table by service, and the same as JSON.

use std::sync::atomic::Ordering::*;

use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Value, json};

use crate::board::COUNTS;
use crate::supervise::Outcome;

pub fn table(outcomes: &[Outcome]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    let names = outcomes.iter().map(|outcome| outcome.service.clone());
    table.set_header(std::iter::once(String::new()).chain(names));
    let mut row = |name: &str, value: &dyn Fn(&Outcome) -> String| {
        table.add_row(std::iter::once(name.to_owned()).chain(outcomes.iter().map(value)));
    };
    row("outcome", &|outcome| if outcome.failure.is_some() { "FAILED" } else { "passed" }.into());
    row("seconds", &|outcome| format!("{:.0}", outcome.seconds));
    for (name, count) in COUNTS {
        row(name, &|outcome| outcome.board.count(count).to_string());
    }
    for index in 1..=outcomes.len() {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

pub fn json(outcomes: &[Outcome], seed: u64, threads: u32) -> Value {
    let services: Vec<_> = outcomes
        .iter()
        .map(|Outcome { service, board, seconds, failure }| {
            let counts: serde_json::Map<_, _> =
                COUNTS.map(|(name, count)| (name.to_owned(), board.count(count).into())).into_iter().collect();
            let digests = &board.digests[..threads as usize];
            let digests: Vec<_> =
                digests.iter().map(|digest| format!("{:016x}", digest.load(Relaxed))).collect();
            json!({
                "service": service, "seconds": seconds, "failure": failure, "counts": counts, "choices": digests,
            })
        })
        .collect();
    json!({ "seed": seed, "services": services })
}
