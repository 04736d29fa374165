//! The way in: header, first instructions, early map, self-relocation.
//!
//! *When:* from the loader's jump to `kernel_main`. *On entry:* whatever the boot protocol allows, at EL2 or EL1. *Leaves,* as true
//! when Rust starts: EL1h; debug, IRQ and FIQ masked; MMU and caches on in the early map, which holds the image (code RX, the rest RW), the
//! device tree (R) and the emergency UART; a stack, cleared bss, relocated pointers; Rust's vectors; at EL2, where there is one,
//! the hyp-stub; and the entry record. *Refuses:* any other exception level, by the emergency printer.
#![expect(unsafe_code, reason = "assembly, and the names by which it and Rust know each other")]

use crate::phys::{PAGE_SHIFT, PAGE_SIZE};
use crate::record::EntryRecord;
use crate::sysreg::{asid, cptr, current_el, descriptor, mair, sctlr, tcr};
use core::mem::offset_of;

/// How many bytes of pointers a bitmap of RELR covers: a word for each of its bits but the lowest.
const RELR_BITMAP: u64 = 63 * 8;

unsafe extern "Rust" {
    /// The kernel's first line of Rust, in the crate that links this one.
    safe fn kernel_main(record: &'static EntryRecord) -> !;
}

/// Goes from assembly to the kernel's first line of Rust.
extern "C" fn enter_kernel(record: &'static EntryRecord) -> ! {
    kernel_main(record)
}

crate::assembly!(
    include_str!("entry.S"),
    FLAGS = const crate::image::FLAGS,
    EMERGENCY_UART = const crate::emergency::UART,
    KERNEL_MAIN = sym enter_kernel,
    RECORD_SIZE = const size_of::<EntryRecord>(),
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
    SCTLR_EL1_MMU_OFF = const sctlr::EL1_MMU_OFF,
    SCTLR_MMU_ON = const sctlr::MMU_ON,
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
    FDT_MAGIC = const crate::flat::MAGIC as u64,
    FDT_MAX_SIZE = const crate::record::DTB_MAX_SIZE,
    RELR_BITMAP = const RELR_BITMAP,
);
