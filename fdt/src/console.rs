//! The console that the device tree names: the kind of UART, and its numbers.
//!
//! - `stdout-path` in /chosen alone chooses it, by path or alias. Another UART may be a radio's, or
//!   have no clock: it is never a console.
//! - A kind gives the layout of the registers; the numbers give their place, distance and width.
//! - [`Error`] says why a console that `stdout-path` names cannot be used.

use crate::node::{Node, number, strings};
use alloc::string::String;
use boot::phys::PhysAddr;
pub use boot::uart::Kind;
use boot::uart::Uart;
use core::ops::Range;

/// A UART that the device tree names as the console.
#[derive(Clone, Debug, Eq, PartialEq)]
#[doc(alias = "stdout-path")]
#[doc(alias = "uart")]
pub struct Console {
    /// The layout of its registers.
    pub kind: Kind,
    /// Its registers: the first range of `reg`.
    pub registers: Range<PhysAddr>,
    /// The address of its first register. A kind may begin later than `registers`.
    pub base: PhysAddr,
    /// `reg-shift`: register number `n` is `n << reg_shift` bytes after `base`. Only an 8250 has
    /// numbered registers; others have offsets in bytes.
    pub reg_shift: u32,
    /// `reg-io-width`: bytes of each access, 1, 2 or 4.
    pub io_width: u32,
    /// The registers are big-endian.
    pub is_big_endian: bool,
}

/// One row of the table: a `compatible` string and what it says.
struct Known {
    /// The string. One `*` stands for any characters.
    compatible: &'static str,
    kind: Kind,
    /// `reg-shift`, if the node does not give it.
    reg_shift: u32,
    /// `reg-io-width`, if the node does not give it.
    io_width: u32,
    /// Offset of the first register.
    offset: u64,
    is_big_endian: bool,
}

const fn known(compatible: &'static str, kind: Kind, reg_shift: u32, io_width: u32) -> Known {
    Known { compatible, kind, reg_shift, io_width, offset: 0, is_big_endian: false }
}

/// Every console that we know, by the strings of Linux's bindings. The first row that matches
/// counts.
const TABLE: &[Known] = &[
    known("arm,sbsa-uart", Kind::Sbsa, 0, 4),
    known("arm,pl011", Kind::Pl011, 0, 4),
    known("ns16550*", Kind::Ns8250, 0, 1),
    known("ns16450", Kind::Ns8250, 0, 1),
    known("ns8250", Kind::Ns8250, 0, 1),
    known("snps,dw-apb-uart", Kind::Ns8250, 0, 1),
    known("mediatek,*-uart", Kind::Ns8250, 2, 4),
    known("nvidia,tegra*-uart", Kind::Ns8250, 2, 4),
    known("ti,*-uart", Kind::Ns8250, 2, 4),
    known("brcm,bcm2835-aux-uart", Kind::Ns8250, 2, 4),
    known("brcm,bcm7271-uart", Kind::Ns8250, 2, 4),
    known("nuvoton,npcm*-uart", Kind::Ns8250, 2, 1),
    known("mrvl,mmp-uart", Kind::Ns8250, 2, 4),
    known("fsl,imx*-uart", Kind::Imx, 0, 4),
    known("fsl,vf610-lpuart", Kind::Lpuart8, 0, 1),
    Known { is_big_endian: true, ..known("fsl,ls1021a-lpuart", Kind::Lpuart32, 0, 4) },
    known("fsl,ls*-lpuart", Kind::Lpuart32, 0, 4),
    // The i.MX has two registers more, before the others.
    Known { offset: 0x10, ..known("fsl,imx*-lpuart", Kind::Lpuart32, 0, 4) },
    known("amlogic,meson-*uart", Kind::Meson, 0, 4),
    known("qcom,geni-*uart", Kind::Geni, 0, 4),
    known("qcom,msm-uartdm*", Kind::UartDm, 0, 4),
    known("cdns,uart-*", Kind::Cadence, 0, 4),
    known("xlnx,xuartps", Kind::Cadence, 0, 4),
    known("renesas,scif-r9a0*", Kind::ScifRz, 0, 2),
    known("renesas,scif-r7s9210", Kind::ScifRz, 0, 2),
    known("renesas,scif*", Kind::Scif, 0, 2),
    known("renesas,hscif*", Kind::Hscif, 0, 2),
    known("renesas,rcar-gen*scif", Kind::Scif, 0, 2),
    known("samsung,exynos*-uart", Kind::S3c, 0, 1),
    known("google,gs101-uart", Kind::S3c, 0, 4),
    known("apple,s5l-uart", Kind::S3c, 0, 4),
    known("marvell,armada-3700-uart*", Kind::Mvebu, 0, 4),
];

