//! Time from one generation's first instruction to the next one's: the cost of a restart.
//!
//! A value that a console does not report makes the figure "not measured", never a wrong one.

use anyhow::{Context, Result};

use harness::transcript::GenerationLog;

/// One restart, with the loading before it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    /// Number of the generation that the span begins with.
    pub number: u32,
    /// Nanoseconds, including waits for the disk.
    pub whole: u64,
    /// Nanoseconds spent waiting for the disk.
    pub waited: u64,
    /// Bytes hashed in this time.
    pub hashed: u64,
}

impl Span {
    /// Returns the nanoseconds without waits for the disk.
    pub fn busy(&self) -> f64 {
        self.whole.saturating_sub(self.waited) as f64
    }
}

/// Returns how long the phase `name` took on the way to a generation, in nanoseconds.
pub fn phase(gen_log: &GenerationLog, name: &str) -> Result<u64> {
    let found = gen_log.trace.iter().find(|(phase, _)| phase == name);
    found
        .map(|(_, ns)| *ns)
        .with_context(|| format!("generation {} does not report `{name}`", gen_log.number))
}

/// Returns the span between each two consecutive generations, or an error naming what the console
/// did not report.
pub fn spans(logs: &[GenerationLog]) -> impl Iterator<Item = Result<Span>> {
    let followed = logs.windows(2).filter(|pair| pair[1].number == pair[0].number + 1);
    followed.map(|pair| span(&pair[0], &pair[1]))
}

fn span(from: &GenerationLog, to: &GenerationLog) -> Result<Span> {
    let number = from.number;
    let known = |field: Option<u64>, what: &str| {
        field.with_context(|| format!("the console of generation {number} does not say {what}"))
    };
    let whole = to.entered.checked_sub(from.entered);
    let whole =
        whole.with_context(|| format!("the counter went backwards after generation {number}"))?;
    let waited = known(from.waited, "how long it waited for the disk")?;
    Ok(Span { number, whole, waited, hashed: known(from.hashed, "how much it hashed")? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use harness::transcript::{GOOD, logs};

    #[test]
    fn a_span_reaches_from_first_instruction_to_first_instruction() {
        let span = spans(&logs(GOOD).unwrap()).next().unwrap().unwrap();
        assert_eq!(span, Span { number: 0, whole: 20_000_000, waited: 191_024, hashed: 164_128 });
        assert_eq!(span.busy(), 19_808_976.0);
    }

    #[test]
    fn a_phase_is_found_by_its_name() {
        let logs = logs(GOOD).unwrap();
        assert_eq!(phase(&logs[1], "copied").unwrap(), 2);
        assert!(phase(&logs[1], "baked").unwrap_err().to_string().contains("baked"));
    }

    #[test]
    fn a_missing_value_is_not_made_up() {
        let mut silent = logs(GOOD).unwrap();
        silent[0].waited = None;
        let lacks = spans(&silent).next().unwrap().unwrap_err();
        assert!(lacks.to_string().contains("disk"), "{lacks}");
    }

    #[test]
    fn what_does_not_follow_is_no_span() {
        let mut logs = logs(GOOD).unwrap();
        logs.remove(1);
        assert_eq!(spans(&logs).count(), 0);
    }
}
