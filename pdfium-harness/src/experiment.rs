//! The experiment: every peer once a round, in an order that turns from round to round.

use refpage_bench::peers::{Found, Missing, OFF, Peer};
use serde::Serialize;

use crate::progress::Progress;
use crate::render::Rendered;
use crate::run::{self, Cost, Job, Statistics};

/// One peer and what came of it.
#[derive(Debug, Serialize)]
pub struct Row {
    /// The column's name.
    pub name: String,
    /// Why it was not measured, or not to the end.
    pub error: Option<String>,
    /// The costs, a round each; the warm-up is not among them.
    pub costs: Vec<Cost>,
    /// What the warm-up rendered; the rounds are held against it.
    pub rendered: Option<Rendered>,
    /// refpage's statistics of the warm-up.
    pub statistics: Option<Statistics>,
    /// What it wrote to stderr in the warm-up.
    pub messages: String,
    /// The first round whose pixels were not those of the warm-up, and their checksum.
    pub unsteady: Option<(usize, String)>,
    /// What a reader of its figures has to know.
    pub note: Option<&'static str>,
    /// What to run.
    #[serde(skip)]
    peer: Option<Peer>,
}

impl Row {
    fn new(found: Found) -> Self {
        let (name, peer, error) = match found {
            Ok(peer) => (peer.name.clone(), Some(peer), None),
            Err(Missing { name, remedy }) => (name, None, Some(remedy)),
        };
        Self {
            name,
            error,
            costs: Vec::new(),
            rendered: None,
            statistics: None,
            messages: String::new(),
            unsteady: None,
            note: peer.as_ref().and_then(|peer| peer.note),
            peer,
        }
    }

    /// Whether there are figures to show.
    pub fn measured(&self) -> bool {
        self.error.is_none() && !self.costs.is_empty()
    }

    /// One figure of all rounds.
    pub fn values(&self, figure: fn(&Cost) -> f64) -> Vec<f64> {
        self.costs.iter().map(figure).collect()
    }

    fn fail(&mut self, error: &anyhow::Error) {
        self.error = Some(format!("{error:#}"));
        self.peer = None;
    }

    fn warm_up(&mut self, job: &Job) {
        let Some(peer) = &self.peer else {
            return;
        };
        match run::warm_up(job, peer) {
            Ok((run, statistics)) => {
                self.rendered = Some(run.rendered);
                self.messages = run.messages;
                let taken = statistics.as_ref().and_then(|s| s["service"].as_str());
                if let (Some(asked), Some(taken)) = (peer.service, taken)
                    && asked != taken
                {
                    let error = anyhow::anyhow!("refpage took the service {taken} instead");
                    self.fail(&error);
                }
                self.statistics = statistics;
            }
            Err(error) => self.fail(&error),
        }
    }

    fn measure(&mut self, job: &Job, round: usize) {
        let Some(peer) = &self.peer else {
            return;
        };
        match run::measure(job, peer) {
            Ok(run) => {
                let first = self.rendered.as_ref().map(|rendered| &rendered.checksum);
                if first != Some(&run.rendered.checksum) && self.unsteady.is_none() {
                    self.unsteady = Some((round + 1, run.rendered.checksum));
                }
                self.costs.push(run.cost);
            }
            Err(error) => self.fail(&error),
        }
    }
}

/// Runs everything; every peer becomes a row, also one that cannot be run.
pub fn conduct(job: &Job, peers: Vec<Found>, rounds: usize) -> Vec<Row> {
    let mut rows: Vec<Row> = peers.into_iter().map(Row::new).collect();
    let runnable = |rows: &[Row]| rows.iter().filter(|row| row.peer.is_some()).count();
    let progress = Progress::new((runnable(&rows) * (rounds + 1)) as u64);
    progress.stage("warming up");
    for row in rows.iter_mut().filter(|row| row.peer.is_some()) {
        progress.begin(format!("warming up {}", row.name));
        row.warm_up(job);
        progress.done();
        if row.peer.is_none() {
            progress.skip(rounds as u64);
        }
    }
    let count = rows.len();
    for round in 0..rounds {
        if runnable(&rows) > 0 {
            progress.stage(&format!("round {} of {rounds}", round + 1));
        }
        for turn in 0..count {
            let row = &mut rows[(turn + round) % count];
            if row.peer.is_none() {
                continue;
            }
            progress.begin(format!("round {} of {rounds}: {}", round + 1, row.name));
            row.measure(job, round);
            progress.done();
            if row.peer.is_none() {
                progress.skip((rounds - round - 1) as u64);
            }
        }
    }
    progress.finish();
    rows
}

/// The row that ratios are taken against.
pub fn baseline(rows: &[Row]) -> Option<&Row> {
    rows.iter().find(|row| row.name == OFF && row.measured())
}

/// Who rendered other pixels than the rest, in one line each.
pub fn disagreements(rows: &[Row]) -> Vec<String> {
    let mut lines: Vec<String> = rows
        .iter()
        .filter_map(|row| Some((row, row.rendered.as_ref()?, row.unsteady.as_ref()?)))
        .map(|(row, first, (round, other))| {
            format!("{} rendered {other} in round {round}, but {} before", row.name, first.checksum)
        })
        .collect();
    let rendered =
        || rows.iter().filter_map(|row| Some((&row.name, &row.rendered.as_ref()?.checksum)));
    let expected = rendered().find(|(name, _)| *name == OFF).or_else(|| rendered().next());
    if let Some((reference, expected)) = expected {
        lines.extend(rendered().filter(|(_, checksum)| *checksum != expected).map(
            |(name, checksum)| format!("{name} rendered {checksum}, but {reference} {expected}"),
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, checksum: &str) -> Row {
        let mut row = Row::new(Err(Missing { name: name.into(), remedy: String::new() }));
        row.rendered = Some(Rendered {
            pages: 1,
            pixels: 1,
            blank_pages: 0,
            checksum: checksum.into(),
            malloc: String::new(),
        });
        row
    }

    #[test]
    fn whoever_rendered_something_else_is_named() {
        let rows = [row("glibc", "b"), row("off", "a"), row("memset", "a")];
        assert_eq!(disagreements(&rows), ["glibc rendered b, but off a"]);
        assert!(disagreements(&rows[1..]).is_empty());
        let mut unsteady = row("off", "a");
        unsteady.unsteady = Some((2, "c".into()));
        assert_eq!(disagreements(&[unsteady]), ["off rendered c in round 2, but a before"]);
    }
}
