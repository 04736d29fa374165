//! UARTs as numbers: the registers that a polled transmitter uses, and the values in them.
//!
//! - One loop drives every kind: wait until there is room, store the character. [`Uart::transmit`]
//!   is that loop in Rust, `printer` in `macros.S` is the same in assembly.
//! - The loader or firmware has set the line's speed. We only transmit.
//! - Each wait has a limit. A UART that never has room costs time, and no run hangs on it.

use crate::phys::{PAGE_SIZE, PhysAddr, PhysRange};
use core::ops::Range;

/// The number of times that a transmitter reads the status register before it gives up waiting.
pub const POLLS: u32 = 0x1_0000;

/// The layout of a UART's registers.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Kind {
    /// Arm's PL011 (Arm DDI 0183).
    Pl011,
    /// The generic UART of Arm's SBSA: a PL011's data and flags, without its set-up.
    Sbsa,
    /// 8250, 16450, 16550 and compatible ones.
    Ns8250,
    /// i.MX.
    Imx,
    /// NXP's LPUART with registers of 8 bits.
    Lpuart8,
    /// NXP's LPUART with registers of 32 bits.
    Lpuart32,
    /// Amlogic's Meson.
    Meson,
    /// Qualcomm's GENI serial engine.
    Geni,
    /// Qualcomm's UARTDM.
    UartDm,
    /// Cadence.
    Cadence,
    /// Renesas's SCIF, with a FIFO of 16 characters.
    Scif,
    /// Renesas's SCIF of the RZ family, whose registers are closer together.
    ScifRz,
    /// Renesas's HSCIF, with a FIFO of 128 characters.
    Hscif,
    /// Samsung's UART since the S3C2410, and Apple's S5L.
    S3c,
    /// Marvell's Armada 37xx.
    Mvebu,
}

/// A store of a word, or none if the address is zero.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Store {
    /// Address of the register, physical.
    pub address: u64,
    /// The value; its upper half is zero.
    pub value: u64,
}

/// A UART's transmitter. All addresses are physical.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
#[doc(alias = "earlycon")]
pub struct Uart {
    /// Address of the status register. Zero if there is no UART: then nothing is printed.
    pub status: u64,
    /// Address of the data register.
    pub data: u64,
    /// Stores that announce a character.
    pub before: [Store; 2],
    /// Bits of the status register that show whether there is room for a character.
    pub room_mask: u32,
    /// The value of those bits if there is room.
    pub room: u32,
    /// Bits of the status register that show whether every character has been sent.
    pub sent_mask: u32,
    /// The value of those bits once every character has been sent.
    pub sent: u32,
    /// Bytes of an access to the status register: 1, 2 or 4.
    pub status_bytes: u32,
    /// Bytes of an access to the data register: 1, 2 or 4.
    pub data_bytes: u32,
    /// Address of the control register that turns the transmitter on, or zero.
    pub control: u64,
    /// Its bits that must be set.
    pub enable: u32,
    /// Its bits that must be clear.
    pub disable: u32,
}

