//! What the report measures: its parts, and the cases of each.

use anyhow::Result;
use clap::ValueEnum;

use super::latency::Order;
use super::pdfium::{Pdfium, RESOLUTIONS};
use super::profile;
use super::work::What;
use crate::cases::{Case, Scale};
use crate::child::{measure, value};
use crate::engine;
use crate::peers::{self, Missing, Peer, REFPAGE};
use crate::programs::{PROGRAMS, Workshop};
use crate::rounds::Plan;
use crate::small::workloads::Workload;
use crate::small::{self, Kind};
use crate::traps::{self, cases::Case as TrapCase};

/// A part of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// What a program can read that never wrote it.
    Reads,
    /// Time and memory against the share of a block that is touched.
    Shares,
    /// The distribution of single first touches.
    Latency,
    /// First touch against the window of a fault.
    Windows,
    /// Large blocks.
    Large,
    /// Small blocks.
    Small,
    /// Guards and quarantine.
    Traps,
    /// Real programs.
    Programs,
    /// PDFium and real documents.
    Pdfium,
    /// Memory over time.
    Timeline,
    /// How programs and documents use their allocations.
    Profile,
}

/// Cases of large blocks that a quick report has.
const LARGE_QUICK: [&str; 9] = [
    "patch-half",
    "dense-cold",
    "sparse-random-64",
    "cycle-64K-100",
    "cycle-1M-10",
    "cycle-1M-100",
    "calloc-1M",
    "realloc-2x",
    "fork-exit-small",
];
/// Those that a full one leaves out, by parts of names: `engine` has them.
const LARGE_NOT: [&str; 5] =
    ["cycle-256K", "cycle-4M", "10-random", "dense-cold-4M", "fork-exec-1G"];
/// Threads that small blocks are allocated by.
const THREADS: [u16; 2] = [1, 8];
/// Workloads of small blocks that a quick report has.
const SMALL_QUICK: [Workload; 3] = [Workload::Server, Workload::Lifetimes, Workload::Compiler];
/// Cases of guards and quarantine that a quick report has.
const TRAPS_QUICK: [&str; 2] = ["dense-64K", "dense-1M"];
/// Programs that a quick report has.
const PROGRAMS_QUICK: [&str; 4] = ["gcc", "python3", "sqlite3", "lua"];
/// The document of a quick report, and of the plot over time, if it is here.
const SPARSE_DOCUMENT: &str = "pgfplots";
/// Windows that faults are answered with, in pages.
const WINDOWS: [usize; 10] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512];

/// What all parts are made from.
pub struct Sources<'a> {
    /// How large everything is.
    pub scale: Scale,
    /// More options of refpage.
    pub options: &'a str,
    /// Who takes part.
    pub peers: &'a [Peer],
    /// The cases of large blocks.
    pub large: &'a [Case],
    /// The cases of guards and quarantine.
    pub traps: &'a [TrapCase],
    /// Where programs have their inputs.
    pub workshop: &'a Workshop,
    /// PDFium, if it can be had.
    pub pdfium: Option<&'a Pdfium>,
}

