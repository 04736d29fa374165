//! Entry path: the Image header, the first instructions, the early idmap.
//!
//! Runs from the loader's jump to `kernel_main`, on the first CPU only. It accepts every state that
//! the boot protocol allows, at EL2 or EL1 \[I1\], and stops with a message on the early
//! console at any other exception level.
//!
//! When Rust starts:
//!
//! 1. The CPU is at EL1h. Debug exceptions, IRQ and FIQ are masked, SError is not.
//! 2. MMU and caches are on. The early idmap holds the image (text RX, the rest RW), the FDT (R)
//!    and the early console's UART, if the Image names one, and nothing else.
//! 3. The CPU has a stack, and TPIDR_EL1 points to its [`PerCpu`](crate::percpu::PerCpu) page.
//! 4. bss is clear, and the pointers in the image are relocated to its load address.
//! 5. Exceptions go to Rust's vectors.
//! 6. If the loader entered at EL2, the hyp-stub there answers `hvc #0`.
//! 7. The [`EntryRecord`] holds the state that the first instruction found.
#![expect(unsafe_code, reason = "assembly, and the names by which it and Rust know each other")]

use crate::failure_record::{FailureRecord, Reason};
use crate::phys::{PAGE_SHIFT, PAGE_SIZE};
use crate::record::EntryRecord;
use crate::sysreg::{
    asid, cptr, current_el, daif, descriptor, id_aa64mmfr0, id_aa64mmfr3, mair, sctlr, tcr,
};
use core::mem::offset_of;

/// Bit of a RELR entry that is set in a bitmap and clear in an address.
const RELR_BITMAP_BIT: u64 = 0;

/// Bytes of pointers that one RELR bitmap covers: a word for each bit but the lowest.
const RELR_BITMAP: u64 = 63 * 8;

unsafe extern "Rust" {
    /// The kernel's first line of Rust, defined by the crate that links this one.
    safe fn kernel_main(record: &'static EntryRecord) -> !;
}

/// Calls the kernel's first line of Rust, by the C ABI.
extern "C" fn enter_kernel(record: &'static EntryRecord) -> ! {
    kernel_main(record)
}

crate::assembly!(
    include_str!("entry.S"),
    FLAGS = const crate::image::FLAGS,
    KERNEL_MAIN = sym enter_kernel,
    RECORD_SIZE = const size_of::<EntryRecord>(),
    FAILURE_MAGIC = const crate::failure_record::MAGIC,
    FAILURE_SIZE = const size_of::<FailureRecord>(),
    REASON_LEVEL = const Reason::Level as u64,
    REASON_EARLY_IDMAP = const Reason::EarlyIdmap as u64,
    X0 = const offset_of!(EntryRecord, x0),
    X2 = const offset_of!(EntryRecord, x2),
    LOAD_ADDRESS = const offset_of!(EntryRecord, load_address),
    DTB_SIZE = const offset_of!(EntryRecord, dtb_size),
    ENTERED = const offset_of!(EntryRecord, entered),
    CURRENT_EL = const offset_of!(EntryRecord, current_el),
    DAIF = const offset_of!(EntryRecord, daif),
    SP_SEL = const offset_of!(EntryRecord, sp_sel),
    VBAR = const offset_of!(EntryRecord, vbar),
    SCTLR = const offset_of!(EntryRecord, sctlr),
    EE = const sctlr::EE,
    HCR_EL2 = const offset_of!(EntryRecord, hcr_el2),
    HCR_EL2_IN_EFFECT = const offset_of!(EntryRecord, hcr_el2_in_effect),
    CNTVOFF_EL2 = const offset_of!(EntryRecord, cntvoff_el2),
    CNTFRQ = const offset_of!(EntryRecord, cntfrq),
    MIDR = const offset_of!(EntryRecord, midr),
    MPIDR = const offset_of!(EntryRecord, mpidr),
    EL2_READY = const offset_of!(EntryRecord, el2_ready),
    MMU_ON = const offset_of!(EntryRecord, mmu_on),
    CURRENT_EL1 = const current_el::EL1,
    LEVEL = const crate::rule::LEVEL,
    PLACED = const crate::rule::PLACED,
    SCTLR_EL1_MMU_OFF = const sctlr::EL1_MMU_OFF,
    SCTLR_MMU_ON = const sctlr::MMU_ON,
    TCRX = const id_aa64mmfr3::TCRX,
    SCTLRX = const id_aa64mmfr3::SCTLRX,
    PARANGE = const id_aa64mmfr0::PARANGE,
    DAIF_A = const daif::A,
    CPACR = const cptr::FPEN,
    MAIR = const mair::VALUE,
    TCR = const tcr::VALUE,
    IPS_48_BITS = const tcr::IPS_48_BITS,
    IPS_SHIFT = const tcr::IPS_SHIFT,
    ASID_EARLY = const asid::EARLY,
    ASID_SHIFT = const asid::SHIFT,
    PAGE_SIZE = const PAGE_SIZE,
    PAGE_SHIFT = const PAGE_SHIFT,
    LEVEL_BITS = const descriptor::LEVEL_BITS,
    ADDRESS = const descriptor::ADDRESS,
    TABLE_OR_PAGE = const descriptor::TABLE_OR_PAGE,
    TEXT = const descriptor::TEXT,
    DATA = const descriptor::DATA,
    READ = const descriptor::READ,
    DEVICE = const descriptor::DEVICE,
    FDT_MAGIC = const crate::record::FDT_MAGIC as u64,
    FDT_MAX_SIZE = const crate::record::DTB_MAX_SIZE,
    RELR_BITMAP_BIT = const RELR_BITMAP_BIT,
    RELR_BITMAP = const RELR_BITMAP,
);
