//! A GIC's register banks: enabled, pending and active bits, 32 interrupts to a word.
//!
//! - When: whenever [`Gic`](super::Gic) reads or silences interrupts.
//! - Leaves, after [`Bank::silence`]: no interrupt of the bank enabled, pending or active.
#![expect(unsafe_code, reason = "claims the GIC's registers")]

use crate::intid::Kind;
use crate::pointer;
use arm_gic::UniqueMmioPointer;
use arm_gic::gicv3::GicRedistributor;
use arm_gic::gicv3::registers::GicrSgi;
use boot::phys::PhysAddr;
use core::ops::Range;
use core::ptr::NonNull;
use safe_mmio::fields::ReadPureWrite;

// Register offsets, valid for banks in GICD and in GICR's SGI frame alike (GICv3: IHI 0069, 12.9
// and 12.11; GICv2: IHI 0048, 4.3).
const ISENABLER: u64 = 0x100;
const ICENABLER: u64 = 0x180;
pub const ISPENDR: u64 = 0x200;
const ICPENDR: u64 = 0x280;
const ISACTIVER: u64 = 0x300;
const ICACTIVER: u64 = 0x380;
const GICD_CPENDSGIR: u64 = 0xf10;
pub const GICR_SGI: u64 = 0x1_0000;

/// The number of reads of RWP before we stop waiting: a second or so.
const POLLS: u32 = 10_000_000;

/// Enabled, pending and active bits of one kind of interrupt, 32 to a word.
pub struct Bank {
    /// The frame's base address.
    pub base: PhysAddr,
    /// The kind of interrupts in this bank.
    pub kind: Kind,
    /// The words of this bank.
    pub words: Range<u64>,
    /// The register that holds RWP, and the bit; `None` on a GICv2.
    pub control: Option<(PhysAddr, u32)>,
    /// True on a GICv2.
    pub is_v2: bool,
}

impl Bank {
    /// Returns the first enabled, the first pending and the first active INTID.
    pub fn found(&self) -> [Option<u32>; 3] {
        [ISENABLER, ISPENDR, ISACTIVER].map(|offset| {
            self.words.clone().find_map(|nth| {
                // Some GICv2s have their SGIs permanently enabled: not a predecessor's doing.
                let ours = if self.is_v2 && nth == 0 && offset == ISENABLER {
                    0xffff_0000
                } else {
                    u32::MAX
                };
                let set = self.word(offset, nth).read() & ours;
                (set != 0).then(|| self.kind.first(nth) + set.trailing_zeros())
            })
        })
    }

    /// Disables all interrupts and clears their pending and active bits.
    pub fn silence(&self) {
        self.disable_all();
        self.clear_pending();
        self.deactivate();
        wait_for_rwp(self.control);
    }

    #[inline(never)]
    fn disable_all(&self) {
        self.fill(ICENABLER);
    }

    #[inline(never)]
    fn clear_pending(&self) {
        self.fill(ICPENDR);
        // A GICv2 keeps one pending bit of an SGI for each sender. Write only where one is set: a
        // virtual GICv2 may lack the registers (Xen's aborts the write).
        if self.is_v2 && self.words.start == 0 {
            let pending = self.word(ISPENDR, 0).read();
            (0..4)
                .filter(|nth| pending >> (4 * nth) & 0xf != 0)
                .for_each(|nth| word(self.base, GICD_CPENDSGIR + 4 * nth).write(u32::MAX));
        }
    }

    #[inline(never)]
    fn deactivate(&self) {
        self.fill(ICACTIVER);
    }

    fn fill(&self, offset: u64) {
        self.words.clone().for_each(|nth| self.word(offset, nth).write(u32::MAX));
    }

    /// Disables the interrupt at `bit` of word `nth`.
    pub fn disable(&self, nth: u64, bit: u32) {
        self.word(ICENABLER, nth).write(bit);
    }

    fn word(&self, bank: u64, nth: u64) -> UniqueMmioPointer<'static, ReadPureWrite<u32>> {
        word(self.base, self.kind.offset(bank, nth))
    }

    /// Returns the redistributor of this bank of private interrupts.
    pub fn redistributor(&self) -> GicRedistributor<'static> {
        let frames = pointer(self.base - GICR_SGI).cast::<GicrSgi>();
        let frames = NonNull::new(frames).expect("a GIC at address 0");
        // SAFETY: as for `register`; these are both frames of one CPU's own redistributor.
        GicRedistributor::new(unsafe { UniqueMmioPointer::new(frames) })
    }
}

/// Returns the 32-bit register at `base + offset`.
pub fn word(base: PhysAddr, offset: u64) -> UniqueMmioPointer<'static, ReadPureWrite<u32>> {
    register(base, offset)
}

/// Returns the register at `base + offset`.
pub fn register<T>(base: PhysAddr, offset: u64) -> UniqueMmioPointer<'static, ReadPureWrite<T>> {
    let register = NonNull::new(pointer(base + offset).cast()).expect("a GIC at address 0");
    // SAFETY: the device tree says that the GIC's registers are here; the kernel maps them as
    // device memory. Only the CPU itself accesses its private registers. Shared registers are set
    // up before the other CPUs start and left after they stop; in between, only single bits are
    // written.
    unsafe { UniqueMmioPointer::new(register) }
}

/// Waits until RWP is clear, and so all earlier writes are in effect, for at most [`POLLS`] reads.
///
/// If it stays set, the GIC is broken. The next kernel reports what it finds enabled.
pub fn wait_for_rwp(control: Option<(PhysAddr, u32)>) {
    if let Some((register, pending)) = control {
        let _ = (0..POLLS).find(|_| word(register, 0).read() & pending == 0);
    }
}
