//! A GIC's banks: what is enabled, pending and active, 32 interrupts to a word; and the way to any of its registers.
//!
//! *When:* under [`Gic`](super::Gic). *Leaves:* after [`Bank::silence`], nothing of a bank enabled, pending or active.
#![expect(unsafe_code, reason = "claims the GIC's registers")]

use crate::memory::pointer;
use arm_gic::UniqueMmioPointer;
use arm_gic::gicv3::GicRedistributor;
use arm_gic::gicv3::registers::GicrSgi;
use boot::phys::PhysAddr;
use core::ops::Range;
use core::ptr::NonNull;
use kernel::intid::Kind;
use safe_mmio::fields::ReadPureWrite;

// Registers by their offsets, where banks are walked alike in GICD and in GICR's SGI frame (GICv3: IHI 0069, 12.9 and 12.11; GICv2: IHI 0048, 4.3).
const ISENABLER: u64 = 0x100;
const ICENABLER: u64 = 0x180;
pub const ISPENDR: u64 = 0x200;
const ICPENDR: u64 = 0x280;
const ISACTIVER: u64 = 0x300;
const ICACTIVER: u64 = 0x380;
const GICD_CPENDSGIR: u64 = 0xf10;
pub const GICR_SGI: u64 = 0x1_0000;

/// Enable, pending and active bits, 32 interrupts to a word.
pub struct Bank {
    /// Where its registers begin.
    pub base: PhysAddr,
    /// Of which kind its interrupts are.
    pub kind: Kind,
    /// Its words.
    pub words: Range<u64>,
    /// Where RWP is, and which bit.
    pub control: Option<(PhysAddr, u32)>,
    /// Of a GICv2.
    pub is_v2: bool,
}

impl Bank {
    /// The first INTID that is enabled, that is pending, that is active.
    pub fn found(&self) -> [Option<u32>; 3] {
        [ISENABLER, ISPENDR, ISACTIVER].map(|offset| {
            self.words.clone().find_map(|nth| {
                // SGIs of a GICv2 may be enabled for good, which is nobody's doing.
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

    /// Everything disabled, not pending, not active.
    pub fn silence(&self) {
        self.disable_all();
        self.clear_pending();
        self.deactivate();
        settle(self.control);
    }

    #[inline(never)]
    fn disable_all(&self) {
        self.fill(ICENABLER);
    }

    #[inline(never)]
    fn clear_pending(&self) {
        self.fill(ICPENDR);
        if self.is_v2 && self.words.start == 0 {
            // A pending SGI of a GICv2 is cleared for each sender.
            (0..4).for_each(|nth| word(self.base, GICD_CPENDSGIR + 4 * nth).write(u32::MAX));
        }
    }

    #[inline(never)]
    fn deactivate(&self) {
        self.fill(ICACTIVER);
    }

    fn fill(&self, offset: u64) {
        self.words.clone().for_each(|nth| self.word(offset, nth).write(u32::MAX));
    }

    /// Disables the interrupt that has `bit` of word `nth`.
    pub fn disable(&self, nth: u64, bit: u32) {
        self.word(ICENABLER, nth).write(bit);
    }

    fn word(&self, bank: u64, nth: u64) -> UniqueMmioPointer<'static, ReadPureWrite<u32>> {
        word(self.base, self.kind.offset(bank, nth))
    }

    /// The redistributor whose private interrupts these are.
    pub fn redistributor(&self) -> GicRedistributor<'static> {
        let frames = pointer(PhysAddr(self.base.0 - GICR_SGI)).cast::<GicrSgi>();
        let frames = NonNull::new(frames).expect("a GIC at address 0");
        // SAFETY: as for `word`; both frames of this CPU's own redistributor.
        GicRedistributor::new(unsafe { UniqueMmioPointer::new(frames) })
    }
}

/// A register of a word.
pub fn word(base: PhysAddr, offset: u64) -> UniqueMmioPointer<'static, ReadPureWrite<u32>> {
    register(base, offset)
}

/// A register.
pub fn register<T>(base: PhysAddr, offset: u64) -> UniqueMmioPointer<'static, ReadPureWrite<T>> {
    let register =
        NonNull::new(pointer(PhysAddr(base.0 + offset)).cast()).expect("a GIC at address 0");
    // SAFETY: the device tree says that the GIC's registers lie there; they are mapped as device memory. Those of one CPU are that CPU's alone;
    // those that all share are set up before the others are on and left after they are off, or written one bit at a time.
    unsafe { UniqueMmioPointer::new(register) }
}

/// Waits until what was written is in effect.
pub fn settle(control: Option<(PhysAddr, u32)>) {
    if let Some((register, pending)) = control {
        while word(register, 0).read() & pending != 0 {}
    }
}