impl Kind {
    /// Returns the offsets of the status and data registers, then mask and value of the status
    /// register's bits for room, and for everything sent.
    const fn numbers(self, shift: u32) -> (u64, u64, (u32, u32), (u32, u32)) {
        match self {
            // FR: TXFF, BUSY. DR.
            Self::Pl011 | Self::Sbsa => (0x18, 0x0, (1 << 5, 0), (1 << 3, 0)),
            // LSR: THRE, TEMT. THR.
            Self::Ns8250 => (5 << shift, 0x0, (1 << 5, 1 << 5), (1 << 6, 1 << 6)),
            // UTS: TXFULL, TXEMPTY. UTXD.
            Self::Imx => (0xb4, 0x40, (1 << 4, 0), (1 << 6, 1 << 6)),
            // S1: TDRE, TC. D.
            Self::Lpuart8 => (0x4, 0x7, (1 << 7, 1 << 7), (1 << 6, 1 << 6)),
            // STAT: TDRE, TC. DATA.
            Self::Lpuart32 => (0x4, 0xc, (1 << 23, 1 << 23), (1 << 22, 1 << 22)),
            // STATUS: TX_FULL, TX_EMPTY without XMIT_BUSY. WFIFO.
            Self::Meson => (0xc, 0x0, (1 << 21, 0), (1 << 22 | 1 << 25, 1 << 22)),
            // SE_GENI_STATUS: M_GENI_CMD_ACTIVE. TX_FIFO0.
            Self::Geni => (0x40, 0x700, (1 << 0, 0), (1 << 0, 0)),
            // SR: TXEMT. TF.
            Self::UartDm => (0xa4, 0x70, (1 << 3, 1 << 3), (1 << 3, 1 << 3)),
            // SR: TFUL, TEMPTY without TACTIVE. FIFO.
            Self::Cadence => (0x2c, 0x30, (1 << 4, 0), (1 << 3 | 1 << 11, 1 << 3)),
            // SCFDR: the number of characters in the FIFO. SCFTDR. The status flag of SCFSR would
            // have to be cleared for each character.
            Self::Scif => (0x1c, 0xc, (16 << 8, 0), (0x1f << 8, 0)),
            Self::ScifRz => (0xe, 0x6, (16 << 8, 0), (0x1f << 8, 0)),
            Self::Hscif => (0x1c, 0xc, (128 << 8, 0), (0xff << 8, 0)),
            // UTRSTAT: transmit buffer empty, transmitter empty. UTXH.
            Self::S3c => (0x10, 0x20, (1 << 1, 1 << 1), (1 << 2, 1 << 2)),
            // STAT: TX_FULL, TX_EMPT. TSH.
            Self::Mvebu => (0xc, 0x4, (1 << 11, 0), (1 << 6, 1 << 6)),
        }
    }
}

impl Uart {
    /// Describes a UART of this kind whose registers begin at `base`.
    ///
    /// `shift` and `width` are the device tree's `reg-shift` and `reg-io-width` (1, 2 or 4 bytes).
    /// Only an 8250 has numbered registers, which `shift` spreads, and only 8250 and S3C vary in
    /// width.
    #[must_use]
    pub const fn new(kind: Kind, base: PhysAddr, shift: u32, width: u32) -> Self {
        let (status, data, (room_mask, room), (sent_mask, sent)) = kind.numbers(shift);
        let (status_bytes, data_bytes) = match kind {
            Kind::Ns8250 => (width, width),
            Kind::S3c => (4, width),
            Kind::Lpuart8 => (1, 1),
            Kind::Scif | Kind::ScifRz | Kind::Hscif => (2, 1),
            _ => (4, 4),
        };
        let before = match kind {
            // UART_TX_TRANS_LEN: one character. M_CMD0: start to transmit.
            Kind::Geni => [(0x270, 1), (0x600, 1 << 27)],
            // NCF_TX: one character.
            Kind::UartDm => [(0x40, 1), (0, 0)],
            _ => [(0, 0); 2],
        };
        let (control, enable, disable) = match kind {
            // CR: UARTEN, TXE.
            Kind::Pl011 => (base.get() + 0x30, 1 << 0 | 1 << 8, 0),
            // CR: TXEN, TXDIS. Out of reset the transmitter is off.
            Kind::Cadence => (base.get(), 1 << 4, 1 << 5),
            _ => (0, 0, 0),
        };
        Self {
            status: base.get() + status,
            data: base.get() + data,
            before: [Store::at(base, before[0]), Store::at(base, before[1])],
            room_mask,
            room,
            sent_mask,
            sent,
            status_bytes,
            data_bytes,
            control,
            enable,
            disable,
        }
    }

    /// Returns the numbers as they are in memory.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; size_of::<Self>()] {
        let words = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        let [first, second] = self.before;
        let all = [
            self.status,
            self.data,
            first.address,
            first.value,
            second.address,
            second.value,
            words(self.room_mask, self.room),
            words(self.sent_mask, self.sent),
            words(self.status_bytes, self.data_bytes),
            self.control,
            words(self.enable, self.disable),
        ];
        let mut bytes = [0; size_of::<Self>()];
        for (place, word) in bytes.chunks_exact_mut(8).zip(all) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// Returns whether there is a UART.
    #[must_use]
    pub const fn is_some(&self) -> bool {
        self.status != 0
    }

