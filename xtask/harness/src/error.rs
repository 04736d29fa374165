//! Errors that callers recognise by their type.

use std::fmt;

/// The error of a request for something that does not exist; ends xtask with exit code 2.
#[derive(Debug)]
pub struct Usage(
    /// The message: what does not exist, and what exists instead.
    pub String,
);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// An error that skips a case, because this host lacks something optional.
#[derive(Debug)]
pub struct Skipped(
    /// The missing thing.
    pub String,
);

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skipped {}
