//! The failures that the model reports: every way to end outside the contract.

use std::fmt;

use crate::decode::SystemRegister;
use crate::memory::Access;
use crate::system;
use crate::translation::Regime;

/// A violation of the contract or of the architecture.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Violation {
    /// The word is not in the closed list of instructions.
    Instruction(u32),
    /// The system register is not in the list of registers.
    Register(SystemRegister),
    /// The register name does not exist at this exception level.
    Undefined(SystemRegister),
    /// E2H decides the register's layout, and a change of E2H is not in effect yet.
    Layout(SystemRegister),
    /// HCR_EL2, which routes exceptions, is written while DAIF does not mask them all.
    Unmasked(u64),
    /// The value written has RES1 bits clear.
    Reserved(SystemRegister, u64),
    /// The contract does not allow this access.
    Access(Access, u64),
    /// The access crosses a cache line, so it is unaligned.
    Straddles(u64),
    /// The walk for an address ends in a fault at this descriptor.
    Translation(u64, u64),
    /// The leaf has nG clear.
    GlobalLeaf(u64),
    /// A previous kernel's TLB entry translates this address.
    StaleTranslation(u64),
    /// The leaf forbids this access.
    Permission(Access, u64),
    /// The call uses a guarded control stack that no code has set up.
    ControlStack(u64),
    /// The data access has the wrong byte order.
    BigEndian(u64),
    /// The counter is read where it may return an earlier time than that of preceding accesses.
    EarlyReading,
    /// The run takes more steps than any correct run.
    Endless,
    /// A value at the end differs from the contract: which, and what it is.
    State(&'static str, u64),
    /// A store or maintenance operation is pending at the end.
    Pending,
    /// A line is dirty at the end that must not be.
    DirtyLine(u64),
    /// A line at the end hides the contents of memory.
    StaleLine(u64),
    /// A fetch at the end would return something other than memory holds.
    StaleInstruction(u64),
    /// A byte at the end is wrong: which object, and its address.
    Content(&'static str, u64),
    /// The TLB still holds a previous kernel's entries of this regime at the end.
    LeftBehind(Regime),
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use Violation::*;
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
            Unmasked(daif) => write!(f, "HCR_EL2 is written with DAIF {daif:#x}"),
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
            ControlStack(at) => {
                write!(f, "the bl at {at:#x} uses a guarded control stack, which is not set up")
            }
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

/// A failure, and the program counter where it happened.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Failure {
    /// Address of the instruction as linked; `None` if the contract failed at the end.
    pub at: Option<u64>,
    /// The violation.
    pub wrong: Violation,
}
