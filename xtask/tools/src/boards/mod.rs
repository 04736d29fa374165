//! The verb `boards`: reads the device tree of every arm64 board that Debian's kernel knows.
//!
//! - Each tree gets RAM and /chosen where it has none, as a boot loader fills them in.
//! - Each goes through the reader, the hand-over and the edits of /chosen, as in the kernel.
//! - The table says on how many boards we find what we need, and `--show` names the others.

mod board;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};

use self::board::{Board, Finding};
use harness::debian::DeviceTrees;

/// Read the device trees of all boards in Debian's arm64 kernel package; print what we find
#[derive(Args, Debug)]
#[command(after_help = "\
The package is fetched by apt, once, without root, into cargo's target directory.

Exit code: 0 if each tree was read, handed over and edited; 1 otherwise.

Examples:
  cargo xtask boards
  cargo xtask boards --suite trixie --show console
  cargo xtask boards --dtbs /usr/lib/linux-image-6.12/ --json boards.json")]
pub struct BoardsOptions {
    /// Read the .dtb files in this folder and below, instead of Debian's
    #[arg(long, value_name = "DIR")]
    dtbs: Option<PathBuf>,
    /// Fetch the package of this suite of Debian [default: what this machine's apt installs]
    #[arg(long, value_name = "SUITE", conflicts_with = "dtbs")]
    suite: Option<String>,
    /// Name the boards that lack this, and say why
    #[arg(long, value_enum, value_name = "WHAT")]
    show: Option<Column>,
    /// Write each board's row to this file too, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// A column of the table.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Column {
    /// The tree can be read
    Read,
    /// It describes the same machine after the hand-over and the edits of /chosen
    Edited,
    /// No node had to be skipped
    Whole,
    /// An interrupt controller that we know
    Gic,
    /// The generic timer
    Timer,
    /// PSCI
    Psci,
    /// A console that we know
    Console,
    /// All that a generation needs
    Runs,
}

impl Column {
    fn of(self, board: &Board) -> &Finding {
        match self {
            Self::Read => &board.read,
            Self::Edited => &board.edited,
            Self::Whole => &board.whole,
            Self::Gic => &board.gic,
            Self::Timer => &board.timer,
            Self::Psci => &board.psci,
            Self::Console => &board.console,
            Self::Runs => &board.runs,
        }
    }
}

impl BoardsOptions {
    /// Reads all trees and prints the table; returns the exit code.
    pub fn perform(&self) -> Result<u8> {
        let (folder, whose) = match &self.dtbs {
            Some(folder) => (folder.clone(), folder.display().to_string()),
            None => {
                let DeviceTrees { folder, release } = DeviceTrees::get(self.suite.as_deref())?;
                (folder, release)
            }
        };
        let mut files = Vec::new();
        find(&folder, &mut files)?;
        files.sort();
        ensure!(!files.is_empty(), "no .dtb file is below {}", folder.display());
        let boards = files.iter().map(|file| {
            let blob = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
            let name = file.strip_prefix(&folder).unwrap_or(file).display().to_string();
            Ok(Board::of(name, &blob))
        });
        let boards: Vec<_> = boards.collect::<Result<_>>()?;

        println!("of {} boards ({whose})", boards.len());
        for column in Column::value_variants() {
            println!("{}", row(*column, &boards));
        }
        if let Some(column) = self.show {
            println!();
            for board in &boards {
                if let Finding::None(why) | Finding::Missed(why) = column.of(board) {
                    println!("{}: {why}", board.name);
                }
            }
        }
        if let Some(file) = &self.json {
            let rows = serde_json::to_string_pretty(&boards)?;
            fs::write(file, rows + "\n")
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
        let is_good = |board: &Board| board.read.is_found() && board.edited.is_found();
        Ok(u8::from(!boards.iter().all(is_good)))
    }
}

/// Returns one row: how many boards have it, and of how many the tree names none.
fn row(column: Column, boards: &[Board]) -> String {
    let name = column.to_possible_value().map(|value| value.get_name().to_owned());
    let count =
        |is: fn(&Finding) -> bool| boards.iter().filter(|board| is(column.of(board))).count();
    let found = count(Finding::is_found);
    let none = count(|finding| matches!(finding, Finding::None(_)));
    let missed = count(|finding| matches!(finding, Finding::Missed(_)));
    let mut row = format!("  {:<8} {found:>5}", name.unwrap_or_default());
    if none > 0 {
        row += &format!("   {none} name none");
    }
    if missed > 0 {
        row += &format!("   {missed} missed");
    }
    row
}

/// Finds the .dtb files in a folder and below.
fn find(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(folder);
    for entry in entries.with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, files)?;
        } else if path.extension().is_some_and(|end| end == "dtb") {
            files.push(path);
        }
    }
    Ok(())
}
