//! PSCI calls (Arm DEN0022) through the conduit that the device tree names.
//!
//! - Works after [`prepare`]. Without a conduit, every call returns NOT_SUPPORTED.
//! - In nvhe an HVC would reach our own hyp-stub. But on a machine with EL2, /psci names SMC, which
//!   the stub does not trap.

use fdt::machine::Conduit;
use smccc::{Call, Hvc, Smc};
use spin::Once;

static CONDUIT: Once<Conduit> = Once::new();

/// Sets the conduit, once.
pub fn prepare(conduit: Option<Conduit>) {
    if let Some(conduit) = conduit {
        CONDUIT.call_once(|| conduit);
    }
}

/// The machine's firmware, as `smccc::psci` calls it.
pub struct Firmware;

/// The return code NOT_SUPPORTED (DEN0022, 5.2.2).
const NOT_SUPPORTED: i32 = -1;

impl Call for Firmware {
    fn call32(function: u32, arguments: [u32; 7]) -> [u32; 8] {
        match CONDUIT.get() {
            Some(Conduit::Smc) => Smc::call32(function, arguments),
            Some(Conduit::Hvc) => Hvc::call32(function, arguments),
            None => [NOT_SUPPORTED.cast_unsigned(); 8],
        }
    }

    fn call64(function: u32, arguments: [u64; 17]) -> [u64; 18] {
        match CONDUIT.get() {
            Some(Conduit::Smc) => Smc::call64(function, arguments),
            Some(Conduit::Hvc) => Hvc::call64(function, arguments),
            None => [i64::from(NOT_SUPPORTED).cast_unsigned(); 18],
        }
    }
}
