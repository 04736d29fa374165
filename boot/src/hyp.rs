//! ABI of the hyp-stub: the calls that a kernel at EL1 makes to EL2 by `hvc #0`.
//!
//! The number is in x0, and so is the result. A call affects only the calling CPU, and may clobber
//! x0 to x18 and TPIDR_EL2. Names and numbers are Linux's
//! (Documentation/virt/kvm/arm/hyp-abi.rst).
//!
//! The stub answers from the moment the entry path leaves EL2. In nvhe its last call is the
//! SET_VECTORS after "Bye!", which installs the private vectors; in vhe it is FINALISE_EL2.

/// Sets VBAR_EL2 to x1, the physical address of a vector table.
///
/// Returns 0, or [`STUB_ERR`] if x1 is not aligned to 2 KiB.
pub const SET_VECTORS: u64 = 0;

/// Jumps to physical address x1 at EL2h, DAIF masked, EL2's MMU and caches off.
///
/// Moves x2, x3, x4 to x0, x1, x2; x3 keeps its value. Does not return.
pub const SOFT_RESTART: u64 = 1;

/// Sets VBAR_EL2 back to the stub and turns EL2's MMU off. Returns 0.
///
/// The stub itself has nothing to do for this: its vectors are installed, its MMU is off.
pub const RESET_VECTORS: u64 = 2;

/// Moves the caller from EL1 to EL2 with E2H set, in the map that EL1 has on. Returns 0.
///
/// Requires a caller at EL1h, EL2's MMU off, and FEAT_VHE. Otherwise it changes nothing and returns
/// [`STUB_ERR`].
pub const FINALISE_EL2: u64 = 3;

/// Result of a refused call, and of every unknown number.
pub const STUB_ERR: u64 = 0xbad_ca11;

/// Alignment of a vector table (VBAR_ELx bits 10:0 are RES0).
pub const VECTORS_ALIGNMENT: u64 = 1 << 11;