impl<'a> Sources<'a> {
    /// The cases of a part. What cannot be run goes to `missing`.
    pub fn plans(&self, part: Part, missing: &mut Vec<Missing>) -> Result<Vec<Plan<'a>>> {
        let plans = match part {
            Part::Reads => vec![self.own("reads", "what memory reads as", "look", What::Reads)],
            Part::Latency => vec![
                self.own("ascending", Order::Ascending.title(), "touch", What::Ascending),
                self.own("random", Order::Random.title(), "touch", What::Random),
            ],
            Part::Windows => WINDOWS.iter().map(|&window| self.window(window)).collect(),
            Part::Shares => self.large(|name| name.starts_with("share-")),
            Part::Large => match self.scale {
                Scale::Full => self.large(|name| {
                    !name.starts_with("share-") && !LARGE_NOT.iter().any(|not| name.contains(not))
                }),
                Scale::Quick => self.large(|name| LARGE_QUICK.contains(&name)),
                Scale::Tiny => self.large(|name| name == "cycle-1M-10"),
            },
            Part::Small => self.small()?,
            Part::Traps => self.traps(missing)?,
            Part::Programs => self.programs(missing)?,
            Part::Pdfium => self.pdfium()?,
            Part::Timeline => self.timeline()?,
            Part::Profile => self.profile(missing)?,
        };
        let weight = part.weight();
        Ok(plans.into_iter().map(|plan| Plan { weight, ..plan }).collect())
    }

    /// A measurement of the report's own.
    fn own(&self, name: &str, title: &str, unit: &'static str, what: What) -> Plan<'a> {
        let scale = value(self.scale);
        Plan {
            name: name.into(),
            title: title.into(),
            unit,
            versus: None,
            peers: self.peers.to_vec(),
            weight: 1,
            measure: Box::new(move |peer, _| {
                measure(&["report-work", "--what", &value(what), "--scale", &scale], peer)
            }),
        }
    }

    /// The engine alone: refpage's own process, with no other allocator's.
    fn window(&self, window: usize) -> Plan<'a> {
        let scale = value(self.scale);
        let title = format!("first touch in order, faults answered with {window} pages");
        Plan {
            name: format!("window-{window}"),
            title,
            unit: "page",
            versus: None,
            peers: vec![Peer { name: REFPAGE.into(), ..peers::glibc() }],
            weight: 1,
            measure: Box::new(move |peer, _| {
                let (what, window) = (value(What::Windows), window.to_string());
                let arguments =
                    ["report-work", "--what", &what, "--window", &window, "--scale", &scale];
                measure(&arguments, peer)
            }),
        }
    }

    fn large(&self, wanted: impl Fn(&str) -> bool) -> Vec<Plan<'a>> {
        let cases = self.large.iter().filter(|case| wanted(&case.name));
        cases.map(|case| engine::plan(case, self.scale, self.peers.to_vec())).collect()
    }

    fn small(&self) -> Result<Vec<Plan<'a>>> {
        let (workloads, threads) = match self.scale {
            Scale::Full => (Workload::value_variants(), &THREADS[..]),
            Scale::Quick => (&SMALL_QUICK[..], &[2][..]),
            Scale::Tiny => (&SMALL_QUICK[..1], &[2][..]),
        };
        let mut plans = Vec::new();
        for &workload in workloads {
            for &threads in threads {
                let kind = Kind::Workload(workload, threads);
                let plan = small::plan(kind, self.scale, self.peers, self.workshop)?;
                plans.extend(plan.ok().map(later_rounds));
            }
        }
        Ok(plans)
    }

    fn traps(&self, missing: &mut Vec<Missing>) -> Result<Vec<Plan<'a>>> {
        let (peers, gone) = traps::find(false, &[], self.options)?;
        for gone in gone {
            if missing.iter().all(|known| known.name != gone.name) {
                missing.push(gone);
            }
        }
        let wanted = |case: &&TrapCase| match self.scale {
            Scale::Full => case.name.starts_with("dense") || case.name == "random",
            Scale::Quick => TRAPS_QUICK.contains(&case.name.as_str()),
            Scale::Tiny => case.name == TRAPS_QUICK[0],
        };
        let cases = self.traps.iter().filter(wanted);
        Ok(cases.map(|case| traps::plan(case, self.scale, &peers)).collect())
    }

    fn programs(&self, missing: &mut Vec<Missing>) -> Result<Vec<Plan<'a>>> {
        let mut plans = Vec::new();
        for program in &PROGRAMS {
            let wanted = match self.scale {
                Scale::Full => true,
                Scale::Quick => PROGRAMS_QUICK.contains(&program.name),
                Scale::Tiny => program.name == "sqlite3",
            };
            if !wanted {
                continue;
            }
            let kind = Kind::Program(program);
            match small::plan(kind, self.scale, self.peers, self.workshop)? {
                Ok(plan) => plans.push(plan),
                Err(gone) if missing.iter().any(|known| known.name == gone.name) => {}
                Err(gone) => missing.push(gone),
            }
        }
        Ok(plans)
    }

    fn pdfium(&self) -> Result<Vec<Plan<'a>>> {
        let Some(pdfium) = self.pdfium else { return Ok(Vec::new()) };
        let mut plans = Vec::new();
        let quick = self.sparse_document(pdfium);
        for document in &pdfium.documents {
            for dpi in RESOLUTIONS {
                if self.scale != Scale::Full && (Some(&document.name) != quick || dpi != 72) {
                    continue;
                }
                let job = pdfium.job(document, dpi, self.scale)?;
                plans.push(Plan {
                    name: format!("{}-{dpi}", document.name),
                    title: format!("{}, {}", document.title, job.what()),
                    unit: "page",
                    versus: None,
                    peers: self.peers.to_vec(),
                    weight: 1,
                    measure: Box::new({
                        let scratch = self.workshop.directory().to_owned();
                        move |peer, _| job.measure(peer, &scratch)
                    }),
                });
            }
        }
        Ok(plans)
    }

    fn timeline(&self) -> Result<Vec<Plan<'a>>> {
        let Some(pdfium) = self.pdfium else { return Ok(Vec::new()) };
        let name = self.sparse_document(pdfium);
        let document = pdfium.documents.iter().find(|document| Some(&document.name) == name);
        let Some(document) = document else { return Ok(Vec::new()) };
        let job = pdfium.job(document, 72, self.scale)?;
        let scratch = self.workshop.directory().to_owned();
        Ok(vec![Plan {
            name: "timeline".into(),
            title: format!("{}, {}", document.title, job.what()),
            unit: "page",
            versus: None,
            peers: self.peers.to_vec(),
            weight: 1,
            measure: Box::new(move |peer, _| job.watch(peer, &scratch)),
        }])
    }

    /// Programs and documents once more, each under refpage alone.
    fn profile(&self, missing: &mut Vec<Missing>) -> Result<Vec<Plan<'a>>> {
        let Some(refpage) = self.peers.iter().find(|peer| peer.name == REFPAGE) else {
            return Ok(Vec::new());
        };
        let mut plans = self.pdfium()?;
        plans.extend(self.programs(missing)?);
        let directory = self.workshop.directory();
        Ok(plans.into_iter().map(|plan| profile::of(plan, refpage, directory)).collect())
    }

    /// The document of which the least is touched; the project's own where it is not here.
    fn sparse_document<'p>(&self, pdfium: &'p Pdfium) -> Option<&'p String> {
        let of = |wanted: &str| pdfium.documents.iter().find(|document| document.name == wanted);
        let known = of(SPARSE_DOCUMENT).filter(|_| self.scale != Scale::Tiny);
        known.or_else(|| of("default")).map(|document| &document.name)
    }
}

