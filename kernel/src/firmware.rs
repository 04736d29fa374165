//! PSCI calls (Arm DEN0022) through the conduit that the device tree names.
//!
//! - Works after [`prepare`]. Without PSCI 0.2 or later, every call returns NOT_SUPPORTED, and
//!   [`lack`] says why.
//! - In nvhe an HVC would reach our own hyp-stub. But on a machine with EL2, /psci names SMC, which
//!   the stub does not trap.

use boot::early_console;
use fdt::machine::{Conduit, Psci};
use smccc::{Call, Hvc, Smc};
use spin::Once;

static CONDUIT: Once<Result<Conduit, &str>> = Once::new();

/// Sets the conduit, once, for the early console as well.
pub fn prepare(psci: Option<&Psci>) {
    let conduit = match psci {
        None => Err("the device tree names no PSCI"),
        Some(psci) => psci.conduit_of_0_2().ok_or("PSCI 0.1 cannot say whether a CPU is off"),
    };
    CONDUIT.call_once(|| conduit);
    if let Ok(conduit) = conduit {
        early_console::end_by(match conduit {
            Conduit::Smc => early_console::Conduit::Smc,
            Conduit::Hvc => early_console::Conduit::Hvc,
        });
    }
}

/// Returns the reason why there is no firmware to call.
pub fn lack() -> Option<&'static str> {
    CONDUIT.get()?.err()
}

/// The machine's firmware, as `smccc::psci` calls it.
pub struct Firmware;

/// The return code NOT_SUPPORTED (DEN0022, 5.2.2).
const NOT_SUPPORTED: i32 = -1;

impl Call for Firmware {
    fn call32(function: u32, arguments: [u32; 7]) -> [u32; 8] {
        match CONDUIT.get() {
            Some(Ok(Conduit::Smc)) => Smc::call32(function, arguments),
            Some(Ok(Conduit::Hvc)) => Hvc::call32(function, arguments),
            _ => [NOT_SUPPORTED.cast_unsigned(); 8],
        }
    }

    fn call64(function: u32, arguments: [u64; 17]) -> [u64; 18] {
        match CONDUIT.get() {
            Some(Ok(Conduit::Smc)) => Smc::call64(function, arguments),
            Some(Ok(Conduit::Hvc)) => Hvc::call64(function, arguments),
            _ => [i64::from(NOT_SUPPORTED).cast_unsigned(); 18],
        }
    }
}