impl Known {
    fn is(&self, compatible: &[u8]) -> bool {
        match self.compatible.split_once('*') {
            Some((start, end)) => compatible
                .strip_prefix(start.as_bytes())
                .is_some_and(|rest| rest.ends_with(end.as_bytes())),
            None => compatible == self.compatible.as_bytes(),
        }
    }
}

impl Console {
    /// Describes the console of this node, whose first register range is `registers`.
    pub(crate) fn of(
        node: &Node<'_>,
        path: String,
        is_available: bool,
        registers: Option<Range<PhysAddr>>,
    ) -> Result<Self, Error> {
        let compatible = node.property("compatible").unwrap_or_default();
        let mut known = strings(compatible).filter_map(|one| TABLE.iter().find(|row| row.is(one)));
        let Some(known) = known.next() else {
            let first = strings(compatible).next().unwrap_or_default();
            return Err(Error::Unknown(path, String::from_utf8_lossy(first).into_owned()));
        };
        if !is_available {
            return Err(Error::Disabled(path));
        }
        let registers = registers.ok_or_else(|| Error::NoAddress(path.clone()))?;
        let offset = node.property("reg-offset").map_or(known.offset, number);
        let base = registers.start.checked_add(offset).filter(|base| *base < registers.end);
        let io_width = node.cell("reg-io-width").unwrap_or(known.io_width);
        let reg_shift = node.cell("reg-shift").unwrap_or(known.reg_shift);
        let (Some(base), 1 | 2 | 4, 0..=4) = (base, io_width, reg_shift) else {
            return Err(Error::Layout(path));
        };
        let is_big_endian = known.is_big_endian || node.property("big-endian").is_some();
        Ok(Self { kind: known.kind, registers, base, reg_shift, io_width, is_big_endian })
    }

    /// Returns what a transmitter needs. `None` for big-endian registers, which we do not drive.
    #[must_use]
    pub fn uart(&self) -> Option<Uart> {
        let Self { kind, base, reg_shift, io_width, .. } = *self;
        (!self.is_big_endian).then(|| Uart::new(kind, base, reg_shift, io_width))
    }
}

/// The reason why the console that `stdout-path` names cannot be used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// No node is at this path or alias.
    #[error("/chosen/stdout-path names {0}, and the device tree has no such node")]
    NoNode(String),
    /// The node at this path has a `compatible` that is not in the table.
    #[error("/chosen/stdout-path names {0}, and we know no console \"{1}\"")]
    Unknown(String, String),
    /// The node at this path, or a bus before it, is disabled.
    #[error("/chosen/stdout-path names {0}, which is disabled")]
    Disabled(String),
    /// The node at this path has no address that the CPU can use.
    #[error("/chosen/stdout-path names {0}, whose `reg` is no address of the CPU's")]
    NoAddress(String),
    /// The node at this path has a `reg-shift`, `reg-io-width` or `reg-offset` that cannot be.
    #[error("/chosen/stdout-path names {0}, whose registers have an impossible layout")]
    Layout(String),
}

#[cfg(test)]
mod tests;
