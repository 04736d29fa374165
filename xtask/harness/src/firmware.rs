//! Firmware that QEMU starts instead of the Image, and where distributions install it.

use std::path::{Path, PathBuf};

use crate::parts;

/// A firmware: its name, and the paths that distributions use.
#[derive(Debug, Eq, PartialEq)]
pub struct Firmware {
    /// The name for messages.
    pub name: &'static str,
    /// The paths to try; the first that exists is taken.
    pub places: &'static [&'static str],
}

/// EDK2 for QEMU's `virt`.
pub const EDK2: Firmware = Firmware {
    name: "EDK2 for 64-bit Arm",
    places: &["/usr/share/qemu-efi-aarch64/QEMU_EFI.fd", "/usr/share/edk2/aarch64/QEMU_EFI.fd"],
};

/// U-Boot for QEMU's `virt`.
pub const U_BOOT: Firmware = Firmware {
    name: "U-Boot for QEMU's 64-bit Arm",
    places: &["/usr/lib/u-boot/qemu_arm64/u-boot.bin", "/usr/share/uboot/qemu_arm64/u-boot.bin"],
};

impl Firmware {
    /// The firmware's path: the user's own, or the installed one.
    pub fn found(&self) -> Option<PathBuf> {
        let own = parts::firmware(self).map(Path::to_owned);
        own.or_else(|| self.places.iter().map(PathBuf::from).find(|place| place.is_file()))
    }

    /// Recognises a firmware by its bytes: an EDK2 volume by its signature, U-Boot by its banner.
    pub fn of(bytes: &[u8]) -> Option<&'static Self> {
        let holds = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
        match bytes.get(40..44) {
            Some(b"_FVH") => Some(&EDK2),
            _ if holds(b"U-Boot 2") => Some(&U_BOOT),
            _ => None,
        }
    }

    /// The paths that are tried, for messages.
    pub fn places(&self) -> String {
        self.places.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_firmware_is_recognised_by_its_bytes() {
        let mut volume = vec![0; 64];
        volume[40..44].copy_from_slice(b"_FVH");
        assert_eq!(Firmware::of(&volume), Some(&EDK2));
        assert_eq!(Firmware::of(b"\x0a\0\0\x14U-Boot 2026.10 (Oct"), Some(&U_BOOT));
        assert_eq!(Firmware::of(b"BL1: v2.12"), None);
        assert_eq!(Firmware::of(b""), None);
    }
}
