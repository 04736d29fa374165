//! The kinds of faults, as typed on the command line.

use clap::ValueEnum;

/// The kinds of faults.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Kind {
    /// A bit that flips in memory that a kexec depends on, between load and jump
    MemoryBits,
    /// A bit that flips in a source or the device tree, after the point of no return
    LateBit,
    /// A flipped bit in a payload on the disk
    DiskBits,
    /// A flipped bit in the FIT's tree on the disk
    ContentsBit,
    /// Sectors that cannot be read
    ReadErrors,
    /// A disk that ends too early
    ShortDisk,
    /// A disk whose reads are split into pieces
    SplitReads,
    /// A disk that is slow
    SlowDisk,
    /// Memory that is nearly full
    LittleMemory,
    /// A damaged device tree
    DamagedTree,
    /// A CPU that hangs with its interrupts masked
    StuckCpu,
    /// Interrupts of no device of ours while a kexec is under way
    Storm,
}

impl Kind {
    /// The name as typed on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map_or(String::new(), |value| value.get_name().to_owned())
    }
}
