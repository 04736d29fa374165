//! `cargo xtask VERB | head -1`: when its reader goes away, xtask ends without a word.

use std::{
    io::pipe,
    process::{Command, Stdio},
};

#[test]
fn verbs_that_print_end_quietly_when_no_one_reads() {
    for (words, code) in [
        (["test", "--list"].as_slice(), 141),
        (&["stress", "--list"], 141),
        (&["doctor"], 141),
        // clap prints the help, and drops the error.
        (&["--help"], 0),
    ] {
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        let command = command.args(words).stdin(Stdio::null()).stdout(writer);
        let output = command.output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{words:?}");
        assert_eq!(output.status.code(), Some(code), "{words:?}");
    }
}
