//! Errors that callers recognise by their type.

use std::fmt;

use anyhow::Result;

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
#[derive(Clone, Debug)]
pub struct Skipped {
    /// The missing thing, after "needs".
    pub lacks: String,
    /// The part of it that this case needs.
    pub detail: Option<String>,
    /// The command that mends it, or what to do by hand.
    pub mend: String,
}

impl Skipped {
    /// Separates a reason to skip from other errors.
    pub fn part<T>(got: Result<T>) -> Result<Result<T, Self>> {
        match got {
            Ok(got) => Ok(Ok(got)),
            Err(error) => error.downcast().map(Err),
        }
    }

    /// The need alone, without what mends it.
    pub fn need(&self) -> String {
        let detail = self.detail.as_ref().map(|detail| format!(" ({detail})"));
        format!("needs {}{}", self.lacks, detail.unwrap_or_default())
    }
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.need(), self.mend)
    }
}

impl std::error::Error for Skipped {}
