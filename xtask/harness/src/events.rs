//! Events of a run, recognised on its console line by line.
//!
//! `boot::marker` defines the words that the kernel prints. A log line may have its generation in
//! brackets before them. All other lines are for people; xtask skips them.

use std::{fs::File, io::Write, path::Path, sync::mpsc::Receiver, time::Duration};

use anyhow::{Context, Result};
use boot::marker;

use crate::console::Line;

/// The kinds of event.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// A generation has started.
    Generation,
    /// A kernel is about to pass the point of no return.
    Bye,
    /// A kexec was refused; the generation continues.
    Refused,
    /// The last generation ended with success.
    Success,
    /// The run ended with failure.
    Failure,
    /// An exception, a panic, or another message of the early console.
    Fatal,
    /// A CPU's last message before it stops.
    Stopped,
    /// xtask's time limit was reached.
    TimedOut,
    /// QEMU has ended.
    Exit,
}

impl Kind {
    /// The name in events.jsonl.
    pub fn word(self) -> &'static str {
        match self {
            Self::Generation => "generation",
            Self::Bye => "bye",
            Self::Refused => "refused",
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Fatal => "fatal",
            Self::Stopped => "stopped",
            Self::TimedOut => "timed-out",
            Self::Exit => "exit",
        }
    }
}

/// One event of a run.
#[derive(Clone, Debug)]
pub struct Event {
    /// Time since QEMU was started.
    pub at: Duration,
    /// The kind of event.
    pub kind: Kind,
    /// The whole line, or xtask's own words.
    pub line: String,
}

impl Event {
    /// Formats the event as one line of events.jsonl.
    pub fn json(&self) -> String {
        let ms = (self.at.as_secs_f64() * 1e6).round() / 1e3;
        serde_json::json!({ "ms": ms, "event": self.kind.word(), "line": self.line }).to_string()
    }
}

/// The kind of event that the line reports, if any.
pub fn classify(line: &str) -> Option<Kind> {
    // The longer marker comes first: the message of a stopping CPU also begins with the fatal
    // marker.
    let markers = [
        (marker::STOPPED, Kind::Stopped),
        (marker::FATAL, Kind::Fatal),
        (marker::GENERATION, Kind::Generation),
        (marker::BYE, Kind::Bye),
        (marker::REFUSED, Kind::Refused),
        (marker::SUCCESS, Kind::Success),
        (marker::FAILURE, Kind::Failure),
    ];
    let text = without_generation(line);
    markers.into_iter().find_map(|(marker, kind)| text.starts_with(marker).then_some(kind))
}

/// The line without its `[generation] `.
fn without_generation(line: &str) -> &str {
    let inner = line.strip_prefix('[').and_then(|rest| rest.split_once("] "));
    match inner {
        Some((number, text))
            if !number.is_empty() && number.trim().bytes().all(|b| b.is_ascii_digit()) =>
        {
            text
        }
        _ => line,
    }
}

/// The events of a run: kept in memory, and written to events.jsonl as they arrive.
pub struct Log {
    file: File,
    /// The events in order.
    pub events: Vec<Event>,
}

impl Log {
    /// Creates the file.
    pub fn create(path: &Path) -> Result<Self> {
        let file =
            File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { file, events: Vec::new() })
    }

    /// Records the event.
    pub fn add(&mut self, event: Event) -> Result<()> {
        writeln!(self.file, "{}", event.json()).context("cannot write events.jsonl")?;
        self.events.push(event);
        Ok(())
    }

    /// Records the line if it reports an event; returns its kind.
    pub fn line(&mut self, line: Line) -> Result<Option<Kind>> {
        let kind = classify(&line.text);
        if let Some(kind) = kind {
            self.add(Event { at: line.at, kind, line: line.text })?;
        }
        Ok(kind)
    }

    /// Records the lines that have arrived and were not read yet.
    pub fn drain(&mut self, lines: &Receiver<Line>) -> Result<()> {
        lines.try_iter().try_for_each(|line| self.line(line).map(drop))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_are_known_at_the_start_of_a_line_only() {
        let cases = [
            ("Generation 0 of 3", Some(Kind::Generation)),
            ("[0] Generation 0 of 3", Some(Kind::Generation)),
            ("[  12] Bye! copying 3 segments", Some(Kind::Bye)),
            ("[1] Refused: no disk", Some(Kind::Refused)),
            ("Ouroboros: success", Some(Kind::Success)),
            ("[2] Ouroboros: failure", Some(Kind::Failure)),
            ("!! synchronous exception", Some(Kind::Fatal)),
            ("!! stopped", Some(Kind::Stopped)),
            ("[7] !! stopped at the control page", Some(Kind::Stopped)),
            ("the next Generation 4", None),
            ("[x] Generation 4", None),
            ("[] Generation 4", None),
            ("", None),
        ];
        for (line, kind) in cases {
            assert_eq!(classify(line), kind, "{line}");
        }
    }

    #[test]
    fn an_event_is_one_line_of_json() {
        let event =
            Event { at: Duration::from_micros(12_345), kind: Kind::Bye, line: "Bye! \"x\"".into() };
        let value: serde_json::Value = serde_json::from_str(&event.json()).unwrap();
        assert_eq!(
            (&value["ms"], &value["event"], &value["line"]),
            (&12.345.into(), &"bye".into(), &"Bye! \"x\"".into())
        );
    }
}