impl Part {
    /// Those that are asked for, or all.
    pub fn chosen(asked: &[Self]) -> Vec<Self> {
        let wanted = |part: &&Self| asked.is_empty() || asked.contains(part);
        Self::value_variants().iter().filter(wanted).copied().collect()
    }

    /// How long one measurement takes beside those of other parts.
    fn weight(self) -> u64 {
        match self {
            Self::Reads | Self::Shares | Self::Windows => 5,
            Self::Latency | Self::Large | Self::Traps => 12,
            Self::Small => 30,
            Self::Programs | Self::Timeline | Self::Pdfium | Self::Profile => 60,
        }
    }

    /// Rounds that count, if that many were asked for.
    pub fn runs(self, asked: Option<usize>, scale: Scale) -> usize {
        match self {
            // What is read and counted is the same each time; a line over time cannot be a median.
            Self::Reads | Self::Timeline | Self::Profile => 1,
            // These take most of the time.
            Self::Large | Self::Small | Self::Programs | Self::Pdfium => asked.unwrap_or(3),
            _ => asked.unwrap_or(scale.pick(5, 3, 1)),
        }
    }

    /// Rounds before them that do not count.
    pub fn warm_up(self) -> usize {
        usize::from(!matches!(self, Self::Reads | Self::Profile))
    }
}

/// Only the first round is told apart by the workloads of small blocks, and it is too long for a report.
fn later_rounds(plan: Plan<'static>) -> Plan<'static> {
    let measure = plan.measure;
    Plan { measure: Box::new(move |peer, round| measure(peer, round + 1)), ..plan }
}
