//! Progress of a campaign: a bar on a terminal, plain lines otherwise.
//!
//! A thread reads the counters that the runs update. It shows the rate, and an estimate of the time
//! left if there is a goal.

use std::{
    io::IsTerminal,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// The time between two updates of the bar, and between two plain lines.
const TICK: Duration = Duration::from_millis(200);
const LINE: Duration = Duration::from_secs(10);

/// The goal of a campaign.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Goal {
    /// A number of generations or faults.
    Count(u64),
    /// A duration.
    Time(Duration),
    /// No goal.
    Open,
}

/// Counters that the runs update.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Generations that started, or faults that ended.
    pub done: Arc<AtomicU64>,
    /// Failed runs.
    pub failed: Arc<AtomicU64>,
}

/// The display; `close` ends it.
pub struct Progress {
    stop: mpsc::Sender<()>,
    shown: JoinHandle<()>,
    bars: Option<MultiProgress>,
}

impl Progress {
    /// Starts the display; `unit` names what `counters.done` counts, in the plural.
    pub fn open(goal: Goal, unit: &'static str, counters: &Counters) -> Self {
        let (stop, stopped) = mpsc::channel();
        let counters = counters.clone();
        let bars = std::io::stderr().is_terminal().then(MultiProgress::new);
        let bar = bars.as_ref().map(|bars| bars.add(bar(goal, unit)));
        let shown = thread::spawn(move || {
            let started = Instant::now();
            let tick = if bar.is_some() { TICK } else { LINE };
            while stopped.recv_timeout(tick) == Err(mpsc::RecvTimeoutError::Timeout) {
                let done = counters.done.load(Ordering::Relaxed);
                let line = line(
                    goal,
                    unit,
                    done,
                    counters.failed.load(Ordering::Relaxed),
                    started.elapsed(),
                );
                match &bar {
                    Some(bar) => {
                        bar.set_position(match goal {
                            Goal::Time(_) => started.elapsed().as_millis() as u64,
                            _ => done,
                        });
                        bar.set_message(line);
                    }
                    None => println!("{line}"),
                }
            }
            if let Some(bar) = bar {
                bar.finish_and_clear();
            }
        });
        Self { stop, shown, bars }
    }

    /// Prints a line that stays.
    pub fn say(&self, line: &str) {
        match &self.bars {
            // An error means that the terminal was closed; there is no one to report it to.
            Some(bars) => _ = bars.println(line),
            None => println!("{line}"),
        }
    }

    /// Ends the display.
    pub fn close(self) {
        drop(self.stop);
        let _ = self.shown.join();
    }
}

fn bar(goal: Goal, unit: &str) -> ProgressBar {
    let (bar, template) = match goal {
        Goal::Count(count) => (ProgressBar::new(count), "{bar:30} {msg}"),
        Goal::Time(time) => (ProgressBar::new(time.as_millis() as u64), "{bar:30} {msg}"),
        Goal::Open => (ProgressBar::new_spinner(), "{spinner} {msg}"),
    };
    let style = ProgressStyle::with_template(template).expect("a template of known keys");
    bar.with_style(style).with_message(unit.to_owned())
}

/// Formats `120 of 5000 generations, 43.2/s, 113 s left, 0 failed`.
fn line(goal: Goal, unit: &str, done: u64, failed: u64, elapsed: Duration) -> String {
    let rate = done as f64 / elapsed.as_secs_f64().max(0.001);
    let (of, left) = match goal {
        Goal::Count(count) if done == 0 => (format!(" of {count}"), None),
        Goal::Count(count) => {
            (format!(" of {count}"), Some(count.saturating_sub(done) as f64 / rate))
        }
        Goal::Time(time) => (String::new(), Some(time.saturating_sub(elapsed).as_secs_f64())),
        Goal::Open => (String::new(), None),
    };
    let left = left.map_or(String::new(), |left| format!(", {left:.0} s left"));
    format!("{done}{of} {unit}, {rate:.1}/s{left}, {failed} failed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_is_estimated_where_it_can_be() {
        let ten = Duration::from_secs(10);
        let said = |goal, done| line(goal, "generations", done, 1, ten);
        assert_eq!(
            said(Goal::Count(500), 100),
            "100 of 500 generations, 10.0/s, 40 s left, 1 failed"
        );
        assert_eq!(said(Goal::Count(500), 0), "0 of 500 generations, 0.0/s, 1 failed");
        assert_eq!(said(Goal::Time(3 * ten), 100), "100 generations, 10.0/s, 20 s left, 1 failed");
        assert_eq!(said(Goal::Open, 100), "100 generations, 10.0/s, 1 failed");
    }
}
