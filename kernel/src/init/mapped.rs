//! The second step: builds the kernel's idmap, opens the console and turns LPIs off.
//!
//! - Maps the image, the FDT, devices, and UEFI's memory map if that describes RAM.
//! - Leaves RAM to the next step: turning LPIs off needs the GIC's registers, and may reserve RAM
//!   that a redistributor keeps writing to.
//! - Panics, on the early console, on an address beyond 48 bits.
#![expect(unsafe_code, reason = "switches the map, and opens the console")]

use super::Error;
use super::parsed::Parsed;
use crate::console;
use crate::interrupts::{self, StaleLpis};
use crate::layout::Parts;
use crate::map::{KernelIdmap, Regions};
use crate::memory::pointer;
use alloc::vec::Vec;
use boot::early_console;
use boot::phys::{PhysAddr, PhysRange};
use boot::uart::Uart;
use core::ops::Range;
use efi::memory::MemoryMap;
use fdt::machine::{self, FirmwareMap, Machine, Reservation};
use frames::layout::usable;
use log::{info, warn};
use protocol::mode::Mode;

/// The kernel's idmap in use, without RAM; the console open.
pub struct Mapped {
    /// The step before.
    pub parsed: Parsed,
    /// The parts of this image.
    pub parts: Parts,
    /// The kernel's idmap.
    pub map: KernelIdmap,
    /// The console's UART, if there is one that we drive.
    pub uart: Option<Uart>,
    /// The LPI state that the previous kernel left.
    pub stale_lpis: StaleLpis,
    /// The pages of UEFI's memory map, if that describes RAM. They stay reserved.
    pub firmware_map: Option<Range<PhysAddr>>,
}

impl Parsed {
    /// Builds the kernel's idmap and switches to it.
    ///
    /// # Errors
    ///
    /// [`Error::Tree`], if UEFI's memory map is to describe RAM and does not.
    pub fn map(mut self) -> Result<Mapped, Error> {
        let machine = &self.facts.machine;
        // The command line's UART, else the FDT's, else the one that the Image names, unless that
        // is RAM on this machine.
        let is_ram = |uart: &Uart| machine.ram.iter().any(|ram| ram.overlaps(&uart.pages()));
        let of_image = || Some(early_console::of_image()).filter(|uart| uart.is_some());
        let uart = self
            .facts
            .cmdline
            .earlycon
            .or_else(|| machine.console.as_ref()?.uart())
            .or_else(|| of_image().filter(|uart| !is_ram(uart)));
        let mut devices = machine.virtio.clone();
        devices.extend(uart.iter().map(Uart::pages));
        devices.extend(machine.gic.iter().flat_map(|gic| gic.registers()));
        devices.extend(machine.its.iter().cloned());
        let parts = Parts::of_this_image();
        let tree = self.fdt_pages();
        let firmware_map = machine.firmware_map.as_ref().map(|map| map.range.whole_pages());
        let read: Vec<_> = [tree].into_iter().chain(firmware_map.clone()).collect();
        let regions = Regions { devices: &devices, image: &parts, read: &read };
        // SAFETY: `activate` requires regions that describe this machine and this image. The device
        // ranges come from the FDT, and the image's parts from the linker.
        let map = unsafe { KernelIdmap::activate(self.facts.mode == Mode::Vhe, &regions) };
        // SAFETY: `open` requires a mapped UART that nothing else drives. The command line, the FDT
        // or the Image names it as the console, and `activate` mapped it as device memory.
        unsafe { console::open(uart.as_ref(), self.facts.generation) };
        if let Some(why) = &self.facts.machine.console_error {
            warn!("no console: {why}");
        }
        for skipped in &self.facts.machine.skipped {
            warn!("skipped in the device tree: {skipped}");
        }
        if self.facts.is_unnamed {
            warn!("the device tree does not name this CPU: continuing with this CPU alone");
        }
        // SAFETY: `take_ram` requires that the memory map is mapped. `activate` mapped it.
        unsafe { take_ram(&mut self.facts.machine) }?;
        let stale_lpis = interrupts::turn_lpis_off(&mut self.facts.machine);
        Ok(Mapped { parsed: self, parts, map, uart, stale_lpis, firmware_map })
    }
}

/// Takes RAM from UEFI's memory map, if that describes it, and reserves the map.
///
/// # Safety
///
/// The map must be mapped, and nothing may write to it meanwhile.
unsafe fn take_ram(machine: &mut Machine) -> Result<(), machine::Error> {
    let Some(FirmwareMap { range, stride, .. }) = machine.firmware_map.clone() else {
        return Ok(());
    };
    // SAFETY: `from_raw_parts` requires mapped, initialized memory that is not written meanwhile.
    // Our caller guarantees that, and any byte is valid.
    let bytes = unsafe {
        core::slice::from_raw_parts(pointer(range.start).cast_const(), range.bytes() as usize)
    };
    let map = MemoryMap::new(bytes, stride).ok_or(machine::Error::FirmwareMap)?;
    machine.take_ram(map.ram())?;
    machine.ram = usable(&machine.ram);
    info!("UEFI's memory map at {} describes RAM", range.start);
    let name = "UEFI's memory map".into();
    machine.reserved.push(Reservation { range, name, no_map: false });
    Ok(())
}
