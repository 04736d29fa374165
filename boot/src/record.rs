//! Entry record: the state at the first instruction, and times of the entry path.
//!
//! `entry` fills it after it has changed only SPSel, SP, the vectors and the byte order. It stores
//! what SPSel, VBAR and SCTLR were; the old SP is lost. The record is in the image's data, because
//! bss is cleared later. Rust only reads it.
//!
//! A new register is a field here and one `record` line in `entry.S`.

/// Size of the largest device tree that the boot protocol allows: 2 MiB.
pub const DTB_MAX_SIZE: u64 = 2 << 20;

/// The first word of a device tree blob, in big-endian order (Devicetree specification, 5.2).
pub const FDT_MAGIC: u32 = 0xd00d_feed;

/// Registers as the first instruction found them, and timestamps.
///
/// A register that cannot be read at the level of entry is zero.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C, align(256))]
pub struct EntryRecord {
    /// x0: by the boot protocol the device tree's physical address.
    pub x0: u64,
    /// x1: zero by the boot protocol.
    pub x1: u64,
    /// x2: zero by the boot protocol.
    pub x2: u64,
    /// x3: zero by the boot protocol.
    pub x3: u64,
    /// Address of the image's first byte.
    pub load_address: u64,
    /// CurrentEL.
    pub current_el: u64,
    /// DAIF.
    pub daif: u64,
    /// SPSel.
    pub sp_sel: u64,
    /// SCTLR_ELx of the level of entry, before its EE was cleared.
    pub sctlr: u64,
    /// VBAR_ELx of the level of entry, before our vectors replaced it.
    pub vbar: u64,
    /// HCR_EL2, if entered at EL2.
    pub hcr_el2: u64,
    /// HCR_EL2 after the EL2 set-up. Its E2H was tested: it is set on a CPU where it is always 1.
    pub hcr_el2_in_effect: u64,
    /// CNTVOFF_EL2, if entered at EL2.
    pub cntvoff_el2: u64,
    /// CNTFRQ_EL0, in Hz.
    pub cntfrq: u64,
    /// MIDR_EL1.
    pub midr: u64,
    /// MPIDR_EL1.
    pub mpidr: u64,
    /// Size in bytes of the device tree that x0 points to; zero if there is none.
    ///
    /// The early idmap holds the tree if the size is at most [`DTB_MAX_SIZE`].
    pub dtb_size: u64,
    /// CNTVCT_EL0 at the first instruction.
    pub entered: u64,
    /// CNTVCT_EL0 after the EL2 set-up; zero if entered at EL1.
    pub el2_ready: u64,
    /// CNTVCT_EL0 once the MMU was on.
    pub mmu_on: u64,
}
