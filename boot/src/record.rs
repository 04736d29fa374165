//! The entry record: what the first instruction found, and when the way in passed its stations.
//!
//! *When:* filled by the entry, in the image's data and outside bss, before anything but the vectors and the byte order is changed (what
//! both were is kept); read by Rust afterwards.
//! A new row is a field here and one `record` line in `entry.S`.

/// The largest device tree that the boot protocol allows: 2 MiB.
pub const DTB_MAX_SIZE: u64 = 2 << 20;

/// Registers as the first instruction found them. A register that the level of entry cannot read is zero.
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
    /// Where the image's first byte lay.
    pub load_address: u64,
    /// CurrentEL.
    pub current_el: u64,
    /// DAIF.
    pub daif: u64,
    /// SPSel.
    pub sp_sel: u64,
    /// SCTLR_ELx of the level of entry, before its EE was cleared.
    pub sctlr: u64,
    /// VBAR_ELx of the level of entry, before it became ours.
    pub vbar: u64,
    /// HCR_EL2, entered at EL2.
    pub hcr_el2: u64,
    /// HCR_EL2 as it reads after the EL2 set-up has written it: E2H is set where the CPU would not let go of it.
    pub hcr_el2_in_effect: u64,
    /// CNTVOFF_EL2, entered at EL2.
    pub cntvoff_el2: u64,
    /// CNTFRQ_EL0, in Hz.
    pub cntfrq: u64,
    /// MIDR_EL1.
    pub midr: u64,
    /// MPIDR_EL1.
    pub mpidr: u64,
    /// The size in bytes of the device tree that x0 named; zero where x0 named none. Mapped if it is at most [`DTB_MAX_SIZE`].
    pub dtb_size: u64,
    /// CNTVCT_EL0 at the first instruction.
    pub entered: u64,
    /// CNTVCT_EL0 when EL2 was set up and left; zero where the entry was at EL1.
    pub el2_ready: u64,
    /// CNTVCT_EL0 when the MMU was on.
    pub mmu_on: u64,
}
