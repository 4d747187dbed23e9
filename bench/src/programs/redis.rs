//! redis-server under an allocator, redis-benchmark beside it without.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::process::Started;
use super::{accepted, find, preload};
use crate::cases::{Outcome, Scale};
use crate::measure::field;
use crate::peers::Peer;
use crate::work::Measured;

/// How long the server may take until it answers.
const START: Duration = Duration::from_secs(10);
/// What clients ask for.
const TESTS: &str = "set,get,lpush,sadd,hset,zadd,lrange_100";
/// How many kinds of requests that are; redis-benchmark fills the list that `lrange_100` reads by a test more.
const LEAST_TESTS: usize = 7;

/// Measures one run: times are of the requests, CPU time and memory are the server's.
pub fn measure(directory: &Path, peer: &Peer, scale: Scale) -> Result<(Measured, String)> {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
    let mut command = Command::new(find("redis-server").context("redis-server is gone")?);
    command
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
        .args(["--appendonly", "no", "--daemonize", "no", "--dir"])
        .arg(directory);
    preload(&mut command, peer)?;
    let server = Started::start(&mut command, directory)?;
    wait_for(port)?;
    let requests = scale.pick(60_000, 10_000, 200);
    let output = Command::new(find("redis-benchmark").context("redis-benchmark is gone")?)
        .args(["-p", &port.to_string(), "-n", &requests.to_string(), "-t", TESTS])
        .args(["-c", "20", "-P", "16", "-r", "50000", "-d", "200", "--csv"])
        .env_remove("LD_PRELOAD")
        .stdin(Stdio::null())
        .output()?;
    let seconds = seconds(&String::from_utf8_lossy(&output.stdout), requests);
    let Some((tests, seconds)) = seconds.filter(|_| output.status.success()) else {
        bail!("redis-benchmark failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    };
    let status = fs::read(format!("/proc/{}/status", server.id()))?;
    ask(port, "SHUTDOWN NOSAVE")?;
    let finished = server.finish()?;
    let messages = accepted(&finished)?;
    let mut cost = finished.cost;
    cost.wall_ns = (seconds * 1e9) as u64;
    cost.peak_kib = field(&status, b"VmHWM:");
    cost.held_kib = field(&status, b"VmRSS:");
    let outcome = Outcome { cost, operations: tests * requests, checked_bytes: 0 };
    Ok((Measured::new(outcome), messages))
}

/// How many tests there were and how long they took in all, from lines like `"SET","12345.67",...`.
fn seconds(csv: &str, requests: usize) -> Option<(usize, f64)> {
    let rates: Vec<f64> = csv
        .lines()
        .filter_map(|line| line.split("\",\"").nth(1)?.trim_matches('"').parse().ok())
        .collect();
    let seconds = rates.iter().map(|rate| requests as f64 / rate).sum();
    (rates.len() >= LEAST_TESTS).then_some((rates.len(), seconds))
}

fn wait_for(port: u16) -> Result<()> {
    let begun = Instant::now();
    while !ask(port, "PING").is_ok_and(|answer| answer.starts_with("+PONG")) {
        if begun.elapsed() > START {
            bail!("redis-server does not answer after {} s", START.as_secs());
        }
        sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// One command, and what the server says to it: nothing if that is to end.
fn ask(port: u16, command: &str) -> Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(START))?;
    write!(stream, "{command}\r\n")?;
    let mut answer = [0; 64];
    let length = stream.read(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_all_requests_is_read_from_their_rates() {
        let line = "\"SET\",\"1000.00\",\"0.1\"\n";
        let head = "\"test\",\"rps\",\"avg_latency_ms\"\n";
        let (tests, time) = seconds(&format!("{head}{}", line.repeat(7)), 500).unwrap();
        assert_eq!(tests, 7);
        assert!((time - 3.5).abs() < 1e-9);
        assert_eq!(seconds(head, 500), None);
    }
}
