//! What the programs work on, made anew for each run of the benchmark, and always the same.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::{Job, find};
use crate::cases::Scale;
use crate::seed;

fn job(program: PathBuf, arguments: &[&str]) -> Job {
    let arguments = arguments.iter().map(OsString::from).collect();
    Job { program, arguments, environment: Vec::new(), output: None }
}

fn tool(name: &str) -> Result<PathBuf> {
    find(name).with_context(|| format!("{name} is gone"))
}

/// What a command prints, such as the path of what it is a wrapper of.
fn answer(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output()?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Functions with loops, switches and calls.
pub fn gcc(directory: &Path, scale: Scale) -> Result<Job> {
    let mut random = seed::random(1);
    let mut text = String::from("struct node { struct node *next; int value; long sum; };\n");
    for number in 0..scale.pick(400, 80, 4) {
        let [a, b, c] = [(); 3].map(|()| 1 + random.below(97));
        writeln!(
            text,
            "static int helper{number}(struct node *n, int x) {{\n  int sum = {a};\n  \
             for (struct node *at = n; at; at = at->next) {{\n    switch ((at->value + x) % {b}) {{\n    \
             case 0: sum += at->value * {c}; break;\n    case 1: sum ^= at->value << {}; break;\n    \
             case 2: at->sum += sum; break;\n    default: sum -= x; }}\n  }}\n  return sum;\n}}\n\
             int function{number}(struct node *n, int *array, int count) {{\n  long total = 0;\n  \
             for (int i = 0; i < count; i++) {{\n    array[i] = helper{number}(n, array[i] + {a});\n    \
             if (array[i] % {b} == {}) total += array[i] * (long){c};\n    else total ^= array[(i * {a}) % count];\n  \
             }}\n  return (int)(total % {});\n}}",
            a % 13,
            a % b,
            b + c
        )?;
    }
    fs::write(directory.join("generated.c"), text)?;
    let output = directory.join("generated.o");
    let job = job(tool("gcc")?, &["-O2", "-c", "generated.c", "-o", "generated.o"]);
    Ok(Job { output: Some(output), ..job })
}

/// Python without its own pools, so that every object is malloc's.
pub fn python(directory: &Path, scale: Scale) -> Result<Job> {
    // What is called python3 may be a script that looks for another one.
    let program =
        answer(Command::new(tool("python3")?).args(["-c", "import sys; print(sys.executable)"]))?;
    let count = scale.pick(60_000, 12_000, 100);
    fs::write(
        directory.join("work.py"),
        format!(
            "import json\n\
             rows = [{{'id': i, 'name': 'name %d' % i, 'tags': [str(i % 7), str(i % 11)], 'value': i / 3}} for i in range({count})]\n\
             total = 0\n\
             for turn in range(3):\n    \
                 text = json.dumps(rows)\n    \
                 total += len(text)\n    \
                 rows = json.loads(text)\n\
             groups = {{}}\n\
             for turn in range(4):\n    \
                 for row in rows:\n        \
                     groups.setdefault((row['name'][-3:], turn), []).append(row['id'])\n    \
                 for key in [key for key in groups if key[1] < turn]:\n        \
                     del groups[key]\n\
             print(total, len(groups), sum(map(sum, groups.values())))\n"
        ),
    )?;
    let job = job(program.into(), &["work.py"]);
    let environment = vec![
        ("PYTHONMALLOC", "malloc".into()),
        ("PYTHONHASHSEED", "0".into()),
        ("PYTHONDONTWRITEBYTECODE", "1".into()),
    ];
    Ok(Job { environment, ..job })
}

/// A table, an index and groups.
pub fn sqlite(directory: &Path, scale: Scale) -> Result<Job> {
    let count = scale.pick(300_000, 50_000, 500);
    fs::write(
        directory.join("work.sql"),
        format!(
            "create table t(id integer primary key, name text, kind integer, value real);\n\
             with recursive n(i) as (select 1 union all select i + 1 from n where i < {count})\n\
             insert into t select i, 'name ' || (i * 7919 % 100003), i % 97, i / 3.0 from n;\n\
             create index by_name on t(name);\n\
             select kind, count(*), sum(value), max(name) from t group by kind order by kind;\n\
             select count(*), sum(length(names)) from (select group_concat(name) names from t group by kind, id % 50);\n\
             delete from t where id % 3 = 0;\n\
             select count(*), min(name) from t where name > 'name 5';\n"
        ),
    )?;
    Ok(job(tool("sqlite3")?, &["-batch", ":memory:", ".read work.sql"]))
}

/// Tables that come and go, and strings.
pub fn lua(directory: &Path, scale: Scale) -> Result<Job> {
    let count = scale.pick(120_000, 20_000, 200);
    fs::write(
        directory.join("work.lua"),
        format!(
            "local total = 0\n\
             for turn = 1, 5 do\n  \
               local rows = {{}}\n  \
               for i = 1, {count} do\n    \
                 rows[i] = {{ id = i, name = 'name ' .. (i * turn), parts = {{ i % 7, i % 11 }} }}\n  \
               end\n  \
               local byname = {{}}\n  \
               for _, row in ipairs(rows) do byname[row.name] = row.parts end\n  \
               local out = {{}}\n  \
               for i = 1, #rows, 3 do out[#out + 1] = rows[i].name:upper():sub(2, -2) end\n  \
               total = total + #table.concat(out, ',')\n  \
               for name, parts in pairs(byname) do total = total + #name + parts[1] end\n\
             end\n\
             print(total)\n"
        ),
    )?;
    Ok(job(tool("lua5.4")?, &["work.lua"]))
}

/// JSON there and back, objects that come and go.
pub fn node(directory: &Path, scale: Scale) -> Result<Job> {
    let count = scale.pick(60_000, 12_000, 100);
    fs::write(
        directory.join("work.js"),
        format!(
            "let rows = [];\n\
             for (let i = 0; i < {count}; i++)\n  \
               rows.push({{ id: i, name: 'name ' + i, tags: [String(i % 7), String(i % 11)], value: i / 3 }});\n\
             let total = 0;\n\
             for (let turn = 0; turn < 4; turn++) {{\n  \
               const text = JSON.stringify(rows);\n  \
               total += text.length;\n  \
               rows = JSON.parse(text);\n  \
               const buffers = rows.map((row) => Buffer.from(row.name.repeat(1 + row.id % 40)));\n  \
               total += Buffer.concat(buffers).length;\n  \
               const groups = new Map();\n  \
               for (const row of rows) {{\n    \
                 const key = row.name.slice(-3);\n    \
                 groups.set(key, (groups.get(key) || []).concat(row.id));\n  \
               }}\n  \
               total += groups.size;\n\
             }}\n\
             console.log(total);\n"
        ),
    )?;
    Ok(job(tool("node")?, &["work.js"]))
}

/// A history of files that change in a few lines each time.
pub fn git(directory: &Path, scale: Scale) -> Result<Job> {
    // What is called git may be a script.
    let directory_of_git = answer(Command::new(tool("git")?).arg("--exec-path"))?;
    let inner = Path::new(&directory_of_git).join("git");
    let program = if inner.is_file() { inner } else { tool("git")? };
    let repository = directory.join("repository");
    let environment: Vec<(&'static str, OsString)> = vec![
        ("HOME", directory.into()),
        ("GIT_CONFIG_NOSYSTEM", "1".into()),
        ("GIT_DIR", repository.clone().into()),
        ("GIT_PAGER", "cat".into()),
    ];
    let git = || {
        let mut command = Command::new(&program);
        command.envs(environment.iter().map(|(key, value)| (key, value)));
        command
    };
    answer(git().args(["init", "-q", "--bare"]).arg(&repository))?;
    let mut import =
        git().args(["fast-import", "--quiet", "--force"]).stdin(Stdio::piped()).spawn()?;
    let mut input = import.stdin.take().context("the pipe is gone")?;
    input.write_all(history(scale.pick(900, 180, 5)).as_bytes())?;
    drop(input);
    if !import.wait()?.success() {
        bail!("git fast-import failed");
    }
    let job = job(program, &["log", "-p", "--stat", "main"]);
    Ok(Job { environment, ..job })
}

/// Commits as `git fast-import` reads them.
fn history(commits: usize) -> String {
    let mut random = seed::random(2);
    let mut files: Vec<Vec<String>> = (0..20)
        .map(|file| (0..400).map(|line| format!("file {file}, line {line}")).collect())
        .collect();
    let mut text = String::new();
    for commit in 0..commits {
        let message = format!("Commit {commit}");
        let when = 1_700_000_000 + commit * 60;
        let _ = write!(
            text,
            "commit refs/heads/main\ncommitter A Name <name@example.org> {when} +0000\ndata {}\n{message}\n",
            message.len()
        );
        for _ in 0..3 {
            let file = random.below(files.len());
            for _ in 0..5 {
                let line = random.below(files[file].len());
                files[file][line] = format!("changed by {commit} to {}", random.below(1000));
            }
            let content = files[file].join("\n");
            let length = content.len();
            let _ = write!(text, "M 644 inline file{file}.txt\ndata {length}\n{content}\n");
        }
        text.push('\n');
    }
    text
}
