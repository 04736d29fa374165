//! A device's register as a pointer for volatile accesses.
#![expect(unsafe_code, reason = "touches registers that the device tree names")]

use crate::memory::pointer;
use boot::phys::PhysAddr;
use core::ptr::NonNull;
use safe_mmio::UniqueMmioPointer;
use safe_mmio::fields::ReadPureWrite;

/// Returns a register of a device that no driver uses meanwhile.
pub fn register_at<T>(address: u64) -> UniqueMmioPointer<'static, ReadPureWrite<T>> {
    let register = NonNull::new(pointer(PhysAddr::new(address)).cast())
        .expect("device registers at address 0");
    // SAFETY: the device tree, or a BAR of a function on a bus that it names, says that registers
    // are here. The kernel maps them as device memory. A driver of this device does nothing while
    // we run.
    unsafe { UniqueMmioPointer::new(register) }
}
