//! The initrd that a boot manager offers: LoadFile2 on a vendor media device path.
//!
//! - The path names LINUX_EFI_INITRD_MEDIA_GUID and nothing else. GRUB, systemd-stub and EDK2's
//!   loader of `-kernel` install it. Linux has the GUID in include/linux/efi.h.
//! - A PE header whose MajorImageVersion is 1 promises that the program asks for it.

use uefi_raw::protocol::device_path::{DevicePathProtocol, DeviceSubType, DeviceType};
use uefi_raw::{Guid, guid};

/// LINUX_EFI_INITRD_MEDIA_GUID.
const INITRD: Guid = guid!("5568e427-68fc-4f3d-ac74-ca555231cc68");

/// The device path (UEFI 2.10, 10.3.5.3 and 10.3.1): one vendor media node, then the end.
#[repr(C)]
pub struct Path {
    media: DevicePathProtocol,
    vendor: Guid,
    end: DevicePathProtocol,
}

impl Path {
    /// The path of the initrd.
    pub const INITRD: Self = Self {
        media: DevicePathProtocol {
            major_type: DeviceType::MEDIA,
            sub_type: DeviceSubType::MEDIA_VENDOR,
            length: [(size_of::<DevicePathProtocol>() + size_of::<Guid>()) as u8, 0],
        },
        vendor: INITRD,
        end: DevicePathProtocol {
            major_type: DeviceType::END,
            sub_type: DeviceSubType::END_ENTIRE,
            length: [size_of::<DevicePathProtocol>() as u8, 0],
        },
    };

    /// Returns the first node, as the firmware takes a path.
    pub fn start(&self) -> *const DevicePathProtocol {
        core::ptr::from_ref(self).cast()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_has_one_vendor_node() {
        assert_eq!(size_of::<Path>(), 24);
        let [media, end] = [&Path::INITRD.media, &Path::INITRD.end];
        assert_eq!((media.major_type.0, media.sub_type.0, media.length), (4, 3, [20, 0]));
        assert_eq!((end.major_type.0, end.sub_type.0, end.length), (0x7f, 0xff, [4, 0]));
        assert_eq!(Path::INITRD.vendor.to_bytes()[..4], [0x27, 0xe4, 0x68, 0x55]);
    }

    #[test]
    fn firmware_gets_the_first_node() {
        let path = Path::INITRD;
        assert_eq!(path.start(), &raw const path.media);
    }
}
