//! The hyp-stub's ABI: what a kernel at EL1 asks of the little that it left at EL2, by `hvc #0` with a number in x0.
//!
//! *When:* from the moment the entry leaves EL2 until the next kernel sets its own vectors. The names and numbers are Linux's
//! (Documentation/virt/kvm/arm/hyp-abi.rst). A call acts on the calling CPU only, answers in x0, and may clobber x0 to x18
//! and TPIDR_EL2.

/// x1 = physical address of vectors, 2 KiB aligned: VBAR_EL2 becomes x1. Answers 0, or [`STUB_ERR`] where it is misaligned.
pub const SET_VECTORS: u64 = 0;

/// x1 = physical address; x2, x3, x4: go there at EL2h, DAIF masked, EL2's MMU and caches off, with x0, x1, x2 = x2, x3, x4.
/// x3 stays as it was. Does not return.
pub const SOFT_RESTART: u64 = 1;

/// VBAR_EL2 back to the stub, EL2's MMU off: to the stub itself, whose MMU is off, nothing to do. Answers 0.
pub const RESET_VECTORS: u64 = 2;

/// From EL1h with EL2's MMU off, on a CPU with FEAT_VHE: go on at EL2 with E2H, in the map that EL1 has on. Answers 0, or
/// [`STUB_ERR`] and nothing has changed.
pub const FINALISE_EL2: u64 = 3;

/// The answer to what was refused, and to every other number.
pub const STUB_ERR: u64 = 0xbad_ca11;

/// What vectors must be aligned to (VBAR_ELx bits 10:0 are RES0).
pub const VECTORS_ALIGNMENT: u64 = 1 << 11;
