//! A client for QEMU's monitor protocol (QMP) over a Unix socket.
//!
//! Each direction carries one JSON object per line. Events may come between answers; the client
//! keeps the reason of a shutdown and skips the others. Every request has a deadline. QEMU serves
//! one client at a time.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};

/// The longest wait for an answer. QEMU usually answers in milliseconds; a memory dump depends on
/// the host's disk.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connected monitor, ready for commands.
pub struct Qmp {
    stream: BufReader<UnixStream>,
    shutdown: Option<String>,
}

impl Qmp {
    /// Connects to the monitor's socket and negotiates capabilities.
    pub fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket)
            .with_context(|| format!("no monitor at {}", socket.display()))?;
        let mut qmp = Self { stream: BufReader::new(stream), shutdown: None };
        let greeting = qmp
            .line(Instant::now() + PATIENCE)
            .context("no greeting: does another client hold the monitor?")?;
        if greeting.get("QMP").is_none() {
            bail!("not a QEMU monitor: {greeting}");
        }
        qmp.execute("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    /// Executes `command` with `arguments`, an object, and returns its answer.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let question = json!({ "execute": command, "arguments": arguments });
        writeln!(self.stream.get_mut(), "{question}").with_context(|| format!("QMP {command}"))?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let line = self.line(deadline).with_context(|| format!("QMP {command}"))?;
            if line["event"] == "SHUTDOWN" {
                self.shutdown = line["data"]["reason"].as_str().map(str::to_owned);
            }
            if let Some(answer) = answer(line) {
                return answer.with_context(|| format!("QMP {command}"));
            }
        }
    }

    /// Stops all CPUs, and returns the machine's state before: `running`, `paused`,
    /// `internal-error`, …
    pub fn stop(&mut self) -> Result<String> {
        let status = self.execute("query-status", &json!({}))?;
        self.execute("stop", &json!({}))?;
        Ok(status["status"].as_str().unwrap_or("unknown").to_owned())
    }

    /// Returns why the machine shut down, if it did since we connected: `guest-shutdown`,
    /// `guest-reset`, …
    pub fn shutdown(&self) -> Option<&str> {
        self.shutdown.as_deref()
    }

    /// Returns the machine's number of CPUs.
    pub fn cpus(&mut self) -> Result<usize> {
        let cpus = self.execute("query-cpus-fast", &json!({}))?;
        Ok(cpus.as_array().context("query-cpus-fast: not a list")?.len())
    }

    /// Returns what the human monitor prints for `line`, such as `info registers -a`.
    pub fn human(&mut self, line: &str) -> Result<String> {
        let text = self.execute("human-monitor-command", &json!({ "command-line": line }))?;
        Ok(text.as_str().unwrap_or_default().replace('\r', ""))
    }

    /// Dumps `size` bytes of guest memory from physical `address` into `file`.
    ///
    /// QEMU writes the file, so give an absolute path.
    pub fn physical_memory(&mut self, address: u64, size: u64, file: &Path) -> Result<()> {
        let name =
            file.to_str().with_context(|| format!("{}: not a UTF-8 path", file.display()))?;
        self.execute("pmemsave", &json!({ "val": address, "size": size, "filename": name }))?;
        Ok(())
    }

    fn line(&mut self, deadline: Instant) -> Result<Value> {
        let left = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero());
        self.stream.get_ref().set_read_timeout(Some(left.context("no answer in time")?))?;
        let mut line = String::new();
        if self.stream.read_line(&mut line).context("no answer in time")? == 0 {
            bail!("QEMU closed the monitor");
        }
        serde_json::from_str(&line).with_context(|| format!("not JSON: {line}"))
    }
}

/// Returns the answer in a line, or `None` for an event.
fn answer(mut line: Value) -> Option<Result<Value>> {
    if let Some(error) = line.get("error") {
        return Some(Err(anyhow!(
            "{}",
            error["desc"].as_str().unwrap_or("an error without a description")
        )));
    }
    line.get_mut("return").map(|value| Ok(value.take()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_no_answers() {
        assert!(answer(json!({ "event": "STOP", "timestamp": {} })).is_none());
        assert_eq!(
            answer(json!({ "return": { "status": "paused" } })).unwrap().unwrap()["status"],
            "paused"
        );
        let refused =
            answer(json!({ "error": { "class": "GenericError", "desc": "no" } })).unwrap();
        assert_eq!(refused.unwrap_err().to_string(), "no");
    }
}
