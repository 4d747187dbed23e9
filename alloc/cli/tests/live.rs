//! `refpage run --live`: the program's output and its end are its own, and the terminal is given back.

mod common;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{command, library, stderr, stdout};

const ENTER: &str = "\x1b[?1049h";
const LEAVE: &str = "\x1b[?1049l";

/// A command in a session of its own, without a terminal: the tests' own one is nobody's to draw on.
fn without_terminal(arguments: &[&str]) -> Command {
    library();
    let mut command = command(arguments);
    // SAFETY: setsid may be called between fork and exec.
    unsafe {
        command.pre_exec(|| {
            libc::setsid();
            Ok(())
        });
    }
    command
}

fn run(arguments: &[&str]) -> Output {
    let arguments: Vec<&str> = ["run", "--live", "--interval", "0.1", "--"]
        .into_iter()
        .chain(arguments.iter().copied())
        .collect();
    without_terminal(&arguments).output().expect("it runs")
}

#[test]
fn without_a_terminal_there_are_lines_on_stderr() {
    let output = run(&["sh", "-c", "echo out; sleep 1; exit 7"]);
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(7), "out\n"));
    let text = stderr(&output);
    assert!(text.lines().count() >= 3, "{text}");
    assert!(text.lines().all(|line| line.contains(" RSS ") && !line.contains('\x1b')), "{text}");
}

#[test]
fn it_ends_as_the_program_does() {
    assert_eq!(run(&["true"]).status.code(), Some(0));
    assert_eq!(run(&["sh", "-c", "kill -TERM $$"]).status.signal(), Some(15));
    let missing = run(&["/nonexistent/program"]);
    assert_eq!(missing.status.code(), Some(127));
    assert!(stderr(&missing).contains("program not found"), "{}", stderr(&missing));
    assert_eq!(run(&["/"]).status.code(), Some(126));
    let output = without_terminal(&["run", "--interval", "1", "true"]).output().expect("it runs");
    assert_eq!(output.status.code(), Some(2), "an interval is for --live");
}

#[test]
fn signals_are_passed_on() {
    let script = "trap 'echo got it; exit 3' TERM; echo ready; while :; do sleep 0.1; done";
    let mut command = without_terminal(&["run", "--live", "--", "sh", "-c", script]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it runs");
    let mut stdout = child.stdout.take().expect("piped");
    let mut text = [0; 6];
    stdout.read_exact(&mut text).expect("it is ready");
    // SAFETY: kill may be called with any number, and this one is our child's.
    unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).expect("text");
    assert_eq!((rest.as_str(), child.wait().expect("ours").code()), ("got it\n", Some(3)));
}

#[test]
fn a_program_that_is_not_on_the_allocator_is_told_once() {
    let output = run(&["env", "-u", "LD_PRELOAD", "sleep", "3"]);
    assert_eq!(output.status.code(), Some(0));
    let text = stderr(&output);
    let told = text.lines().filter(|line| line.contains("is not on refpage")).count();
    assert_eq!(told, 1, "{text}");
}

/// A child on a terminal of its own.
struct OnTerminal {
    child: Child,
    master: File,
    slave: OwnedFd,
    text: String,
}

impl OnTerminal {
    fn start(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let size = libc::winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let (mut master, mut slave) = (-1, -1);
        // SAFETY: the pointers are to live variables, or null; the descriptors are new ones of ours.
        let (master, slave) = unsafe {
            let opened = libc::openpty(
                &raw mut master,
                &raw mut slave,
                std::ptr::null_mut(),
                std::ptr::null(),
                &raw const size,
            );
            assert_eq!(opened, 0, "a pty");
            libc::fcntl(master, libc::F_SETFD, libc::FD_CLOEXEC);
            libc::fcntl(master, libc::F_SETFL, libc::O_NONBLOCK);
            (File::from_raw_fd(master), OwnedFd::from_raw_fd(slave))
        };
        let mut command = without_terminal(arguments);
        command.env("TERM", "xterm").env_remove("NO_COLOR").envs(variables.iter().copied());
        let end = || Stdio::from(slave.try_clone().expect("a descriptor"));
        command.stdin(end()).stdout(end()).stderr(end());
        // SAFETY: ioctl may be called between fork and exec; stdin is the terminal.
        unsafe {
            command.pre_exec(|| {
                libc::ioctl(0, libc::TIOCSCTTY, 0);
                Ok(())
            });
        }
        let child = command.spawn().expect("it runs");
        Self { child, master, slave, text: String::new() }
    }

    fn read(&mut self) {
        let mut bytes = [0; 65536];
        while let Ok(count @ 1..) = self.master.read(&mut bytes) {
            self.text += &String::from_utf8_lossy(&bytes[..count]);
        }
    }

    fn tail(&self) -> String {
        let skipped = self.text.chars().count().saturating_sub(2000);
        self.text.chars().skip(skipped).collect()
    }

