//! The window that an arm64 kernel and its initrd must share.
//!
//! Both must be in one window of 32 GiB that starts at a multiple of 1 GiB (arm64 booting document,
//! section 3). The last generation uses this when it plans the kexec of a payload.

use boot::phys::PhysAddr;
use core::ops::Range;

const SIZE: u64 = 32 << 30;
const ALIGNMENT: u64 = 1 << 30;

/// Returns whether the kernel and its initrd fit into one window.
#[must_use]
#[doc(alias = "ramdisk")]
#[doc(alias = "initramfs")]
pub fn holds(kernel: &Range<PhysAddr>, initrd: &Range<PhysAddr>) -> bool {
    let start = kernel.start.min(initrd.start).align_down(ALIGNMENT);
    kernel.end.max(initrd.end).get() - start.get() <= SIZE
}

/// Returns the windows to search for a place: the highest and the lowest that hold the kernel.
#[must_use]
pub fn of(kernel: &Range<PhysAddr>) -> [Range<PhysAddr>; 2] {
    let last = kernel.end.get().saturating_sub(SIZE).next_multiple_of(ALIGNMENT);
    [kernel.start.align_down(ALIGNMENT).get(), last]
        .map(|start| PhysAddr::new(start)..PhysAddr::new(start).saturating_add(SIZE))
}

/// Returns the part of `ram` that is in the window. It is empty if they do not overlap.
#[must_use]
pub fn cut(ram: &Range<PhysAddr>, initrd_window: &Range<PhysAddr>) -> Range<PhysAddr> {
    ram.start.max(initrd_window.start)..ram.end.min(initrd_window.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn range(start: u64, end: u64) -> Range<PhysAddr> {
        PhysAddr::new(start)..PhysAddr::new(end)
    }

    #[test]
    fn a_window_is_32_gib_from_a_multiple_of_one() {
        let kernel = range(GIB + 5, GIB + 9);
        assert!(holds(&kernel, &range(33 * GIB - 1, 33 * GIB)));
        assert!(!holds(&kernel, &range(33 * GIB - 1, 33 * GIB + 1)));
        assert!(holds(&kernel, &range(GIB, GIB + 1)));
        assert!(
            !holds(&range(32 * GIB, 32 * GIB + 1), &range(GIB - 1, GIB)),
            "the window would start at 0"
        );
        assert!(holds(&range(32 * GIB, 32 * GIB + 1), &range(GIB, GIB + 1)));
    }

    #[test]
    fn windows_hold_the_kernel_and_whatever_is_in_them() {
        for start in [
            0,
            4096,
            GIB - 4096,
            GIB,
            31 * GIB,
            32 * GIB - 4096,
            32 * GIB,
            77 * GIB + 4096,
            u64::MAX - GIB,
        ] {
            let kernel = range(start, start + 8192);
            for initrd_window in of(&kernel) {
                assert!(
                    initrd_window.start <= kernel.start && kernel.end <= initrd_window.end,
                    "{start:#x}: {initrd_window:?}"
                );
                let ends = [
                    range(initrd_window.start.get(), initrd_window.start.get() + 1),
                    range(initrd_window.end.get() - 1, initrd_window.end.get()),
                ];
                assert!(
                    ends.iter().all(|end| holds(&kernel, end)),
                    "{start:#x}: {initrd_window:?}"
                );
            }
        }
    }

    #[test]
    fn the_windows_are_the_highest_and_the_lowest() {
        for (start, highest, lowest) in [
            (0, 0, 0),
            (GIB, 1, 0),
            (32 * GIB - 8192, 31, 0),
            (32 * GIB - 4096, 31, 1),
            (33 * GIB - 8192, 32, 1),
            (77 * GIB + 4096, 77, 46),
        ] {
            assert_eq!(
                of(&range(start, start + 8192)).map(|initrd_window| initrd_window.start.get()),
                [highest * GIB, lowest * GIB],
                "{start:#x}"
            );
        }
    }

    #[test]
    fn ram_is_cut_to_the_window() {
        assert_eq!(cut(&range(3, 9), &range(5, 7)), range(5, 7));
        assert_eq!(cut(&range(3, 9), &range(1, 4)), range(3, 4));
        assert!(cut(&range(3, 9), &range(9, 12)).is_empty());
        assert!(cut(&range(3, 9), &range(11, 12)).is_empty());
    }
}
