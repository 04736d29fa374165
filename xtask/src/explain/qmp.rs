//! QEMU's monitor protocol, spoken over a socket.
//!
//! *When:* a run hangs, or a test looks into the guest's memory. One JSON object a line, each way; events come between answers and
//! are passed over. Every question has a deadline. QEMU serves one client at a time: whoever holds the socket holds the monitor.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};

/// How long an answer may take. QEMU answers in milliseconds; a dump of memory takes as long as the host's disk.
const PATIENCE: Duration = Duration::from_secs(10);

/// A monitor that has been spoken to.
pub struct Qmp {
    stream: BufReader<UnixStream>,
}

impl Qmp {
    /// Connects to the monitor's socket and goes through the greeting.
    pub fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket)
            .with_context(|| format!("no monitor at {}", socket.display()))?;
        let mut qmp = Self { stream: BufReader::new(stream) };
        let greeting = qmp
            .line(Instant::now() + PATIENCE)
            .context("no greeting: does another client hold the monitor?")?;
        if greeting.get("QMP").is_none() {
            bail!("not a QEMU monitor: {greeting}");
        }
        qmp.execute("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    /// Asks `command` with `arguments`, an object, and waits for the answer to it.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let question = json!({ "execute": command, "arguments": arguments });
        writeln!(self.stream.get_mut(), "{question}").with_context(|| format!("QMP {command}"))?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let line = self.line(deadline).with_context(|| format!("QMP {command}"))?;
            if let Some(answer) = answer(line) {
                return answer.with_context(|| format!("QMP {command}"));
            }
        }
    }

    /// Stops all CPUs, and tells the state that the machine was in: `running`, `paused`, `internal-error`, …
    pub fn stop(&mut self) -> Result<String> {
        let status = self.execute("query-status", &json!({}))?;
        self.execute("stop", &json!({}))?;
        Ok(status["status"].as_str().unwrap_or("unknown").to_owned())
    }

    /// How many CPUs the machine has.
    pub fn cpus(&mut self) -> Result<usize> {
        let cpus = self.execute("query-cpus-fast", &json!({}))?;
        Ok(cpus.as_array().context("query-cpus-fast: not a list")?.len())
    }

    /// What the human monitor prints for `line`, such as `info registers -a`.
    pub fn human(&mut self, line: &str) -> Result<String> {
        let text = self.execute("human-monitor-command", &json!({ "command-line": line }))?;
        Ok(text.as_str().unwrap_or_default().replace('\r', ""))
    }

    /// Writes `size` bytes of guest memory from physical `address` on into `file`. The file is QEMU's to write: give it an absolute
    /// path.
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

/// The answer in a line, or `None` where the line is an event.
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