    /// Waits until this was written.
    #[track_caller]
    fn wait_for(&mut self, part: &str) {
        let start = Instant::now();
        while !self.text.contains(part) {
            assert!(start.elapsed() < Duration::from_secs(20), "no {part:?} in {:?}", self.tail());
            self.read();
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for the end: all that was written behind the view, which is gone.
    fn end(&mut self) -> (std::process::ExitStatus, String) {
        let start = Instant::now();
        let status = loop {
            self.read();
            if let Some(status) = self.child.try_wait().expect("ours") {
                break status;
            }
            assert!(start.elapsed() < Duration::from_secs(20), "no end: {:?}", self.tail());
            std::thread::sleep(Duration::from_millis(10));
        };
        self.read();
        let (view, rest) = self.text.rsplit_once(LEAVE).expect("the screen is given back");
        assert!(view.contains(ENTER));
        // Echo is on again, and so is what makes signals of keys.
        let mut modes = std::mem::MaybeUninit::<libc::termios>::zeroed();
        let slave = std::os::fd::AsRawFd::as_raw_fd(&self.slave);
        // SAFETY: tcgetattr fills it; all zeros are a value besides.
        let modes = unsafe {
            assert_eq!(libc::tcgetattr(slave, modes.as_mut_ptr()), 0);
            modes.assume_init()
        };
        assert_eq!(modes.c_lflag & libc::ECHO, libc::ECHO);
        assert_eq!(modes.c_lflag & libc::ISIG, libc::ISIG);
        (status, rest.replace("\r\n", "\n"))
    }

    fn type_in(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).expect("a terminal");
    }
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const RUN: [&str; 4] = ["run", "--live", "--interval", "0.1"];

#[test]
fn on_a_terminal_the_output_follows_the_view() {
    let script = "test -t 1 && echo one; echo two >&2; read x; sleep 1; echo three; exit 5";
    let arguments = [&RUN[..], &["sh", "-c", script]].concat();
    let mut terminal = OnTerminal::start(&arguments, &[]);
    terminal.wait_for("memset would hold");
    terminal.wait_for("\x1b[0;36m");
    let (status, rest) = terminal.end();
    assert_eq!(status.code(), Some(5), "{rest}");
    assert!(rest.starts_with("one\ntwo\nthree\nrefpage: process "), "{rest}");
    assert!(rest.contains("memset would hold") && rest.ends_with(" has ended\n"), "{rest}");
}

#[test]
fn keys_act_and_the_program_goes_on_without_the_view() {
    let script = "echo one; sleep 2; echo two";
    let arguments = [&RUN[..], &["sh", "-c", script]].concat();
    let mut terminal = OnTerminal::start(&arguments, &[("NO_COLOR", "1")]);
    terminal.wait_for("faults/s");
    terminal.type_in(" ");
    terminal.wait_for("paused");
    terminal.type_in("q");
    let (status, rest) = terminal.end();
    assert_eq!((status.code(), rest.as_str()), (Some(0), "one\ntwo\n"));
    assert!(!terminal.text.contains(";36m"), "no colors were wanted");
}

#[test]
fn ctrl_c_is_the_programs() {
    let script = "trap 'echo caught; exit 4' INT; echo ready; while :; do sleep 0.1; done";
    let arguments = [&RUN[..], &["sh", "-c", script]].concat();
    let mut terminal = OnTerminal::start(&arguments, &[]);
    terminal.wait_for("ready");
    terminal.type_in("\x03");
    let (status, rest) = terminal.end();
    assert_eq!(status.code(), Some(4), "{rest}");
    assert!(rest.starts_with("ready\ncaught\n"), "{rest}");
}

/// A child that ends with its owner, whatever becomes of the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn top_gives_the_terminal_back_when_it_is_ended() {
    let mut sleeper = Command::new("sleep");
    sleeper.arg("600").env("LD_PRELOAD", library()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut sleeper = Ended(sleeper.spawn().expect("sleep"));
    let pid = sleeper.0.id().to_string();
    for signal in [libc::SIGTERM, libc::SIGHUP] {
        let mut top = OnTerminal::start(&["top", &pid], &[]);
        top.wait_for("interval");
        // SAFETY: kill may be called with any number, and this one is our child's.
        unsafe { libc::kill(top.child.id() as i32, signal) };
        let (status, rest) = top.end();
        assert_eq!((status.signal(), rest.as_str()), (Some(signal), ""));
    }
    for key in ["q", "\x1b"] {
        let mut top = OnTerminal::start(&["top", &pid], &[]);
        top.wait_for("interval");
        top.type_in(key);
        let (status, rest) = top.end();
        assert_eq!((status.code(), rest.as_str()), (Some(0), ""));
    }
    let mut top = OnTerminal::start(&["top", &pid], &[]);
    top.wait_for("interval");
    sleeper.0.kill().expect("ours");
    sleeper.0.wait().expect("ours");
    let (status, rest) = top.end();
    assert_eq!(status.code(), Some(0));
    assert!(rest.starts_with(&format!("refpage: process {pid}: sleep 600\n")), "{rest}");
    assert!(rest.ends_with(&format!("refpage: process {pid} has ended\n")), "{rest}");
}
