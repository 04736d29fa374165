//! The second step: builds the kernel's idmap, opens the console and turns LPIs off.
//!
//! - Maps the image, the FDT and devices. RAM comes later: turning LPIs off needs the GIC's
//!   registers, and may reserve RAM that a redistributor keeps writing to.
//! - Panics, on the early console, on an address beyond 48 bits.
#![expect(unsafe_code, reason = "switches the map, and opens the console")]

use super::parsed::Parsed;
use crate::console;
use crate::interrupts::{self, StaleLpis};
use crate::layout::Parts;
use crate::map::{KernelIdmap, Regions};
use boot::phys::{PAGE_SIZE, PhysAddr, PhysRange};
use core::ops::Range;
use protocol::mode::Mode;

/// The kernel's idmap in use, without RAM; the console open.
pub struct Mapped {
    /// The step before.
    pub parsed: Parsed,
    /// The parts of this image.
    pub parts: Parts,
    /// The kernel's idmap.
    pub map: KernelIdmap,
    /// The console's PL011: the one in the FDT, or the early console's.
    pub uart: Range<PhysAddr>,
    /// The LPI state that the previous kernel left.
    pub stale_lpis: StaleLpis,
}

impl Parsed {
    /// Builds the kernel's idmap and switches to it.
    pub fn map(mut self) -> Mapped {
        let machine = &self.facts.machine;
        // Map the early console's UART as well, whichever UART the console uses: the assembly
        // printer reports its failures there.
        let early_uart =
            PhysAddr(boot::early_console::UART)..PhysAddr(boot::early_console::UART + PAGE_SIZE);
        let uart = machine.uart.clone().unwrap_or_else(|| early_uart.clone());
        let mut devices = machine.virtio.clone();
        devices.push(uart.clone());
        devices.extend(machine.gic.iter().flat_map(|gic| gic.registers()));
        devices.extend(machine.its.iter().cloned());
        if !machine.ram.iter().any(|ram| ram.overlaps(&early_uart)) {
            devices.push(early_uart);
        }
        let parts = Parts::of_this_image();
        let tree = self.given_pages();
        let regions = Regions { devices: &devices, image: &parts, tree: &tree };
        // SAFETY: `activate` requires regions that describe this machine and this image. The device
        // ranges come from the FDT, and the image's parts from the linker.
        let map = unsafe { KernelIdmap::activate(self.facts.mode == Mode::Vhe, &regions) };
        // SAFETY: `open` requires a mapped PL011 that nothing else drives. The FDT names one at
        // `uart`, or it is the early console's; `activate` mapped it as device memory.
        unsafe { console::open(uart.start, self.facts.generation) };
        let stale_lpis = interrupts::turn_lpis_off(&mut self.facts.machine);
        Mapped { parsed: self, parts, map, uart, stale_lpis }
    }
}
