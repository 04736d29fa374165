//! PSCI, by the conduit that the device tree names: CPUs on and off, the machine off (Arm DEN0022).
//!
//! *When:* from [`prepare`] on. In nvhe HVC would reach our own stub: there /psci says SMC, and the stub lets it pass. *Refuses:* a call where the
//! tree names no conduit, as firmware does that knows none of them.

use kernel::tree::Conduit;
use smccc::{Call, Hvc, Smc};
use spin::Once;

static CONDUIT: Once<Conduit> = Once::new();

/// Says once how firmware is called.
pub fn prepare(conduit: Option<Conduit>) {
    if let Some(conduit) = conduit {
        CONDUIT.call_once(|| conduit);
    }
}

/// This machine's firmware, for `smccc::psci`.
pub struct Firmware;

/// NOT_SUPPORTED (DEN0022, 5.2.2).
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
