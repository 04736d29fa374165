//! What the model notices, in words.
//!
//! *When:* a run of the code ends in anything but its contract.

use std::fmt;

use crate::decode::SystemRegister;
use crate::memory::Access;
use crate::system;
use crate::translation::Regime;

/// What went wrong.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Wrong {
    /// A word that is not on the closed list.
    Instruction(u32),
    /// A system register that is not.
    Register(SystemRegister),
    /// A name that the level does not have.
    Undefined(SystemRegister),
    /// A register whose layout E2H decides, written while E2H is on its way.
    Layout(SystemRegister),
    /// A register written with bits clear that are RES1.
    Reserved(SystemRegister, u64),
    /// An access to what the contract does not name.
    Access(Access, u64),
    /// An access that is not within a cache line: unaligned.
    Straddles(u64),
    /// A descriptor that ends the walk of an address in a fault.
    Translation(u64, u64),
    /// A leaf without nG.
    GlobalLeaf(u64),
    /// A translation that a former kernel left.
    StaleTranslation(u64),
    /// An access that the leaf forbids.
    Permission(Access, u64),
    /// Data accessed in the wrong byte order.
    BigEndian(u64),
    /// The counter, read where it may tell an earlier time than that of what precedes it.
    EarlyReading,
    /// More steps than any run of the code takes.
    Endless,
    /// The state at the end is not what the contract says: what.
    State(&'static str, u64),
    /// Something is pending at the end.
    Pending,
    /// A dirty line at the end where none may be.
    DirtyLine(u64),
    /// A line at the end that hides what memory holds.
    StaleLine(u64),
    /// An instruction at the end that would not be fetched as it lies in memory.
    StaleInstruction(u64),
    /// A byte at the end that is not what was to be there: where.
    Content(&'static str, u64),
    /// A regime whose TLB still holds a former kernel's entries at the end.
    LeftBehind(Regime),
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use Wrong::*;
        match self {
            Instruction(word) => write!(f, "{word:#010x} is not on the closed list"),
            Register(register) => write!(f, "{} is not on the list", system::name(*register)),
            Undefined(register) => {
                write!(f, "{} is UNDEFINED at this level", system::name(*register))
            }
            Layout(register) => {
                write!(
                    f,
                    "{} is written while E2H, which decides its layout, is on its way",
                    system::name(*register)
                )
            }
            Reserved(register, value) => {
                write!(
                    f,
                    "{} is written {value:#x}, with bits clear that are RES1",
                    system::name(*register)
                )
            }
            Access(access, at) => {
                write!(f, "{access:?} of {at:#x}, which the contract does not name")
            }
            Straddles(at) => write!(f, "the access at {at:#x} is not aligned"),
            Translation(at, descriptor) => {
                write!(f, "the walk for {at:#x} ends at descriptor {descriptor:#x}")
            }
            GlobalLeaf(at) => write!(f, "the leaf of {at:#x} is global"),
            StaleTranslation(at) => {
                write!(f, "{at:#x} is translated by an entry that a former kernel left")
            }
            Permission(access, at) => write!(f, "{access:?} of {at:#x}, which its leaf forbids"),
            BigEndian(at) => write!(f, "data at {at:#x} is accessed big-endian"),
            EarlyReading => write!(f, "the counter may be read before what precedes it"),
            Endless => write!(f, "it does not end"),
            State(what, value) => write!(f, "at the end {what} is {value:#x}"),
            Pending => write!(f, "stores or maintenance are pending at the end"),
            DirtyLine(at) => write!(f, "the line at {at:#x} is dirty at the end"),
            StaleLine(at) => write!(f, "the line at {at:#x} hides what memory holds"),
            StaleInstruction(at) => write!(f, "an old instruction would be fetched at {at:#x}"),
            Content(what, at) => write!(f, "{what}: {at:#x} does not hold what it should"),
            LeftBehind(regime) => {
                write!(f, "the TLB holds a former kernel's entries for {regime:?}")
            }
        }
    }
}

/// What went wrong, and where the program counter was.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Failure {
    /// The address of the instruction, where the code lies linked; none where the contract was due.
    pub at: Option<u64>,
    /// What.
    pub wrong: Wrong,
}
