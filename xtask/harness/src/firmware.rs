//! Firmware that QEMU starts instead of the Image, and where distributions install it.

use std::path::PathBuf;

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
    /// The firmware's path, if it is installed.
    pub fn found(&self) -> Option<PathBuf> {
        self.places.iter().map(PathBuf::from).find(|place| place.is_file())
    }

    /// The paths that are tried, for messages.
    pub fn places(&self) -> String {
        self.places.join(", ")
    }
}