    /// Returns the pages that hold its registers.
    #[must_use]
    pub fn pages(&self) -> Range<PhysAddr> {
        let all = [self.status, self.data, self.before[0].address, self.before[1].address];
        let used = || all.into_iter().chain([self.control]).filter(|&address| address != 0);
        let (first, last) = (used().min().unwrap_or_default(), used().max().unwrap_or_default());
        (PhysAddr::new(first)..PhysAddr::new(last + 1)).whole_pages()
    }

    /// Parses a description as Linux's `earlycon=` has it: `pl011,0x9000000`,
    /// `uart8250,mmio32,0xfe215040`.
    ///
    /// A word for the width may stand before the address; what follows the address is ignored.
    ///
    /// # Errors
    ///
    /// [`Error::Unknown`], [`Error::NoAddress`].
    #[doc(alias = "earlycon")]
    pub fn parse(text: &str) -> Result<Self, Error<'_>> {
        let mut words = text.split(',');
        let name = words.next().unwrap_or_default();
        let known = NAMES.iter().find(|(known, ..)| *known == name).ok_or(Error::Unknown(name))?;
        let &(_, kind, mut shift, mut width) = known;
        let mut address = words.next().unwrap_or_default();
        let access = match address {
            "mmio" => Some((0, 1)),
            "mmio16" => Some((1, 2)),
            "mmio32" | "mmio32native" => Some((2, 4)),
            _ => None,
        };
        if let Some(access) = access {
            (shift, width) = access;
            address = words.next().unwrap_or_default();
        }
        let digits = address.strip_prefix("0x").ok_or(Error::NoAddress(text))?;
        // No register is as far as a page from the first.
        let base = u64::from_str_radix(digits, 16)
            .ok()
            .filter(|&base| base > 0 && base < u64::MAX - PAGE_SIZE);
        Ok(Self::new(kind, PhysAddr::new(base.ok_or(Error::NoAddress(text))?), shift, width))
    }

    /// Waits until there is room, for at most [`POLLS`] reads, and sends a character. Returns
    /// whether there was room.
    pub fn transmit(&self, registers: &mut impl Registers, character: u8) -> bool {
        if !self.is_some() {
            return true;
        }
        let has_room = self.wait(registers, POLLS, (self.room_mask, self.room));
        for store in self.before.iter().filter(|store| store.address != 0) {
            registers.write(store.address, 4, store.value as u32);
        }
        registers.write(self.data, self.data_bytes, character.into());
        has_room
    }

    /// Waits until every character has been sent, for at most 16 times [`POLLS`] reads.
    pub fn flush(&self, registers: &mut impl Registers) {
        if self.is_some() {
            self.wait(registers, 16 * POLLS, (self.sent_mask, self.sent));
        }
    }

    /// Turns the transmitter on, if a predecessor has turned it off. The line's speed, which is in
    /// other registers, stays.
    pub fn turn_on(&self, registers: &mut impl Registers) {
        if self.control != 0 {
            let control = registers.read(self.control, 4);
            registers.write(self.control, 4, control & !self.disable | self.enable);
        }
    }

    fn wait(&self, registers: &mut impl Registers, polls: u32, (mask, value): (u32, u32)) -> bool {
        (0..polls).any(|_| registers.read(self.status, self.status_bytes) & mask == value)
    }
}

impl Store {
    const fn at(base: PhysAddr, (offset, value): (u64, u64)) -> Self {
        Self { address: if offset == 0 { 0 } else { base.get() + offset }, value }
    }
}

/// Access to a UART's registers.
pub trait Registers {
    /// Reads a register of 1, 2 or 4 bytes.
    fn read(&mut self, address: u64, bytes: u32) -> u32;
    /// Writes a register of 1, 2 or 4 bytes.
    fn write(&mut self, address: u64, bytes: u32, value: u32);
}

