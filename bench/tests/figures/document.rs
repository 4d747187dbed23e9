//! A document: its sections, what they link to, and its text without code.

/// A heading and what is below it, up to the next heading.
#[derive(Default)]
struct Section {
    level: usize,
    /// The section that it belongs to.
    parent: Option<usize>,
    links: Vec<String>,
}

/// A paragraph, an item of a list, or a row of a table.
pub struct Block {
    /// Its first line.
    pub line: usize,
    /// Whether it is a row. Then it has no first column, which names it.
    pub in_table: bool,
    /// Its text on one line, without code and where links lead to.
    pub text: String,
    section: usize,
}

/// A document.
pub struct Document {
    sections: Vec<Section>,
    /// Its text.
    pub blocks: Vec<Block>,
    /// All that it links to.
    pub links: Vec<String>,
    /// Files, and the lines that it takes over from each.
    pub taken: Vec<(String, String)>,
}

impl Document {
    /// Reads Markdown as this project writes it.
    pub fn new(markdown: &str) -> Self {
        let mut document = Self {
            sections: vec![Section::default()],
            blocks: Vec::new(),
            links: without_targets(markdown).1,
            taken: Vec::new(),
        };
        let (mut fenced, mut taking, mut goes_on) = (false, false, false);
        for (number, line) in markdown.lines().enumerate().map(|(at, line)| (at + 1, line)) {
            if let Some(from) = line.strip_prefix("<!-- from ") {
                document.taken.push((from.trim_end_matches(" -->").into(), String::new()));
                taking = true;
            } else if line == "<!-- end -->" {
                taking = false;
            } else if taking {
                let (_, text) = document.taken.last_mut().expect("it began");
                *text += &format!("{line}\n");
            } else if line.trim_start().starts_with("```") {
                fenced = !fenced;
            } else if !fenced && !line.starts_with("    ") {
                goes_on = document.add(line, number, goes_on);
            }
        }
        for block in &mut document.blocks {
            let (text, links) = without_targets(&without_code(&block.text));
            block.text = text;
            document.sections[block.section].links.extend(links);
        }
        document
    }

    /// Adds a line; says whether the next one may go on with it.
    fn add(&mut self, line: &str, number: usize, goes_on: bool) -> bool {
        let line = line.trim();
        let section = self.sections.len() - 1;
        let block = |in_table, text: String| Block { line: number, in_table, text, section };
        if line.starts_with('#') {
            let level = line.bytes().take_while(|&byte| byte == b'#').count();
            let parent = self.sections.iter().rposition(|section| section.level < level);
            self.sections.push(Section { level, parent, links: Vec::new() });
        } else if line.starts_with("|--") {
            // What was a row so far is the head.
            self.blocks.pop();
        } else if let Some(row) = line.strip_prefix('|') {
            let (_, cells) = row.split_once('|').unwrap_or_default();
            self.blocks.push(block(true, cells.to_owned()));
        } else if goes_on && !line.is_empty() && !line.starts_with("- ") {
            let last = self.blocks.last_mut().expect("it goes on");
            last.text += &format!(" {line}");
            return true;
        } else if !line.is_empty() {
            self.blocks.push(block(false, line.to_owned()));
            return true;
        }
        false
    }

    /// What the section of a block links to, and those that it belongs to.
    pub fn links_of(&self, block: &Block) -> Vec<&str> {
        let up = |&at: &usize| self.sections[at].parent;
        let sections = std::iter::successors(Some(block.section), up);
        sections.flat_map(|at| &self.sections[at].links).map(String::as_str).collect()
    }
}

fn without_code(text: &str) -> String {
    text.split('`').step_by(2).collect::<Vec<_>>().join("`")
}

/// The text with no more than the names of its links, and where they lead to, from the project's own folder.
fn without_targets(text: &str) -> (String, Vec<String>) {
    let (mut visible, mut links) = (String::new(), Vec::new());
    let mut parts = text.split("](");
    visible.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let (target, rest) = part.split_once(')').unwrap_or((part, ""));
        let file = target.split('#').next().unwrap_or_default();
        links.push(file.trim_start_matches("../").to_owned());
        visible.push(']');
        visible.push_str(rest);
    }
    (visible, links)
}