/// A reason why a description is no UART.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error<'a> {
    /// No UART that we drive has this name.
    #[error("\"{0}\" is no UART that we drive: write pl011, uart8250 or another of Linux's names")]
    Unknown(&'a str),
    /// The description has no address.
    #[error("\"{0}\" has no address: write one, as in pl011,0x9000000")]
    NoAddress(&'a str),
}

/// Linux's names of early consoles: kind, `reg-shift`, `reg-io-width`.
const NAMES: [(&str, Kind, u32, u32); 21] = [
    ("pl011", Kind::Pl011, 0, 4),
    ("sbsa-uart", Kind::Sbsa, 0, 4),
    ("uart", Kind::Ns8250, 0, 1),
    ("uart8250", Kind::Ns8250, 0, 1),
    ("ns16550", Kind::Ns8250, 0, 1),
    ("ns16550a", Kind::Ns8250, 0, 1),
    ("ec_imx21", Kind::Imx, 0, 4),
    ("ec_imx6q", Kind::Imx, 0, 4),
    ("lpuart", Kind::Lpuart8, 0, 1),
    ("lpuart32", Kind::Lpuart32, 0, 4),
    ("meson", Kind::Meson, 0, 4),
    ("qcom_geni", Kind::Geni, 0, 4),
    ("msm_serial_dm", Kind::UartDm, 0, 4),
    ("cdns", Kind::Cadence, 0, 4),
    ("scif", Kind::Scif, 0, 4),
    ("rzscifa", Kind::ScifRz, 0, 4),
    ("hscif", Kind::Hscif, 0, 4),
    ("s5pv210", Kind::S3c, 0, 4),
    ("exynos4210", Kind::S3c, 0, 4),
    ("s5l", Kind::S3c, 0, 4),
    ("ar3700_uart", Kind::Mvebu, 0, 4),
];

/// Registers as device memory at their physical addresses, in an identity map.
#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "touches device registers")]
mod mmio {
    use super::Registers;
    use core::arch::asm;

    /// The machine's own registers.
    pub struct Mmio(());

    impl Mmio {
        /// Makes the access.
        ///
        /// # Safety
        ///
        /// Every address passed to it must be a device register, mapped 1:1 as device memory, that
        /// nothing else uses meanwhile.
        #[must_use]
        pub const unsafe fn new() -> Self {
            Self(())
        }
    }

    // A load or store with an address in a register and nothing else: a hypervisor can emulate it
    // from the syndrome alone (ESR_EL2.ISV), which it cannot for what a compiler may choose.
    macro_rules! access {
        ($instruction:literal, $address:expr, $($value:tt)*) => {
            // SAFETY: `Mmio::new` requires that the address is a mapped device register.
            unsafe {
                asm!(
                    concat!($instruction, " {value:w}, [{address}]"),
                    address = in(reg) $address,
                    value = $($value)*,
                    options(nostack, preserves_flags)
                )
            }
        };
    }

    impl Registers for Mmio {
        fn read(&mut self, address: u64, bytes: u32) -> u32 {
            let value: u32;
            match bytes {
                1 => access!("ldrb", address, out(reg) value),
                2 => access!("ldrh", address, out(reg) value),
                _ => access!("ldr", address, out(reg) value),
            }
            value
        }

        fn write(&mut self, address: u64, bytes: u32, value: u32) {
            match bytes {
                1 => access!("strb", address, in(reg) value),
                2 => access!("strh", address, in(reg) value),
                _ => access!("str", address, in(reg) value),
            }
        }
    }
}
#[cfg(target_os = "none")]
pub use mmio::Mmio;

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::offset_of;
    use std::vec::Vec;

    /// Registers that answer the status register with these values in turn, and record writes.
    struct Fake {
        status: Vec<u32>,
        reads: Vec<(u64, u32)>,
        writes: Vec<(u64, u32, u32)>,
    }

    impl Registers for Fake {
        fn read(&mut self, address: u64, bytes: u32) -> u32 {
            self.reads.push((address, bytes));
            if self.status.len() > 1 { self.status.remove(0) } else { self.status[0] }
        }
        fn write(&mut self, address: u64, bytes: u32, value: u32) {
            self.writes.push((address, bytes, value));
        }
    }

    fn fake(status: &[u32]) -> Fake {
        Fake { status: status.into(), reads: Vec::new(), writes: Vec::new() }
    }

    const BASE: PhysAddr = PhysAddr::new(0x900_0000);

    /// Each kind: its status register and width, a value with room and one without, one with
    /// everything sent and one without, and the writes for one character.
    #[test]
    fn each_kind_waits_for_room_and_sends() {
        for (kind, status, bytes, [room, full, sent, busy], writes) in [
            (Kind::Pl011, 0x18, 4, [0x90, 0x20, 0x90, 0x98], &[(0x0, 4, 0x41)][..]),
            (Kind::Sbsa, 0x18, 4, [0x90, 0x20, 0x90, 0x98], &[(0x0, 4, 0x41)]),
            (Kind::Ns8250, 0x14, 4, [0x60, 0x00, 0x60, 0x20], &[(0x0, 4, 0x41)]),
            (Kind::Imx, 0xb4, 4, [0x60, 0x30, 0x40, 0x20], &[(0x40, 4, 0x41)]),
            (Kind::Lpuart8, 0x4, 1, [0xc0, 0x40, 0xc0, 0x80], &[(0x7, 1, 0x41)]),
            (
                Kind::Lpuart32,
                0x4,
                4,
                [0x80_0000, 0x40_0000, 0x40_0000, 0x80_0000],
                &[(0xc, 4, 0x41)],
            ),
            (Kind::Meson, 0xc, 4, [0x40_0000, 0x20_0000, 0x40_0000, 0x240_0000], &[(0x0, 4, 0x41)]),
            (
                Kind::Geni,
                0x40,
                4,
                [0, 1, 0, 1],
                &[(0x270, 4, 1), (0x600, 4, 0x800_0000), (0x700, 4, 0x41)],
            ),
            (Kind::UartDm, 0xa4, 4, [0x8, 0x4, 0x8, 0x4], &[(0x40, 4, 1), (0x70, 4, 0x41)]),
            (Kind::Cadence, 0x2c, 4, [0x8, 0x10, 0x8, 0x808], &[(0x30, 4, 0x41)]),
            (Kind::Scif, 0x1c, 2, [0xf00, 0x1000, 0, 0x100], &[(0xc, 1, 0x41)]),
            (Kind::ScifRz, 0xe, 2, [0xf00, 0x1000, 0, 0x100], &[(0x6, 1, 0x41)]),
            (Kind::Hscif, 0x1c, 2, [0x7f00, 0x8000, 0, 0x2000], &[(0xc, 1, 0x41)]),
            (Kind::S3c, 0x10, 4, [0x2, 0x4, 0x4, 0x2], &[(0x20, 4, 0x41)]),
            (Kind::Mvebu, 0xc, 4, [0x40, 0x800, 0x40, 0x2], &[(0x4, 4, 0x41)]),
        ] {
            let uart = Uart::new(kind, BASE, 2, 4);
            let mut registers = fake(&[full, full, room]);
            assert!(uart.transmit(&mut registers, b'A'), "{kind:?}");
            assert_eq!(registers.reads, [(BASE.get() + status, bytes); 3], "{kind:?}");
            let at =
                |&(offset, bytes, value): &(u64, u32, u32)| (BASE.get() + offset, bytes, value);
            assert_eq!(registers.writes, writes.iter().map(at).collect::<Vec<_>>(), "{kind:?}");

            let mut registers = fake(&[busy, sent]);
            uart.flush(&mut registers);
            assert_eq!(registers.reads.len(), 2, "{kind:?}");
            let pages = uart.pages();
            assert_eq!(pages, BASE..BASE + 0x1000, "{kind:?}");
        }
    }

    #[test]
    fn the_bytes_are_those_of_memory() {
        let uart = Uart::new(Kind::Geni, BASE, 0, 4);
        let bytes = uart.to_bytes();
        let word =
            |offset: usize| u32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap());
        for (offset, value) in [
            (offset_of!(Uart, status), 0x900_0040),
            (offset_of!(Uart, data), 0x900_0700),
            (offset_of!(Uart, before), 0x900_0270),
            (offset_of!(Uart, before) + 8, 1),
            (offset_of!(Uart, before) + 16, 0x900_0600),
            (offset_of!(Uart, before) + 24, 0x800_0000),
            (offset_of!(Uart, room_mask), 1),
            (offset_of!(Uart, room), 0),
            (offset_of!(Uart, status_bytes), 4),
            (offset_of!(Uart, data_bytes), 4),
        ] {
            assert_eq!(word(offset), value, "byte {offset}");
        }
        let pl011 = Uart::new(Kind::Pl011, BASE, 0, 4).to_bytes();
        assert_eq!(pl011[offset_of!(Uart, control)..][..2], [0x30, 0x00]);
        assert_eq!(pl011[offset_of!(Uart, enable)..], [0x01, 0x01, 0, 0, 0, 0, 0, 0]);
        let cadence = Uart::new(Kind::Cadence, BASE, 0, 4).to_bytes();
        assert_eq!(cadence[offset_of!(Uart, control)..][..4], [0, 0, 0, 9]);
        assert_eq!(cadence[offset_of!(Uart, enable)..], [0x10, 0, 0, 0, 0x20, 0, 0, 0]);
    }

    #[test]
    fn no_wait_is_without_a_limit() {
        let mut registers = fake(&[0x28]);
        let uart = Uart::new(Kind::Pl011, BASE, 0, 4);
        assert!(!uart.transmit(&mut registers, b'A'));
        assert_eq!((registers.reads.len(), registers.writes.len()), (0x1_0000, 1));
        uart.flush(&mut registers);
        assert_eq!(registers.reads.len(), 0x11_0000);
    }

    #[test]
    fn the_pages_hold_every_register() {
        // The data register is the last of a page, and the first of the next one.
        for (base, end) in [(0x900_0fff, 0x900_2000), (0x900_1000, 0x900_2000)] {
            let uart = Uart::new(Kind::Ns8250, PhysAddr::new(base), 0, 1);
            assert_eq!(uart.pages().end, PhysAddr::new(end), "{base:#x}");
        }
        let one = Uart { control: 0x900_1000, ..Uart::default() };
        assert_eq!(one.pages(), PhysAddr::new(0x900_1000)..PhysAddr::new(0x900_2000));
    }

    #[test]
    fn an_address_may_be_a_page_before_the_end() {
        let parse = |base: u64| Uart::parse(std::format!("pl011,{base:#x}").leak()).is_ok();
        let limit = u64::MAX - PAGE_SIZE;
        assert_eq!([parse(1), parse(limit - 1), parse(limit)], [true, true, false]);
    }

    #[test]
    fn without_a_uart_nothing_is_touched() {
        let mut registers = fake(&[0]);
        assert!(Uart::default().transmit(&mut registers, b'A'));
        Uart::default().flush(&mut registers);
        Uart::default().turn_on(&mut registers);
        assert!(registers.reads.is_empty() && registers.writes.is_empty());
    }

    #[test]
    fn a_uart_is_turned_on_and_keeps_its_other_bits() {
        for (kind, offset, was, is) in
            [(Kind::Pl011, 0x30, 0x201, 0x301), (Kind::Cadence, 0, 0x128, 0x118)]
        {
            let mut registers = fake(&[was]);
            Uart::new(kind, BASE, 0, 4).turn_on(&mut registers);
            assert_eq!(registers.writes, [(BASE.get() + offset, 4, is)], "{kind:?}");
        }
        let mut registers = fake(&[0]);
        Uart::new(Kind::Sbsa, BASE, 0, 4).turn_on(&mut registers);
        assert!(registers.reads.is_empty() && registers.writes.is_empty());
    }

    #[test]
    fn a_description_is_written_as_for_linux() {
        let at = |kind, base, shift, width| Ok(Uart::new(kind, PhysAddr::new(base), shift, width));
        for (text, uart) in [
            ("pl011,0x9000000", at(Kind::Pl011, 0x900_0000, 0, 4)),
            ("pl011,mmio32,0x9000000", at(Kind::Pl011, 0x900_0000, 2, 4)),
            ("uart8250,mmio,0x1000000,115200n8", at(Kind::Ns8250, 0x100_0000, 0, 1)),
            ("uart8250,mmio16,0x1000000", at(Kind::Ns8250, 0x100_0000, 1, 2)),
            ("uart8250,mmio32,0xfe215040", at(Kind::Ns8250, 0xfe21_5040, 2, 4)),
            ("cdns,0xff000000", at(Kind::Cadence, 0xff00_0000, 0, 4)),
            ("pl022,0x9000000", Err(Error::Unknown("pl022"))),
            ("", Err(Error::Unknown(""))),
            ("pl011", Err(Error::NoAddress("pl011"))),
            ("pl011,9000000", Err(Error::NoAddress("pl011,9000000"))),
            ("pl011,0x0", Err(Error::NoAddress("pl011,0x0"))),
            ("pl011,0xfffffffffffffff0", Err(Error::NoAddress("pl011,0xfffffffffffffff0"))),
        ] {
            assert_eq!(Uart::parse(text), uart, "{text}");
        }
    }
}
